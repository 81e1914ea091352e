"""What a message may show of a text that somebody else wrote: short, and nothing that a terminal would obey."""

from __future__ import annotations


def first_line(error: Exception | str) -> str:
    """Returns the first line of a text, at most 200 characters of it, all of them printable."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "".join(letter if letter.isprintable() else "?" for letter in lines[0][:200])


def describe_value(value: object) -> str:
    """Returns a value for a message: a text or a number as show does it, of anything else its type alone."""
    return show(repr(value)) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def show(name: str) -> str:
    """Returns a tensor's name for a message: 80 characters at most, none that a terminal would obey."""
    return name[:80] if name[:80].isprintable() else ascii(name[:80])
