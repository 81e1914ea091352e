"""Markdown tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate

FORMULA = tuple("=+-@\t\r")  # with which a spreadsheet's formulas begin


def format_rows(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Returns a Markdown table, padded so that it lines up as plain text too.

    words: how many of the first columns are text, aligned left; the others are numbers, aligned right.
    """
    cells = [[escape(cell) for cell in row] for row in rows]
    align = ["left" if column < words else "right" for column in range(len(head))]
    return tabulate(cells, head, tablefmt="pipe", colalign=align if rows else None, disable_numparse=True) + "\n"


def escape(text: str) -> str:
    """Returns a text as a cell may hold it: on one line, no column's end, no tag, nothing that a terminal would obey."""
    text = " ".join(text.split()).replace("|", "/")
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


def format_csv_rows(rows: Iterable[Sequence[object]]) -> str:
    """Returns rows as CSV, in which no text is a formula to a spreadsheet; an absent value is an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for row in rows:
        writer.writerow(
            [f"'{cell}" if isinstance(cell, str) and cell[:1] in FORMULA and not is_numeral(cell) else cell for cell in row]
        )
    return file.getvalue()


def is_numeral(text: str) -> bool:
    """Says whether a text is a number, such as -0.5."""
    try:
        float(text)
    except ValueError:
        return False
    return True
