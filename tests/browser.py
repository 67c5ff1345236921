"""A headless Chromium to open pages in, driven over pipes by its DevTools protocol.

What a page asks for, logs and throws is collected from the start. Source: https://chromedevtools.github.io/devtools-protocol
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ANSWER_S = 60.0


def program() -> str:
    """Where Chromium is, or ""."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), "")


class Browser:
    """One page; `requests` are the addresses that it asked for, `troubles` its console errors and exceptions."""

    def __init__(self, profile: Path, width: int = 1300, height: int = 900, dark: bool = False) -> None:
        self.requests, self.troubles, self._number = list[str](), list[str](), 0
        commands, self._write = (_high(end) for end in os.pipe())
        self._read, answers = (_high(end) for end in os.pipe())
        arguments = [
            program(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
            "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank",
        ]  # fmt: skip
        quiet = os.open(os.devnull, os.O_RDWR)
        self._pid = os.posix_spawn(
            arguments[0], arguments, {**os.environ, "HOME": str(profile)},
            file_actions=[(os.POSIX_SPAWN_DUP2, source, to)
                          for source, to in ((quiet, 0), (quiet, 1), (quiet, 2), (commands, 3), (answers, 4))],
            setpgroup=0,
        )  # fmt: skip
        for end in (commands, answers, quiet):
            os.close(end)
        os.set_blocking(self._read, False)
        self._buffer = b""
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; what happens meanwhile is noted. Raises RuntimeError when it is refused."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, page: Path) -> None:
        """Load a file and wait until it and everything that it asks for is there."""
        self._loaded = False
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self._loaded:
            self._next()
        self.value("0")  # what was logged while loading has come before this answer

    def value(self, expression: str) -> Any:
        """What an expression comes to in the page; raises RuntimeError when it throws."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def move(self, x: float, y: float, kind: str = "mouseMoved", pressed: bool = False, clicks: int = 0) -> None:
        """A mouse event at a place of the window."""
        button = "left" if pressed or kind != "mouseMoved" else "none"
        self.call(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=int(pressed), clickCount=clicks
        )

    def drag(self, x: float, y: float, to_x: float, to_y: float) -> None:
        self.move(x, y)
        self.move(x, y, "mousePressed", True, 1)
        self.move((x + to_x) / 2, to_y, pressed=True)
        self.move(to_x, to_y, pressed=True)
        self.move(to_x, to_y, "mouseReleased", False, 1)

    def click(self, x: float, y: float, times: int = 1) -> None:
        for clicks in range(1, times + 1):
            self.move(x, y, "mousePressed", True, clicks)
            self.move(x, y, "mouseReleased", False, clicks)

    def picture(self, file: Path, whole: bool = True) -> None:
        """A PNG of the whole page, or of what the window shows."""
        data = self.call(
            "Page.captureScreenshot", captureBeyondViewport=whole, **({"clip": self._clip()} if whole else {})
        )
        file.write_bytes(base64.b64decode(data["data"]))

    def _clip(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def _next(self) -> dict[str, Any]:
        """The next message; raises TimeoutError or EOFError when none comes."""
        until_s = time.monotonic() + ANSWER_S
        while b"\0" not in self._buffer:
            self._fill(until_s)
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _fill(self, until_s: float) -> None:
        if not select.select([self._read], [], [], max(0.0, until_s - time.monotonic()))[0]:
            raise TimeoutError(f"Chromium gave no answer within {ANSWER_S:g} s")
        data = os.read(self._read, 1 << 20)
        if not data:
            raise EOFError("Chromium ended")
        self._buffer += data

    def _note(self, method: str, given: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.troubles.append(str(given["exceptionDetails"].get("exception", given["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.troubles.append(str(given["args"]))
        elif method == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.troubles.append(given["entry"]["text"])


def _high(end: int) -> int:
    """The same end of a pipe under a number that is not one of those that the browser expects."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return moved
