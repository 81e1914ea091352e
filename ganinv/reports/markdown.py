"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate


def format_rows(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Returns a Markdown table, padded so that it lines up as plain text too.

    words: how many of the first columns are text, aligned left; the others are numbers, aligned right.
    """
    cells = [[cell.replace("|", "/") for cell in row] for row in rows]
    align = ["left" if column < words else "right" for column in range(len(head))]
    return tabulate(cells, head, tablefmt="pipe", colalign=align if rows else None, disable_numparse=True) + "\n"
