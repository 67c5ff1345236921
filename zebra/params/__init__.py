"""Parameters, the space that they span, and assignments: which node gets which value."""

from zebra.params.assignment import Assignment, configs, validate
from zebra.params.parameter import Param, Parameter, Space
from zebra.params.recording import Read, recording

__all__ = ["Assignment", "Param", "Parameter", "Read", "Space", "configs", "recording", "validate"]
