"""Faults in the nodes' own code, at named sites.

`at` is the name of a failpoint (`await zebra.failpoint("store.commit")`), the name of a type of request that the
selected nodes serve (`Fetch`), `*` for every request, or `reload` for a configuration that is pushed to them.
"""

from __future__ import annotations

from random import Random

from zebra.errors import ConfigError
from zebra.injection.fault import fault
from zebra.injection.schedule import Inject, Schedule
from zebra.injection.selection import Selection
from zebra.substrate import Application
from zebra.substrate.application import RELOAD, error_class
from zebra.units import Probability, Rate, Seconds


@fault("application.exception", level="application", needs=Application)
class RaiseError:
    """Raise `error` at a site: `Injected`, or one of Python's own exceptions by its name, such as OSError."""

    at: str = "*"
    error: str = "Injected"
    probability: Probability = 1.0

    def validate(self) -> None:
        if error_class(self.error) is None:
            raise ConfigError(f"application.exception: error {self.error!r} is no exception of Python's, nor Injected")

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, at=self.at, error=self.error, probability=self.probability)


@fault("application.delay", level="application", needs=Application)
class Delay:
    """Wait for `delay` at a site, before the request is carried out."""

    delay: Seconds
    at: str = "*"
    probability: Probability = 1.0

    def validate(self) -> None:
        if not self.delay:
            raise ConfigError("application.delay: delay is 0, expected a time such as 200ms")

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, at=self.at, delay_s=self.delay, probability=self.probability)


@fault("application.thundering_herd", level="application", needs=Application)
class ThunderingHerd:
    """Hold requests up and let all that came meanwhile go on at the same moment, once in each `every_s`."""

    every_s: Seconds = 1.0
    at: str = "*"

    def validate(self) -> None:
        if not self.every_s:
            raise ConfigError("application.thundering_herd: every_s is 0, expected a time such as 1s")

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, at=self.at, align_s=self.every_s)


@fault("application.wrong_answer", level="application", needs=Application)
class WrongAnswer:
    """Change one value in the answer to a request, drawn by lot: a number, a letter, a bit of the content."""

    at: str = "*"
    probability: Probability = 1.0

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, at=self.at, wrong=True, probability=self.probability)


@fault("application.stale_answer", level="application", needs=Application)
class StaleAnswer:
    """Answer a request with what an equal request got first since the fault began, as a cache that never expires."""

    at: str = "*"
    probability: Probability = 1.0

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, at=self.at, stale=True, probability=self.probability)


@fault("application.drop_reply", level="application", needs=Application)
class DropReply:
    """Carry a request out and do not answer it."""

    at: str = "*"
    probability: Probability = 1.0

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, at=self.at, drop=True, probability=self.probability)


@fault("application.repeat_request", level="application", needs=Application)
class RepeatRequest:
    """Carry a request out twice, as if it had been sent again; the first answer goes back."""

    at: str = "*"
    probability: Probability = 1.0

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, at=self.at, repeat=True, probability=self.probability)


@fault("application.corrupt_push", level="application", needs=Application)
class CorruptPush:
    """Change one value in each configuration that is pushed to a node meanwhile (`configure(…, how="reload")`)."""

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, at=RELOAD, wrong=True)


@fault("application.stale_push", level="application", needs=Application)
class StalePush:
    """Give a node, when a configuration is pushed to it meanwhile, the one that it had before."""

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, at=RELOAD, stale=True)


@fault("application.leak", level="application", needs=Application)
class Leak:
    """Let a node's memory grow by `rate`, and free it when healed; `host.memory` sets the limit.

    In simulation it has an effect only together with `host.memory`.
    """

    rate: Rate = 10e6

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, leak=self.rate)


@fault("application.bad_version", level="application", needs=Application)
class BadVersion:
    """Restart the nodes to another version of their code, one of the target's variants, and back when healed."""

    variant: str

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, variant=self.variant)


@fault("application.bad_roll_out", level="application")
class BadRollOut:
    """Restart the nodes to another version of their code one after the other, one each `pause_s`."""

    variant: str
    pause_s: Seconds = 1.0

    def expand(self, on: Selection, random: Random) -> Schedule:
        settings = {"variant": self.variant}
        steps = (
            Inject(fault="application.bad_version", on=((node,),), at_s=n * self.pause_s, settings=settings)
            for n, node in enumerate(on.nodes)
        )
        return Schedule(tuple(steps))


@fault("application.buggify", level="application", needs=Application)
class Buggify:
    """Let `zebra.buggify("name")` be true now and then, at a share `sites` of the names, chosen by the run's seed.

    It took effect when any such place was passed: most seeds leave most of them alone.
    """

    sites: Probability = 0.25

    async def inject(self, on: Selection, application: Application) -> None:
        await application.add(on.nodes, buggify=self.sites)

    async def probe(self, on: Selection, application: Application) -> bool:
        return application.passed(on.nodes)
