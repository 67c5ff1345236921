"""The `zebra` command: list, doctor, campaign, replay, clean, report. Exit codes: `zebra.errors.ExitCode`."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from zebra.errors import ConfigError, ExitCode, PluginError, ZebraError, ZebraInternalError

KINDS = ("targets", "roles", "params", "faults", "invariants", "substrates", "reporters")
_NO_RANDOM_ADDRESSES = 0x0040000


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Bad input is one line on stderr and code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parser().parse_args(arguments)
        return int(options.command(options, arguments))
    except ZebraError as error:
        print(f"zebra: {' '.join(str(error).split())}", file=sys.stderr)
        return ExitCode.INTERNAL if isinstance(error, ZebraInternalError) else ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception:
        traceback.print_exc()
        print("zebra: this is a bug in zebra, please report it with the lines above", file=sys.stderr)
        return ExitCode.INTERNAL


def _parser() -> _Parser:
    parser = _Parser(
        prog="zebra", description="Test distributed systems with mixed configurations, faults and invariants."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=run)
        return sub

    listing = command("list", _list, "what is installed, by name")
    listing.add_argument("kind", choices=KINDS)
    listing.add_argument("--json", action="store_true", help="as a JSON array of objects")
    doctor = command("doctor", _doctor, "what this machine can run, and why not the rest")
    doctor.add_argument("--json", action="store_true", help="as a JSON object")
    campaign = command("campaign", _campaign, "decide which parameters are unsafe when nodes disagree")
    campaign.add_argument(
        "what", nargs="+", metavar="TARGET|PATH", help="a target's name, or files with tests marked zebra"
    )
    for name, default, text in _options():
        campaign.add_argument(f"--{name}", metavar=name.upper(), help=f"{text}; default {default or 'none'}")
    for name, text in _flags():
        campaign.add_argument(f"--{name}", action="store_true", help=text)
    campaign.add_argument("-q", "--quiet", action="store_true", help="no progress")
    replay = command("replay", _replay, "run again exactly what a token says")
    replay.add_argument("token", help="a token (zebra1.…), or a file with one")
    replay.add_argument(
        "--report", metavar="DIR", default="zebra-report/replay", help="directory of the report; default %(default)s"
    )
    replay.add_argument("--toxiproxy", metavar="URL", help="substrate process: the Toxiproxy server that links go by")
    toxiproxy = command("toxiproxy", _toxiproxy, "a server of Toxiproxy's HTTP API over our own fault proxy")
    toxiproxy.add_argument("--host", default="localhost", help="address of the control API; default %(default)s")
    toxiproxy.add_argument("--port", type=_port, default=8474, help="0 for any that is free; default %(default)s")
    toxiproxy.add_argument("--seed", type=int, default=0, help="of all that is left to chance; default %(default)s")
    toxiproxy.add_argument("--any-user", action="store_true", help="let other users of this machine control it too")
    toxiproxy.add_argument("--config", type=Path, metavar="FILE", help="JSON list of proxies to begin with")
    clean = command("clean", _clean, "undo what ended sessions have left behind")
    clean.add_argument("--dry-run", action="store_true", help="only say what is left")
    report = command("report", _report, "check a stored report again and write its pages anew")
    report.add_argument("directory", type=Path, metavar="DIR")
    return parser


def _options() -> tuple[tuple[str, str, str], ...]:
    from zebra.plugin import OPTIONS

    return OPTIONS


def _flags() -> tuple[tuple[str, str], ...]:
    from zebra.plugin import FLAGS

    return FLAGS


# -- list and doctor --------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, _: Sequence[str]) -> int:
    rows = globals()[f"_{options.kind}"]()
    if options.json:
        _print_json(rows)
    else:
        from tabulate import tabulate

        print(tabulate(rows, headers="keys", tablefmt="simple") if rows else f"no {options.kind} are installed")
    return ExitCode.OK


def _first_line(member: Any) -> str:
    return (getattr(member, "__doc__", "") or "").strip().partition("\n")[0]


def _targets() -> list[dict[str, Any]]:
    from zebra.target import find_target, target_names

    return [
        {"name": t.name, "roles": ", ".join(t.all_roles), "parameters": len(t.space), "invariants": len(t.invariants),
         "about": f"unavailable: {t.unavailable}" if t.unavailable else
                  _first_line(import_module(t.config.__module__.rpartition(".")[0]))}
        for t in map(find_target, target_names())
    ]  # fmt: skip


def _roles() -> list[dict[str, Any]]:
    from zebra.target import find_target, target_names

    return [
        {"name": f"{t.name}.{name}", "about": _first_line(role)}
        for t in map(find_target, target_names())
        for name, role in t.all_roles.items()
    ]


def _params() -> list[dict[str, Any]]:
    from zebra.target import find_target, target_names

    return [
        {"name": p.name, "type": p.type.__name__, "default": p.show(p.default),
         "candidates": ", ".join(map(p.show, p.alternatives())), "about": p.param.doc}
        for t in map(find_target, target_names()) for p in t.space.values()
    ]  # fmt: skip


def _faults() -> list[dict[str, Any]]:
    from zebra.injection.fault import catalogue

    return [
        {"name": name, "level": fault.zebra_level,  # type: ignore[attr-defined]
         "settings": ", ".join(f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default}"
                               for f in dataclasses.fields(fault)), "about": _first_line(fault)}
        for name, fault in catalogue().items()
    ]  # fmt: skip


def _invariants() -> list[dict[str, Any]]:
    from zebra.invariant import describe, registered
    from zebra.registry import load, members
    from zebra.target import target_names

    for family in members("invariants"):
        load("invariants", family)
    for target in target_names():
        load("targets", target)
    return [
        {"name": name, "on": ", ".join(describe(factory)[1]), "about": _first_line(factory)}
        for name, factory in registered().items()
    ]


def _substrates() -> list[dict[str, Any]]:
    from zebra.registry import load, members

    return [
        {
            "name": s.name,
            "available": not s.unavailable(),
            "capabilities": ", ".join(s.capabilities),
            "about": _first_line(type(s)),
        }
        for s in (load("substrates", name).SUBSTRATE for name in members("substrates"))
    ]


def _reporters() -> list[dict[str, Any]]:
    from zebra.registry import load, members

    return [
        {"name": name, "about": _first_line(getattr(load("reporters", name), name))} for name in members("reporters")
    ]


def _doctor(options: argparse.Namespace, _: Sequence[str]) -> int:
    from zebra.doctor import examine, table

    rows = examine()
    about = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "zebra": _version(),
        "substrates": rows,
    }
    if options.json:
        _print_json(about)
        return ExitCode.OK
    print(f"zebra {about['zebra']}, Python {about['python']}, {about['system']}")
    print(table(rows))
    return ExitCode.OK


def _version() -> str:
    from importlib.metadata import version

    return version("pytest-zebra")


def _print_json(data: Any) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(data, enc_hook=str), indent=1).decode())


# -- campaign and replay ----------------------------------------------------------------------------------------


def _steady(arguments: Sequence[str]) -> None:
    """Start this command anew with string hashes and addresses that are the same each time, unless it is so started."""
    if os.environ.get("PYTHONHASHSEED") == "0" and os.environ.get("ZEBRA_STEADY"):
        return
    ctypes.CDLL(None).personality(_NO_RANDOM_ADDRESSES)  # where it is forbidden, addresses stay random
    environment = {**os.environ, "PYTHONHASHSEED": "0", "ZEBRA_STEADY": "1"}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "zebra.cli", *arguments], environment)


def _pytest(arguments: Sequence[str]) -> int:
    """pytest's result as one of our exit codes."""
    import pytest

    class Interrupts:
        seen = False

        def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
            self.seen = excinfo.type is KeyboardInterrupt

    interrupts = Interrupts()
    plugin = [] if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD") is None else ["-p", "zebra"]
    quiet = [
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore:Module already imported:pytest.PytestAssertRewriteWarning",
    ]
    code = pytest.main([*quiet, *plugin, *arguments], plugins=[interrupts])
    if interrupts.seen:
        return ExitCode.INTERRUPTED
    return {0: ExitCode.OK, 1: ExitCode.VIOLATION, 3: ExitCode.INTERNAL}.get(int(code), ExitCode.USAGE)


