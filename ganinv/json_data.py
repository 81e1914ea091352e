"""JSON that somebody else may have written: a bounded file, numbers that a float holds, and the kinds of value expected."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

MOST_BYTES = 1 << 20  # a card or a configuration has a few thousand
LONGEST_INTEGER = 19  # digits: those of a seed; what is longer comes back as a float, infinite beyond its range
NUMBER, WHOLE = "a finite number", "a whole number"


def parse_json(text: str | bytes) -> object:
    """Returns what a text of JSON says. Raises: ValueError when it is none, or is nested too deeply to be read."""
    try:
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= LONGEST_INTEGER else float(digits))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: str | Path, kind: object = dict, *, most: int = MOST_BYTES) -> object:
    """Returns what a JSON file says, an object unless another kind is asked for; kind: see find_mismatch.

    Raises: ValueError when the file is missing, no regular one, larger than `most` bytes, or says something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected JSON in {path}, got {'no regular file' if path.exists() else 'no such file'}")
    try:
        with open(path, "rb") as file:
            text = file.read(most + 1)
        if len(text) > most:
            raise ValueError(f"more than {most} bytes")
        value = parse_json(text)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"expected JSON in {path}, got something else ({reason}); copy it again") from error
    if problem := find_mismatch(value, kind):
        raise ValueError(f"expected JSON as ganinv writes it in {path}, got {problem}; copy it again")
    return value


def find_mismatch(value: object, kind: object, name: str = "") -> str | None:
    """Returns what of a JSON value is not of a kind, None where all is.

    kind: a type; NUMBER or WHOLE; None for null; a tuple of kinds, any of which will do; [kind] of a list's items;
    {"key": kind, "key?": kind, "*": kind}, of an object's values, where "?" may be missing and "*" is any other key.
    """
    if isinstance(kind, tuple):
        problems = [find_mismatch(value, one, name) for one in kind]
        return None if None in problems else problems[0]
    if isinstance(kind, list):
        if not isinstance(value, list):
            return describe_mismatch(value, name)
        return next(filter(None, (find_mismatch(item, kind[0], f"{name}[{row}]") for row, item in enumerate(value))), None)
    if isinstance(kind, Mapping):
        return describe_mismatch(value, name) if not isinstance(value, dict) else find_odd_key(value, kind, name)
    if kind in (NUMBER, WHOLE):
        kinds = (int, float) if kind == NUMBER else (int,)
        return None if type(value) in kinds and math.isfinite(value) else describe_mismatch(value, name)
    fits = value is None if kind is None else isinstance(value, kind) and (kind is not int or type(value) is int)
    return None if fits else describe_mismatch(value, name)


def find_odd_key(value: dict, kind: Mapping, name: str) -> str | None:
    """Returns which key of an object is missing, or holds what is not of its kind; None where there is none."""
    head = f"{name}." if name else ""
    missing = [key for key in kind if key != "*" and not key.endswith("?") and key not in value]
    if missing:
        return f"no {head}{missing[0]}"
    for key, item in value.items():
        own = kind.get(key, kind.get(f"{key}?", kind.get("*", object)))
        if problem := find_mismatch(item, own, f"{head}{key[:40]}"):
            return problem
    return None


def describe_mismatch(value: object, name: str) -> str:
    """Returns "cost.seconds of type str"; a number that is not finite by its value."""
    what = repr(value) if isinstance(value, float) else f"type {type(value).__name__}"
    return f"{ascii(name)[1:-1] or 'a value'} of {what}"
