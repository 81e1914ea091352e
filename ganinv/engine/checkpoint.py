"""The state of long work as data: nested dicts and lists of tensors and plain values in one safetensors file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ganinv.engine.files import write_atomically
from ganinv.json_data import WHOLE, find_mismatch, parse_json
from ganinv.weights.quoting import first_line


def save_state(path: str | Path, state: Mapping) -> None:
    """Writes a nested state with its checksum; a reader finds the old file or the new one, never a half.

    Values are tensors, numbers, strings, None, or dicts and lists of them. The state before it is kept: see find_before.
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
    temporary, skeleton = path.with_suffix(".tmp"), json.dumps(strip(state, "state"))
    try:
        save_file(tensors, temporary, metadata={"state": skeleton, "sha256": hash_state(skeleton, tensors)})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # or a loss of power could leave the new name with nothing behind it
        keep_before(path)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # on a full disk a half is there


def hash_state(skeleton: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Returns the SHA-256 over a state: its plain values, and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(skeleton.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def find_before(path: str | Path) -> Path:
    """Returns where the state before the one in a file is kept."""
    return Path(path).with_suffix(f".before{Path(path).suffix}")


def keep_before(path: Path) -> None:
    """Keeps a state under find_before's name, too, before another takes its place: at no moment is there none."""
    if not path.is_file():
        return
    temporary = path.with_suffix(".before.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without links
        shutil.copyfile(path, temporary)
    os.replace(temporary, find_before(path))


def drop_state(path: str | Path) -> None:
    """Removes a state and the one before it."""
    for file in (Path(path), find_before(path)):
        file.unlink(missing_ok=True)


def load_state(path: str | Path) -> dict:
    """Returns the nested state that save_state wrote, on the CPU.

    Raises: ValueError when the file is missing, truncated, changed since, or was not written by save_state; the message
    says where the state before it is.
    """
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if hash_state(said["state"], tensors) != said["sha256"]:
            raise ValueError("its checksum is another")
        return fill(parse_json(said["state"]), tensors)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        before = find_before(path)
        cure = f"; the state before it is kept: mv {before} {path}, and resume" if before.is_file() else ""
        raise ValueError(
            f"expected a state written by ganinv, got {path} ({first_line(error)}){cure}; delete it to begin anew"
        ) from error


def fill(node: Mapping, tensors: Mapping[str, torch.Tensor]):
    """Returns the value of a node of a skeleton."""
    ((kind, value),) = node.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: fill(item, tensors) for key, item in value}
    return [fill(item, tensors) for item in value] if kind == "list" else value


@contextmanager
def of_these_settings(path: str | Path) -> Iterator[None]:
    """Turns what a state of other work raises while it is put in place into one line."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        message = f"expected the state of work with these settings in {path}, got another ({first_line(error)})"
        raise ValueError(message) from error


def restore(module: torch.nn.Module | torch.optim.Optimizer, state: Mapping, path: str | Path) -> None:
    """Loads a part of a state. Raises: ValueError when it belongs to work with other settings."""
    with of_these_settings(path):
        module.load_state_dict(state)


def check_photos(state: Mapping, photos: str) -> None:
    """Raises: ValueError when a training's state is of other photos than those of a hash; old ones have none."""
    if state.get("photos", photos) != photos:
        raise ValueError("it is of other photos")


def append_jsonl(path: str | Path, row: Mapping) -> None:
    """Adds one JSON line to a log."""
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def truncate_jsonl(path: str | Path, last_step: int) -> None:
    """Removes the lines of a log that lie after last_step, what a resumed run will write again; atomic."""
    path = Path(path)
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = parse_json(line)
        except ValueError:  # the line that was being written when the run was killed
            continue
        if find_mismatch(row, {"step": WHOLE}):
            raise ValueError(f"expected rows with a step in {path}, got something else; take that line out")
        if row["step"] <= last_step:
            kept.append(f"{line}\n")
    write_atomically(path, "".join(kept))
