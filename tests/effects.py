"""Every effect of the catalogue's first part, seen at a role: once it is on, and gone when it is healed.

The scenarios run on each substrate; `raise_failure` also refuses a run in which a fault was not hit.
"""

from __future__ import annotations

import asyncio
import datetime
import errno
import threading
import time
from typing import Any, Literal

import msgspec

import zebra
from tests.cases import Cases, at
from zebra import Cluster, Node, RunSpec, Target, Topology, run
from zebra.rpc import Caller, Message, Request, Rpc, RpcError, RpcTimeout, Wire

BURN = 100_000
"""So many additions are one piece of work."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    word: str = "one"
    size: int = 1


class Ask(Request["Answer"], tag="ask", frozen=True, kw_only=True):
    """Answered with the text, and how many requests were carried out."""

    text: str


class Peek(Request["Answer"], tag="peek", frozen=True, kw_only=True):
    """Answered with what is kept under a name."""

    name: str


class Answer(Message, tag="answer", frozen=True, kw_only=True):
    text: str
    kind: Literal["answer"] = "answer"


WIRE = Wire(Ask, Peek, Answer, port=70)


class Worker:
    """Answers, keeps files, looks at its clock, works, and passes its sites."""

    def __init__(self, node: Node[Config]) -> None:
        self.node, self.config, self.done, self.kept = node, node.config, 0, dict[str, str]()
        self.open: list[asyncio.StreamWriter] = []
        self.reloads: list[Config] = []
        self.begun_s: list[float] = []

    async def run(self) -> None:
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve({Ask: self.ask, Peek: lambda peek, _: Answer(text=self.kept.get(peek.name, ""))})
        await self.node.ready()
        await asyncio.Event().wait()

    async def ask(self, ask: Ask, caller: Caller) -> Answer:
        self.done += 1
        self.begun_s.append(asyncio.get_running_loop().time())
        return Answer(text=f"{ask.text} {self.node.variant('bug.shouts')}")

    async def reload(self, config: Config) -> None:
        self.reloads.append(config)
        self.config = config

    async def configured(self) -> tuple[Config, int]:
        return self.config, len(self.reloads)

    async def began(self) -> list[float]:
        return self.begun_s

    async def carried_out(self) -> int:
        return self.done

    async def put(self, name: str, text: str) -> None:
        self.kept[name] = text

    async def disk(self, what: str, name: str = "file", text: str = "") -> str:
        """The content that was read, "" for what went well otherwise, or the name of an error number."""
        disk = self.node.disk
        try:
            if what == "read":
                return bytes(await disk.read(name)).decode("latin-1")
            if what == "write":
                await disk.write(name, text.encode())
            elif what == "append":
                await disk.append(name, text.encode())
            else:
                await getattr(disk, what)(name)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return ""

    async def clocks(self) -> tuple[float, float, float]:
        """Three clocks, read at the same time even where the machine is busy."""
        while True:
            began_s = self.node.clock.monotonic()
            wall_s, module_s, now_s = self.node.clock.time(), time.time_ns() / 1e9, self.node.clock.monotonic()
            if now_s - began_s < 2e-3:
                return wall_s, module_s, now_s

    async def today(self) -> tuple[float, float, str]:
        """Real nodes only: the simulation cannot answer for `datetime`."""
        now = datetime.datetime.now(datetime.UTC)
        return now.timestamp(), datetime.datetime.now().timestamp(), datetime.date.today().isoformat()

    async def works(self, for_s: float) -> tuple[float, float]:
        """Work for a time; the longest time between two pieces of work, and the share of the processor that it had."""
        loop, cpu_s = asyncio.get_running_loop(), time.process_time()
        seen_s = began_s = loop.time()
        gap_s = 0.0
        while seen_s < began_s + for_s:
            sum(range(BURN))
            await asyncio.sleep(1e-3)
            gap_s, seen_s = max(gap_s, loop.time() - seen_s), loop.time()
        return gap_s, (time.process_time() - cpu_s) / (seen_s - began_s)

    async def dial(self, to: str, count: int) -> tuple[int, str]:
        """Open connections and keep them; how many came about, and what stopped it."""
        for number in range(count):
            try:
                self.open.append((await asyncio.open_connection(to, WIRE.port))[1])
            except OSError as error:
                return number, errno.errorcode[error.errno or 0]
        return count, ""

    async def hang_up(self) -> None:
        for writer in self.open:
            writer.close()
        self.open.clear()

    async def threads(self, count: int) -> int:
        """How many threads can be started."""
        over, started = threading.Event(), list[threading.Thread]()
        try:
            for _ in range(count):
                thread = threading.Thread(target=over.wait)
                thread.start()
                started.append(thread)
        except RuntimeError:
            pass
        over.set()
        for thread in started:
            thread.join()
        return len(started)

    async def passes(self, site: str) -> str:
        try:
            await zebra.failpoint(site)
        except Exception as error:
            return type(error).__name__
        return ""

    async def bugs(self, sites: int, times: int) -> list[int]:
        """How often each of several sites was buggy."""
        return [sum(zebra.buggify(f"worker.site_{site}") for _ in range(times)) for site in range(sites)]


class Client:
    """Asks, and says what came of it and how long it took."""

    def __init__(self, node: Node[Config]) -> None:
        self.node = node

    async def run(self) -> None:
        self.rpc = Rpc(self.node, WIRE)
        await self.rpc.serve({})
        await self.node.ready()
        await asyncio.Event().wait()

    async def ask(self, to: str, text: str = "hello", timeout_s: float = 5.0) -> str:
        return await self._say(to, Ask(text=text), timeout_s)

    async def peek(self, to: str, name: str) -> str:
        return await self._say(to, Peek(name=name), 5.0)

    async def _say(self, to: str, request: Request[Answer], timeout_s: float) -> str:
        try:
            return (await self.rpc.call(to, request, timeout_s)).text
        except RpcTimeout:
            return "no answer"
        except RpcError as error:
            return f"{type(error).__name__}: {error}"

    async def burst(self, to: str, count: int, apart_s: float) -> None:
        """Ask many times, not at once."""

        async def one(number: int) -> None:
            await asyncio.sleep(number * apart_s)
            await self.rpc.call(to, Ask(text="x"), 10.0)

        await asyncio.gather(*(one(number) for number in range(count)))


TARGET = Target(name="effects", config=Config, roles={"worker": Worker}, client=Client, variants=("bug.shouts",),
                topology=Topology(counts={"worker": 2}))  # fmt: skip

CASES, REAL_CASES = Cases(), Cases()
case, real = CASES.add, REAL_CASES.add
"""The second is for substrates with real processes alone."""

W = "worker-1"
PLAIN = "hello False"


def check(scenario: Any, substrate: str, seed: int = 0) -> None:
    """Run a case; raises what went wrong."""
    spec = RunSpec(target="effects", substrate=substrate, timeout_s=60, seed=seed)
    run(scenario, spec, target=TARGET).raise_failure()


def on(cluster: Cluster, method: str, *args: Any, node: str = W) -> Any:
    return at(cluster, node, method, *args)


async def again(cluster: Cluster) -> None:
    """The worker answers as ever; the first call may find a connection that is no more."""
    async with asyncio.timeout(10):
        while await cluster.client.ask(W) != PLAIN:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


# -- hosts -------------------------------------------------------------------------------------------------------


@case
async def a_killed_node_closes_its_connections_and_comes_back(cluster: Cluster) -> None:
    assert await cluster.client.ask(W) == PLAIN
    async with cluster.fault("host.kill", W):
        assert W not in cluster.up()
        assert "Unreachable" in await cluster.client.ask(W, timeout_s=5.0), "its kernel refuses at once"
    await cluster.settled()
    assert [event["error"] for event in cluster.history.of("node.exit")] == ["killed"]
    await again(cluster)


@case
async def a_slow_host_works_in_slices_with_long_gaps(cluster: Cluster) -> None:
    async with cluster.fault("host.slow", W, cpu=0.02) as slow:
        gap_s, _ = await on(cluster, "works", 0.6)
        assert gap_s > 0.06
    assert slow.hits > 2
    await works_smoothly(cluster)


async def works_smoothly(cluster: Cluster) -> None:
    """Sooner or later, as others may be using this machine."""
    async with asyncio.timeout(20):
        while (await on(cluster, "works", 0.3))[0] > 0.06:
            pass


@real
async def a_slow_host_gets_no_more_than_its_share(cluster: Cluster) -> None:
    async with cluster.fault("host.slow", W, cpu=0.02):
        assert (await on(cluster, "works", 1.0))[1] < 0.08


@case
async def an_unfairly_scheduled_node_stands_still_now_and_then(cluster: Cluster) -> None:
    async with cluster.fault("host.unfair", W, stall_s="300ms", every_s="300ms"):
        assert (await on(cluster, "works", 1.5))[0] > 0.06
    await works_smoothly(cluster)


@case
async def a_zombie_goes_on_after_a_long_pause(cluster: Cluster) -> None:
    zombie = await cluster.inject("host.zombie", W, pause_s="400ms")
    assert await cluster.client.ask(W, timeout_s=0.1) == "no answer"
    await zombie.finished()
    await again(cluster)
    await cluster.settled()
    assert [event.kind for event in cluster.history.of("node.pause", "node.resume")] == ["node.pause", "node.resume"]


@case
async def a_leak_under_a_limit_of_memory_ends_in_the_oom_killer(cluster: Cluster) -> None:
    async with cluster.fault("host.memory", W, spare_bytes="24MiB"):
        assert W in cluster.up()
        async with cluster.fault("application.leak", W, rate="100MB/s"):
            await cluster.until(lambda: bool(cluster.history.of("node.exit")), within=10)
            [gone] = cluster.history.of("node.exit")
            assert (gone.node, gone["error"]) == (W, "out of memory")
            assert W not in cluster.up()
    await again(cluster)
    assert (await on(cluster, "carried_out")) == 1, "it was started again"


@case
async def a_limit_of_files_refuses_one_more_connection(cluster: Cluster) -> None:
    async with cluster.fault("host.file_limit", W, spare=3):
        assert await on(cluster, "dial", "worker-2", 10) == (3, "EMFILE")
        await on(cluster, "hang_up")
    assert await on(cluster, "dial", "worker-2", 10) == (10, "")


@case
async def a_server_without_a_free_file_lets_new_connections_wait(cluster: Cluster) -> None:
    async with cluster.fault("host.file_limit", W, spare=0):
        assert await cluster.client.ask(W, timeout_s=0.3) == "no answer"
    assert await cluster.client.ask(W, timeout_s=5.0) == PLAIN


@real
async def a_limit_of_processes_refuses_one_more_thread(cluster: Cluster) -> None:
    async with cluster.fault("host.process_limit", W, spare=2) as limit:
        assert await on(cluster, "threads", 5) == 2
    assert limit.hits == 1
    assert await on(cluster, "threads", 5) == 5


# -- disks -------------------------------------------------------------------------------------------------------


@case
async def a_full_disk_refuses_what_is_more_and_takes_what_fits(cluster: Cluster) -> None:
    assert await on(cluster, "disk", "write", "file", "12345678") == ""
    async with cluster.fault("disk.full", W, capacity_bytes=10):
        assert await on(cluster, "disk", "append", "file", "90") == ""
        assert await on(cluster, "disk", "append", "file", "x") == "ENOSPC"
        assert await on(cluster, "disk", "write", "other", "x") == "ENOSPC"
        assert await on(cluster, "disk", "write", "other", "x" * 11, node="worker-2") == ""
    assert await on(cluster, "disk", "read") == "1234567890"
    assert await on(cluster, "disk", "append", "file", "x") == ""


@case
async def a_slow_disk_takes_its_time(cluster: Cluster) -> None:
    async with cluster.fault("disk.slow", W, rate="100B/s"):
        began_s = cluster.now
        await on(cluster, "disk", "write", "file", "x" * 30)
        assert cluster.now - began_s >= 0.29
    began_s = cluster.now
    for _ in range(5):
        await on(cluster, "disk", "write", "file", "x" * 30)
    assert cluster.now - began_s < 5 * 0.3


@case
async def disk_errors_hit_reads_or_writes(cluster: Cluster) -> None:
    await on(cluster, "disk", "write", "file", "old")
    async with cluster.fault("disk.error", W, of="writes") as writes:
        assert await on(cluster, "disk", "write", "file", "new") == "EIO"
        assert await on(cluster, "disk", "sync") == "EIO"
        assert await on(cluster, "disk", "remove") == "EIO"
        assert await on(cluster, "disk", "read") == "old"
    assert writes.hits == 3
    async with cluster.fault("disk.error", W, of="reads") as reads:
        assert await on(cluster, "disk", "read") == "EIO"
        assert await on(cluster, "disk", "write", "file", "new") == ""
    assert reads.hits == 1
    async with cluster.fault("disk.error", W, probability=0.5) as some:
        found = [await on(cluster, "disk", "read") for _ in range(40)]
    assert set(found) == {"EIO", "new"}
    assert some.hits == found.count("EIO")
    assert await on(cluster, "disk", "read") == "new"


@case
async def a_flipped_bit_is_in_what_is_read_and_not_in_the_file(cluster: Cluster) -> None:
    await on(cluster, "disk", "write", "file", "content")
    async with cluster.fault("disk.bit_flip", W) as flips:
        read = await on(cluster, "disk", "read")
        assert sum(a != b for a, b in zip(read, "content", strict=True)) == 1
    assert flips.hits == 1
    assert await on(cluster, "disk", "read") == "content"


@case
async def a_read_only_disk_refuses_changes(cluster: Cluster) -> None:
    await on(cluster, "disk", "write", "file", "old")
    async with cluster.fault("disk.read_only", W):
        for change in ("write", "append", "remove"):
            assert await on(cluster, "disk", change) == "EROFS"
        assert await on(cluster, "disk", "read") == "old"
    assert await on(cluster, "disk", "write", "file", "new") == ""


@case
async def a_torn_write_leaves_a_beginning_of_what_was_not_synced(cluster: Cluster) -> None:
    text = "".join(chr(33 + number % 90) for number in range(4000))
    await on(cluster, "disk", "write", "file", text)
    async with cluster.fault("disk.torn_write", W), cluster.fault("host.crash", W):
        pass
    left = await on(cluster, "disk", "read")
    assert text.startswith(left)
    assert len(left) < len(text)
    await on(cluster, "disk", "write", "file", text)
    async with cluster.fault("host.crash", W):
        pass
    assert await on(cluster, "disk", "read") == text


# -- clocks ------------------------------------------------------------------------------------------------------


async def skew_s(cluster: Cluster) -> float:
    """How far the worker's wall clock has gone on beyond the other one's, by the two ways to read it."""
    mine, theirs = await on(cluster, "clocks"), await on(cluster, "clocks", node="worker-2")
    assert abs(mine[0] - mine[1]) < 1.0, "node.clock and the module time agree"
    return float(mine[0] - mine[2] - theirs[0] + theirs[2])


@case
async def a_drifting_clock_runs_fast_and_is_set_right(cluster: Cluster) -> None:
    assert abs(await skew_s(cluster)) < 0.05
    began_s = cluster.now
    async with cluster.fault("clock.drift", W, rate=2.0):
        early_s = await skew_s(cluster)
        await asyncio.sleep(0.3)
        late_s = await skew_s(cluster)
        assert 0.55 < late_s - early_s < 2.2 * (cluster.now - began_s)
    assert abs(await skew_s(cluster)) < 0.05


@case
async def a_jumping_clock_goes_there_and_back(cluster: Cluster) -> None:
    seen = set[float]()
    async with cluster.fault("clock.jump", W, by="-1h", every_s="50ms"):
        async with asyncio.timeout(10):
            while len(seen) < 2:
                seen.add(
                    round((await on(cluster, "clocks"))[0] - (await on(cluster, "clocks", node="worker-2"))[0], -2)
                )
                await asyncio.sleep(0.02)
    assert seen == {0, -3600}
    assert abs(await skew_s(cluster)) < 0.05


@case
async def a_frozen_clock_stands_still_while_the_monotonic_one_goes_on(cluster: Cluster) -> None:
    async with cluster.fault("clock.freeze", W), cluster.fault("clock.offset", W, by="100s"):
        first = await on(cluster, "clocks")
        await asyncio.sleep(0.1)
        second = await on(cluster, "clocks")
        assert second[0] == first[0]
        assert second[2] - first[2] >= 0.1
        assert await skew_s(cluster) > 99
    assert abs(await skew_s(cluster)) < 0.05


@real
async def the_date_of_a_node_follows_its_clock(cluster: Cluster) -> None:
    wall, _, day = await on(cluster, "today")
    async with cluster.fault("clock.offset", W, by="48h"):
        then, local, other_day = await on(cluster, "today")
        assert 0 <= then - wall - 48 * 3600 < 60
        assert abs(then - local) < 1
        assert other_day > day
        assert datetime.date.today().isoformat() <= (await on(cluster, "today", node="worker-2"))[2] < other_day
    assert (await on(cluster, "today"))[0] - wall < 60


# -- the application -----------------------------------------------------------------------------------------------


@case
async def an_exception_at_a_request_or_a_failpoint(cluster: Cluster) -> None:
    async with cluster.fault("application.exception", W, at="Ask") as fault:
        assert "Injected: injected at Ask" in await cluster.client.ask(W)
        assert await cluster.client.peek(W, "x") == ""
        assert await cluster.client.ask("worker-2") == PLAIN
        assert await on(cluster, "passes", "worker.commit") == ""
    assert fault.hits == 1
    async with cluster.fault("application.exception", W, at="worker.commit", error="OSError"):
        assert await on(cluster, "passes", "worker.commit") == "OSError"
        assert await on(cluster, "passes", "worker.begin") == ""
    assert await on(cluster, "passes", "worker.commit") == ""
    assert await cluster.client.ask(W) == PLAIN


@case
async def a_delay_at_every_request(cluster: Cluster) -> None:
    async with cluster.fault("application.delay", W, delay="150ms"):
        began_s = cluster.now
        assert await cluster.client.ask(W) == PLAIN
        assert cluster.now - began_s >= 0.15
        assert await on(cluster, "carried_out") == 1
        assert await cluster.client.ask(W, timeout_s=0.05) == "no answer"
        assert await on(cluster, "carried_out") == 1, "the caller has given up before"
    began_s = cluster.now
    for _ in range(5):
        await cluster.client.ask(W)
    assert cluster.now - began_s < 5 * 0.15


@case
async def a_thundering_herd_arrives_at_once(cluster: Cluster) -> None:
    async with cluster.fault("application.thundering_herd", W, every_s="500ms"):
        await cluster.client.burst(W, 20, 0.05)
    times = await on(cluster, "began")
    assert sum(time_s % 0.5 < 0.15 for time_s in times) > 15, "in step, not spread over the whole second"
    began_s = cluster.now
    for _ in range(5):
        await cluster.client.ask(W)
    assert cluster.now - began_s < 5 * 0.25


@case
async def a_wrong_answer_is_another_one_of_the_same_form(cluster: Cluster) -> None:
    async with cluster.fault("application.wrong_answer", W, at="Ask") as wrong:
        text = await cluster.client.ask(W)
        assert len(text) == len(PLAIN)
        assert sum(a != b for a, b in zip(text, PLAIN, strict=True)) == 1
    assert wrong.hits == 1
    assert await cluster.client.ask(W) == PLAIN


@case
async def a_stale_answer_is_the_first_that_an_equal_request_got(cluster: Cluster) -> None:
    await on(cluster, "put", "a", "1")
    async with cluster.fault("application.stale_answer", W, at="Peek") as stale:
        assert await cluster.client.peek(W, "a") == "1"
        await on(cluster, "put", "a", "2")
        assert await cluster.client.peek(W, "a") == "1"
        assert await cluster.client.peek(W, "b") == ""
    assert stale.hits == 1
    assert await cluster.client.peek(W, "a") == "2"


@case
async def a_dropped_reply_is_missing_and_the_request_is_done(cluster: Cluster) -> None:
    async with cluster.fault("application.drop_reply", W):
        assert await cluster.client.ask(W, timeout_s=0.2) == "no answer"
        assert await on(cluster, "carried_out") == 1
    assert await cluster.client.ask(W) == PLAIN


@case
async def a_repeated_request_is_done_twice(cluster: Cluster) -> None:
    async with cluster.fault("application.repeat_request", W, at="Ask"):
        assert await cluster.client.ask(W) == PLAIN
        assert await on(cluster, "carried_out") == 2
    assert await cluster.client.ask(W) == PLAIN
    assert await on(cluster, "carried_out") == 3


@case
async def a_corrupted_push_changes_one_value(cluster: Cluster) -> None:
    async with cluster.fault("application.corrupt_push", W):
        await cluster.configure(W, {"effects.word": "two"}, "reload")
        config, _ = await on(cluster, "configured")
        assert (config.word == "two") != (config.size == 1), "one of the two is wrong"
    await cluster.configure(W, {"effects.word": "three"}, "reload")
    assert (await on(cluster, "configured"))[0] == Config(word="three")


@case
async def a_stale_push_brings_the_configuration_before(cluster: Cluster) -> None:
    async with cluster.fault("application.stale_push", W):
        await cluster.configure(W, {"effects.word": "two"}, "reload")
        assert await on(cluster, "configured") == (Config(word="one"), 1)
    await cluster.configure(W, {"effects.word": "two"}, "reload")
    assert await on(cluster, "configured") == (Config(word="two"), 2)


@case
async def a_bad_version_runs_on_the_selected_nodes_until_it_is_healed(cluster: Cluster) -> None:
    async with cluster.fault("application.bad_version", W, variant="bug.shouts"):
        assert await cluster.client.ask(W) == "hello True"
        assert await cluster.client.ask("worker-2") == PLAIN
    await again(cluster)
    await cluster.settled()
    stops = [event.node for event in cluster.history.of("node.stop")]
    assert stops == [W, W]


@case
async def a_bad_version_is_rolled_out_node_by_node(cluster: Cluster) -> None:
    roll_out = await cluster.inject("application.bad_roll_out", "all(worker)", variant="bug.shouts", pause_s="600ms")
    assert await cluster.client.ask(W) == "hello True"
    assert await cluster.client.ask("worker-2") == PLAIN
    async with asyncio.timeout(10):
        while await cluster.client.ask("worker-2") != "hello True":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await cluster.heal(roll_out)
    await again(cluster)


@case
async def buggy_sites_are_chosen_by_the_seed_and_quiet_without_the_fault(cluster: Cluster) -> None:
    assert await on(cluster, "bugs", 40, 50) == [0] * 40
    async with cluster.fault("application.buggify", "*") as fault:
        first = await on(cluster, "bugs", 40, 50)
        other = await on(cluster, "bugs", 40, 50, node="worker-2")
    buggy = [number for number, times in enumerate(first) if times]
    assert 3 <= len(buggy) <= 20, "about a quarter of the sites"
    assert [number for number, times in enumerate(other) if times] == buggy, "the same on all nodes"
    assert fault.hits == sum(first) + sum(other)
    assert await on(cluster, "bugs", 40, 50) == [0] * 40
