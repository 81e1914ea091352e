"""Configurations that are composed of parts, and their options.

A configuration is a frozen dataclass. The options of a part that is marked with FLAT are named as if they were its own, those
of another part have the part's name in front (--optim.lr).
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import tyro

FLAT = tyro.conf.arg(name="")  # of a part of a configuration: Annotated[Part, FLAT]
(POSITIONAL,) = tyro.conf.Positional[int].__metadata__


def find_flat(config_type: type) -> set[str]:
    """Returns the fields of a dataclass that are parts whose options are named as if they were its own."""
    hints = typing.get_type_hints(config_type, include_extras=True)
    return {name for name, hint in hints.items() if FLAT in getattr(hint, "__metadata__", ())}


def flatten(config) -> dict[str, object]:
    """Returns option -> value of a configuration, those of its flat parts beside its own, all in the order of fields."""
    flat, parts = {}, find_flat(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        flat |= flatten(value) if field.name in parts else {field.name: value}
    return flat


def override(config, values: Mapping):
    """Returns a configuration with other values, "optim.lr" or {"optim": {"lr": ...}}; names it lacks are passed over."""
    parts = find_flat(type(config))
    changes = {name: override(getattr(config, name), values) for name in parts}
    names = {field.name for field in dataclasses.fields(config)} - parts
    for key, value in values.items():
        head, _, tail = key.partition(".")
        if head in names and (tail or isinstance(value, Mapping)):
            part = changes.get(head, getattr(config, head))
            changes[head] = override(part, {tail: value} if tail else value)
        elif head in names:
            changes[head] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(config, **changes)


def expand_home(config):
    """Returns a configuration in whose texts and paths a leading ~/ is the home folder, as a shell would have it."""

    def expand(value):
        if dataclasses.is_dataclass(value):
            return expand_home(value)
        if isinstance(value, tuple):
            return tuple(map(expand, value))
        if isinstance(value, str | Path) and str(value).startswith("~/"):
            return type(value)(os.path.expanduser(value))
        return value

    return dataclasses.replace(config, **{f.name: expand(getattr(config, f.name)) for f in dataclasses.fields(config)})


def list_options(config_type: type, defaults: object = None, prefix: str = "--") -> Iterator[tuple[str, str, str, str]]:
    """Yields (name, type, text, default) of every option, those of nested dataclasses as name.option.

    A positional one has no type and no dashes.
    """
    comments, flat = read_comments(config_type), find_flat(config_type)
    hints = typing.get_type_hints(config_type, include_extras=True)
    for field in dataclasses.fields(config_type):
        if defaults is not None:
            value = getattr(defaults, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = field.default
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from list_options(type(value), value, prefix if field.name in flat else f"{name}.")
            continue
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        kind = re.sub(r"Literal\[(.*)\]", lambda match: "{" + re.sub(r"[\"' ]", "", match[1]) + "}", kind)
        kind = re.sub(r"tuple(\[.*\])", lambda match: match[1].replace(" ", ""), kind)
        value = list(value) if isinstance(value, tuple) else value
        default = "required" if value is dataclasses.MISSING else str(value) or '""'
        if POSITIONAL in getattr(hints[field.name], "__metadata__", ()):
            name, kind = field.name.upper(), ""
        yield name, kind, comments.get(field.name, ""), default


def read_comments(config_type: type) -> dict[str, str]:
    """Returns the comment behind each field of a dataclass."""
    try:
        source = inspect.getsource(config_type)
    except (OSError, TypeError):  # its file is gone
        return {}
    return {name: text.strip() for name, text in re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE)}
