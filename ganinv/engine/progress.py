"""Progress on stderr: a bar on a terminal, elsewhere one line per ten per cent."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator


def open_bar(items: Iterable | None = None, desc: str = "", total: int | None = None, **options):
    """Returns a bar of tqdm, or what stands for it where stderr is no terminal: a log keeps lines, not frames.

    options: those of tqdm; "initial" and "disable" are understood by both.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        return tqdm(items, desc, total, **options)
    return Lines(items, desc, total, options.get("initial", 0), options.get("disable", False))


class Lines:
    """Prints one line per ten per cent of the work, and one at the start; it has what this package uses of tqdm."""

    def __init__(self, items: Iterable | None, desc: str, total: int | None, initial: int, disable: bool):
        self.items, self.desc, self.n, self.disable = items, desc, initial, disable
        self.total = total if total is not None or not hasattr(items, "__len__") else len(items)
        self.postfix, self.shown = "", -1
        self.show()

    def show(self) -> None:
        """Prints a line if the next tenth has begun."""
        tenth = 10 * self.n // self.total if self.total else 0
        if self.disable or tenth <= self.shown:
            return
        self.shown = tenth
        share = f"{100 * self.n // self.total} % ({self.n}/{self.total})" if self.total else "begun"
        print(f"{self.desc}: {share}{self.postfix}", file=sys.stderr, flush=True)

    def update(self, count: int = 1) -> None:
        """Counts work that is done."""
        self.n += count
        self.show()

    def set_postfix(self, values: dict | None = None, **more: object) -> None:
        """Sets what the next line says beside the share."""
        self.set_postfix_str(", ".join(f"{name}={value}" for name, value in {**(values or {}), **more}.items()))

    def set_postfix_str(self, text: str) -> None:
        """Sets what the next line says beside the share."""
        self.postfix = f", {text}" if text else ""

    def write(self, line: str, file=None) -> None:
        """Prints a line of its own."""
        print(line, file=file or sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar: nothing is left to print."""

    def __iter__(self) -> Iterator:
        for item in self.items:
            yield item
            self.update()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass
