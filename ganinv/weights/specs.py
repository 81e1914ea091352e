"""Specs that name code, "module:factory" and "file.py:factory", and what they return, frozen."""

from __future__ import annotations

import importlib
import importlib.util
import traceback
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ganinv.weights.quoting import first_line


def split_spec(spec: str) -> tuple[str, str] | None:
    """Returns (module or file.py, factory) of a spec that names code, None for a path."""
    place, colon, factory = spec.rpartition(":")
    if not colon or Path(spec).exists() or not factory.isidentifier():
        return None
    return place, factory


def call_factory(place: str, factory: str):
    """Returns what factory() of a module or a .py file returns. The user typed the spec, so its code may run.

    Raises: ValueError in one line when there is no such module, file or function, or its code fails.
    """
    try:
        return load_factory(place, factory)()
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"expected a model from {place}:{factory}, got {type(error).__name__} ({first_line(error)}) at "
            f"{last.filename}:{last.lineno}; mend that code"
        ) from error


def load_factory(place: str, factory: str) -> Callable[[], object]:
    """Returns a function of a module or a .py file. Raises: ValueError when there is none of that name."""
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise ValueError(f"expected a Python file before the colon of {place}:{factory}, got {place}, which is missing")
        module_spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        module: types.ModuleType = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise ValueError(f"expected a module or a file.py before the colon, got {place} ({error})") from error
    if not callable(getattr(module, factory, None)):
        got = type(getattr(module, factory)).__name__ if hasattr(module, factory) else "nothing of that name"
        raise ValueError(f"expected a function {factory} in {place}, got {got}")
    return getattr(module, factory)


def freeze(model, device: torch.device | str):
    """Returns model on the device, in eval mode, without gradients of its own, if it is a Module; else unchanged."""
    return model.to(device).eval().requires_grad_(False) if isinstance(model, nn.Module) else model
