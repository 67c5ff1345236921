"""A server of notes that stands in for yours: `python notes_server.py CONFIG.json`. A follower copies its leader."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any


class Notes:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.notes = config, dict[str, str]()
        self.followers: list[asyncio.StreamWriter] = []

    async def serve(self) -> None:
        await asyncio.start_server(self.answer, self.config["host"], self.config["port"])
        while self.config["follow"] is not None:
            try:
                await self.follow(*self.config["follow"])
            except OSError:
                await asyncio.sleep(self.config["retry_s"])
        await asyncio.Event().wait()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().strip():
            command, _, rest = line.partition(" ")
            if command == "put":
                writer.write(b"ok\n" if self.put(*rest.split(" ", 1)) else b"too long\n")
            elif command == "all":
                writer.write(json.dumps(self.notes, sort_keys=True).encode() + b"\n")
            elif command == "follow":
                for key, text in self.notes.items():
                    writer.write(self.packed(key, text))
                self.followers.append(writer)
        if writer in self.followers:
            self.followers.remove(writer)
        writer.close()

    def put(self, key: str, text: str) -> bool:
        if len(text) > self.config["max_length"]:
            return False
        self.notes[key] = text
        for follower in self.followers:
            follower.write(self.packed(key, text))
        return True

    def packed(self, key: str, text: str) -> bytes:
        return f"{key} {text.encode().hex() if self.config['packing'] == 'hex' else text}\n".encode()

    async def follow(self, host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"follow\n")
        while line := (await reader.readline()).decode().strip():
            key, text = line.split(" ", 1)
            self.put(key, bytes.fromhex(text).decode() if self.config["packing"] == "hex" else text)
        writer.close()
        await asyncio.sleep(self.config["retry_s"])


if __name__ == "__main__":
    asyncio.run(Notes(json.loads(Path(sys.argv[1]).read_text())).serve())
