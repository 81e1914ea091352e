"""Tensors that are costly to make again, kept for the next run in $XDG_CACHE_HOME/ganinv; losing them loses nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from ganinv.engine.files import write_atomically
from ganinv.weights.files import read_tensors


def find_place(name: str) -> Path | None:
    """Returns the file that keeps something under a name, which must tell all that it depends on; None without a home."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if folder.startswith("~") else Path(folder) / "ganinv" / f"{name}.safetensors"


def recall(file: Path | None, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
    """Returns the tensor that a file keeps; None where there is none of this shape and dtype, or it cannot be read."""
    try:
        tensor = read_tensors(file)[0].get(name) if file is not None and file.is_file() else None
    except (OSError, ValueError):  # the first: another user's folder
        return None
    return tensor if tensor is not None and tensor.shape == torch.Size(shape) and tensor.dtype == dtype else None


def keep(file: Path | None, name: str, tensor: torch.Tensor) -> None:
    """Writes a tensor; another process finds it whole or not at all. Where it cannot be written a line says so."""
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, save({name: tensor.contiguous()}))
    except OSError as error:
        print(f"cannot keep {file} ({error})", file=sys.stderr)
