"""From a command line to a frozen configuration, and from an exception to one line and an exit code.

Exit codes: 0 done; 1 a fault while running; 2 the caller's mistake; 130 interrupted, 143 terminated, 141 when whoever read
the output left.
"""

from __future__ import annotations

import atexit
import errno
import gc
import io
import json
import os
import shutil
import signal
import sys
import typing
from collections.abc import Callable, Mapping, Sequence

from ganinv.cli.checks import (
    check_training,
    choose_device,
    choose_training_precision,
    name_command,
    parse_identities,
    read_names,
)
from ganinv.cli.composed import FLAT, expand_home, flatten, override
from ganinv.cli.help import SCREEN, format_help
from ganinv.cli.parsing import parse, take_dry_run
from ganinv.engine.allocation import keep_memory
from ganinv.engine.files import plain
from ganinv.errors import FaultError, find_code
from ganinv.ranges import check_ranges

__all__ = [
    "FLAT",
    "check_training",
    "choose_device",
    "choose_training_precision",
    "flatten",
    "format_help",
    "main",
    "name_command",
    "one_line",
    "override",
    "parse",
    "parse_identities",
    "read_names",
]

# OpenMP threads that spin while they wait slow small operations tenfold beside a busy process, and those that sleep at once
# make a step up to half as long again on an idle machine. A thousand turns, then sleep, is near the better of the two in
# both. Read when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # of GNU's OpenMP, which torch brings on Linux

TOO_LONG = (errno.ENAMETOOLONG, errno.ELOOP)  # of a path that nobody meant
MISTAKES = (ValueError, FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


def main(
    config_type: type,
    run: Callable[[typing.Any], object],
    argv: Sequence[str] | None = None,
    *,
    plan: Callable[[typing.Any], Mapping] = lambda config: {},
    choose_defaults: Callable[[typing.Any], object] | None = None,
) -> None:
    """Parses argv (default: the process's) into config_type and calls run with it; ends the process on any error.

    config_type: its first docstring line heads --help, and the comment behind a field is the option's text. Also
    understood: --help, --help-verbose, --dry-run (prints the configuration as JSON, and what plan says of it).
    choose_defaults: from a first reading of argv to the configuration whose values stand where argv gives none.
    Raises: SystemExit 2 for the caller's mistakes, 1 for faults, 130 or 143 when interrupted or terminated, each after
    one line on stderr.
    """
    # else Python looks for garbage among all that is imported again and again: 0.6 s of an attack's start, 0.9 of its end
    gc.set_threshold(20_000)
    atexit.register(gc.freeze)
    argv = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed; nobody reads what is said
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal lacks must not cost a run
            stream.reconfigure(errors="backslashreplace")
    try:
        asks_help = bool({"-h", "--help"} & set(argv))
        argv, dry_run = take_dry_run([word for word in argv if word not in ("-h", "--help")])
        defaults = choose_defaults(parse(config_type, argv)) if choose_defaults else None
        if asks_help:
            print(format_help(config_type, defaults, min(100, shutil.get_terminal_size((100, SCREEN)).columns)))
            return
        config = expand_home(parse(config_type, argv, defaults))
        check_ranges(config)
        if dry_run:
            print(json.dumps(plain(flatten(config)) | plain(plan(config)), indent=2))
            return
        keep_memory()
        run(config)
        sys.stdout.flush()
    except BrokenPipeError as error:  # whoever read the output, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would say so once more at its end
        raise SystemExit(128 + signal.SIGPIPE) from error
    except MISTAKES as error:
        stop(2, one_line(error), error)
    except KeyboardInterrupt as error:
        stop(128 + getattr(error, "signal", 2), str(error) or "interrupted", error)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in TOO_LONG:
            stop(2, one_line(error), error)
        if not is_fault(error):
            stop_for_code(error)
            raise
        stop(1, one_line(error), error)
    except SystemExit as error:
        stop_for_code(error)
        raise


def stop(code: int, line: str, cause: BaseException) -> typing.NoReturn:
    """Prints `error: line` on stderr and ends the process."""
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(code) from cause


def stop_for_code(error: BaseException) -> None:
    """Ends the process with one line where an error came up in the code that the caller named."""
    if place := find_code(error):
        got = f"{type(error).__name__} ({one_line(error)[:200]})"
        stop(1, f"expected the code at {place} to run, got {got}; mend it there", error)


def one_line(error: BaseException) -> str:
    """Returns the error's message on one line, nothing in it that a terminal would obey; its type where it has none."""
    line = " ".join(str(error).split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def is_fault(error: Exception) -> bool:
    """Says whether an error is a fault of the machine or the run (no memory, no space), not of this program."""
    if isinstance(error, FaultError):
        return True
    from safetensors import SafetensorError

    from ganinv.engine.batches import ran_out

    if isinstance(error, SafetensorError):  # wraps the system's errors in text
        return "No space left" in str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or ran_out(error)
