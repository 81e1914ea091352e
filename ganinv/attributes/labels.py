"""Labels of people: attributes with their values, from a CSV file or from the numbers of rendered people.

A CSV has the column `photo` (a file's name, with or without its suffix) or `person` (a folder's name), then a column for
each attribute. Empty fields are unknown. Numbers with more than MOST_VALUES different values are a quantity; anything else
is a choice among the values that occur.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from ganinv.rendered.factors import FACTORS, draw_people
from ganinv.weights.quoting import first_line, show

MOST_VALUES = 12  # different numbers, up to which a column is a choice
# GDPR, Article 9: what such a name says belongs to a special category, or comes near to it
SPECIAL = re.compile(r"ethnic|\brace\b|racial|skin_tone|religi|health|disab|sexual|politic", re.IGNORECASE)


@dataclass(frozen=True)
class Attribute:
    """What may be said of a person. values: of a choice, () of a quantity; unit: of a quantity.

    centre [B], spread [B]: of the public people, in a column for the quantity or for each value, where a choice is a row of
    zeros and a one. Standard values are less the centre, over the spread: 0 is what one guesses who knows nothing, and all
    columns of an attribute together vary by 1.
    """

    name: str
    values: tuple[str, ...] = ()
    unit: str = ""
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Returns the number of columns B."""
        return len(self.values) or 1

    @property
    def special(self) -> bool:
        """Says whether it belongs to a special category of personal data (GDPR, Article 9), by its name."""
        return SPECIAL.search(self.name) is not None

    def encode(self, labels: torch.Tensor) -> torch.Tensor:
        """Returns standard values [N,B] of labels [N]: quantities, or indices into values."""
        rows = torch.eye(self.width, dtype=torch.float64)[labels.long()] if self.values else labels.double()[:, None]
        return self.standardise(rows)

    def standardise(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns standard values [...,B] of quantities, or of shares of each value."""
        centre, spread = (torch.tensor(numbers, dtype=torch.float64) for numbers in (self.centre, self.spread))
        return (rows - centre) / spread

    def decode(self, standard: torch.Tensor) -> torch.Tensor:
        """Returns quantities, or shares of each value, of standard values [...,B]."""
        centre, spread = (torch.tensor(numbers, dtype=torch.float64) for numbers in (self.centre, self.spread))
        return standard.double() * spread + centre


def measure_attribute(name: str, labels: torch.Tensor, values: Sequence[str] = (), unit: str = "") -> Attribute:
    """Returns an attribute whose centre and spread are those of labels [N] of public people, none of them unknown."""
    if values:
        shares = torch.bincount(labels.long(), minlength=len(values)).double() / len(labels)
        spread = (1 - shares.square().sum()).sqrt().item()
        return Attribute(name, tuple(values), unit, tuple(shares.tolist()), (spread,) * len(values))
    labels = labels.double()
    return Attribute(name, (), unit, (labels.mean().item(),), (labels.std(unbiased=False).item(),))


@dataclass(frozen=True)
class Column:
    """Labels of one attribute as they came: numbers, or indices into values; NaN where unknown."""

    name: str
    labels: torch.Tensor  # [N], float64
    values: tuple[str, ...] = ()
    unit: str = ""


def read_labels(path: str | Path, people: Sequence[str], files: Sequence[str]) -> list[Column]:
    """Returns the labels of photos [N], of people and in files of these names, a column for each attribute.

    Raises: ValueError when the file is no such CSV, has no attribute, or has a label for none of the photos.
    """
    header, rows = read_rows(Path(path))
    keys = list(people if header[0] == "person" else files)
    found = [rows.get(key) or rows.get(PurePosixPath(key).stem) or rows.get(PurePosixPath(key).name) for key in keys]
    if not any(found):
        what = "folders" if header[0] == "person" else "files"
        raise ValueError(
            f"expected a row for the {header[0]} {show(PurePosixPath(keys[0]).stem)} or another in {path}, got none for any "
            f"of {len(keys)} photos; name {what} as in the first column"
        )
    return [
        make_column(name, [row[place] if row else "" for row in found], [row[place] for row in rows.values()])
        for place, name in enumerate(header[1:])
    ]


def read_rows(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Returns a CSV's header and its rows by their first field, without it. Raises: ValueError, see read_labels."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header, *rows = [[field.strip() for field in row] for row in csv.reader(file) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"expected a CSV file of labels, got {path} ({first_line(error)})") from error
    if len(header) < 2 or header[0] not in ("photo", "person") or len(set(header)) < len(header):
        got = ",".join(header)[:80] or "nothing"
        raise ValueError(f"expected the columns photo (or person), then attributes, each once, in {path}, got {show(got)}")
    found: dict[str, list[str]] = {}
    for number, (key, *fields) in enumerate(rows, 2):
        if len(fields) != len(header) - 1 or key in found:
            what = "a second row of" if key in found else f"{len(fields) + 1} fields for"
            raise ValueError(
                f"expected {len(header)} fields and every {header[0]} once in {path}, got {what} {show(key)}, line {number}"
            )
        found[key] = fields
    return header, found


def make_column(name: str, fields: Sequence[str], every: Sequence[str]) -> Column:
    """Returns the labels of one column of text; every: of the whole file, whose values are the attribute's."""
    known = sorted({field for field in every if field})
    numbers = {field: number for field in known if (number := parse_number(field)) is not None}
    if len(known) == len(numbers) > MOST_VALUES:
        return Column(name, torch.tensor([numbers.get(field, math.nan) for field in fields], dtype=torch.float64))
    index = {value: float(place) for place, value in enumerate(known)}
    return Column(name, torch.tensor([index.get(field, math.nan) for field in fields], dtype=torch.float64), tuple(known))


def parse_number(field: str) -> float | None:
    """Returns a finite number, None of other text."""
    try:
        number = float(field)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def name_values(columns: Sequence[Column], names: Mapping[str, Sequence[str]]) -> list[Column]:
    """Returns columns whose values have other names, attribute -> names in the order of the values.

    Raises: ValueError for an attribute that there is none of, or another number of values.
    """
    known = {column.name: column for column in columns}
    for name, given in names.items():
        if name not in known or len(known[name].values) != len(given):
            values = ", ".join(known[name].values) if name in known else f"no such attribute of {', '.join(known)}"
            raise ValueError(f"expected a name for each value of {show(name)} ({values}), got {len(given)} names")
    return [Column(one.name, one.labels, tuple(names.get(one.name, one.values)), one.unit) for one in columns]


def label_rendered(names: Sequence[str], person: torch.Tensor) -> list[Column]:
    """Returns the renderer's factors of photos of person [N], whose names are their seeds.

    Raises: ValueError for names that are none, as of photos of real people.
    """
    if not all(name.isdecimal() for name in names):
        raise ValueError(
            f"expected folders named by the seeds of rendered people, got {show(names[0])}; pass --labels=FILE.csv"
        )
    factors = draw_people([int(name) for name in names]).double()[person]
    return [Column(factor.name, factors[:, place], (), factor.unit) for place, factor in enumerate(FACTORS)]
