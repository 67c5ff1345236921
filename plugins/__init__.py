"""General invariants, one file each: functions that make an invariant for a target's own event kinds.

    invariants = (no_cycles("owl.no_cycles", per="chunk"), within_budget("owl.budget", budget=2))

Each is registered with its defaults too, as `general.<name>`.
"""

if __name__ != "zebra.plugins":
    raise ImportError(f"import zebra.plugins instead of {__name__}: two doors to one file make two classes of one name")

from zebra.plugins.at_most_one import at_most_one_holder
from zebra.plugins.availability import availability
from zebra.plugins.budget import within_budget
from zebra.plugins.no_cycles import no_cycles
from zebra.plugins.noop import Noop
from zebra.plugins.sla import sla

__all__ = ["Noop", "at_most_one_holder", "availability", "no_cycles", "sla", "within_budget"]
