"""A composite fault: a schedule of other faults, made when it is injected."""

from random import Random

from zebra import Inject, Schedule, Selection, fault
from zebra.testing import check_fault
from zebra.units import Seconds


@fault("example.rolling_restart", level="cluster")
class RollingRestart:
    """Restart the selected nodes one after the other, in an order drawn by lot."""

    down_s: Seconds = 0.5
    pause_s: Seconds = 0.5

    def expand(self, on: Selection, random: Random) -> Schedule:
        order = random.sample(on.nodes, len(on.nodes))
        settings = {"down_s": self.down_s, "planned": True}
        steps = [
            Inject(fault="host.restart", on=((node,),), at_s=number * (self.down_s + self.pause_s), settings=settings)
            for number, node in enumerate(order)
        ]
        return Schedule(tuple(steps))


if __name__ == "__main__":
    check = check_fault("example.rolling_restart", "all(server)", down_s="20ms", pause_s="100ms")
    print("restarted:", [event.node for event in check.on.history.of("node.stop")])
    assert check.on.result == "pass"
    assert len(check.on.history.of("node.stop")) == 3
