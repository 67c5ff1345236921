"""A certificate and its key, made by the command `openssl` once for all nodes: each is its own authority.

It names no host, as the addresses of nodes are known only when they run: who uses it trusts the certificate itself.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

from zebra.errors import TargetError

CERTIFICATE, KEY = "certificate.pem", "key.pem"
PROGRAM = "openssl"
DAYS = "30"


def missing() -> str:
    """Why no certificate can be made on this machine, "" if one can."""
    return "" if shutil.which(PROGRAM) else f"needs a certificate, and the command {PROGRAM} is not on the PATH"


def make(directory: Path) -> None:
    """Write both files into a directory; nothing where the command is `missing`. Raises TargetError if it fails."""
    if missing():
        return
    command = [
        PROGRAM, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", DAYS,
        "-subj", "/CN=zebra", "-keyout", str(directory / KEY), "-out", str(directory / CERTIFICATE),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TargetError(f"{PROGRAM} makes no certificate: {done.stderr.strip().splitlines()[-1:]}")


def trusting(directory: Path) -> ssl.SSLContext:
    """What a client needs that shows this certificate and trusts nobody who does not."""
    context = ssl.create_default_context(cafile=str(directory / CERTIFICATE))
    context.check_hostname = False
    context.load_cert_chain(directory / CERTIFICATE, directory / KEY)
    return context
