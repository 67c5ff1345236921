"""A test as one writes it without zebra: everything in one process, one settings object for all."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from store import Client, Server, Settings


def test_notes_arrive_as_they_were_sent() -> None:
    async def main() -> None:
        settings = Settings()
        server = Server(settings)
        port = await server.listen()
        clients = [Client(settings, port) for _ in range(2)]
        for client in clients:
            await client.add("grün, grün, grün")
        await server.close()
        assert server.notes == ["grün, grün, grün"] * 2

    asyncio.run(main())
