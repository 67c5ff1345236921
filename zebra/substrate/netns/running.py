"""The nodes of one run in network namespaces, from the session's side."""

from __future__ import annotations

from typing import Any

from zebra.substrate.netns.links import NetnsLinks
from zebra.substrate.process.running import ProcessRunning


class NetnsRunning(ProcessRunning):
    """`ProcessRunning` whose links are those of the kernel."""

    _links: NetnsLinks

    def _make_links(self) -> NetnsLinks:
        return NetnsLinks(self)

    def _brought(self, kind: str, files: list[int], word: Any) -> None:
        if kind == "switch":
            self._links.switch(files, word)
        else:
            self._links.host(*files, *word)

    def end(self) -> None:
        super().end()
        self._links.close()