def _campaign(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    from zebra.campaign.result import CampaignResult
    from zebra.registry import members
    from zebra.report import CAMPAIGN
    from zebra.target import find_target

    pytest_arguments, targets = ["--zebra-campaign"], members("targets")
    for what in options.what:
        if what in targets:
            pytest_arguments += ["--pyargs", targets[what].value]
            options.agent = options.agent or find_target(what).agent or None
        elif Path(what.partition("::")[0]).exists():
            pytest_arguments.append(what)
        else:
            raise ConfigError(f"campaign: {what!r} is neither a target ({', '.join(targets)}) nor a path")
    for name, _, _ in _options():
        value = getattr(options, name.replace("-", "_"))
        if value is not None:
            pytest_arguments.append(f"--zebra-{name}={value}")
    pytest_arguments += [f"--zebra-{name}" for name, _ in _flags() if getattr(options, name)]
    _check_campaign(options)
    _steady(arguments)
    code = _pytest([*pytest_arguments, *(["-q", "-q"] if options.quiet else ["-q"])])
    file = Path(options.report or "zebra-report") / CAMPAIGN
    if code == ExitCode.VIOLATION and file.exists():
        problems = CampaignResult.load(file).problems()
        if problems and all(problem.startswith("undecided") for problem in problems):
            return ExitCode.INCONCLUSIVE
    return code


def _check_campaign(options: argparse.Namespace) -> None:
    """Say in one line what is wrong with the options, before pytest starts."""
    from fnmatch import fnmatchcase

    from zebra.campaign.budget import Budget
    from zebra.campaign.executor import check_address
    from zebra.options import read_accepted, read_rules_of, rolling_how, slow_ratio
    from zebra.registry import members
    from zebra.run import find_substrate
    from zebra.target import find_target

    rolling_how(options.rolling or "")
    slow_ratio(options.slow or "0")
    find_substrate(options.substrate or "sim")
    Budget(options.budget or "", "--budget")
    if options.executor:
        check_address(options.executor, "--executor")
    for target in (find_target(what) for what in options.what if what in members("targets")):
        rules = read_rules_of(options.rules or "", target)
        space = (target.rules + rules).applied(target.space)
        read_accepted(options.accept or "", target, rules)
        if options.params and not any(fnmatchcase(name, options.params) for name in space):
            raise ConfigError(f"--params: no parameter of {target.name} matches {options.params!r}")
    for name in ("seed", "workers"):
        value = getattr(options, name)
        if value is not None and not value.removeprefix("-").isdecimal() and (name, value) != ("seed", "random"):
            raise ConfigError(f"--{name}: {value!r} is not a whole number")


def _replay(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    from zebra.options import read_token
    from zebra.spec import decode_token

    token = read_token(options.token).strip()
    spec, same_code = decode_token(token)
    if not same_code:
        print("zebra: warning: this token was made by other code, so the run may differ", file=sys.stderr)
    if options.toxiproxy:
        from zebra.substrate.process.toxiproxy import use

        use(options.toxiproxy, spec.substrate, "--toxiproxy")
    _steady(arguments)
    if "::" in spec.test:
        where = [spec.test] if Path(spec.test.partition("::")[0]).exists() else ["--pyargs", spec.test]
        code = _pytest([*where, "-q", "--zebra-replay", token, f"--zebra-report={options.report}"])
    else:
        code = _replay_function(spec)
    if code == ExitCode.OK:
        print("did not fail this time")
        return ExitCode.INCONCLUSIVE
    return code


def _replay_function(spec: Any) -> int:
    """Run a `module:function` scenario again."""
    from zebra.run import run

    module, _, name = spec.test.partition(":")
    try:
        scenario = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"token: cannot find the scenario {spec.test!r}: {error}") from None
    outcome = run(scenario, spec)
    print(outcome.explain() if outcome.result != "pass" else "pass")
    return ExitCode.VIOLATION if outcome.failed else ExitCode.OK if outcome.result == "pass" else ExitCode.INCONCLUSIVE


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _toxiproxy(options: argparse.Namespace, _: Sequence[str]) -> int:
    from zebra.registry import load

    def say(text: str) -> None:
        print(text, flush=True)

    serve = load("faults", "toxiproxy").serve
    return int(serve(options.host, options.port, options.seed, options.config, options.any_user, say))


# -- clean ------------------------------------------------------------------------------------------------------


def _clean(options: argparse.Namespace, _: Sequence[str]) -> int:
    """Exit code 1 if something could not be undone."""
    from http.client import HTTPException

    from zebra.injection.cleaning import clean, describe, lost, sessions

    ended = live = found = stuck = 0
    known = list(sessions())
    try:
        known += lost(known)
    except (OSError, HTTPException) as error:
        print(f"no look at what a container engine holds of lost sessions: {error or type(error).__name__}")
    for session in known:
        if session.lives:
            live += 1
            continue
        ended += 1
        found += len(session.held)
        left = {entry["id"]: entry for entry in (() if options.dry_run else clean(session))}
        where = session.directory or "its ledger lost"
        print(f"session {session.pid}, ended, {where}: {len(session.held) or 'nothing'} left behind")
        for entry in session.held:
            said = "would be undone" if options.dry_run else "undone"
            if entry["id"] in left:
                said = f"STILL THERE: {left[entry['id']]['trouble']}"
                stuck += 1
            print(f"  {describe(entry)}: {said}")
    others = f"; {live} still running, left alone" if live else ""
    done = f"{found} to undo" if options.dry_run else f"{found - stuck} undone, {stuck or 'nothing'} left"
    print(f"{ended} ended session{'s' * (ended != 1)}{others}: {done}")
    return ExitCode.VIOLATION if stuck else ExitCode.OK


# -- report -----------------------------------------------------------------------------------------------------


def _report(options: argparse.Namespace, _: Sequence[str]) -> int:
    from zebra.invariant import check_history
    from zebra.outcome import FAILED
    from zebra.report import Report
    from zebra.session import write_reports
    from zebra.target import find_target

    report = Report.load(options.directory)
    results = []
    for run in report.runs():
        results.append(run.outcome)
        try:
            invariants = find_target(str(run.events[0]["target"])).invariants
        except ConfigError:
            continue  # a target of the test's own, which only its test knows
        stored = any(event.kind == "violation" for event in run.events)
        events = [event for event in run.events if event.kind not in ("violation", "run.end")]
        try:
            found = check_history(events, invariants)
        except PluginError as error:  # perhaps the history is of an older target
            print(f"{run.test}: could not be checked again: {error}")
            continue
        if found is not None and not stored:
            print(f"{run.test}: checked again, {found.invariant} does not hold: {found.message}")
            results.append("fail")
    for text in write_reports(report, verbose=True):
        print(text)
    if report.campaign is not None:
        problems = report.campaign.problems()
        for problem in problems:
            print(problem)
        return ExitCode.VIOLATION if problems else ExitCode.OK
    if FAILED.intersection(results):
        return ExitCode.VIOLATION
    return ExitCode.INCONCLUSIVE if set(results) - {"pass"} else ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
