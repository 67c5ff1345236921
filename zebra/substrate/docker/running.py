"""The nodes of one run as containers: what `ProcessRunning` does, with the engine in the zygote's place.

Clients stay on this machine, as forks of the zygote. A container lasts as long as the run: a crash kills it, a restart
starts it again, with its own filesystem as it was left.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from zebra.errors import ConfigError, Infrastructure, TargetError, ZebraError
from zebra.injection.ledger import Ledger
from zebra.substrate.docker.addresses import DCS_MAX, OWN_BITS, PER_DC_MAX, Subnets, free_numbers
from zebra.substrate.docker.birth import GO, Answer, Birth, at_socket, line, reference
from zebra.substrate.docker.engine import Engine, default_image, missing
from zebra.substrate.docker.filesystem import Filesystem, empty_layer, of_host, of_image
from zebra.substrate.docker.node import own_version
from zebra.substrate.docker.resources import DockerResources
from zebra.substrate.docker.route import adopt
from zebra.substrate.process.channel import Channel
from zebra.substrate.process.life import Ground
from zebra.substrate.process.ports import Incarnation
from zebra.substrate.process.running import ProcessRunning
from zebra.target import CLIENT

T = TypeVar("T")

DEATH_S = 30.0
"""The engine has so long to kill a container: on a busy machine it may be slow."""

ENVIRONMENT = ("ZEBRA_", "PYTHONHASHSEED", "LANG", "LC_", "TZ")
"""What a node's container has of the session's environment: variables whose names begin so."""

DOORS = "doors"
"""The directory of the sockets at which new lives meet the session."""


def contained(role: str) -> bool:
    """Whether nodes of a role live in containers: clients are the test's own."""
    return role != CLIENT


def slots_of(ground_nodes: dict[str, int], dc_of: dict[str, str]) -> dict[int, tuple[int, int]]:
    """Which datacenter's network each container is on, and as which member. Raises ConfigError if they do not fit."""
    dcs = sorted(set(dc_of.values()))
    taken = dict.fromkeys(dcs, 0)
    slots = {}
    for node, dc in dc_of.items():
        slots[ground_nodes[node]] = (dcs.index(dc), taken[dc])
        taken[dc] += 1
    if len(dcs) > DCS_MAX or max(taken.values(), default=0) > PER_DC_MAX:
        raise ConfigError(f"substrate docker: at most {DCS_MAX} datacenters of {PER_DC_MAX} nodes fit")
    return slots


