"""What zebra has to know of the store: which class its settings are, and which classes are nodes."""

import sys
from pathlib import Path

from zebra.agent import Mark
from zebra.agent.adapters.dataclass import Dataclass

sys.path.insert(0, str(Path(__file__).parent))
from store import Client, Server, Settings

ADAPTER = Dataclass(
    "store", Settings, choices={"encoding": ("utf-8", "utf-16")},
    roles=(Mark(Server, "server"), Mark(Client, "client")),
)  # fmt: skip
