"""The client: makes streams, publishes, consumes, moves leaders about, and compares the servers with each other."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from zebra.errors import Failed
from zebra.node import Node
from zebra.targets.nats import monitor, workload
from zebra.targets.nats.api import CALL_S, LOOK_S, NOBODY, SHOWN, answered, ask, call, quiet, seq_of, step_down
from zebra.targets.nats.contents import differences, held_by, published, stored, streams_of
from zebra.targets.nats.health import disagreement, led_by_others, wrong_with
from zebra.targets.nats.monitor import UNREACHABLE
from zebra.targets.nats.server import CLIENT, MONITOR, OPERATOR, PASSWORD, USER

ASK_S, INSIST_S = 1.5, 15.0
"""Bound of a request that is made again, as a server that has just begun to lead may not answer; and of all of them."""

ALIKE_S = 15.0
"""Within so long all servers agree: one election at its longest, and what follows from it."""

LEAD_S = 15.0
"""Within so long a server takes over all that it is told to lead."""

INBOXES = 3
"""How often a message of each stream is asked for through each server while one leads: each time to a new inbox."""

READS = 8
"""Messages of one stream that are asked for at a time; the servers limit how many requests may wait."""

PAGES = ("/jsz?acc=APP&streams=true&consumers=true&config=true", "/healthz", "/routez", "/raftz", "/raftz?acc=APP")
NOTHING = {"first_seq": 1, "last_seq": 0}
"""The state of a stream that a server does not have."""

LOST = (nats.errors.Error, OSError, EOFError, TimeoutError)
"""What a connection raises that is of no use any more."""

Configs = dict[str, Any]
"""The nodes' configurations, by name."""


