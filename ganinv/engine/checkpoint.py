"""The state of long work as data: nested dicts and lists of tensors and plain values in one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


def save_state(path: str | Path, state: Mapping) -> None:
    """Writes a nested state; a reader finds the old file or the new one, never a half.

    Values are tensors, numbers, strings, None, or dicts and lists of them.
    """
    tensors: dict[str, torch.Tensor] = {}

    def strip(value, name):
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"tensor": name}
        if isinstance(value, Mapping):
            return {"dict": [[key, strip(item, f"{name}.{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return {"list": [strip(item, f"{name}.{index}") for index, item in enumerate(value)]}
        return {"value": value}

    path = Path(path)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"state": json.dumps(strip(state, "state"))})
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())  # or a loss of power could leave the new name with nothing behind it
    os.replace(temporary, path)


def load_state(path: str | Path) -> dict:
    """Returns the nested state that save_state wrote, on the CPU.

    Raises: ValueError when the file is missing, truncated or was not written by save_state.
    """
    try:
        with safe_open(path, "pt") as file:
            skeleton = json.loads((file.metadata() or {})["state"])

            def fill(node):
                ((kind, value),) = node.items()
                if kind == "tensor":
                    return file.get_tensor(value)
                if kind == "dict":
                    return {key: fill(item) for key, item in value}
                return [fill(item) for item in value] if kind == "list" else value

            return fill(skeleton)
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"expected a state written by ganinv, got {path} ({error})") from error


def restore(module: torch.nn.Module | torch.optim.Optimizer, state: Mapping, path: str | Path) -> None:
    """Loads a part of a state. Raises: ValueError when it belongs to work with other settings."""
    try:
        module.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"expected the state of work with these settings in {path}, got another ({first})") from error


def append_jsonl(path: str | Path, row: Mapping) -> None:
    """Adds one JSON line to a log."""
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def truncate_jsonl(path: str | Path, last_step: int) -> None:
    """Removes the lines of a log that lie after last_step: what a resumed run will write again."""
    path = Path(path)
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the line that was being written when the run was killed
            continue
        if row["step"] <= last_step:
            kept.append(json.dumps(row) + "\n")
    path.write_text("".join(kept))
