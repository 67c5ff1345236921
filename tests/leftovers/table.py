"""All kills on all real substrates that this machine has, as a table for docs/leftovers.md.

    python -m tests.leftovers.table [--kills 20] [--triples 200] [--only WORD …] [--write docs/leftovers.md]

Each line is one command and says when it was run. With `--write` lines take the places of earlier ones of the same
command, and the others stay.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.leftovers import ends
from zebra.registry import load

SUBSTRATES = ("process", "netns", "docker")
HEAD = "| command | kills | left behind | gone after at most | on |"
KINDS = {"--alone": "kinds of effects", "--faults": "faults", "--triples": "triples"}


def commands(kills: int, triples: int) -> Iterator[str]:
    """What is run, by the options of `tests.leftovers`; one of `ends` begins with its name."""
    for substrate in SUBSTRATES:
        if not load("substrates", substrate).SUBSTRATE.unavailable():
            for way in ("zebra", "warden"):
                yield f"--substrate {substrate} --way {way} --kills {kills}"
                yield f"--substrate {substrate} --way {way} --faults"
            yield f".ends {substrate} 1"
            yield f"--substrate {substrate} --way zebra --triples {triples}"
            for way in ("zebra", "warden"):
                yield f"--substrate {substrate} --way {way} --kills {kills} --alone"


def line(command: str) -> tuple[str, bool]:
    """Run a command: its line of the table, and whether nothing was left."""
    today = datetime.date.today().isoformat()
    if command.startswith(".ends "):
        kills, left, slowest_s, clean = _end(command.split()[1])
    else:
        kills, left, slowest_s, clean = _kill(command.split())
    return f"| `{command}` | {kills} | {left} | {slowest_s:.1f} s | {today} |", clean


def _kill(options: list[str]) -> tuple[str, str, float, bool]:
    command = [sys.executable, "-m", "tests.leftovers", "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    if not rows:
        return "the command failed", "?", 0.0, False
    what = next((name for option, name in KINDS.items() if option in options), "kinds of effects")
    fewest = min(row["kills"] for row in rows)
    kills = f"{len(rows)} {what}, {'each once' if fewest == 1 else f'{fewest} or more of each'}"
    if "inject" in rows[0] and "--faults" not in options:
        inject, heal = (sum(row[moment] for row in rows) for moment in ("inject", "heal"))
        kills += f" ({inject} in injecting, {heal} in healing; {rows[0]['sessions']} sessions)"
    left = sum(row["kills"] - row["clean"] for row in rows)
    return kills, str(left or "nothing"), max(row["slowest_s"] for row in rows), done.returncode == 0


def _end(substrate: str) -> tuple[str, str, float, bool]:
    found = ends.every_way(substrate).values()
    left = [each for end in found for each in end.left]
    return f"{len(found)} ways to end pytest", f"{len(left) or 'nothing'}", max(e.took_s for e in found), not left


def put(page: str, command: str, new: str) -> str:
    """A page with a line in the place of the earlier one of the same command, or below all others."""
    lines = page.split("\n")
    begin = lines.index(HEAD) + 2
    end = next(number for number in range(begin, len(lines)) if not lines[number].startswith("|"))
    same = [number for number in range(begin, end) if lines[number].startswith(f"| `{command}` |")]
    return "\n".join([*lines[: same[0]], new, *lines[same[0] + 1 :]] if same else [*lines[:end], new, *lines[end:]])


def main() -> int:
    parser = argparse.ArgumentParser(
        "tests.leftovers.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="per kind and way; default %(default)s")
    parser.add_argument("--triples", type=int, default=200, help="default %(default)s")
    parser.add_argument("--only", action="append", default=[], help="only commands that have this in them; all of them")
    parser.add_argument("--write", type=Path, help="a page that has the table")
    options = parser.parse_args()
    bad = 0
    print(HEAD, "|---|---|---|---|---|", sep="\n")
    for command in commands(options.kills, options.triples):
        if all(word in command for word in options.only):
            new, clean = line(command)
            print(new, flush=True)
            bad += not clean
            if options.write:
                options.write.write_text(put(options.write.read_text(), command, new))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
