"""What an external system needs: a server's own names, reads that nobody sees, values that it does not show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import pytest

from zebra import ConfigError, Node, Param, RunSpec, Target, Topology, run
from zebra.campaign.campaign import Campaign
from zebra.campaign.trial import Trial, TrialResult
from zebra.cluster import Cluster
from zebra.params import Read, Space
from zebra.params.recording import recording

Config: Any = msgspec.defstruct(
    "Config",
    [("sync_delay", Annotated[int, Param(5)], 1), ("odd_one", Annotated[int, Param(7)], 1),
     ("secret", Annotated[str, Param(why="reserved: the target sets it")], "")],
    frozen=True, kw_only=True, rename={"sync_delay": "sync-delay", "odd_one": "odd-one"},
)  # fmt: skip


class Server:
    """Shows every value as it was set, but for `odd-one`, of which it knows no other than 1."""

    def __init__(self, node: Node[Any]) -> None:
        self.node = node

    async def run(self) -> None:
        if self.node.config.odd_one != 1:
            self.node.emit("node.unapplied", parameters=["system.odd-one"])
        await self.node.ready()
        raise SystemExit(0)


class Client:
    def __init__(self, node: Node[Any]) -> None: ...


def system(**more: Any) -> Target:
    return Target(name="system", config=Config, roles={"server": Server}, client=Client, external=True,
                  topology=Topology(counts={"server": 2}), **more)  # fmt: skip


async def nothing(cluster: Cluster) -> None:
    return None


def test_a_renamed_field_gives_the_parameter_its_name() -> None:
    space = Space("system", Config)
    assert list(space) == ["system.sync-delay", "system.odd-one", "system.secret"]
    config = space.replace(Config(), {"system.sync-delay": 5})
    assert space.get_value(config, "system.sync-delay") == 5 and config.sync_delay == 5  # type: ignore[attr-defined]


def test_a_recording_of_renamed_fields_notes_the_parameters_names() -> None:
    noted: list[str] = []
    assert recording(Config(), "system", lambda name, value, site: noted.append(name)).sync_delay == 1
    assert noted == ["system.sync-delay"]


def test_a_parameter_that_says_why_has_no_alternatives() -> None:
    assert Space("system", Config)["system.secret"].alternatives() == ()
    assert Param(why="reserved").why == "reserved"


def test_every_server_counts_as_a_reader_of_every_parameter_and_the_client_of_none() -> None:
    outcome = run(nothing, RunSpec(target="system"), target=system(), record_reads=True)
    assert outcome.reads == {Read("server", "system.sync-delay", 1), Read("server", "system.odd-one", 1),
                             Read("server", "system.secret", "")}  # fmt: skip


def test_what_a_live_server_does_not_show_is_in_the_outcome() -> None:
    spec = RunSpec(target="system", assignment={"system.odd-one": {"server-1": 7}})
    assert run(nothing, spec, target=system()).unapplied == {"system.odd-one"}
    assert run(nothing, RunSpec(target="system"), target=system()).unapplied == frozenset()


def test_a_target_without_its_server_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="target system is not available here: install it"):
        run(nothing, RunSpec(target="system"), target=system(unavailable="install it"))


def test_a_campaign_calls_untested_what_no_running_server_showed() -> None:
    target = system()

    class Runner:
        def map(self, trials: Sequence[Trial]) -> list[TrialResult]:
            outcomes = [run(nothing, trial.spec, target=target, record_reads=trial.record_reads) for trial in trials]
            return [
                TrialResult(result=o.result, reads=tuple(sorted(o.reads)), unapplied=tuple(sorted(o.unapplied)))
                for o in outcomes
            ]

    result = Campaign(target, [RunSpec(test="nothing", target="system")], Runner(), seed=0).run()
    assert result.reads_unseen
    found = {parameter.name: parameter for parameter in result.parameters}
    assert found["system.sync-delay"].verdict == "safe"
    assert found["system.odd-one"].verdict == "untested" and "does not show" in found["system.odd-one"].note
    assert (
        found["system.secret"].verdict == "untested" and found["system.secret"].note == "reserved: the target sets it"
    )


def test_an_external_system_runs_on_real_substrates_only() -> None:
    assert system().substrates == ("process", "netns", "docker")
    assert Target(name="own", config=Config, roles={"server": Server}).substrates == ()
