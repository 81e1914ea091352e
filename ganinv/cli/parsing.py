"""From the words of a command line to a configuration."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

import tyro

from ganinv.cli.composed import POSITIONAL, list_options


def take_dry_run(argv: list[str]) -> tuple[list[str], bool]:
    """Returns argv without --dry-run, and whether it asked for one. Raises: ValueError unless it is True or False."""
    kept, dry_run = [], False
    for word in argv:
        name, _, value = word.partition("=")
        if name not in ("--dry-run", "--dry_run"):
            kept.append(word)
        elif value not in ("", "True", "False"):
            raise ValueError(f"expected --dry-run, --dry-run=True or --dry-run=False, got {word}")
        else:
            dry_run = value != "False"
    return kept, dry_run


def parse(config_type: type, argv: Sequence[str], defaults: object = None):
    """Returns a config_type made from argv, in which every form that a W&B sweep writes is understood.

    Such as `--optim.lr=0.01 --flip=False --ids=[3, 4] --x=None`; a bare --flip is --flip=True. defaults: a config_type
    whose values stand where argv gives none. Raises: ValueError for an option that is unknown or whose value does not fit.
    """
    registry = tyro.constructors.ConstructorRegistry()
    for rule in (read_bool, read_number, read_tuple):
        registry.primitive_rule(rule)
    words = [
        "--help" if word in ("-H", "--help-verbose") else word for word in spell_parts(spell_positionals(config_type, argv))
    ]
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(
                config_type, args=words, prog=name_program(), config=(tyro.conf.FlagConversionOff,), registry=registry,
                **({} if defaults is None else {"default": defaults}),
            )  # fmt: skip
    except SystemExit as end:
        if not end.code:
            raise
        # tyro has no public way to its messages but what it prints
        raise ValueError(f"{unbox(messages.getvalue()).rstrip('.')}; --help lists the options") from end


def spell_parts(argv: Sequence[str]) -> list[str]:
    """Returns argv with --optim={'lr': 0.1}, as the service's agent writes nested parameters, as --optim.lr=0.1."""
    words: list[str] = []
    for word in argv:
        name, _, text = word.partition("=")
        values: object = None
        if text[:1] == "{" and text[-1:] == "}":
            with contextlib.suppress(ValueError, SyntaxError):
                values = ast.literal_eval(text)
        nested = isinstance(values, dict)
        words += spell_parts([f"{name}.{key}={value}" for key, value in values.items()]) if nested else [word]
    return words


def spell_positionals(config_type: type, argv: Sequence[str]) -> list[str]:
    """Returns argv with its plain words first, and a positional option that was given by its name as plain words.

    --file=A is A, --runs=[A,B] is A B, and A --world lfw B is A B --world lfw: an option takes the word behind it.
    """
    names = {f"--{name.lower()}" for name, kind, _, _ in list_options(config_type) if not kind}
    if not names:
        return list(argv)
    plain: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in names and equals:
            plain += map(str, ast.literal_eval(value) if value.startswith("[") else [value])
        elif not word.startswith("-"):
            plain.append(word)
        else:
            rest.append(word)
            if not equals and name not in ("-h", "-H", "--help", "--help-verbose"):
                rest += [value for value in [next(words, None)] if value is not None]
    return [*plain, *rest]


def read_bool(info):
    """Returns tyro's rule for booleans: True or False; without a value True."""
    if info.type is not bool:
        return None

    def from_words(words: list[str]) -> bool:
        if words not in ([], ["True"], ["False"]):
            raise ValueError(f"expected True or False, got {' '.join(words)}")
        return words != ["False"]

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=(0, 1), metavar="{True,False}", instance_from_str=from_words,
        is_instance=lambda value: isinstance(value, bool), str_from_instance=lambda value: [str(value)],
    )  # fmt: skip


def read_number(info):
    """Returns tyro's rule for numbers, in ASCII: Python's own would also read the digits of other scripts."""
    if info.type not in (int, float):
        return None

    def from_words(words: list[str]) -> int | float:
        if not words[0].isascii():
            raise ValueError(f"expected a number such as 3, got {words[0]}")
        return info.type(words[0])

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1, metavar=info.type.__name__.upper(), instance_from_str=from_words,
        is_instance=lambda value: fits(value, info.type), str_from_instance=lambda value: [str(value)],
    )  # fmt: skip


def read_tuple(info):
    """Returns tyro's rule for tuples of numbers, strings or booleans, which takes the list that a sweep writes."""
    members = typing.get_args(info.type)
    if info.type_origin is not tuple or POSITIONAL in info.markers or not set(members) <= {int, float, str, bool, ...}:
        return None
    text = ",".join("..." if member is ... else member.__name__ for member in members)

    def from_words(words: list[str]) -> tuple:
        try:
            values = ast.literal_eval(words[0])
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"expected [{text}], got {words[0]}") from error
        values = tuple(values) if isinstance(values, list | tuple) else (values,)
        types = [members[0]] * len(values) if ... in members else members
        if len(types) != len(values) or not all(fits(value, kind) for value, kind in zip(values, types, strict=True)):
            raise ValueError(f"expected [{text}], got {words[0]}")
        return tuple(kind(value) for value, kind in zip(values, types, strict=True))

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1, metavar=f"[{text}]", instance_from_str=from_words,
        is_instance=lambda value: isinstance(value, tuple), str_from_instance=lambda value: [str(list(value))],
    )  # fmt: skip


def fits(value: object, kind: type) -> bool:
    """Says whether a literal is of a kind; an int is also a float, a bool is nothing else."""
    return type(value) is kind or (kind is float and type(value) is int)


def unbox(text: str) -> str:
    """Returns tyro's framed message as one line: what stands between its title and the first rule."""
    rows: list[str] = []
    for row in text.strip().splitlines()[1:]:
        row = row.strip(" │|")
        if re.fullmatch(r"[─-]{4,}", row):
            if rows:
                break
        elif row:
            rows.append(row)
    # a value that a config refuses needs no name of a class in front
    return re.sub(r"^Error parsing [A-Za-z_]\w*: ", "", " ".join(rows))


def name_program() -> str:
    """Returns the name of this process's program: latent_attack.py, or ganinv latent-attack."""
    return Path(sys.argv[0]).name
