"""Signals that wait for a good moment, and the error that then ends the work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StoppedError(KeyboardInterrupt):
    """Work ended by a signal, after it was saved; signal: its number; the message says how to go on."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal = number


@contextmanager
def held_signals() -> Iterator[Callable[[], int | None]]:
    """Holds SIGINT and SIGTERM back; gives a function that returns the signal that has come, or None.

    A second SIGINT ends the work at once. In another thread than the main one, which gets no signals, nothing is held.
    """
    came: list[int] = []

    def note(number: int, frame) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
