"""All inputs of one run, and the token that holds them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from functools import cache
from pathlib import Path

import msgspec

from zebra.errors import ConfigError
from zebra.injection.limits import Limits
from zebra.injection.schedule import Schedule
from zebra.params import Assignment
from zebra.registry import load
from zebra.topology import Topology

TOKEN_CHARACTERS_MAX = 1500

INPROCESS = "inprocess"
"""In place of a substrate: the test itself starts all nodes in its own process (see `zebra.agent`)."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All inputs of one run. `test` is a pytest node id or `module:function`; `topology` None means the target's own.

    `without_faults` names faults that the run leaves out wherever its schedule or its test injects them: so a campaign
    asks whether a failure needs a fault. A run that would pass but takes longer than `slow_s` of run time is slow; 0 is
    no limit.
    """

    test: str = ""
    target: str
    substrate: str = "sim"
    topology: Topology | None = None
    assignment: Assignment = {}
    schedule: Schedule = Schedule()
    seed: int = 0
    variant: str = ""
    timeout_s: float = 600.0
    without_faults: tuple[str, ...] = ()
    limits: Limits = Limits()
    slow_s: float = 0.0

    def token(self) -> str:
        """`zebra1.` + the packed spec + 8 hex digits of the code's hash: all that `zebra replay` needs."""
        packed = base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).rstrip(b"=").decode()
        return f"zebra1.{packed}{code_hash(self.target)}"

    def command(self, report: Path | None = None) -> str:
        """The command that runs this again; a token that is too long for a line is written below `report` instead."""
        token = self.token()
        if len(token) > TOKEN_CHARACTERS_MAX and report is not None:
            path = report / "replays" / f"{hashlib.blake2b(token.encode(), digest_size=6).hexdigest()}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(token + "\n")
            return f"zebra replay {path}"
        return f"zebra replay {token}"


def decode_token(text: str) -> tuple[RunSpec, bool]:
    """The spec of a token, and whether it was made by this very code. Raises ConfigError for text that is no token."""
    text = text.strip()
    if not text.startswith("zebra1."):
        version = text.partition(".")[0]
        what = (
            f"version {version} is unknown"
            if version.startswith("zebra") and "." in text
            else "it does not begin with 'zebra1.'"
        )
        raise ConfigError(f"token {text[:30]!r}: {what}, expected one that this version of zebra printed")
    body, made_by = text[7:-8], text[-8:]
    try:
        packed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        spec = msgspec.msgpack.decode(packed, type=RunSpec)
        bytes.fromhex(made_by)
    except (binascii.Error, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"token {text[:30]!r}: damaged or cut short ({error}), copy the whole of it") from None
    return spec, made_by == code_hash(spec.target)


@cache
def code_hash(target: str) -> str:
    """8 hex digits of the engine's and the target's source."""
    roots = [Path(__file__).parent]
    try:
        module = load("targets", target) if ":" not in target else None
        if module is not None and module.__file__:
            roots.append(Path(module.__file__).parent)
    except ConfigError:
        pass
    digest = hashlib.blake2b(digest_size=4)
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
