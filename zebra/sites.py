"""Named places in code under test, where faults of the application act. Outside a run of zebra they do nothing.

    if zebra.buggify("store.flush_late"):
        await asyncio.sleep(1.0)  # unusual, but allowed
    await zebra.failpoint("store.before_commit")

`buggify` is true now and then while `application.buggify` is on: a run's seed chooses which sites are active at all.
At a `failpoint` the faults `application.exception` and `application.delay` act that name it. The types of requests that
a node serves by `zebra.rpc`, and `reload`, are sites too, without a line of code.

Source: FoundationDB's BUGGIFY (../shared/research/peers.md section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

NO_ANSWER: Any = object()
"""What a handler under `application.drop_reply` returns: the caller gets nothing."""


class Sites(Protocol):
    """The faults of the application on one node (`zebra.substrate.application`)."""

    def active(self) -> bool:
        """Whether there are any at present."""

    def around(self, site: str, handler: Callable[..., Any]) -> Callable[..., Any]:
        """A handler of requests with what happens to this request; the handler itself if nothing does."""

    async def passage(self, site: str) -> None:
        """Pass a failpoint."""

    def buggify(self, site: str, probability: float) -> bool: ...

    def variant(self, name: str) -> bool:
        """Whether the node runs this version of its role's code."""


def _nowhere() -> Sites | None:
    return None


_find: Callable[[], Sites | None] = _nowhere


def find_by(find: Callable[[], Sites | None] | None) -> None:
    """Let the running substrate say whose sites the running code passes; None when no run is on."""
    global _find
    _find = find or _nowhere


def buggify(site: str, probability: float = 0.25) -> bool:
    """Whether to do the unusual here: never outside zebra; of the sites that a run's seed has chosen, so often."""
    sites = _find()
    return sites is not None and sites.active() and sites.buggify(site, probability)


async def failpoint(site: str) -> None:
    """A place where faults may raise an exception or wait. Raises what `application.exception` names."""
    sites = _find()
    if sites is not None and sites.active():
        await sites.passage(site)
