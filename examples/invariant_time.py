"""An invariant about time: what does not happen is noticed, too."""

from zebra import Event, invariant
from zebra.testing import check_invariant, event, history


@invariant("example.heartbeat", on=("heartbeat", "clock"))
class Heartbeat:
    """There is never a gap of more than `gap_s` seconds between heartbeats, and there are at least three."""

    def __init__(self, gap_s: float = 5.0) -> None:
        self.gap_s, self.last_s, self.count = gap_s, 0.0, 0

    def check(self, event: Event) -> str | None:
        gap_s = event.t - self.last_s
        if event.kind == "heartbeat":
            self.last_s, self.count = event.t, self.count + 1
        return f"no heartbeat for {gap_s:g} s" if gap_s > self.gap_s else None

    def end(self, now_s: float) -> str | None:
        return f"only {self.count} heartbeats" if self.count < 3 else None


def beats(*times_s: float) -> list[Event]:
    return history(*(event("heartbeat", t=t) for t in times_s), event("end", t=20.0))


if __name__ == "__main__":
    assert check_invariant(Heartbeat, beats(4.0, 9.0, 14.0, 19.0)) is None
    for times in ((4.0, 9.0, 15.0), (1.0, 2.0)):
        found = check_invariant(Heartbeat, beats(*times))
        assert found is not None
        print(f"at {found.t:g} s: {found.message}")
