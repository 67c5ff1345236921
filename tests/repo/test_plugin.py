"""What a user of the pytest plugin sees."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import zebra.session  # noqa: F401  (what pytester runs in this process shares it)
from tests.projects import DEPOT

GOOD = """
import pytest

import zebra.session  # noqa: F401  (what pytester runs in this process shares it)
from depot import TARGET

@pytest.mark.zebra(TARGET, server=2)
async def test_store(cluster):
    await cluster.client.round_trip("hello")
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with the target `depot` in it, as a user's project would have."""
    pytester.makepyfile(depot=DEPOT)
    pytester.syspathinsert()
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def replay(project: pytest.Pytester, token: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zebra.cli", "replay", token]
    return subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False)


def test_a_marked_test_runs_on_a_cluster_and_leaves_a_report(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=GOOD)
    result = run(project)
    result.assert_outcomes(passed=1)
    names = {path.name for path in (project.path / "zebra-report").iterdir()}
    assert {"index.html", "junit.xml", "history.jsonl"} <= names
    lines = (project.path / "zebra-report" / "history.jsonl").read_text().splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    assert (first["kind"], first["schema"], first["target"]) == ("run", 1, "depot")
    assert (last["kind"], last["outcome"]) == ("run.end", "pass")


def test_fixtures_and_parameters_reach_the_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it=GOOD
        + """
@pytest.mark.parametrize("text", ["a", "b"])
@pytest.mark.zebra(TARGET)
async def test_more(cluster, tmp_path, text):
    (tmp_path / text).write_text(text)
    await cluster.client.round_trip(text)
"""
    )
    run(project).assert_outcomes(passed=3)


def test_a_violation_fails_the_test_with_its_events_the_fault_and_a_replay_that_repeats_it(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(
        test_it="""
import pytest

import zebra.session  # noqa: F401  (what pytester runs in this process shares it)
from depot import TARGET
from zebra import never

NO_CRASH = never("no_crash", on="node.crash")

@pytest.mark.zebra(TARGET, invariants=[NO_CRASH])
async def test_crash(cluster):
    async with cluster.fault("host.crash", "server-2"):
        await cluster.client.round_trip("hello")
"""
    )
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*no_crash does not hold at t=*",
            "*node.crash*",
            "fault host.crash on server-2 from*",
            "replay: zebra replay zebra1.*",
        ]
    )
    token = re.search(r"zebra replay (zebra1\.\S+)", result.stdout.str())
    assert token is not None
    again = replay(project, token[1])
    assert again.returncode == 1, again.stdout + again.stderr
    assert "no_crash does not hold at t=" in again.stdout
    first = re.search(r"t=(\S+) s", result.stdout.str())
    second = re.search(r"t=(\S+) s", again.stdout)
    assert first is not None and second is not None and first[1] == second[1]


def test_a_replay_that_does_not_fail_says_so_with_exit_code_3(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=GOOD)
    script = "import zebra; print(zebra.RunSpec(test='test_it.py::test_store', target='depot').token())"
    token = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    again = replay(project, token)
    assert again.returncode == 3, again.stdout + again.stderr
    assert "did not fail this time" in again.stdout


