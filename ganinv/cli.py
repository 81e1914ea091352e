"""From a command line to a frozen config, and from an exception to one line and an exit code.

Exit codes: 0 done; 1 a fault while running; 2 the caller's mistake; 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import errno
import inspect
import io
import itertools
import json
import os
import re
import shlex
import shutil
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# OpenMP threads that spin while they wait slow small operations tenfold beside a busy process, and those that sleep at once
# make a step up to half as long again on an idle machine. A thousand turns, then sleep, is near the better of the two in
# both. Read when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # of GNU's OpenMP, which torch brings on Linux

MISTAKES = (ValueError, FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
SCREEN = 45  # lines of --help
MOST_IDENTITIES = 1_000_000  # a typing mistake such as 0-99999999999 must not fill the memory


def main(
    config_type: type, run: Callable[[typing.Any], object], argv: Sequence[str] | None = None,
    plan: Callable[[typing.Any], dict] = lambda config: {},
) -> None:  # fmt: skip
    """Parses argv (default: the process's) into config_type and calls run with it; ends the process on any error.

    config_type: a frozen dataclass, nested ones allowed; its first docstring line heads --help, and the comment behind
    a field is the option's text. Also understood: --help, --help-verbose, --dry-run (prints the config as JSON, and beside
    it what plan says of it).
    Raises: SystemExit 2 for the caller's mistakes, 1 for faults, 130 or 143 when interrupted or terminated, each after
    one line on stderr.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if {"-h", "--help"} & set(argv):
            print(format_help(config_type, width=min(100, shutil.get_terminal_size((100, 45)).columns)))
            return
        argv, dry_run = take_dry_run(argv)
        config = parse(config_type, spell_flags(config_type, argv))
        if dry_run:
            print(json.dumps(dataclasses.asdict(config) | plan(config), indent=2, default=str))
            return
        run(config)
    except MISTAKES as error:
        stop(2, one_line(error), error)
    except KeyboardInterrupt as error:
        stop(128 + getattr(error, "signal", 2), str(error) or "interrupted", error)
    except Exception as error:
        if not is_fault(error):
            raise
        stop(1, one_line(error), error)


def stop(code: int, line: str, cause: BaseException) -> typing.NoReturn:
    """Prints `error: line` on stderr and ends the process."""
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(code) from cause


def one_line(error: BaseException) -> str:
    """Returns the error's message on one line; its type where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def is_fault(error: Exception) -> bool:
    """Says whether an error is a fault of the machine or the run (no memory, no space), not of this program."""
    from safetensors import SafetensorError

    from ganinv.engine.batches import ran_out
    from ganinv.interfaces import FaultError

    if isinstance(error, SafetensorError):  # wraps the system's errors in text
        return "No space left" in str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or ran_out(error) or isinstance(error, FaultError)


# ---- parsing


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


def parse(config_type: type, argv: list[str]):
    """Returns a config_type made from argv, in which every form that a W&B sweep writes is understood.

    Such as `--optim.lr=0.01 --flip=False --ids=[3, 4] --x=None`. Raises: ValueError for an option that is unknown or
    whose value does not fit.
    """
    import tyro

    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(read_tuple)
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(
                config_type,
                args=["--help" if word in ("-H", "--help-verbose") else word for word in argv],
                prog=Path(sys.argv[0]).name,
                config=(tyro.conf.FlagConversionOff, tyro.conf.UsePythonSyntaxForLiteralCollections),
                registry=registry,
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(f"{unbox(messages.getvalue()).rstrip('.')}; --help lists the options") from end


def read_tuple(info):
    """Returns tyro's rule for tuples of numbers, strings or booleans, which also takes the list that a sweep writes."""
    import tyro

    members = typing.get_args(info.type)
    if info.type_origin is not tuple or not set(members) <= {int, float, str, bool, ...}:
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
        nargs=1,
        metavar=f"[{text}]",
        instance_from_str=from_words,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [str(list(value))],
    )


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


def parse_identities(text: str) -> tuple[int, ...]:
    """Returns the identities that a text lists: "0-4,9" and "[0, 1, 2, 3, 4, 9]" are (0,1,2,3,4,9).

    Raises: ValueError when it lists none, one twice, or anything but whole numbers and rising ranges of them.
    """
    identities: list[int] = []
    for part in text.strip().removeprefix("[").removesuffix("]").split(","):
        match = re.fullmatch(r"(\d{1,12})(?:-(\d{1,12}))?", part.strip(), re.ASCII)
        if match is None:
            raise ValueError(f"expected identities such as 0-4,9, got {text!r}")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low or high - low >= MOST_IDENTITIES:
            raise ValueError(f"expected a rising range of at most {MOST_IDENTITIES} identities, got {part.strip()}")
        identities.extend(range(low, high + 1))
    if len(set(identities)) < len(identities):
        raise ValueError(f"expected every identity once, got {text!r}")
    return tuple(identities)


