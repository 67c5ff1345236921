"""Faults: what they are, whom they hit, when, and the injector that adds and heals them."""

from zebra.injection.fault import Fault, fault
from zebra.injection.schedule import Configure, Inject, Schedule
from zebra.injection.selection import Selection, all_of, majority, minority, one

__all__ = ["Configure", "Fault", "Inject", "Schedule", "Selection", "all_of", "fault", "majority", "minority", "one"]
