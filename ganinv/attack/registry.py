"""Names that stand for search spaces, objectives and searchers: each table stands beside its entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A table of named entries. what: an entry in words, such as "an objective"."""

    def __init__(self, what: str):
        self.what = what
        self.entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that enters a class or function. Raises: ValueError where the name is taken."""
        if name in self.entries:
            raise ValueError(f"expected {self.what} of a new name, got {name}, which is taken; choose another")

        def enter(entry: T) -> T:
            self.entries[name] = entry
            return entry

        return enter

    def find(self, name: str) -> T:
        """Returns an entry. Raises: ValueError where there is none of the name."""
        if name not in self.entries:
            raise ValueError(f"expected {self.what} among {', '.join(self.entries)}, got {name}")
        return self.entries[name]

    def __getitem__(self, name: str) -> T:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)
