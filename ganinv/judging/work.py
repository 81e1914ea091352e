"""What networks say of pictures, batch by batch: found here when it is asked for, or ahead of that by many workers.

The batches are the same in both, so the bits are too; what no worker has found is found here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from ganinv.images import digest
from ganinv.interfaces import AbsentError, Recognition, Recognizer
from ganinv.priors.stylegan2_pytorch import import_stylegan2_pytorch
from ganinv.recognizers.recognize import BATCH, recognize

PROJECT, FACE, ESTIMATE = "project", "face", "estimate"
LOOKED = 16  # pictures a batch where each takes long: enough that a call is mostly arithmetic, few enough to spread
UNIT = {PROJECT: LOOKED, FACE: LOOKED}  # pictures of one unit; of the others, which take milliseconds, QUICK
QUICK = 4 * BATCH
MOST = 2**28  # numbers that are sent before the answers are awaited: 1 GB

Call = tuple[str, torch.Tensor]  # a function's name, and the batch that it is asked about


class Workers(Protocol):
    """What work is spread over, such as engine.cluster.RayWorkers."""

    def hold(self, recipe: Callable[[], object], memory: int = 0, prepare: Callable[[], object] = ...) -> None:
        """Says what every worker is built from."""

    def run(self, units: Mapping[Hashable, tuple], on_wait: Callable[[], None] = ...) -> Iterator[tuple[Hashable, Any]]:
        """Yields (key, value) of units {key: (method, its arguments ...)} as they are finished."""


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs. Called, it builds the worker."""

    functions: Mapping[str, Callable[[torch.Tensor], Any]]
    device: torch.device

    def __call__(self) -> Recipe:
        return self

    def answer(self, calls: Sequence[Call]) -> list:
        """Returns what the functions say; None where something is missing on this node."""
        return [self.try_one(*call) for call in calls]

    def try_one(self, name: str, pictures: torch.Tensor) -> Any:
        """Returns what one function says of a batch, on the CPU."""
        try:
            found = self.functions[name](pictures.to(self.device))
        except AbsentError:  # whoever asks finds out why
            return None
        return found.cpu() if isinstance(found, torch.Tensor) else found


class Work:
    """Functions of batches of pictures [N,3,R,R], by name; recognizers: whose answers see gives. workers: None for none."""

    def __init__(
        self,
        recognizers: Sequence[Recognizer] = (),
        functions: Mapping[str, Callable[[torch.Tensor], Any]] | None = None,
        workers: Workers | None = None,
        device: torch.device | str = "cpu",
    ):
        self.names = {id(recognizer): f"see {place}" for place, recognizer in enumerate(recognizers)}
        self.functions = {self.names[id(one)]: partial(recognize, one) for one in recognizers} | dict(functions or {})
        self.workers, self.device, self.ahead = workers, torch.device(device), {}
        if workers is not None:
            workers.hold(Recipe(self.functions, self.device), 0, import_stylegan2_pytorch)

    def __call__(self, name: str, pictures: torch.Tensor) -> Any:
        """Returns what a function says of a batch."""
        found = self.ahead.get((name, digest(pictures))) if self.ahead else None
        if found is None:
            return self.functions[name](pictures)
        return found.to(pictures.device) if name == PROJECT else found

    def over(self, name: str, pictures: torch.Tensor, size: int = BATCH) -> list:
        """Returns what a function says of each of the batches of this size."""
        return [self(name, part) for part in pictures.split(size)]

    def see(self, recognizer: Recognizer, pictures: torch.Tensor) -> Recognition:
        """Returns the recognition of pictures, on the CPU, in batches."""
        name = self.names.get(id(recognizer))
        if name is None:
            return recognize(recognizer, pictures)
        parts = self.over(name, pictures)
        logits = None if parts[0].logits is None else torch.cat([part.logits for part in parts])
        return Recognition(torch.cat([part.embeddings for part in parts]), logits)

    def prepare(self, calls: Iterable[tuple[str, torch.Tensor, int]]) -> None:
        """Has workers find what functions will say: of (name, pictures, batch's size), in any order."""
        if self.workers is None:
            return
        batches: dict[tuple[str, bytes], torch.Tensor] = {}
        waiting = 0
        for name, pictures, size in calls:
            for part in pictures.split(size) if name in self.functions else ():
                key = name, digest(part)
                if key not in self.ahead:
                    batches[key] = part.cpu().clone()  # a view would be sent with all that it is a view of
                    waiting += part.numel()
                if waiting > MOST:
                    self.look(batches)
                    batches, waiting = {}, 0
        if batches:
            self.look(batches)

    def look(self, batches: Mapping[tuple[str, bytes], torch.Tensor]) -> None:
        """Has workers find what functions say of batches, by (name, digest)."""
        units = {keys: ("answer", [(key[0], batches[key]) for key in keys]) for keys in group(batches)}
        for keys, values in self.workers.run(units):
            self.ahead |= {key: value for key, value in zip(keys, values, strict=True) if value is not None}


def group(batches: Mapping[tuple[str, bytes], torch.Tensor]) -> Iterator[tuple[tuple[str, bytes], ...]]:
    """Yields the keys of batches that make a unit: of one function, in order, until they have pictures enough."""
    open_units: dict[str, list] = {}
    for key in batches:
        members = open_units.setdefault(key[0], [])
        members.append(key)
        if sum(len(batches[member]) for member in members) >= UNIT.get(key[0], QUICK):
            yield tuple(open_units.pop(key[0]))
    yield from map(tuple, open_units.values())
