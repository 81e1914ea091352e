"""The errors of this package that are not ValueError. Loads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = str(Path(__file__).parent)
CODE: set[str] = set()  # folders of the code that the caller named, once it was asked for


def find_code(error: BaseException) -> str:
    """Returns file:line of the caller's own code in which an error came up, there or in what it called; "" for none."""
    place, frame = "", error.__traceback__
    while frame is not None:
        file, module = frame.tb_frame.f_code.co_filename, frame.tb_frame.f_globals.get("__name__")
        ours = file.startswith(HERE) or module == "__main__" or "site-packages" in file
        if not ours and any(file.startswith(folder) for folder in CODE):
            place = f"{file}:{frame.tb_lineno}"
        frame = frame.tb_next
    return place


class FaultError(RuntimeError):
    """A fault while running that is not the caller's mistake; the message is one clear line."""


class AbsentError(ValueError):
    """A metric that cannot be computed here; the message is its reason in the report."""


@dataclass(frozen=True)
class Absent:
    """Stands for what is not there, and says why."""

    reason: str
