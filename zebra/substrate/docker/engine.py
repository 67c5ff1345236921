"""What one run makes by the container engine: each thing is named, labelled and in the ledger before it is made."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import quote

from zebra.errors import ConfigError, Infrastructure
from zebra.injection.ledger import Ledger, owner

T = TypeVar("T")

DEFAULT_SOCKET = "/var/run/docker.sock"
API_MIN = (1, 40)
"""The oldest version of the engine's API that has all that is used here (Docker 19.03); the engine's own is spoken."""

LABEL_SESSION, LABEL_RUN, LABEL_OWNER = "zebra.session", "zebra.run", "zebra.owner"
CALLS = 8
"""So many requests to the engine at a time."""

TIMEOUT_S = 60.0
FREEZE_S = 30.0


class EngineSocket(http.client.HTTPConnection):
    """A connection to the engine, by its unix socket."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, Any]:
        """Status and decoded answer of a request. Raises OSError, or http.client.HTTPException."""
        self.request(method, path, body or None, {"Content-Type": kind} if body else {})
        answer = self.getresponse()
        data = answer.read()
        try:
            return answer.status, json.loads(data) if data else None
        except ValueError:  # a stream of several answers
            return answer.status, data


def socket_path() -> str:
    """The engine's socket, as the `docker` command finds it. Raises ConfigError for an engine that is elsewhere."""
    host = os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}"
    if not host.startswith("unix://"):
        raise ConfigError(
            f"DOCKER_HOST is {host}: the engine must be on this machine (unix://…), as nodes share its files"
        )
    return host.removeprefix("unix://")


def default_image() -> str:
    """The image that the user has given for all nodes, "" for none."""
    return os.environ.get("ZEBRA_DOCKER_IMAGE", "")


def missing(image: str) -> str:
    """What to say of an image that is not here, "" if it is."""
    engine = EngineSocket(socket_path())
    try:
        status, _ = engine.ask("GET", f"/images/{quote(image)}/json")
    finally:
        engine.close()
    return "" if status == http.HTTPStatus.OK else f"image {image} is not on this machine, get it with `docker pull`"


def unanswered() -> str:
    """Why no engine answers, "" if one does."""
    try:
        path = socket_path()
        connection = EngineSocket(path, 5.0)
        try:
            status, version = connection.ask("GET", "/version")
        finally:
            connection.close()
    except ConfigError as error:
        return str(error)
    except (OSError, http.client.HTTPException) as error:
        return f"no engine answers at {path} ({error or type(error).__name__})"
    if status != http.HTTPStatus.OK or not isinstance(version, dict):
        return f"what answers at {path} is no engine (status {status})"
    has = str(version.get("ApiVersion", "0"))
    if tuple(map(int, has.split("."))) < API_MIN:
        return f"the engine at {path} has version {has} of its API, {'.'.join(map(str, API_MIN))} is needed"
    return "" if version.get("Os") == "linux" else f"the engine runs on {version.get('Os')}, linux is needed"


