"""The errors of this package that are not ValueError. Loads nothing."""

from __future__ import annotations

from dataclasses import dataclass


class FaultError(RuntimeError):
    """A fault while running that is not the caller's mistake; the message is one clear line."""


class AbsentError(ValueError):
    """A metric that cannot be computed here; the message is its reason in the report."""


@dataclass(frozen=True)
class Absent:
    """Stands for what is not there, and says why."""

    reason: str