class NatsClient:
    """Asks each server for itself; a connection lasts for one piece of work."""

    def __init__(self, node: Node[Any]) -> None:
        self.node, self.written = node, 0
        self.replicas = 1 if node.variant("bug.one_replica") else workload.REPLICAS
        self.seen: set[tuple[str, int, str]] = set()
        self.configs: Configs = {}
        self.made: set[str] = set()

    def servers(self) -> tuple[str, ...]:
        """The servers that are meant to run."""
        return self.node.up("server")

    def next(self, name: str) -> str:
        """The server after this one, in a ring of all that run."""
        servers = self.servers()
        return servers[(servers.index(name) + 1) % len(servers)]

    @asynccontextmanager
    async def on(self, name: str, user: str = USER) -> AsyncIterator[Client]:
        """A connection of its own to a server."""
        host, port = await self.node.reach(name, CLIENT)
        connection = await nats.connect(
            f"nats://{host}:{port}", user=user, password=PASSWORD, allow_reconnect=False, connect_timeout=2,
            name=self.node.name, error_cb=quiet,
        )  # fmt: skip
        try:
            yield connection
        finally:
            await connection.close()

    async def page(self, name: str, page: str) -> dict[str, Any]:
        """A monitoring page of a server."""
        base = self.configs[name].http_base_path if self.configs else ""
        return await monitor.ask(*await self.node.reach(name, MONITOR), f"{base}{page}")

    async def know(self, configs: Configs) -> None:
        """Be told the nodes' configurations: what is asked of each server follows its own."""
        self.configs = {name: config for name, config in configs.items() if name != self.node.name}

    # -- streams and consumers -------------------------------------------------------------------------------

    async def create(self) -> None:
        """Through each server a stream of either storage with consumers, while the one before leads the meta layer."""
        for leader in self.servers():
            await self.lead(leader, "create")
            name = self.next(leader)
            async with self.on(name) as connection:
                await asyncio.gather(*(self._create(connection, storage, name) for storage in workload.STORAGES))

    async def _create(self, connection: Client, storage: str, name: str) -> None:
        config = self.configs[name]
        wanted = workload.stream(storage, name, config, self.replicas)
        stream = wanted["name"]
        self.made.add(stream)
        async with self.node.op("create", stream=stream, through=name):
            await self._insist(connection, f"STREAM.CREATE.{stream}", wanted)
            for consumer in workload.consumers(storage, config):
                subject = f"CONSUMER.DURABLE.CREATE.{stream}.{consumer['durable_name']}"
                await self._insist(connection, subject, {"stream_name": stream, "config": consumer})

    async def _insist(self, connection: Client, subject: str, body: dict[str, Any]) -> None:
        """Make a request of JetStream until it is granted: `CALL_S` if it is refused, `INSIST_S` if none answers.

        Raises Failed with the last answer.
        """
        began = time.monotonic()
        while True:
            try:
                answer = await call(connection, subject, body, timeout_s=ASK_S)
            except NOBODY as error:
                last, for_s = type(error).__name__, INSIST_S
            else:
                if "error" not in answer:
                    return
                last, for_s = answer["error"]["description"], CALL_S
            if time.monotonic() - began > for_s:
                raise Failed(f"{subject}: {last}")
            await asyncio.sleep(LOOK_S)

    # -- messages --------------------------------------------------------------------------------------------

    async def load(self, tag: str) -> None:
        """Through every server to every stream messages and a repeated one; to its own streams batches; a large one."""
        for name in self.servers():
            async with self.on(name) as connection:
                for storage in workload.STORAGES:
                    for owner in self.configs:
                        await self._round(connection, workload.stream_name(storage, owner), f"{tag}-{name}")
                    await self._batches(connection, storage, name)
                large = workload.largest(self.configs[name], self.node.random)
                await self.publish(connection, workload.stream_name("file", self.next(name)), large)

    async def _round(self, connection: Client, stream: str, tag: str) -> None:
        for data in workload.small(tag, self.node.random):
            await self.publish(connection, stream, data, {"Kind": tag})
        once = {"Nats-Msg-Id": f"{tag}-{self.written}"}
        first = await self.publish(connection, stream, b"once", once)
        again = await ask(connection, f"{stream}.again", b"once", once)
        if json.loads(again.data).get("seq") != first:
            self.node.emit("nats.health", phase=tag, problems={stream: f"stored message {once} twice: {again.data!r}"})

    async def publish(self, connection: Client, stream: str, data: bytes, headers: dict[str, str] | None = None) -> int:
        """Publish a message and wait for its stream: the sequence number. Raises Failed where the stream refuses it."""
        self.written += 1
        subject = f"{stream}.{self.written % 5}"
        async with self.node.op("publish", stream=stream, checksums=[published(subject, data)]) as op:
            return seq_of(op, await ask(connection, subject, data, headers))

    async def _batches(self, connection: Client, storage: str, name: str) -> None:
        """Atomic batches to the server's own stream, as many open at a time as its configuration allows."""
        stream, (count, length) = workload.stream_name(storage, name), workload.batches(self.configs[name])
        names = [f"{name}-{self.written}-{number}" for number in range(count)]
        data = [f"part {part}".encode() for part in range(length)]
        for number in range(length - 1):
            for batch in names:
                headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number + 1)}
                if number:
                    await connection.publish(f"{stream}.{batch}", data[number], headers=headers)
                else:
                    begun = await ask(connection, f"{stream}.{batch}", data[0], headers)
                    if begun.data:
                        raise Failed(f"{stream} does not begin a batch: {begun.data.decode()}")
        for batch in names:
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(length), "Nats-Batch-Commit": "1"}
            checksums = [published(f"{stream}.{batch}", each) for each in data]
            async with self.node.op("publish", stream=stream, checksums=checksums) as op:
                answer = await ask(connection, f"{stream}.{batch}", data[-1], headers)
                seq_of(op, answer)
        self.written += 1

    async def consume(self) -> None:
        """Fetch messages of each consumer through the server after its stream's own, and acknowledge them."""
        for owner in self.configs:
            through = self.next(owner)
            async with self.on(through) as connection:
                for storage in workload.STORAGES:
                    stream, batch = workload.stream_name(storage, owner), workload.fetch(self.configs[through])
                    for consumer in workload.consumers(storage, self.configs[owner]):
                        await self._fetch(connection, stream, consumer["durable_name"], batch)

    async def _fetch(self, connection: Client, stream: str, consumer: str, batch: int) -> None:
        async with self.node.op("fetch", stream=stream, consumer=consumer) as op:
            wanted = {"batch": batch, "expires": round(CALL_S * 1e9)}
            inbox = await self._to_new_inbox(connection, stream, consumer, wanted)
            for number in range(batch):
                message = await answered(inbox, stream, 2 * CALL_S)
                if (message.headers or {}).get("Status"):
                    raise Failed(f"{stream} {consumer}: {message.headers} after {number} of {batch} messages")
                await ask(connection, message.reply, b"+ACK")
            op.note(fetched=batch)

    async def _to_new_inbox(
        self, connection: Client, stream: str, consumer: str, wanted: dict[str, Any]
    ) -> Subscription:
        """Ask a consumer for messages: to where nobody has listened before, so its leader must hear of that first."""
        inbox = await connection.subscribe(connection.new_inbox())
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        await connection.publish(subject, json.dumps(wanted).encode(), reply=inbox.subject)
        return inbox

    async def _fetch_elsewhere(self, leader: str) -> None:
        """Through each server that is no leader, from each stream: a message, or to hear at once that none is left."""
        reader, wanted = workload.reader(1), {"batch": 1, "no_wait": True}
        for name in self.servers():
            if name == leader:
                continue
            async with self.on(name) as connection:
                for stream in sorted(self.made) * INBOXES:
                    async with self.node.op("fetch", stream=stream, consumer=reader, through=name):
                        inbox = await self._to_new_inbox(connection, stream, reader, wanted)
                        message = await answered(inbox, stream, CALL_S)
                        if not (message.headers or {}).get("Status"):
                            await ask(connection, message.reply, b"+ACK")

    async def call_each_other(self) -> None:
        """From a connection to each server a request to a service at each other one, which sends back what it got."""
        names = self.servers()
        for answering in names:
            async with self.on(answering) as service:
                for asking in names:
                    if asking != answering:
                        async with self.on(asking) as connection:
                            await self._call(connection, service, asking, answering)

    async def _call(self, connection: Client, service: Client, asking: str, answering: str) -> None:
        config = self.configs[asking]
        subject = workload.service(asking, answering, config)

        async def answer(message: Msg) -> None:
            try:
                await service.publish(message.reply, message.data, headers=message.headers)
            except nats.errors.Error as error:
                await service.publish(message.reply, f"{type(error).__name__}: {error}".encode())

        async with self.node.op("call", asking=asking, answering=answering):
            subscription = await service.subscribe(subject, cb=answer)
            await service.flush(2)
            data, headers = workload.largest(config, self.node.random), {"Asked-Of": answering}
            reply = await ask(connection, subject, data, headers)
            if reply.data != data or reply.headers != headers:
                got = f"{reply.data[:SHOWN]!r} ({len(reply.data)} bytes of {len(data)}) and headers {reply.headers}"
                raise Failed(f"{answering} answered {asking} with {got}")
            await subscription.unsubscribe()

    # -- who leads -------------------------------------------------------------------------------------------

    async def lead(self, name: str, phase: str) -> None:
        """Make a server the leader of the meta layer, each stream and consumer; emits `nats.health` if it fails."""
        until = time.monotonic() + LEAD_S
        async with self.on(self.next(name)) as connection, self.on(self.next(name), OPERATOR) as operator:
            while True:
                jsz = await self.page(name, "/jsz?acc=APP&streams=true&consumers=true")
                others = list(led_by_others(jsz, name))
                if not others:
                    return
                if time.monotonic() > until:
                    problem = f"has not become the leader of {', '.join(others)} within {LEAD_S:g} s"
                    self.node.emit("nats.health", phase=phase, problems={name: problem})
                    return
                placed = {"placement": {"preferred": name}}
                await asyncio.gather(*(
                    step_down(operator if what == "META" else connection, what, placed) for what in others
                ))  # fmt: skip
                await asyncio.sleep(LOOK_S)

    async def read_everywhere(self, phase: str, names: Iterable[str] = ()) -> None:
        """Let each server lead in turn, fetch through the others, and read all that it holds, number by number.

        Emits a `nats.held` for each stream.
        """
        for name in tuple(names) or self.servers():
            await self.lead(name, phase)
            await self._fetch_elsewhere(name)
            jsz = await self.page(name, "/jsz?acc=APP&streams=true")
            states = dict.fromkeys(self.made, NOTHING) | {s["name"]: s["state"] for s in streams_of(jsz)}
            async with self.on(name) as connection:
                await asyncio.gather(*(self._read(connection, name, stream, states[stream]) for stream in states))

    async def _read(self, connection: Client, name: str, stream: str, state: dict[str, Any]) -> None:
        held: dict[str, str] = {}
        turns = asyncio.Semaphore(READS)

        async def read(number: int) -> None:
            async with turns:
                answer = await call(connection, f"STREAM.MSG.GET.{stream}", {"seq": number})
            if "message" in answer:
                message = answer["message"]
                held[str(number)] = stored(message, base64.b64decode(message.get("data", "")))

        await asyncio.gather(*(read(number) for number in range(state["first_seq"], state["last_seq"] + 1)))
        self.node.emit("nats.held", on=name, stream=stream, messages=held)

    # -- comparing -------------------------------------------------------------------------------------------

    async def compare(self, phase: str, within_s: float = ALIKE_S) -> None:
        """Compare all servers that should run with each other until they are well and alike, or the time is over.

        What remains is emitted as `nats.compared` and `nats.health`; who leads what in which term as `nats.leads`.
        """
        until = time.monotonic() + within_s
        while True:
            problems, differs = await self._state()
            if not (problems or differs) or time.monotonic() > until:
                break
            await asyncio.sleep(LOOK_S)
        self.node.emit("nats.compared", phase=phase, differs=differs)
        self.node.emit("nats.health", phase=phase, problems=problems)

    async def _state(self) -> tuple[dict[str, str], dict[str, list[str]]]:
        names = self.servers()
        found = dict(zip(names, await asyncio.gather(*map(self._pages, names)), strict=True))
        pages = {name: page for name, page in found.items() if not isinstance(page, str)}
        problems = {name: f"does not answer: {page}" for name, page in found.items() if isinstance(page, str)}
        leaders = {name: (jsz.get("meta_cluster") or {}).get("leader", "") for name, (jsz, *_) in pages.items()}
        for name, (jsz, health, routes, *groups) in pages.items():
            self._note_leaders(name, groups)
            wrong = wrong_with(name, names, jsz, health, routes) or disagreement(name, leaders)
            if wrong:
                problems[name] = wrong
        if problems:
            return problems, {}
        states = {name: held_by(page[0]) for name, page in pages.items()}
        first = states[names[0]]
        return {}, {name: lines for name, state in states.items() if (lines := differences(first, state))}

    async def _pages(self, name: str) -> list[dict[str, Any]] | str:
        try:
            return [await self.page(name, page) for page in PAGES]
        except UNREACHABLE as error:
            return f"{type(error).__name__} {error}".strip()

    def _note_leaders(self, name: str, pages: list[dict[str, Any]]) -> None:
        """Emit who leads a group in which term, once for each."""
        for groups in (groups for page in pages for groups in page.values()):
            for group, raft in groups.items():
                seen = group, raft["term"], name
                if raft["state"] == "LEADER" and seen not in self.seen:
                    self.seen.add(seen)
                    self.node.emit("nats.leads", group=group, term=raft["term"], leader=name)

    # -- progress --------------------------------------------------------------------------------------------

    async def goes_on(self, phase: str, within_s: float) -> None:
        """A message of each stream there is must be acknowledged again, and all servers become alike."""
        until = time.monotonic() + within_s
        await self.compare(phase, within_s)
        jsz = await self.page(self.servers()[0], "/jsz?acc=APP&streams=true")
        for stream in streams_of(jsz):
            await self.write(stream["name"], self.servers()[0], until - time.monotonic())
        await self.compare(phase, max(until - time.monotonic(), LOOK_S))

    async def write(self, stream: str, through: str, within_s: float = CALL_S) -> int:
        """Publish until one message is acknowledged: its sequence number. Raises TimeoutError when none is."""
        until = time.monotonic() + within_s
        while True:
            try:
                async with self.on(through) as connection:
                    return await self.publish(connection, stream, f"write {self.written}".encode())
            except (*LOST, Failed):
                if time.monotonic() > until:
                    raise TimeoutError(f"{stream} took no message through {through} within {within_s:g} s") from None
                await asyncio.sleep(LOOK_S)
