"""A fault with a setting and an effect: what a node sends takes longer, what it is sent does not."""

from zebra import Selection, fault
from zebra.substrate import Links
from zebra.testing import check_fault
from zebra.units import Seconds


@fault("example.slow_answers", level="network", needs=Links)
class SlowAnswers:
    """Delay every message that the selected nodes send by `delay`."""

    delay: Seconds = 0.2

    async def inject(self, on: Selection, links: Links) -> None:
        await links.add(on.pairs("out"), latency_s=self.delay)


if __name__ == "__main__":
    check = check_fault("example.slow_answers", "server-1", delay="100ms")
    without_s, with_s = check.seconds("op.ok")
    print(f"hits: {check.hits}, last answer after {without_s:.2f} s without and {with_s:.2f} s with the fault")
    assert check.on.result == "pass"
    assert with_s > without_s + 1.0
