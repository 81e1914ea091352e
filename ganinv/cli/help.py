"""--help: what one screen can hold."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from ganinv.cli.composed import list_options
from ganinv.cli.parsing import name_program

SCREEN = 45  # lines of --help


def format_help(config_type: type, defaults: object = None, width: int = 100) -> str:
    """Returns one line per option: name, type, text, default; cut to width, the default never.

    Where that is more than a screen, the options of a group share lines, by names and defaults alone, and then neighbours
    that need least explanation. (tyro's own help, which --help-verbose prints, takes two lines per option and a frame per
    group.) The docstring's line `Example: ARGUMENTS` is shown, with the program's name before it.
    """
    summary = (config_type.__doc__ or "").strip()
    if summary.startswith(f"{config_type.__name__}("):  # what dataclass writes where there is no docstring
        summary = ""
    options = list(list_options(config_type, defaults))
    column = min(34, max((len(f"{name} {kind}") for name, kind, _, _ in options), default=0)) + 4
    places = "".join(f" [{name} ...]" for name, kind, _, _ in options if not kind)
    lines = [f"usage: {name_program()}{places} [--option=value ...]", *(line[:width] for line in summary.splitlines()[:1])]
    lines += [f"example: {name_program()} {example}" for example in find_examples(config_type)]
    if len(options) + len(lines) + 1 > SCREEN:
        options = fold_neighbours(fold_groups(options, width), SCREEN - len(lines) - 1)
    for name, kind, text, default in options:
        head, tail = f"  {name} {kind}".ljust(column), f"({default})"
        room = width - len(head) - len(tail) - 1
        if len(text) > room:
            text = text[: max(0, room - 3)].rstrip() + "..." if room > 8 else ""
        lines.append(f"{head}{text} {tail}" if text else f"{head}{tail}")
    lines += ["--dry-run prints the resolved configuration, checks it, and ends; --help-verbose has the full texts."]
    return "\n".join(lines)


def find_examples(config_type: type) -> list[str]:
    """Returns the arguments behind `Example:` in a configuration's docstring."""
    return re.findall(r"^ *Example: (.+)$", config_type.__doc__ or "", re.MULTILINE)


def fold_groups(options: Sequence[tuple[str, str, str, str]], width: int) -> list[tuple[str, str, str, str]]:
    """Returns options in which those of a group share lines, --augment.flip/scale, as many as fit into each."""
    folded = []
    for group, members in itertools.groupby(options, lambda option: option[0].rpartition(".")[0]):
        line: list[tuple[str, str, str, str]] = []
        for member in members:
            names = "/".join(name.rpartition(".")[2] for name, *_ in [*line, member])
            whole = (f"{group}.{names}", "", "", ", ".join(default for *_, default in [*line, member]))
            if line and group and len(f"  {whole[0]}  ({whole[3]})") <= width:
                folded[-1] = whole
                line.append(member)
            else:
                folded.append(member)
                line = [member]
    return folded


def fold_neighbours(options: Sequence[tuple[str, str, str, str]], most: int) -> list[tuple[str, str, str, str]]:
    """Returns at most so many options, if pairs suffice: neighbours of one kind and of the shortest texts share a line."""
    folded = list(options)
    while len(folded) > most:
        pairs = [
            (len(first[2]) + len(second[2]), row)
            for row, (first, second) in enumerate(itertools.pairwise(folded))
            if first[1] and first[1] == second[1] and "," not in first[0] + second[0]
        ]
        if not pairs:
            break
        row = min(pairs)[1]
        (name, kind, _, default), (other, _, _, its) = folded[row : row + 2]
        folded[row : row + 2] = [(f"{name}, {other}", kind, "", f"{default}, {its}")]
    return folded
