"""The smallest fault: it does nothing, and says so."""

from zebra import Selection, fault
from zebra.substrate import Links
from zebra.testing import check_fault


@fault("example.noop", level="network", needs=Links)
class Noop:
    """Do nothing to the selected nodes."""

    async def inject(self, on: Selection, links: Links) -> None:
        pass

    async def probe(self, on: Selection, links: Links) -> bool:
        return True


if __name__ == "__main__":
    check = check_fault("example.noop", "server-1")
    print("with it:", check.on.result, "- took effect:", check.took_effect)
    assert check.on.result == "pass"
