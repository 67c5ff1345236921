"""Parameters, the space that they span, and assignments: which node gets which value."""

from zebra.params.assignment import Assignment, configs, validate
from zebra.params.parameter import Param, Parameter, Profile, Space
from zebra.params.recording import Read, places_seen, recording, values_seen

__all__ = [
    "Assignment", "Param", "Parameter", "Profile", "Read", "Space", "configs", "places_seen", "recording", "validate",
    "values_seen",
]  # fmt: skip
