"""The kinds of toxics: their attributes, and what each is to the fault proxy. Milliseconds unless said otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zebra.faults.toxiproxy.wire import Body
from zebra.proxy.connections import Limit, Slicer, SlowClose, Timeout
from zebra.proxy.toxics import Bandwidth, Latency, Loss, Reset, Toxic

Attributes = dict[str, Any]

FOR_EVER_MS = 10**12
"""Times are cut here, before a float loses them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of toxic. `settings` turns attributes into the settings of `toxic`; absent attributes are 0."""

    toxic: Callable[..., Toxic]
    attributes: tuple[str, ...] = ()
    settings: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda attributes: {}
    ratios: bool = False
    datagrams: bool = True

    def read(self, body: Body | None, before: Attributes | None = None) -> Attributes:
        """The attributes that a client sent, over those from before; raises ApiError."""
        made: Attributes = dict.fromkeys(self.attributes, 0) if before is None else dict(before)
        if body is not None:
            for name in self.attributes:
                value = body.number(name) if self.ratios else body.whole(name)
                if value is not None:
                    made[name] = value
        return made

    def make(self, attributes: Attributes) -> Toxic:
        return self.toxic(**self.settings(attributes), opens=False)

    def change(self, toxic: Toxic, attributes: Attributes) -> None:
        """Give a toxic other settings."""
        for name, value in self.settings(attributes).items():
            setattr(toxic, name, value)


def _seconds(value: int) -> float:
    return max(-FOR_EVER_MS, min(value, FOR_EVER_MS)) / 1000


def _latency(attributes: Mapping[str, int]) -> dict[str, Any]:
    jitter_s = abs(_seconds(attributes["jitter"]))
    return {"latency_s": _seconds(attributes["latency"]) - jitter_s, "jitter_s": 2 * jitter_s}


def _slicer(attributes: Mapping[str, int]) -> dict[str, Any]:
    delay_s = max(0.0, _seconds(attributes["delay"]) / 1000)
    size, variation = attributes["average_size"], attributes["size_variation"]
    return {"size": size, "variation": variation, "delay_s": delay_s, "every": True}


def _loss(attributes: Mapping[str, float]) -> dict[str, Any]:
    return {"probability": attributes["loss_rate"], "correlation": attributes["correlation"]}


KINDS: dict[str, Kind] = {
    "bandwidth": Kind(
        toxic=Bandwidth, attributes=("rate",), settings=lambda a: {"rate": a["rate"] * 1000.0, "each": True}
    ),
    "latency": Kind(toxic=Latency, attributes=("latency", "jitter"), settings=_latency),
    "limit_data": Kind(toxic=Limit, attributes=("bytes",), settings=lambda a: {"size": a["bytes"]}, datagrams=False),
    "noop": Kind(toxic=Toxic),
    "packet_loss": Kind(toxic=Loss, attributes=("loss_rate", "correlation"), settings=_loss, ratios=True),
    "reset_peer": Kind(
        toxic=Reset,
        attributes=("timeout",),
        settings=lambda a: {"after_s": max(0.0, _seconds(a["timeout"])), "ends": True},
        datagrams=False,
    ),
    "slicer": Kind(
        toxic=Slicer, attributes=("average_size", "size_variation", "delay"), settings=_slicer, datagrams=False
    ),
    "slow_close": Kind(
        toxic=SlowClose,
        attributes=("delay",),
        settings=lambda a: {"delay_s": max(0.0, _seconds(a["delay"]))},
        datagrams=False,
    ),
    "timeout": Kind(toxic=Timeout, attributes=("timeout",), settings=lambda a: {"after_s": _seconds(a["timeout"])}),
}
