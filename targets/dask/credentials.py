"""A key and certificate for a test, which all nodes share."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from pathlib import Path

from distributed.security import Security


def tls_config(directory: Path) -> dict[str, str]:
    """The configuration of TLS with a fresh self-signed certificate in `directory`. Needs the package cryptography."""
    made = Security.temporary()
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    certificate.write_text(made.tls_ca_file)
    key.write_text(made.tls_client_key)
    config = {"distributed.comm.tls.ca-file": str(certificate)}
    for role in ("scheduler", "worker", "client"):
        config |= {f"distributed.comm.tls.{role}.cert": str(certificate), f"distributed.comm.tls.{role}.key": str(key)}
    return config
