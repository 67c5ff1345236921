"""What options stand for that the command and pytest share: tokens, accept files, rules, ratios."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast, get_args

from zebra.campaign.rolling import How
from zebra.errors import ConfigError
from zebra.params.rules import Rules
from zebra.target import Target


def read_token(text: str) -> str:
    """The token itself, or the content of the file whose path stands in its place. Raises ConfigError."""
    if re.match(r"zebra[0-9]*\.", text):
        return text
    path = Path(text)
    try:
        return path.read_text()
    except (OSError, ValueError):
        raise ConfigError(f"token {text[:40]!r}: neither a token (zebra1.…) nor a file with one") from None


def read_accepted(path: str, target: Target, rules: Rules | None = None) -> list[str]:
    """The parameters in an accept file, or in the target's own list; raises ConfigError that names file and line."""
    file = Path(path) if path else target.accepted
    if file is None or target.unavailable:
        return []
    known = set((target.rules + (rules or Rules())).applied(target.space))
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--zebra-accept: cannot read {file}: {error}") from None
    names = []
    for number, line in enumerate(lines, 1):
        name = line.partition("#")[0].strip()
        if name:
            if name not in known:
                raise ConfigError(
                    f"{file}:{number}: {target.name} has no parameter {name!r}, expected one a line, # begins a comment"
                )
            names.append(name)
    return names


def read_rules_of(path: str, target: Target) -> Rules:
    """The rules in a file, none without one. Raises ConfigError that names file and line."""
    if not path:
        return Rules()
    from zebra.params.rules_file import read_rules

    return read_rules(Path(path), target.rules.applied(target.space))


def rolling_how(text: str) -> How:
    """How rolling changes are made. Raises ConfigError."""
    if text not in get_args(How):
        raise ConfigError(f"--zebra-rolling: {text!r} is neither `restart` nor `reload`")
    return cast(How, text)


def slow_ratio(text: str) -> float:
    """How many times what agreeing nodes take makes a run slow, 0 for never. Raises ConfigError."""
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if ratio != 0 and not 1 < ratio < 1e6:
        raise ConfigError(f"--zebra-slow: {text!r} is neither a number above 1 nor 0")
    return ratio
