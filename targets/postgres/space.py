"""The configuration space, read from `pg_settings` of the server that is installed here: nothing is written down.

A data directory is made, asked once, and thrown away (half a second). Type, range, words and boot value are the
server's own; a number is in the unit that `pg_settings` shows. Candidates are the other value of a switch, the other
words of an enumeration, a quarter and four times a number within its range, a minute for a timeout that is off.
`postgres -C` checks whole configurations
without running them, many values at a time: a value that it refuses is invalid, with the server's own message, and
costs no run; two that it refuses only together are never given to one node.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from zebra.errors import TargetError
from zebra.params import Param
from zebra.params.parameter import Value
from zebra.params.rules import Constraint, Rules
from zebra.targets.postgres.install import DATABASE, initialise, run, unavailable

RESERVED: dict[str, str] = {
    r"listen_addresses|port|unix_socket_(directories|group)|bonjour.*": "where the server is reached",
    r".*_file|.*_directory|.*_directories|external_pid_file|krb_server_keyfile|log_filename": "a place of files",
    r"primary_.*|recovery_target|recovery_target_(name|time|xid|lsn|timeline)|restore_command": "who follows whom",
    r"dynamic_shared_memory_type": "others leave shared memory behind when a node is killed",
    r"(pre|post)_auth_delay": "for debuggers, it only delays every connection by seconds",
}
"""What belongs to the target, and why."""

OWN: dict[str, Value] = {
    "fsync": False, "shared_buffers": 2048, "wal_keep_size": 64, "wal_retrieve_retry_interval": 100,
    "dynamic_shared_memory_type": "mmap",
}  # fmt: skip
"""What all nodes have unless a run says otherwise: files and memory that a test can afford, 64 MB of log for a standby
that was away and for two copies at a time, a standby that asks again ten times a second instead of every five seconds,
and shared memory that goes with the data directory."""

FACTOR = 4
"""Candidates of a number are a quarter and four times its value, within its range."""

MINUTE_S = 60
PER_S = {"ms": 1000, "s": 1}
"""A timeout that is off may be a minute as well: a shorter one would end what a test does."""

WORDS_MAX = 4
"""Candidates of an enumeration are so many of its other words at most, spread over the whole."""

TEXTS = {
    "DateStyle": "VALUES ('SQL, DMY'), ('German, DMY')",
    "TimeZone": "(SELECT name FROM pg_timezone_names ORDER BY utc_offset, name LIMIT 1) UNION ALL "
    "(SELECT name FROM pg_timezone_names ORDER BY utc_offset DESC, name LIMIT 1)",
    "default_text_search_config": "SELECT 'pg_catalog.' || cfgname FROM pg_ts_config WHERE cfgname <> 'simple' LIMIT 1",
    "log_timezone": "SELECT name FROM pg_timezone_names ORDER BY utc_offset, name LIMIT 1",
    "search_path": "VALUES ('public')",
}
"""What to ask the server for other values of a text, of which `pg_settings` does not say what it may be."""

CHECKED = "shared_memory_size"
"""What `postgres -C` is asked for: to answer, it has checked the whole configuration."""

_OCTAL = re.compile("0[0-7]+")
_WHERE = re.compile(r' in file "[^"]*" line \d+|configuration file "[^"]*" contains errors')


class NoServer(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration where no server is installed: no parameters."""


class Together(msgspec.Struct, frozen=True, kw_only=True):
    """Two settings that the server does not take together, and what it says; each by itself it does."""

    later: tuple[str, Value]
    earlier: tuple[str, Value]
    said: str


@cache
def config_type() -> type[msgspec.Struct]:
    """A struct with one field per parameter of the server installed here, `NoServer` if there is none."""
    if unavailable():
        return NoServer
    space, _ = read_space()
    fields = [(field_name(name), *_field(found)) for name, found in space.items()]
    names = {field_name(name): name for name in space}
    return msgspec.defstruct("PostgresConfig", fields, frozen=True, kw_only=True, module=__name__, rename=names)


def __getattr__(name: str) -> Any:
    """`PostgresConfig` is found here, on first use, so that configurations can be pickled."""
    if name == "PostgresConfig":
        return config_type()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def rules(prefix: str) -> Rules:
    """What nodes must not be given together, as rules for campaigns: the one takes the other back to its default."""
    if unavailable():
        return Rules()
    space, together = read_space()
    settings: dict[Setting, dict[str, Value]] = {}
    for pair in together:
        other = pair.earlier[0]
        settings.setdefault(pair.later, {})[f"{prefix}.{other}"] = space[other].default
    return Rules(constraints=tuple(Constraint(f"{prefix}.{n}", (v,), given) for (n, v), given in settings.items()))


