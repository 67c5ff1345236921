"""The process of `zebra toxiproxy`: from its options to its end by a signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zebra.errors import ConfigError, ExitCode
from zebra.faults.toxiproxy.address import BadAddress, join, resolve
from zebra.faults.toxiproxy.api import Api
from zebra.faults.toxiproxy.http import Client
from zebra.faults.toxiproxy.owner import allowed
from zebra.faults.toxiproxy.proxies import Proxies
from zebra.faults.toxiproxy.wire import ApiError, objects, read
from zebra.proxy.proxy import Address, listening


class Server:
    """The control API and its proxies, in the running loop. `address` is where it listens once it has begun. With
    `any_user` other users of this machine may control it too."""

    def __init__(self, seed: int = 0, any_user: bool = False) -> None:
        self.proxies = Proxies(seed)
        self._welcome: Callable[[Any], bool] = (lambda _: True) if any_user else allowed
        self.address: Address = ("", 0)
        self._clients: set[Client] = set()
        self._server: asyncio.Server | None = None

    async def begin(self, host: str, port: int) -> None:
        """Listen for clients; raises ConfigError."""
        try:
            sock = listening(await resolve(join((host, port))))
        except (BadAddress, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"toxiproxy: cannot listen at {join((host, port))}: {reason}") from None
        self.address = sock.getsockname()[:2]
        api = Api(self.proxies)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Client(api.handle, self._clients, self._welcome), sock=sock
        )

    async def populate(self, config: bytes, where: str) -> None:
        """Create the proxies of a configuration file; raises ConfigError."""
        try:
            _, error = await self.proxies.populate(objects(read(config)))
        except ApiError as trouble:
            error = trouble
        if error is not None:
            raise ConfigError(f"{where}: {error}")

    async def close(self) -> None:
        """Give up all sockets."""
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.transport.abort()
        self.proxies.close()
        await asyncio.sleep(0)


def serve(host: str, port: int, seed: int, config: Path | None, any_user: bool, say: Callable[[str], None]) -> int:
    """Serve until SIGTERM (exit code 0) or SIGINT (130). Raises ConfigError when it cannot begin."""
    proxies = b"" if config is None else _read(config)

    async def run() -> int:
        codes: list[int] = []
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end(code: int) -> None:
            codes.append(code)
            ended.set()

        loop.add_signal_handler(signal.SIGINT, end, ExitCode.INTERRUPTED)
        loop.add_signal_handler(signal.SIGTERM, end, ExitCode.OK)
        server = Server(seed, any_user)
        try:
            await server.begin(host, port)
            if config is not None:
                await server.populate(proxies, str(config))
            say(f"zebra toxiproxy listens at {join(server.address)}, seed {seed}")
            await ended.wait()
            return codes[0]
        finally:
            await server.close()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(run())


def _read(config: Path) -> bytes:
    try:
        return config.read_bytes()
    except OSError as error:
        raise ConfigError(f"{config}: {error.strerror}") from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's where it is installed: a short exchange then takes half as long."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
