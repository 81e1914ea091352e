"""Torch checkpoints read as data: tensors and plain values; nothing of the file is ever run."""

from __future__ import annotations

import argparse
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import torch

from ganinv.weights.opcodes import check_opcodes
from ganinv.weights.quoting import describe_value, first_line, show


class Passed:
    """Stands for a value beside the weights that nobody needs: a numpy number or array, a path."""

    def __init__(self, *ignored: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


def make_dict(*ignored: object) -> dict:
    """Returns what stands for a defaultdict before its values come."""
    return {}


# what trainers keep beside weights: a Namespace is a bare holder of options, the rest is passed over
NUMPY = ("core.multiarray.scalar", "core.multiarray._reconstruct", "core.numeric._frombuffer")
BESIDE = [
    argparse.Namespace,
    *((Passed, f"numpy.{name}") for name in (*NUMPY, "dtype", "ndarray")),
    *((Passed, f"numpy._{name}") for name in NUMPY),
    *((Passed, f"pathlib.{name}") for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *((Passed, f"builtins.{name}") for name in ("list", "dict", "int", "float")),  # what a defaultdict makes
    (make_dict, "collections.defaultdict"),
]
MOST_ENTRIES = 100_000  # of a checkpoint's dicts; a shared dict in dicts would unfold without end
ZIP = b"PK\x03\x04"
MOST_DEPTH = 20  # of dicts in dicts
PICKLES = 5  # of torch's older format, before the numbers: its mark, version, machine, the values, and their storages' keys


def read_checkpoint(path: Path | io.BytesIO):
    """Returns what torch.save wrote, if it is plain data. path: of the file, or its content.

    Raises: ValueError, see read_tensors.
    """
    try:
        with nullcontext(path) if isinstance(path, io.BytesIO) else open(path, "rb") as file:
            check_unpacked_size(file, path)
            check_pickles(file)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols
                with torch.serialization.safe_globals(BESIDE):
                    return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"expected a checkpoint of tensors and plain data, got {describe_refusal(error)} in {path}; it was not run"
        ) from error
    except UnpackedSizeError:
        raise
    except Exception as error:  # KeyError, EOFError, IndexError, ...: what torch's reader raises on other bytes
        raise ValueError(f"expected a whole torch checkpoint, got {path}, which cannot be read; copy it again") from error


def describe_refusal(error: pickle.UnpicklingError) -> str:
    """Returns what torch's unpickler of plain data was asked for, when it refused."""
    code = re.search(r"GLOBAL (\S+)", str(error))
    # a broken file and one with code raise the same error; only the second names what it asked for
    return f"a pickle that asks for {first_line(code[1])}" if code else "something else"


class UnpackedSizeError(ValueError):
    """A checkpoint that would unfold to more than its own size."""


def check_pickles(file: BinaryIO) -> None:
    """Returns if the pickles of a torch checkpoint are whole and bounded. Raises: ValueError, see check_opcodes."""
    file.seek(0)
    if file.read(4) == ZIP:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    check_opcodes(io.BytesIO(archive.read(name)))
        return
    file.seek(0)
    for _ in range(PICKLES):
        check_opcodes(file)
        if not file.read(1):
            break
        file.seek(-1, io.SEEK_CUR)


def check_unpacked_size(file: BinaryIO, path: object, spare: int = 0) -> None:
    """Raises UnpackedSizeError when the members of a zip, by its table, are larger than the file: torch packs no tensor.

    spare: bytes that they may have beyond that.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(4) != ZIP:  # torch's older format is no zip
        return
    with zipfile.ZipFile(file) as archive:
        declared = sum(member.file_size for member in archive.infolist())
    if declared > size + spare:
        raise UnpackedSizeError(
            f"expected a checkpoint as torch.save writes it, unpacked, got {path} of {size} bytes, which would unfold to "
            f"{declared}; load it where you trust it and save it again"
        )


def flatten(value: object, path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Returns the leaves of nested dicts, tensors and the rest, named by their keys with dots between.

    Raises: ValueError when the dicts are too deep or too many, or a tensor is of no plain kind or larger than its file.
    """
    tensors: dict[str, torch.Tensor] = {}
    rest: dict = {}
    size, count = path.stat().st_size, 0
    waiting = [("", value, 0)]
    while waiting:
        name, item, depth = waiting.pop()
        count += 1
        if depth > MOST_DEPTH or count > MOST_ENTRIES:
            what = "is nested too deeply" if depth > MOST_DEPTH else f"has more than {MOST_ENTRIES} entries"
            raise ValueError(f"expected a checkpoint of nested dicts, got {path}, which {what}")
        if isinstance(item, torch.Tensor):
            if item.device.type != "cpu" or item.layout != torch.strided or item.is_quantized or item.is_complex():
                raise ValueError(f"expected plain tensors in {path}, got another kind for {show(name)}")
            if item.numel() * item.element_size() > size:
                raise ValueError(f"expected tensors within the {size} bytes of {path}, got a larger one, {show(name)}")
            tensors[name or "tensor"] = item.detach()
        elif isinstance(item, Mapping):
            if odd := [key for key in item if not isinstance(key, str | int)]:
                raise ValueError(f"expected names or numbers as keys in {path}, got {describe_value(odd[0])}")
            inner = [(f"{name}.{key}" if name else str(key), under, depth + 1) for key, under in item.items()]
            waiting += reversed(inner)
        else:
            rest[name] = item
    return tensors, rest


def find_checkpoint(path: str | Path) -> Path:
    """Returns the path itself, or of a folder that stylegan2-pytorch wrote, models/<name>, the latest model_<N>.pt.

    Raises: ValueError when a folder holds none, or the latest is a link that leaves the folder.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    numbered = {int(match[1]): file for file in path.iterdir() if (match := re.fullmatch(r"model_(\d{1,9})\.pt", file.name))}
    if not numbered:
        raise ValueError(f"expected model_<N>.pt in the folder {path}, got none; pass models/NAME or a file")
    latest = numbered[max(numbered)]
    if not latest.is_file() or latest.resolve().parent != path.resolve():
        raise ValueError(f"expected a regular file {latest}, got a link out of its folder or no file; pass the file itself")
    return latest
