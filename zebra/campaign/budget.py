"""What a campaign may spend before it has to end with what it knows."""

from __future__ import annotations

import re
import time

from zebra.campaign.trial import BudgetSpent
from zebra.errors import ConfigError
from zebra.units import seconds

LONGEST_S = 20 * 86400.0
"""No budget is longer, as sockets cannot wait for longer."""


class Budget:
    """A limit of wall time or of executions, from the moment it is made; "" is no limit.

    `text` is a duration such as `10min`, or a number of trials such as `500 trials`. Raises ConfigError for other text
    and for nothing to spend.
    """

    def __init__(self, text: str = "", what: str = "--zebra-budget") -> None:
        self.text, self.trials, self.until = text, None, None  # type: str, int | None, float | None
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*trials?\s*", text)
        if match is not None:
            self.trials = int(match[1])
        elif text:
            try:
                duration_s = seconds(text)
            except ConfigError:
                expected = 'expected a duration such as "10min", or a number of trials such as "500 trials"'
                raise ConfigError(f"{what}: {text!r} is no budget, {expected}") from None
            if duration_s > LONGEST_S:
                raise ConfigError(f"{what}: {text!r} is longer than 20d: leave it out for no limit")
            self.until = time.monotonic() + duration_s
        if self.trials == 0 or (text and self.until is not None and self.until <= time.monotonic()):
            raise ConfigError(f"{what}: {text!r} is nothing to spend")

    def allowed(self, wanted: int) -> int:
        """How many of so many executions may begin now."""
        if self.until is not None and time.monotonic() >= self.until:
            return 0
        return wanted if self.trials is None else min(wanted, self.trials)

    def spend(self) -> None:
        """One execution has been made."""
        if self.trials is not None:
            self.trials -= 1

    def spent(self) -> BudgetSpent:
        """What to raise when there is not enough left."""
        return BudgetSpent(f"the budget of {self.text} ended")
