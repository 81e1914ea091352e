"""Which targets the study of capacity trains, one number changed at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

ATTACKED = (0, 1, 2, 3, 4)  # users of every target, so that cells are compared on the same people


@dataclass(frozen=True)
class Cell:
    """One target: its architecture, training photos a user, number of users, and seed. The defaults are the centre."""

    architecture: str = "resnet18"
    photos: int = 10
    users: int = 100
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.architecture}-p{self.photos}-u{self.users}-s{self.seed}"


CENTRE = Cell()


@dataclass(frozen=True)
class Point:
    """A value of an axis, and the cell there (of seed 0)."""

    axis: str
    value: str
    cell: Cell


AXES: dict[str, Callable[[str], Cell]] = {  # axis -> the cell at a value of it
    "depth": lambda value: Cell(architecture=value),
    "parameters": lambda value: Cell(architecture="resnet18" if float(value) == 1 else f"resnet18-{float(value):g}"),
    "photos": lambda value: Cell(photos=int(value)),
    "users": lambda value: Cell(users=int(value)),
}
GRIDS = {
    "small": {
        "depth": ("linear", "mlp", "resnet18", "resnet34"),
        "parameters": ("0.25", "0.5", "1"),
        "photos": ("2", "10", "30"),
        "users": ("10", "100", "300"),
    },
    "full": {
        "depth": ("linear", "mlp", "resnet18", "resnet34"),
        "parameters": ("0.125", "0.25", "0.5", "1", "2"),
        "photos": ("2", "5", "10", "20", "30", "50"),
        "users": ("10", "30", "100", "300", "1000", "3000"),
    },
}


def list_points(values: Mapping[str, Sequence[str]], centre: Cell = CENTRE) -> list[Point]:
    """Returns the points of axis -> values, in order. centre: whose architecture those of photos and users have.

    Raises: ValueError for an unknown axis, or a value that no target can be trained at.
    """
    points = []
    for axis, row in values.items():
        if axis not in AXES:
            raise ValueError(f"expected an axis among {', '.join(AXES)}, got {axis}")
        for value in row:
            try:
                cell = AXES[axis](value)
            except (ValueError, OverflowError) as error:
                raise ValueError(f"expected a number for the axis {axis}, got {value!r}") from error
            if axis in ("photos", "users"):
                cell = replace(cell, architecture=centre.architecture)
            check_cell(cell)
            points.append(Point(axis, value, cell))
    return points


def check_cell(cell: Cell) -> None:
    """Raises: ValueError for a cell that cannot be trained, or that has not the attacked users."""
    if not len(ATTACKED) <= cell.users <= 100_000:
        raise ValueError(f"expected {len(ATTACKED)} to 100000 users, the first of whom are attacked, got {cell.users}")
    if not 2 <= cell.photos <= 1000:
        raise ValueError(f"expected 2 to 1000 photos per user, got {cell.photos}")
    check_architecture(cell.architecture)


@cache
def check_architecture(name: str) -> None:
    """Raises: ValueError for a name that build_backbone does not know."""
    from ganinv.engine.meta import on_meta
    from ganinv.recognizers.cosine import build_backbone

    with on_meta():  # no memory is taken
        build_backbone(name, 8)


def list_cells(points: Sequence[Point], seeds: int) -> list[Cell]:
    """Returns each cell of the points once, at every seed."""
    return [replace(cell, seed=seed) for seed in range(seeds) for cell in dict.fromkeys(point.cell for point in points)]


def deal(cells: Sequence[Cell], part: str, cost: Callable[[Cell], float]) -> list[Cell]:
    """Returns the cells of a part such as "2/3", in their order; the parts of a grid share no cell and cost about the same.

    Raises: ValueError for a part that is none.
    """
    number, slash, parts = part.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise ValueError(f"expected a part such as 1/3, the first of three, got {part}")
    heaps: list[list[Cell]] = [[] for _ in range(int(parts))]
    for cell in sorted(cells, key=lambda cell: (-cost(cell), str(cell))):
        min(heaps, key=lambda heap: sum(map(cost, heap))).append(cell)
    return [cell for cell in cells if cell in heaps[int(number) - 1]]
