"""The `zebra` command: lists, doctor, and one clear line for bad input."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import projects
from zebra.cli import KINDS, main
from zebra.errors import ConfigError
from zebra.options import read_accepted
from zebra.target import find_target


def zebra(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_each_list_is_an_array_of_objects_with_a_name(kind: str, tmp_path: Path) -> None:
    listed = projects.zebra(tmp_path, "list", kind, "--json")  # in a process that has nothing that other tests add
    rows = json.loads(listed.stdout)
    assert listed.returncode == 0 and rows and all(row["name"] for row in rows)
    silent = [row["name"] for row in rows if not row["about"]]
    assert kind == "params" or not silent, silent  # a live server does not say what its parameters mean
    code, out, _ = zebra("list", kind)
    assert code == 0 and all(row["name"] in out for row in rows)


def test_the_lists_hold_what_this_release_promises() -> None:
    names = {kind: {row["name"] for row in json.loads(zebra("list", kind, "--json")[1])} for kind in KINDS}
    assert names["faults"] >= {
        "host.crash", "host.stop", "host.restart", "host.pause",
        "network.partition", "network.latency", "network.bandwidth", "network.loss",
        "network.duplicate", "network.reset", "disk.lose_unsynced", "clock.offset",
    }  # fmt: skip
    assert "owl" in names["targets"] and "sim" in names["substrates"]
    assert {"owl.tracker", "owl.peer", "owl.superpeer", "owl.store", "owl.client"} <= names["roles"]
    assert "owl.checksum.algorithm" in names["params"]
    assert {"table", "junit", "json", "html"} <= names["reporters"]


def test_doctor_says_what_each_substrate_offers() -> None:
    code, out, _ = zebra("doctor", "--json")
    about = json.loads(out)
    assert code == 0
    sim = next(row for row in about["substrates"] if row["name"] == "sim")
    assert sim["available"] and set(sim["capabilities"].values()) == {"yes"}
    assert "sim" in zebra("doctor")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required"),
        (("list",), "required"),
        (("list", "everything"), "invalid choice: 'everything'"),
        (("campaign", "owll"), "'owll' is neither a target"),
        (("campaign", "owl", "--params", "nothing"), "no parameter of owl matches 'nothing'"),
        (("campaign", "owl", "--accept", "/nowhere"), "cannot read /nowhere"),
        (("campaign", "owl", "--seed", "one"), "--seed: 'one' is not a whole number"),
        (("campaign", "owl", "--workers", "many"), "--workers: 'many' is not a whole number"),
        (("campaign", "owl", "--substrate", "moon"), "substrate 'moon' is unknown"),
        (("replay", "zebra1.AAAA"), "damaged or cut short"),
        (("replay", "zebra0.AAAAAAAAAAAAA"), "version zebra0 is unknown"),
        (("replay", "no-such-file"), "neither a token"),
        (("report", "/nowhere"), "no report here"),
        (("frobnicate",), "invalid choice"),
        (("list", "faults", "--yaml"), "unrecognized arguments: --yaml"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2(arguments: Sequence[str], message: str) -> None:
    code, out, err = zebra(*arguments)
    assert code == 2, err
    assert out == "" and err.count("\n") == 1 and err.startswith("zebra: ") and message in err


def test_a_history_that_todays_invariants_cannot_read_is_said_and_its_page_written_all_the_same(tmp_path: Path) -> None:
    events = [
        {"seq": 0, "t": 0.0, "node": "", "kind": "run", "test": "t", "target": "owl", "schema": 1},
        {"seq": 1, "t": 0.1, "node": "tracker-1", "kind": "edge.open", "of": "an older release"},
        {"seq": 2, "t": 0.2, "node": "", "kind": "run.end", "outcome": "pass", "message": "", "replay": ""},
    ]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    code, out, err = zebra("report", str(tmp_path))
    assert code == 0, err
    assert "t: could not be checked again: " in out and "KeyError" in out
    assert (tmp_path / "index.html").exists()


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text("zebra1.=-_ABCabc0189", max_size=80).map(lambda text: "zebra1." + text)))
def test_no_text_makes_replay_show_a_traceback(text: str) -> None:
    code, _, err = zebra("replay", "--", text)
    assert code == 2 and "Traceback" not in err and err.count("\n") == 1


@settings(max_examples=100, deadline=None)
@given(content=st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode)))
def test_any_accept_file_is_read_or_refused_in_one_line(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file: Path = tmp_path_factory.getbasetemp() / "accepted.txt"
    file.write_bytes(content)
    try:
        names = read_accepted(str(file), find_target("owl"))
    except ConfigError as error:
        assert "accepted.txt" in str(error)  # noqa: PT017
    else:
        assert set(names) <= set(find_target("owl").space)
