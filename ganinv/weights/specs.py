"""Specs that name code, "module:factory" and "file.py:factory", what they return, frozen, and the hash of their source."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ganinv.errors import CODE, find_code
from ganinv.weights.quoting import first_line


def split_spec(spec: str) -> tuple[str, str] | None:
    """Returns (module or file.py, factory) of a spec that names code, None for a path."""
    place, colon, factory = spec.rpartition(":")
    if not colon or not place or Path(spec).exists() or not factory.isidentifier():
        return None
    return place, factory


def call_factory(place: str, factory: str):
    """Returns what factory() of a module or a .py file returns. The user typed the spec, so its code may run.

    The code finds its neighbours, as where Python ran it, and no arguments of ours in sys.argv.
    Raises: ValueError in one line when there is no such module, file or function, or its code fails.
    """
    folder = find_root(Path(place).resolve())[0] if place.endswith(".py") else Path.cwd()
    try:
        with importable(folder):
            return load_factory(place, factory)()
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        where = find_code(error) or "its call"
        if isinstance(error, SyntaxError) and error.filename:
            where = f"{error.filename}:{error.lineno}"
        raise ValueError(
            f"expected a model from {place}:{factory}, got {type(error).__name__} ({first_line(error)}) at {where}"
            "; mend that code"
        ) from error


def find_root(file: Path) -> tuple[Path, str]:
    """Returns the folder from which a Python file is imported, above all packages that it lies in, and its dotted name."""
    folder, name = file.parent, file.stem
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    return folder, name


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Looks for modules in a folder first, and last once the work is done: what the code imports later is found too.

    No byte code is left beside them: a folder of the user's stays as it was.
    """
    arguments, place, writes_none = sys.argv, str(folder), sys.dont_write_bytecode
    sys.argv, sys.dont_write_bytecode = arguments[:1], True
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.argv, sys.dont_write_bytecode = arguments, writes_none
        sys.path.remove(place)
        if place not in sys.path:
            sys.path.append(place)


def load_factory(place: str, factory: str) -> Callable[[], object]:
    """Returns a function of a module or a .py file. Raises: ValueError when there is none of that name."""
    if place.endswith(".py"):
        module = load_file(place, factory)
    else:
        try:
            module = importlib.import_module(place)
            CODE.add(os.path.dirname(os.path.abspath(getattr(module, "__file__", None) or place)) + os.sep)
        except ImportError as error:
            raise ValueError(
                f"expected a module or a file.py before the colon, got {place} ({error}); check the name"
            ) from error
    if not callable(getattr(module, factory, None)):
        got = type(getattr(module, factory)).__name__ if hasattr(module, factory) else "nothing of that name"
        raise ValueError(f"expected a function {factory} in {place}, got {got}; define it there")
    return getattr(module, factory)


def load_file(place: str, factory: str) -> types.ModuleType:
    """Returns the module of a Python file, run anew.

    It is registered, as dataclasses and relative imports want it: as part of its package, or under a name of its own.
    """
    if not Path(place).is_file():
        raise ValueError(
            f"expected a Python file before the colon of {place}:{factory}, got {place}, which is missing; check the path"
        )
    CODE.update(f"{folder}{os.sep}" for folder in (Path(os.path.abspath(place)).parent, find_root(Path(place).resolve())[0]))
    name = find_root(Path(place).resolve())[1]
    if "." in name:
        importlib.import_module(name.rpartition(".")[0])
    else:
        name = f"{name}_{hashlib.sha256(os.path.realpath(place).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, place)
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def hash_code(spec: str) -> dict[str, str] | None:
    """Returns {"file", "sha256"} of the source that a spec names and that was run, None for a spec that names none.

    The hash is over the file and those neighbours, below its folder, that it has imported; installed packages, which
    have versions, are left out.
    """
    code = split_spec(spec)
    if code is None:
        return None
    place = code[0] if code[0].endswith(".py") else getattr(sys.modules.get(code[0]), "__file__", None) or code[0]
    file = Path(place).resolve()
    sources = {file} if file.is_file() else set()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "ganinv" and (source := getattr(module, "__file__", None)):
            source = Path(source).resolve()
            if source.is_relative_to(file.parent) and "site-packages" not in source.parts and source.is_file():
                sources.add(source)
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(f"{os.path.relpath(source, file.parent)}\n".encode())
        digest.update(source.read_bytes())
    return {"file": file.name, "sha256": digest.hexdigest()}


def freeze(model, device: torch.device | str):
    """Returns model on the device, in eval mode, without gradients of its own, if it is a Module; else unchanged."""
    return model.to(device).eval().requires_grad_(False) if isinstance(model, nn.Module) else model
