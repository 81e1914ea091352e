"""A trial of a sweep as a process: its program and options, signals, and what it wrote last."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from ganinv.studies.sweeps.results import (
    Trial,
)
from ganinv.studies.sweeps.sweep_file import OURS

GRACE_S = 10.0  # that a process has to end after SIGTERM, before SIGKILL


@dataclass
class Child:
    """A trial's process."""

    trial: Trial
    process: subprocess.Popen
    began: float = field(default_factory=time.monotonic)
    pruned: bool = False
    stopped: float | None = None  # when it was asked to end

    def stop(self) -> None:
        """Asks the process to end, and makes it when GRACE_S have passed since it was asked first."""
        if self.stopped is None:
            self.stopped = time.monotonic()
            send(self.process, signal.SIGTERM)
        elif time.monotonic() - self.stopped > GRACE_S:
            send(self.process, signal.SIGKILL)


def find_program(program: str, file: Path) -> Path:
    """Returns a sweep's program: below the working folder, else below a folder that its YAML is in.

    Raises: ValueError when it is in neither.
    """
    for place in (Path(), *file.resolve().parents):
        if (place / program).is_file():
            return place / program
    raise ValueError(f"expected the program {program} below the working folder or above {file}, got none")


def read_extra(text: str) -> dict[str, str]:
    """Returns option -> text of "--a=1 --b=2". Raises: ValueError for anything else, and for what a sweep sets itself."""
    options = {}
    for word in shlex.split(text):
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not equals or name in OURS:
            raise ValueError(f"expected extra options such as --steps=50, none of them --out or --wandb, got {word}")
        options[name.replace("-", "_")] = value  # as the sweep's files spell them
    return options


def read_last_line(file: Path) -> str:
    """Returns the last line that a process wrote into a file, see find_last_line."""
    return find_last_line(file.read_bytes())


def find_last_line(text: bytes) -> str:
    """Returns the last line of a process's text, "" where it has none; a progress bar's rewrites are lines too."""
    lines = text[-8192:].decode(errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def runs_still(pid: int, folder: Path) -> bool:
    """Says whether a process is alive and its command names this folder, which tells it from a later one of its number."""
    try:
        return f"--out={folder}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended, or this system has no /proc
        return False


def send(process: subprocess.Popen, number: int) -> None:
    """Sends a signal to a trial's process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
