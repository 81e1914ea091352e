"""Files that outlive the program: what JSON can hold, and errors of the disk in one line."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ganinv.errors import FaultError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
STRAY = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # half characters that stand for no byte


def plain(value: object) -> object:
    """Returns a configuration as what JSON can hold: dataclasses as dicts, paths as strings, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def encode(value: object, name: str, indent: int | None) -> str:
    """Returns a line or block of JSON. Raises: FaultError when a number is not finite, which JSON cannot hold."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False) + "\n"
    except ValueError as error:
        raise FaultError(f"cannot write {name}: a value in it is not finite ({error})") from error


@contextmanager
def clear_errors(path: str | Path, kind: type[Exception] = FaultError, verb: str = "write to") -> Iterator[None]:
    """Turns an OSError into one line that names the path: FaultError for a full disk, else `kind`."""
    try:
        yield
    except OSError as error:
        full = error.errno in DISK_FULL
        cure = "free some space" if full else "choose a folder that you may use"
        message = f"cannot {verb} {error.filename or path}: {error.strerror or error}; {cure}"
        raise (FaultError if full else kind)(message) from error


def to_bytes(text: str) -> bytes:
    """Returns a text in UTF-8. A path that the locale could not decode stands in it as it lies on the disk."""
    try:
        return text.encode()
    except UnicodeEncodeError:  # of bytes that it lacks Python makes half characters; others come from JSON
        return STRAY.sub("?", text).encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes a file under a temporary name, then renames it: a reader finds the old file or the new one, never a half.

    Raises: OSError when the disk refuses; clear_errors makes one line of it.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # several processes may write one file
    try:
        temporary.write_bytes(to_bytes(content) if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # on a full disk a half is there
