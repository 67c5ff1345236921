"""A store of notes that stands in for your program: a server and clients, all given the same settings."""

import asyncio
from dataclasses import dataclass


@dataclass
class Settings:
    encoding: str = "utf-8"
    read_bytes: int = 4096


class Server:
    def __init__(self, settings: Settings) -> None:
        self.settings, self.notes = settings, list[str]()

    async def listen(self) -> int:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        note = b""
        while part := await reader.read(self.settings.read_bytes):
            note += part
        self.notes.append(note.decode(self.settings.encoding, errors="replace"))
        writer.close()
        await writer.wait_closed()

    async def close(self) -> None:
        self.server.close()
        await self.server.wait_closed()


class Client:
    def __init__(self, settings: Settings, port: int) -> None:
        self.settings, self.port = settings, port

    async def add(self, note: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(note.encode(self.settings.encoding))
        writer.write_eof()
        await reader.read(self.settings.read_bytes)
        writer.close()
        await writer.wait_closed()
