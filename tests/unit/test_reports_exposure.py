"""The table of which fault hit which role in which state."""

from __future__ import annotations

import asyncio
from pathlib import Path

from zebra import Cluster, History, RunSpec, Target, Topology, run
from zebra.report import HISTORY, Report
from zebra.reports.exposure import Exposures
from zebra.reports.html import html
from zebra.testing import EchoClient, EchoConfig, EchoServer

TARGET = Target(
    name="exposed", config=EchoConfig, roles={"server": EchoServer, "spare": EchoServer}, client=EchoClient,
    topology=Topology(counts={"server": 3, "spare": 1}), selectors={"odd": lambda _: ["server-1", "server-3"]},
)  # fmt: skip


async def scenario(cluster: Cluster) -> None:
    await cluster.inject("host.crash", "server-2")
    await cluster.inject("network.loss", "server-1", probability=0.5)  # nobody talks to it: without effect
    async with cluster.fault("network.latency", "all(server)", delay="1ms"):
        await cluster.client.say("server-3", "hello")
    async with cluster.fault("network.latency", "server-3", delay="1ms"):
        await cluster.client.say("server-3", "hello")
    await asyncio.sleep(0.1)


def report(directory: Path) -> Report:
    outcome = run(scenario, RunSpec(test="exposed", target=""), target=TARGET, history=History(directory / HISTORY))
    assert outcome.result == "inconclusive" and "network.loss" in outcome.message
    return Report.load(directory)


def test_faults_are_counted_by_role_and_state_where_they_took_effect(tmp_path: Path) -> None:
    table = Exposures()
    for each in report(tmp_path).runs():
        table.see(each)
    rows = {row.fault: row for row in table.rows()}
    assert rows["host.crash"].cells == {"server": {"up": 1}}
    assert (rows["network.loss"].injected, rows["network.loss"].idle, rows["network.loss"].cells) == (1, 1, {})
    assert rows["network.latency"].injected == 2
    assert rows["network.latency"].cells == {"server": {"up": 2, "odd": 2, "down": 1}}
    assert table.unhit() == ["spare"]
    assert "host.pause" in table.missing() and "host.crash" not in table.missing()


def test_the_page_has_the_table(tmp_path: Path) -> None:
    html(report(tmp_path))
    page = (tmp_path / "index.html").read_text()
    assert "What faults hit" in page and "Never hit: spare." in page
    assert "odd <b>2</b>" in page