def test_a_fault_without_effect_is_shown_apart_and_is_no_pass(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="""
import pytest

import zebra.session  # noqa: F401  (what pytester runs in this process shares it)
from depot import TARGET

@pytest.mark.zebra(TARGET)
async def test_nothing(cluster):
    async with cluster.fault("network.loss", "server-2", probability=0.5):
        pass
"""
    )
    result = run(project, "-rA")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*test_it.py ?*", "*inconclusive: no effect: network.loss on server-2*", "*1 inconclusive*"]
    )
    assert "<error" in (project.path / "zebra-report" / "junit.xml").read_text()


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("'nope'", "target 'nope' is unknown"),
        ("", "takes one target"),
        ("TARGET, sever=2", "role 'sever' is unknown"),
        ("TARGET, server='two'", "server='two' is not a number of nodes"),
        ("TARGET, server=-1", "counts are 0 to"),
        ("TARGET, assignment={'depot.limt': 5}", "did you mean depot.limit?"),
        ("TARGET, assignment={'depot.limit': {'sever:odd': 5}}", "'sever:odd' is neither a role nor a node"),
        ("TARGET, assignment={'depot.limit': -5}", "depot.limit: -5 is out of range"),
        ("TARGET, assignment={'depot.digest': 'md5'}", "'md5' is not one of crc, adler"),
        ("TARGET, schedule=[{'fault': 'host.crush', 'on': 'server-1'}]", "fault 'host.crush' is unknown"),
        ("TARGET, schedule=[{'fault': 'host.crash', 'on': 'one(server'}]", "selection 'one(server'"),
        ("TARGET, schedule=5", "schedule: expected a list of steps"),
        ("TARGET, variant='bug.none'", "variant 'bug.none' is unknown"),
        ("TARGET, timeout='soon'", "timeout: 'soon' is not a quantity in s"),
        ("TARGET, topology={'racks': 0}", "racks and per_host at least 1"),
        ("TARGET, invariants=['nope']", "invariant 'nope' is unknown"),
    ],
)
def test_bad_input_in_a_marker_is_one_line_and_pytests_usage_error(
    project: pytest.Pytester, marker: str, message: str
) -> None:
    project.makepyfile(test_it=GOOD.replace("TARGET, server=2", marker))
    result = project.runpytest_inprocess("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in (result.stdout.str() + result.stderr.str()).splitlines() if "zebra:" in line]
    assert len(lines) == 1 and message in lines[0], result.stdout.str() + result.stderr.str()
    assert "Traceback" not in result.stderr.str()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--zebra-seed=x"], "--zebra-seed: 'x' is not a whole number or `random`"),
        (["--zebra-substrate=moon"], "substrate 'moon' is unknown"),
        (["--zebra-replay=zebra1.xx"], "damaged or cut short"),
        (["--zebra-replay=zebra9.xxxxxxxxxxxx"], "version zebra9 is unknown"),
        (["--zebra-timeout=5 parsecs"], "'5 parsecs' is not a quantity in s"),
        (["--zebra-campaign", "--zebra-params=nothing.*"], "no parameter of depot matches"),
        (["--zebra-campaign", "--zebra-accept=missing.txt"], "cannot read missing.txt"),
        (["--zebra-campaign", "--zebra-workers=0"], "is not a number from 1 to 512"),
        (["--zebra-campaign", "-n", "2"], "do not mix"),
    ],
)
def test_bad_options_are_one_line_and_pytests_usage_error(
    project: pytest.Pytester, options: list[str], message: str
) -> None:
    project.makepyfile(test_it=GOOD)
    result = run(project, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stdout.str() + result.stderr.str()
    assert [line for line in text.splitlines() if "zebra:" in line and message in line], text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("@pytest.mark.zebra(TARGET)\ndef test_sync(cluster): pass", "is an `async def` function"),
        ("@pytest.mark.zebra(TARGET)\nasync def test_blind(): pass", "has a parameter `cluster`"),
        (
            "@pytest.mark.zebra(TARGET)\n@given(integers())\nasync def test_given(cluster, n): pass",
            "@given and the marker zebra do not mix",
        ),
    ],
)
def test_a_marked_test_of_the_wrong_kind_is_refused_in_one_line(
    project: pytest.Pytester, test: str, message: str
) -> None:
    project.makepyfile(
        test_it=GOOD + "\nfrom hypothesis import given\nfrom hypothesis.strategies import integers\n" + test
    )
    result = run(project)
    text = result.stdout.str() + result.stderr.str()
    assert result.ret != 0 and [line for line in text.splitlines() if message in line], text


def test_the_plugin_imports_nothing_when_no_zebra_test_is_collected(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import sys

def test_plain():
    assert not {name for name in sys.modules if name.split(".")[0] in ("msgspec", "tabulate", "rich", "jinja2")}
    assert {name for name in sys.modules if name.split(".")[0] == "zebra"} == {"zebra", "zebra.plugin"}
"""
    )
    result = pytester.runpytest_subprocess("-p", "zebra", "-p", "no:hypothesispytest", "-p", "no:detangle")
    result.assert_outcomes(passed=1)
    assert not (pytester.path / "zebra-report").exists()


def test_a_session_without_the_plugin_is_possible(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")
    pytester.runpytest_subprocess("-p", "no:zebra").assert_outcomes(passed=1)


def test_xdist_workers_write_one_history_in_collection_order(project: pytest.Pytester) -> None:
    tests = "".join(GOOD.replace("test_store", f"test_{name}").partition("TARGET\n")[2] for name in "dcba")
    project.makepyfile(test_it="import pytest\nfrom depot import TARGET\n" + tests)
    run(project, "-n", "2", "-p", "no:randomly").assert_outcomes(passed=4)
    lines = (project.path / "zebra-report" / "history.jsonl").read_text().splitlines()
    names = [event["test"] for event in map(json.loads, lines) if event["kind"] == "run"]
    assert names == [f"test_it.py::test_{name}" for name in "dcba"]


def test_one_seed_gives_one_history_and_another_seed_another(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=GOOD)
    histories = []
    for number, seed in enumerate(("1", "1", "2")):
        run(project, f"--zebra-seed={seed}", f"--zebra-report=r{number}").assert_outcomes(passed=1)
        histories.append((project.path / f"r{number}" / "history.jsonl").read_text())
    assert histories[0] == histories[1] != histories[2]


def test_a_random_seed_is_printed(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=GOOD)
    run(project, "--zebra-seed=random").stdout.re_match_lines([r"zebra seed: \d+ .*"])


def test_a_report_directory_in_use_is_refused(project: pytest.Pytester) -> None:
    import fcntl

    project.makepyfile(test_it=GOOD)
    (project.path / "zebra-report").mkdir()
    with open(project.path / "zebra-report" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run(project)
    assert result.ret != 0
    assert "is in use by another session" in result.stdout.str() + result.stderr.str()


def test_a_token_too_long_for_a_line_is_written_to_a_file(project: pytest.Pytester) -> None:
    steps = ", ".join(
        f"{{'fault': 'host.pause', 'on': 'server-{i % 2 + 1}', 'at': '{i}ms', 'for': '1ms'}}" for i in range(60)
    )
    test = GOOD.replace("server=2", f"server=2, schedule=[{steps}]") + "    assert False\n"
    project.makepyfile(test_it=test)
    result = run(project)
    found = re.search(r"replay: zebra replay (\S+\.txt)", result.stdout.str())
    assert found is not None, result.stdout.str()
    again = replay(project, found[1])
    assert again.returncode == 1, again.stdout + again.stderr