def field_name(parameter: str) -> str:
    """The name of a parameter's field in the struct: those of extensions have a dot."""
    return parameter.replace(".", "_")


def shown(config: Any) -> dict[str, Value]:
    """A node's parameters under the server's own names."""
    return dict(zip(config.__struct_encode_fields__, msgspec.structs.astuple(config), strict=True))


def assigned(config: Any) -> dict[str, Value]:
    """Those parameters whose values are not the server's own defaults: what a node's configuration file says."""
    own = shown(config_type()())
    return {name: value for name, value in shown(config).items() if name in OWN or value != own[name]}


def text_of(value: Value) -> str:
    """A value as `pg_settings` shows it."""
    return ("off", "on")[value] if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def render(values: Mapping[str, Value | str]) -> str:
    """The text of a configuration file."""
    return "".join(f"{name} = '{text_of(value).replace(chr(39), 2 * chr(39))}'\n" for name, value in values.items())


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says of one parameter. `why` says why it has no candidates, `refused` holds those that the
    server does not take, with its message."""

    kind: Literal["bool", "integer", "real", "enum", "string"]
    default: Value
    choices: tuple[str, ...] = ()
    minimum: float = 0.0
    maximum: float = 0.0
    doc: str = ""
    why: str = ""
    candidates: tuple[Value, ...] = ()
    refused: tuple[tuple[Value, str], ...] = ()


def _field(found: Found) -> tuple[Any, Value]:
    why = found.why
    if not found.candidates and found.refused:
        why = "the server takes no other value"
    param = Param(*found.candidates, doc=found.doc, why=why, refused=found.refused, minimum=found.minimum,
                  maximum=found.maximum)  # fmt: skip
    kinds: dict[str, Any] = {"bool": bool, "integer": int, "real": float, "string": str}
    kind: Any = Literal[found.choices] if found.kind == "enum" else kinds[found.kind]
    return Annotated[kind, param], found.default


# -- reading -----------------------------------------------------------------------------------------------------


@cache
def read_space() -> tuple[dict[str, Found], tuple[Together, ...]]:
    """All parameters of the installed server by name, and what it does not take together. Raises TargetError if it
    cannot be asked."""
    with tempfile.TemporaryDirectory(prefix="zebra-postgres-") as directory:
        data = initialise(Path(directory) / "space")
        (data / "postgresql.conf").write_text(render(OWN))
        texts = " UNION ALL ".join(f"SELECT '{name}', x FROM ({query}) s(x)" for name, query in TEXTS.items())
        asked = f"SELECT json_build_object('name', name, 'x', x) FROM ({texts}) t(name, x)"
        rows = _ask(data, "SELECT row_to_json(s) FROM pg_settings s ORDER BY name")
        space = {row["name"]: _found(row) for row in rows}
        for row in _ask(data, asked):
            found = space[row["name"]]
            if row["x"] != found.default:
                space[row["name"]] = msgspec.structs.replace(found, candidates=(*found.candidates, row["x"]), why="")
        return _screened(space, Check(data))


def _ask(data: Path, query: str) -> list[dict[str, Any]]:
    """The answers to a query of JSON objects, by a server that runs for this query alone."""
    answer = data.parent / "answer"
    options = ("-c", "log_line_prefix=", "-c", "log_min_messages=error")
    plain = "(FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
    run("postgres", "--single", "-D", str(data), *options, DATABASE, cwd=data.parent,
        given=f"COPY ({query}) TO '{answer}' WITH {plain}\n")  # fmt: skip
    if not answer.exists():
        raise TargetError("postgres: a server started for one query did not answer it")
    return [json.loads(line) for line in answer.read_text().splitlines()]


def _found(row: Mapping[str, Any]) -> Found:
    """What a row of `pg_settings` says, the candidates not yet checked."""
    name, kind, setting = row["name"], row["vartype"], row["setting"]
    doc = row["short_desc"] + (f" Unit: {row['unit']}." if row["unit"] else "")
    reasons = [reason for pattern, reason in RESERVED.items() if re.fullmatch(pattern, name)]
    why = "the server sets it" if row["context"] == "internal" else f"reserved: {reasons[0]}" if reasons else ""
    if kind == "string":
        why = why or "text: no other value can be derived"
        return Found(kind="string", default=setting or "", doc=doc, why=why)
    if kind == "bool":
        found = Found(kind="bool", default=setting == "on", candidates=(setting != "on",))
    elif kind == "enum":
        words = tuple(dict.fromkeys((*row["enumvals"], setting)))
        found = Found(
            kind="enum", default=setting, choices=words, candidates=_spread([w for w in words if w != setting])
        )
    else:
        low, high, value = float(row["min_val"]), float(row["max_val"]), number(setting, kind)
        on = MINUTE_S * PER_S[row["unit"]] if name.endswith("_timeout") else 1
        others = _modes(int(value)) if _OCTAL.fullmatch(setting) else _numbers(value, on)
        wanted = tuple(type(value)(min(max(v, low), high)) for v in others)
        wanted = tuple(dict.fromkeys(v for v in wanted if v != value))
        found = Found(kind=kind, default=value, minimum=low, maximum=high, candidates=wanted)
    if not why and not found.candidates:
        why = "it has one value only"
    own = row["context"] == "internal"
    return msgspec.structs.replace(found, doc=doc, why=why, candidates=() if own else found.candidates)


def number(setting: str, kind: str) -> int | float:
    """A number as `pg_settings` shows it, file modes in octal digits."""
    return float(setting) if kind == "real" else int(setting, 8 if _OCTAL.fullmatch(setting) else 10)


def _numbers(value: float, on: float) -> tuple[float, ...]:
    """Other values of a number; zero and less often mean "off" or "by itself", and `on` is one that does not."""
    if value > 0:
        return value // FACTOR if isinstance(value, int) else value / FACTOR, value * FACTOR
    return (on,) if value == 0 else (1, 4096)


def _modes(mode: int) -> tuple[int, ...]:
    """A file mode for everybody to read, and one for the owner alone."""
    return mode | 0o044, mode & 0o700


def _spread(words: Sequence[str]) -> tuple[str, ...]:
    """`WORDS_MAX` of these words at most, the first and the last among them."""
    if len(words) <= WORDS_MAX:
        return tuple(words)
    return tuple(words[i * (len(words) - 1) // (WORDS_MAX - 1)] for i in range(WORDS_MAX))


# -- what the server refuses -------------------------------------------------------------------------------------

Setting = tuple[str, Value]


class Check:
    """What the server says of settings together; `calls` counts how often it was asked."""

    def __init__(self, data: Path) -> None:
        self.data, self.calls = data, 0

    def __call__(self, settings: Iterable[Setting]) -> str:
        """Why the server does not take a configuration with these settings, "" if it does."""
        self.calls += 1
        file = self.data.parent / "checked.conf"
        file.write_text(render(OWN | dict(settings)))
        options = ("-c", f"config_file={file}", "-c", "log_line_prefix=", "-c", "log_min_messages=log")
        try:
            run("postgres", "-D", str(self.data), "-C", CHECKED, *options, cwd=self.data.parent)
        except TargetError as error:
            return _WHERE.sub("", str(error).partition(": ")[2]).strip()
        return ""

    def singly(self, settings: Sequence[Setting]) -> dict[Setting, str]:
        """Those settings that are refused by themselves, found by halving, with what the server says of each."""
        if not settings or not (said := self(settings)):
            return {}
        if len(settings) == 1:
            return {settings[0]: said}
        middle = len(settings) // 2
        return self.singly(settings[:middle]) | self.singly(settings[middle:])

    def at_odds(self, settings: Sequence[Setting]) -> Together:
        """Two of some settings that are refused together, none being so by itself."""
        later = self._first_refused(settings, ())
        earlier = self._first_refused(settings[: settings.index(later)], (later,))
        return Together(later=later, earlier=earlier, said=self((earlier, later)))

    def _first_refused(self, settings: Sequence[Setting], beside: Sequence[Setting]) -> Setting:
        """The last setting of the shortest beginning that is refused."""
        low, high = 0, len(settings)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self((*settings[:middle], *beside)) else (middle, high)
        return settings[low]


def _screened(space: dict[str, Found], check: Check) -> tuple[dict[str, Found], tuple[Together, ...]]:
    """The space with candidates that the server takes, and what of them it does not take together."""
    if said := check(()):
        raise TargetError(f"postgres does not take the target's own configuration: {said}")
    for number in range(max(len(found.candidates) for found in space.values())):
        settings = [(n, found.candidates[number]) for n, found in space.items() if number < len(found.candidates)]
        for (name, value), said in check.singly(settings).items():
            space[name] = msgspec.structs.replace(space[name], refused=(*space[name].refused, (value, said)))
    for name, found in space.items():
        bad = [value for value, _ in found.refused]
        taken = tuple(value for value in found.candidates if value not in bad)
        space[name] = msgspec.structs.replace(found, candidates=taken)
        if found.why:  # reserved: what the server takes is not for campaigns
            space[name] = msgspec.structs.replace(space[name], candidates=())
    together = dict[tuple[Setting, Setting], Together]()
    for pick in (0, -1):
        settings = [(name, found.candidates[pick]) for name, found in space.items() if found.candidates]
        while check(settings):
            pair = check.at_odds(settings)
            together[pair.later, pair.earlier] = pair
            settings.remove(pair.earlier)
    return space, tuple(together.values())
