"""What becomes of a target whose server is not on the machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def is_told(target: str, variable: str, package: str) -> None:
    """The target has no parameters, and a run says what to install. `variable` says where the server is."""
    program = (
        "from zebra.target import find_target; from zebra.run import RunSpec, run\n"
        f"print(len(find_target({target!r}).space))\n"
        f"run(None, RunSpec(target={target!r}, substrate='process'))"
    )
    command, nowhere = [sys.executable, "-c", program], {variable: "/nowhere"}
    done = subprocess.run(command, env=nowhere, capture_output=True, text=True, check=False)
    assert done.stdout == "0\n"
    assert f"target {target} is not available here: no server found: pip install {package}" in done.stderr


def is_skipped(target: str, variable: str, folder: Path) -> None:
    """The target's tests are skipped, and a campaign is refused."""
    environment = {**os.environ, variable: "/nowhere"}
    plain = [sys.executable, "-m", "pytest", "-p", "zebra", "-p", "no:cacheprovider", "-rs"]
    refused = f"ERROR: zebra: target {target} is not available here"
    for options, said in (([], r"=* ?\d+ skipped in "), (["--zebra-campaign"], refused)):
        command = [*plain, "--pyargs", f"zebra.targets.{target}", *options]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        assert re.search(f"^{said}", output, re.M) and "no server found" in output
