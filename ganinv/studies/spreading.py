"""A study's cells on the workers of a cluster: each is made in a folder there, and its files come back to one writer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ganinv.engine.cluster import RayWorkers
from ganinv.engine.files import write_atomically
from ganinv.engine.progress import open_bar
from ganinv.priors.stylegan2_pytorch import import_stylegan2_pytorch

ENGINES = ("local", "ray")
Make = Callable[[Path, Hashable], None]  # makes a cell in a folder, as one process does in its own


@dataclass
class Recipe:
    """What a worker makes cells with; it keeps its folder, whose caches serve the next cell. Called, it builds the worker."""

    make: Make
    home: str = field(default_factory=os.getcwd)  # where relative paths begin, on nodes that have it
    place: tempfile.TemporaryDirectory | None = field(default=None, repr=False)

    def __call__(self) -> Recipe:
        with suppress(OSError):
            os.chdir(self.home)
        self.place = tempfile.TemporaryDirectory(prefix="ganinv-")
        return self

    def run(self, cell: Hashable, wanted: Sequence[str], files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Returns the files of a cell under the paths that are wanted, folders among them; files: those of an earlier try."""
        folder = Path(self.place.name)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, content)
        self.make(folder, cell)
        return read_files(folder, wanted)


def read_files(folder: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """Returns path -> content of the files under some paths of a folder, as far as they are there."""
    places = [place for name in wanted for place in (folder / name, *sorted((folder / name).rglob("*")))]
    return {place.relative_to(folder).as_posix(): place.read_bytes() for place in places if place.is_file()}


def make_cells(workers: RayWorkers, make: Make, cells: Mapping[Hashable, Sequence[str]], folder: Path) -> Iterator[Hashable]:
    """Yields cells as they are made; their files are in the folder then. cells: cell -> the paths that belong to it.

    What is there of a cell is sent along, so that a cell that was begun goes on. A worker that dies takes with it what its
    cell had got to, and the cell is begun again.
    """
    workers.hold(Recipe(make), 0, import_stylegan2_pytorch)
    units = {cell: ("run", cell, wanted, read_files(folder, wanted)) for cell, wanted in cells.items()}
    for cell, files in workers.run(units):
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, content)
        yield cell


def check_engine(options) -> None:
    """Raises: ValueError for an engine, an address or workers that cannot be had. options: with engine, address, workers."""
    if options.engine not in ENGINES or options.workers < 0:
        got = f"{options.engine} and {options.workers}"
        raise ValueError(f"expected an engine among {', '.join(ENGINES)} and workers of at least 0, got {got}")
    if options.engine == "local" and (options.address or options.workers):
        raise ValueError("expected --engine=ray beside --address or --workers, got the engine local")


def check_weights(world: str, own: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises: ValueError where a node's weights, role -> SHA-256, are not those of the machine that asks."""
    if other := sorted(role for role in {*own, *wanted} if own.get(role) != wanted.get(role)):
        raise ValueError(f"expected the same weights of the world {world} on every node, got another {other[0]}")


def spread_cells(options, make: Make, cells: Mapping[Hashable, Sequence[str]], folder: Path, *, gpu: bool = False) -> None:
    """Makes cells on the workers that options name, with a bar; see make_cells."""
    with RayWorkers(options.address, options.workers, gpu=gpu) as workers, open_bar(total=len(cells), desc="cells") as bar:
        for _ in make_cells(workers, make, cells, folder):
            bar.update()