class DockerRunning(ProcessRunning):
    """`zebra.substrate.Running` on containers."""

    engine_s = 60.0

    def __init__(self, ground: Ground, ledger: Ledger) -> None:
        assert isinstance(ground.block, Subnets)
        self._subnets, self._plan, self._directory = ground.block, ground.plan, ground.directory
        roles = {p.role: ground.plan.roles[p.role] for p in ground.plan.places if contained(p.role)}
        self._references = {role: reference(made, f"role {role}") for role, made in roles.items()}
        for kind in {type(config) for config in ground.plan.configs.values()}:
            reference(kind, "the configuration")
        self.engine = Engine(ground.directory.parent.name, ground.directory.name, ledger)
        self._dead: dict[Incarnation, asyncio.Future[None]] = {}
        self._previous: dict[str, Incarnation] = {}
        self._containers: dict[str, str] = {}
        self._killed: set[Incarnation] = set()
        self._starved: set[str] = set()
        self._networks: list[str] = []
        try:
            (ground.directory / DOORS).mkdir()
            self._filesystems = self._fill(roles)
            self._join()
            super().__init__(ground, ledger)
        except BaseException:
            self.engine.close()
            raise

    def _make_resources(self) -> DockerResources:
        return DockerResources(self)

    def container_of(self, node: str) -> str:
        """The name of a node's container, "" while it has none."""
        return self._containers.get(node, "")

    def starved(self, node: str) -> bool:
        """Whether the engine has said since one asked last that a node had more memory than it was allowed."""
        name = self.container_of(node)
        starved = name in self._starved
        self._starved.discard(name)
        return starved

    # -- what is made before the nodes --------------------------------------------------------------------------

    def _fill(self, roles: dict[str, Any]) -> dict[str, Filesystem]:
        """What the containers of each role hold. Raises ConfigError for an image that is not there."""
        images = {role: self._plan.images.get(role) or default_image() for role in roles}
        for image in filter(None, set(images.values())):
            if why := missing(image):
                raise ConfigError(f"substrate docker: {why}")
        self._host = of_host(self.engine.make_image(empty_layer()), roles.values())
        return {role: of_image(image) if image else self._host for role, image in images.items()}

    def _join(self) -> None:
        """A network for each datacenter, out of a range of addresses that nothing else uses."""
        dcs = sorted({place.dc for place in self._plan.places if contained(place.role)})
        for number in free_numbers(os.getpid()):
            self._subnets.choose(number)
            bridge = ""
            for index, dc in enumerate(dcs):
                made = self.engine.make_network(f"{dc}-{number}", *self._subnets.subnet(index))
                if made is None:
                    break
                self._networks.append(made[0])
                bridge = bridge or made[1]
            else:
                if bridge:
                    self._adopt(bridge)
                return
            self.engine.remove_networks(self._networks)
            self._networks.clear()
        raise ConfigError("substrate docker: no range 10.64.0.0/16 to 10.254.0.0/16 is free on this machine")

    def _adopt(self, bridge: str) -> None:
        """Make the session's addresses this machine's own; who may not do that itself lets a container do it."""
        try:
            adopt(self._subnets.own, OWN_BITS, bridge)
        except PermissionError:
            host, engine = self._host, self.engine
            command = [host.python, "-m", adopt.__module__, self._subnets.own, str(OWN_BITS), bridge]
            name = engine.make_container(
                "route", host.image, command, environment=self._environment(host), shared=host.shared, user="0:0",
                network_mode="host", cap_add=["NET_ADMIN"],
            )  # fmt: skip
            engine.start(name)
            status, _ = engine.ended(name)
            if status:
                why = engine.last_words(name)
                raise Infrastructure(f"no route for {self._subnets.own}/{OWN_BITS} could be made: {why}") from None

    def _environment(self, filesystem: Filesystem) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)}
        if filesystem is self._host:
            kept |= {"PYTHONPATH": os.pathsep.join(filesystem.paths), "PATH": os.environ.get("PATH", os.defpath)}
        return kept

    # -- lives -----------------------------------------------------------------------------------------------

    def _is_contained(self, life: Incarnation) -> bool:
        return contained(life.node.rpartition("-")[0])

    def _spawn(self, lives: list[Incarnation]) -> None:
        super()._spawn([life for life in lives if not self._is_contained(life)])
        for life in filter(self._is_contained, lives):
            self._dead[life] = self._loop.create_future()
            self.proxy.spawn(self._live(life, self._previous.get(life.node)))
            self._previous[life.node] = life

    async def _live(self, life: Incarnation, previous: Incarnation | None) -> None:
        """All of one life of a container, after the one before it."""
        status = 0
        try:
            if previous is not None:
                await asyncio.wait([previous.ended])
            await self._bear(life)
            await self._dead[life]
            if life.channel is None and life.up:
                words = await self._call(self.engine.last_words, self._containers[life.node])
                life.error = TargetError(f"{life.node}'s container ended before it was ready: {words}".rstrip(" :"))
        except (ZebraError, OSError) as error:
            life.error = life.error or error
        if life.up:
            self._ports.refuse(life)
        try:
            if life.node in self._containers:
                status = await self._call(self._put_down, self._containers[life.node])
        except Infrastructure as error:
            life.error = life.error or error
        if life.up:
            if life.error is not None and not life.ready.done():
                life.ready.set_exception(life.error)
            self._gone(life)
            if not life.stopping:
                self._exited(life, status if status <= 128 else 128 - status)
        life.ended.set_result(status)

    def _put_down(self, name: str) -> int:
        self.engine.signal(name, signal.SIGKILL)
        status, starved = self.engine.ended(name)
        if starved:
            self._starved.add(name)
        return status

    def _call(self, what: Callable[..., T], *arguments: Any, **more: Any) -> asyncio.Future[T]:
        """Do something that blocks in another thread."""
        made: Future[T] = self.engine.in_background(what, *arguments, **more)
        return asyncio.wrap_future(made)

    async def _bear(self, life: Incarnation) -> None:
        """Start a life and let it begin once it has met the session, or see it die before that."""
        path = self._directory / DOORS / f"{self.ground.nodes[life.node]}.{life.number}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            at_socket(door.bind, path)
            door.listen(1)
            door.setblocking(False)
            if life.node not in self._containers:
                self._containers[life.node] = await self._call(self._make, life.node)
            self._door(life)
            life.pid = await self._call(self.engine.start, self._containers[life.node])
            try:
                pidfd = os.pidfd_open(life.pid) if life.pid else -1
            except ProcessLookupError:
                pidfd = -1
            if pidfd < 0 or not life.up:
                if pidfd >= 0:
                    os.close(pidfd)
                self._is_dead(life)
                return
            life.pidfd = pidfd
            self._loop.add_reader(pidfd, self._is_dead, life)
            await self._meet(life, door)

    def _make(self, node: str) -> str:
        place = next(place for place in self._plan.places if place.node == node)
        filesystem = self._filesystems[place.role]
        number = self.ground.nodes[node]
        prepared = [str(self._plan.prepared)] if self._plan.prepared else []
        return self.engine.make_container(
            node, filesystem.image, [filesystem.python, "-m", "zebra.substrate.docker.node", self._own_door(number)],
            environment={**self._environment(filesystem), "HOME": str(self.ground.home(node))},
            shared=[*filesystem.shared, *prepared], own=[str(self._directory)],
            user=f"{os.getuid()}:{os.getgid()}", network=self._networks[self._subnets.slots[number][0]],
            address=self._subnets.hidden(number),
        )  # fmt: skip

    def _own_door(self, number: int) -> str:
        """Where a container finds the door of its present life: its command stays the same."""
        return str(self._directory / DOORS / str(number))

    def _door(self, life: Incarnation) -> None:
        """Let the container find the door of this life."""
        number = self.ground.nodes[life.node]
        new = self._directory / DOORS / f"{number}.new"
        new.symlink_to(f"{number}.{life.number}")
        new.replace(self._own_door(number))

    async def _meet(self, life: Incarnation, door: socket.socket) -> None:
        """Tell the new process who it is, and let it begin. Raises TargetError if it says that it cannot."""
        accepting = asyncio.ensure_future(self._loop.sock_accept(door))
        either: list[asyncio.Future[Any]] = [accepting, self._dead[life]]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not accepting.done():
            accepting.cancel()
            return
        sock = accepting.result()[0]
        sock.setblocking(False)
        try:
            pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if pid != life.pid:
                raise Infrastructure(f"process {pid} came to the door of {life.node}, which is process {life.pid}")
            await self._loop.sock_sendall(sock, line(self._birth(life)))
            received = bytearray()
            while not received.endswith(b"\n") and (data := await self._loop.sock_recv(sock, 1 << 16)):
                received += data
        except ConnectionError:
            received = bytearray()
        except BaseException:
            sock.close()
            raise
        if not received or not life.up:  # it has ended, which the engine explains
            sock.close()
            return
        try:
            trouble = msgspec.json.decode(received, type=Answer).trouble
        except msgspec.DecodeError as error:
            trouble = f"its answer is none ({error})"
        if trouble:
            sock.close()
            raise TargetError(f"{life.node} cannot run: {trouble}")
        self._order.expect(self.ground.nodes[life.node])
        sock.send(GO)
        channel = life.channel = Channel(lambda kind, *rest: self._heard(life, kind, *rest), lambda: None)
        await self._loop.connect_accepted_socket(lambda: channel, sock)
        if life.paused:  # while it was starting
            self._order.excuse(self.ground.nodes[life.node])
            self._freeze(life)

    def _birth(self, life: Incarnation) -> Birth:
        plan, config = self._plan, self._configs[life.node]
        return Birth(
            version=own_version(), node=life.node, incarnation=life.number, config=msgspec.msgpack.encode(config),
            role=self._references[life.node.rpartition("-")[0]],
            config_type=reference(type(config), "the configuration"), nodes=self.ground.nodes,
            places=plan.places, network=self._subnets.number, slots=self._subnets.slots, prefix=plan.prefix,
            seed=plan.seed, variant=plan.variant, reads=plan.note_read is not None,
            prepared=str(plan.prepared) if plan.prepared else "",
        )  # fmt: skip

    # -- deaths ----------------------------------------------------------------------------------------------

    def _is_dead(self, life: Incarnation) -> None:
        if not self._dead[life].done():
            self._dead[life].set_result(None)
        if life.pidfd >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(life.pidfd)

    def _gone(self, life: Incarnation) -> None:
        if life in self._dead:
            self._is_dead(life)
        super()._gone(life)

    def _kill(self, life: Incarnation) -> None:
        if life not in self._dead:
            super()._kill(life)
            return
        if life.pidfd >= 0:  # else it has not begun, and who starts it sees that it must not
            self._signal(life, signal.SIGKILL)
            if not select.select([life.pidfd], [], [], DEATH_S)[0]:
                raise Infrastructure(f"{life.node}'s container did not end within {DEATH_S:g} s of being killed")
        self._gone(life)

    def _signal(self, life: Incarnation, number: signal.Signals) -> None:
        if life not in self._dead:
            super()._signal(life, number)
        elif life.pidfd >= 0 and life not in self._killed:
            if number == signal.SIGKILL:
                self._killed.add(life)
            self.engine.in_background(self.engine.signal, self._containers[life.node], number)

    def _ask_to_stop(self, life: Incarnation) -> None:
        if life in self._dead:
            self._signal(life, signal.SIGTERM)
        else:
            super()._ask_to_stop(life)

    def _freeze(self, life: Incarnation) -> None:
        if life not in self._dead:
            super()._freeze(life)
        elif life.pidfd >= 0:
            self.engine.pause(self._containers[life.node])

    def _thaw(self, life: Incarnation) -> None:
        if life not in self._dead:
            super()._thaw(life)
        elif life.pidfd >= 0:
            self.engine.unpause(self._containers[life.node])

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.engine.close()