def spell_flags(config_type: type, argv: list[str]) -> list[str]:
    """Returns argv with a bare boolean option such as --resume written out, --resume=True."""
    flags = {name for name, kind, _, _ in list_options(config_type) if kind == "bool"}
    followed = zip(argv, [*argv[1:], "--"], strict=False)  # strict would refuse an empty argv
    return [f"{word}=True" if word in flags and after.startswith("--") else word for word, after in followed]


def name_command(script: str) -> str:
    """Returns the command line of this process as a card tells it: without --resume, which changes no result."""
    words = [word for word in sys.argv[1:] if not word.startswith("--resume")]
    return shlex.join(["python", f"scripts/{script}.py", *words])


def check_seed(seed: int) -> int:
    """Returns a seed. Raises: ValueError unless it is from 0 to 2**63-1."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"expected a seed from 0 to {2**63 - 1}, got {seed}")
    return seed


def choose_training_precision(precision: str, device) -> str:
    """Returns the precision of a training for --precision: "auto" is bfloat16 where the device computes in it."""
    from ganinv.engine.precision import computes_bfloat16

    if precision != "auto":
        return precision
    return "bfloat16" if computes_bfloat16(device) else "float32"


def check_training(config) -> None:
    """Raises: ValueError when a training's precision is unknown, or a number of it is out of its range."""
    if config.precision not in ("bfloat16", "float32"):
        raise ValueError(f"expected a precision among auto, bfloat16, float32, got {config.precision}")
    for name in ("steps", "batch", "capacity", "sample_every", "lr"):
        if hasattr(config, name) and not getattr(config, name) > 0:
            raise ValueError(f"expected {name} above 0, got {getattr(config, name)}")
    for name, most in (("alone", 1.0), ("perceptual", 1000.0)):
        if hasattr(config, name) and not 0 <= getattr(config, name) <= most:
            raise ValueError(f"expected {name} from 0 to {most:g}, got {getattr(config, name)}")


def choose_device(name: str):
    """Returns the torch.device of "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:<n>".

    Raises: ValueError for another name, or for CUDA where there is none.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"expected a device among auto, cpu, cuda, cuda:<n>, got {name}")
    if name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"expected a CUDA device for --device={name}, got none; pass --device=cpu")
    count = torch.cuda.device_count()
    if (torch.device(name).index or 0) >= max(count, 1):
        raise ValueError(f"expected a device from cuda:0 to cuda:{count - 1}, got {name}")
    return torch.device(name)


# ---- help


def format_help(config_type: type, width: int = 100) -> str:
    """Returns one line per option: name, type, text, default; cut to width, the default never.

    Where that is more than a screen, the options of a group share lines, by names and defaults alone.
    """
    summary = (config_type.__doc__ or "").strip()
    if summary.startswith(f"{config_type.__name__}("):  # what dataclass writes where there is no docstring
        summary = ""
    options = list(list_options(config_type))
    column = min(34, max((len(f"{name} {kind}") for name, kind, _, _ in options), default=0)) + 4
    lines = [f"usage: {Path(sys.argv[0]).name} [--option=value ...]", *summary.splitlines()[:1]]
    if len(options) + len(lines) + 1 > SCREEN:
        options = fold_groups(options, width)
    for name, kind, text, default in options:
        head, tail = f"  {name} {kind}".ljust(column), f"({default})"
        room = width - len(head) - len(tail) - 1
        if len(text) > room:
            text = text[: max(0, room - 3)].rstrip() + "..." if room > 8 else ""
        lines.append(f"{head}{text} {tail}" if text else f"{head}{tail}")
    lines += ["--dry-run prints the resolved configuration and ends; --help-verbose has the full texts."]
    return "\n".join(lines)


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


def list_options(config_type: type, defaults: object = None, prefix: str = "--") -> Iterator[tuple[str, str, str, str]]:
    """Yields (name, type, text, default) of every option, those of nested dataclasses as name.option."""
    comments = read_comments(config_type)
    for field in dataclasses.fields(config_type):
        if defaults is not None:
            value = getattr(defaults, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = field.default
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from list_options(type(value), value, f"{name}.")
            continue
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        kind = re.sub(r"Literal\[(.*)\]", lambda match: "{" + re.sub(r"[\"' ]", "", match[1]) + "}", kind)
        kind = re.sub(r"tuple(\[.*\])", lambda match: match[1].replace(" ", ""), kind)
        value = list(value) if isinstance(value, tuple) else value
        default = "required" if value is dataclasses.MISSING else str(value) or '""'
        yield name, kind, comments.get(field.name, ""), default


def read_comments(config_type: type) -> dict[str, str]:
    """Returns the comment behind each field, in the dataclass and those it inherits from."""
    comments: dict[str, str] = {}
    for cls in config_type.__mro__:
        try:
            source = inspect.getsource(cls)
        except (OSError, TypeError):  # built in, or its file is gone
            continue
        for name, comment in re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE):
            comments.setdefault(name, comment.strip())
    return comments