class Engine:
    """The engine on behalf of one run. Every method but `in_background` blocks, and may be called from any thread."""

    def __init__(self, session: str, run: str, ledger: Ledger) -> None:
        import docker  # a third of a second: only where there is use for it

        self._types, self._errors = docker.types, docker.errors
        self._socket, self._ledger = socket_path(), ledger
        self.labels = {LABEL_SESSION: session, LABEL_RUN: run, LABEL_OWNER: owner()}
        self._prefix = f"{session}-{run}"
        self._made: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(CALLS, "zebra-docker")
        with self._telling():
            client: Any = docker.APIClient(f"unix://{self._socket}", "auto", int(TIMEOUT_S), max_pool_size=CALLS)
        self._client = client

    @contextlib.contextmanager
    def _telling(self, what: str = "") -> Iterator[None]:
        """Say in one line what the engine did not do."""
        import requests

        try:
            yield
        except (self._errors.DockerException, requests.RequestException) as error:
            said = getattr(error, "explanation", None) or error
            raise Infrastructure(f"the container engine: {what}: {' '.join(str(said).split())}") from None

    def name(self, what: str) -> str:
        """The name of something of this run."""
        return f"{self._prefix}-{what}"

    def _plan(self, kind: str, name: str, **more: Any) -> None:
        """Write down what is about to be made."""
        entry = {
            "id": f"{kind}.{name}",
            "kind": kind,
            "name": name,
            "engine": self._socket,
            "labels": self.labels,
            **more,
        }
        self._ledger.add([entry])
        self._made[name] = entry["id"]

    def _gone(self, name: str) -> None:
        self._ledger.done([self._made.pop(name)])

    # -- images and networks ---------------------------------------------------------------------------------

    def make_image(self, layer: bytes) -> str:
        """An image of one layer, a tar archive; its name."""
        name = f"zebra:{self._prefix}"
        self._plan("image", name)
        changes = [f"LABEL {label}={value}" for label, value in self.labels.items()]
        with self._telling(name):
            repository, _, tag = name.partition(":")
            self._client.import_image_from_data(layer, repository, tag, changes)
        return name

    def make_network(self, what: str, subnet: str, gateway: str) -> tuple[str, str] | None:
        """A network whose members reach nobody but this machine: its name and interface. None if the range is taken."""
        name = self.name(what)
        self._plan("network", name, subnet=subnet)
        ipam = self._types.IPAMConfig(pool_configs=[self._types.IPAMPool(subnet=subnet, gateway=gateway)])
        options = {f"com.docker.network.bridge.enable_{each}": "false" for each in ("icc", "ip_masquerade")}
        with self._telling(name):
            try:
                made = self._client.create_network(
                    name, "bridge", options, ipam, check_duplicate=True, labels=self.labels
                )
            except self._errors.APIError as error:
                if "overlap" not in str(error.explanation):
                    raise
                self._gone(name)
                return None
        return name, f"br-{made['Id'][:12]}"

    def remove_networks(self, names: Iterable[str]) -> None:
        for name in names:
            with self._telling(name), contextlib.suppress(self._errors.NotFound):
                self._client.remove_network(name)
            self._gone(name)

    # -- containers ------------------------------------------------------------------------------------------

    def make_container(
        self, what: str, image: str, command: list[str], *, environment: Mapping[str, str], user: str,
        shared: Iterable[str] = (), own: Iterable[str] = (), network: str = "", address: str = "", **host: Any,
    ) -> str:  # fmt: skip
        """A container that is not started yet, on one of the run's networks; its name.

        `shared` and `own` are places of this machine that it sees where they are here, the first ones read-only; `host`
        is more for docker's HostConfig.
        """
        name = self.name(what)
        self._plan("container", name, image=image)
        client = self._client
        joins = client.create_networking_config({network: client.create_endpoint_config(ipv4_address=address)})
        mount = self._types.Mount
        mounts = [mount("/tmp", "", "tmpfs"), *(mount(path, path, "bind", read_only=True) for path in shared)]
        mounts += [mount(path, path, "bind") for path in own]
        settings = client.create_host_config(mounts=mounts, **({"network_mode": network} | host))
        with self._telling(f"{name} of image {image}"):
            client.create_container(
                image, entrypoint=command, name=name, hostname=what, environment=dict(environment), labels=self.labels,
                host_config=settings, networking_config=joins if network else None, user=user,
            )  # fmt: skip
        return name

    def start(self, name: str) -> int:
        """Start a container; the number of its first process, 0 if that has ended already."""
        with self._telling(name):
            self._client.start(name)
            return int(self._client.inspect_container(name)["State"]["Pid"])

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a container's first process; one that has ended is left alone."""
        self._to_running(self._client.kill, name, number)

    def pause(self, name: str) -> None:
        """Freeze all processes of a container; one that has ended is left alone.

        On a busy machine the engine gives up before all of them stand: then it is asked again.
        """
        until = time.monotonic() + FREEZE_S
        while True:
            try:
                return self._to_running(self._client.pause, name)
            except Infrastructure as error:
                if "unable to freeze" not in str(error) or time.monotonic() > until:
                    raise

    def unpause(self, name: str) -> None:
        self._to_running(self._client.unpause, name)

    def limit(self, name: str, **limits: int) -> None:
        """Change limits of a container, by their names in the engine's API. Raises Infrastructure."""
        engine = EngineSocket(self._socket)  # the package knows no limit of processes
        try:
            status, answer = engine.ask("POST", f"/containers/{name}/update", json.dumps(limits).encode())
        except (OSError, http.client.HTTPException) as error:
            status, answer = 0, error
        finally:
            engine.close()
        if status != http.HTTPStatus.OK:
            raise Infrastructure(f"the container engine: {name}: {limits} were refused: {answer}")

    def _to_running(self, act: Any, name: str, *more: Any) -> None:
        with self._telling(name):
            try:
                act(name, *more)
            except self._errors.APIError:
                if self._client.inspect_container(name)["State"]["Running"]:
                    raise

    def ended(self, name: str) -> tuple[int, bool]:
        """Wait until a container is down: its exit status, and whether it had more memory than it was allowed."""
        with self._telling(name):
            self._client.wait(name, timeout=None)
            state = self._client.inspect_container(name)["State"]
            return int(state["ExitCode"]), bool(state["OOMKilled"])

    def last_words(self, name: str) -> str:
        """The last line that a container has written itself, before its node's output went to files."""
        with self._telling(name):
            lines = self._client.logs(name, tail=20).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def remove(self, names: Iterable[str]) -> None:
        """Remove containers and whatever runs in them, several at a time."""
        list(self._pool.map(self._remove, names))

    def _remove(self, name: str) -> None:
        with self._telling(name), contextlib.suppress(self._errors.NotFound):
            self._client.remove_container(name, v=True, force=True)
        self._gone(name)

    # -- the end -----------------------------------------------------------------------------------------------

    def in_background(self, what: Callable[..., T], *arguments: Any) -> Future[T]:
        """Do something in another thread; the future of it."""
        return self._pool.submit(what, *arguments)

    def close(self) -> None:
        """Remove all that was made, containers first. What fails stays in the ledger."""
        self._pool.shutdown(cancel_futures=True)
        self._pool = ThreadPoolExecutor(CALLS, "zebra-docker")
        of_kind = {kind: [n for n, id in self._made.items() if id.startswith(f"{kind}.")]
                   for kind in ("container", "network", "image")}  # fmt: skip
        try:
            self.remove(of_kind["container"])
            self.remove_networks(of_kind["network"])
            for name in of_kind["image"]:
                with self._telling(name), contextlib.suppress(self._errors.NotFound):
                    self._client.remove_image(name, force=True)
                self._gone(name)
        finally:
            self._pool.shutdown()
            self._client.close()
