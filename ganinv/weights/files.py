"""Weight files: tensors read as data and written with a card.

A weight file <name>.safetensors has a card beside it, <name>.json: its SHA-256 and what it takes to build the network.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ganinv.weights.checkpoints import flatten, read_checkpoint
from ganinv.weights.quantisation import dequantise
from ganinv.weights.quoting import first_line, show

HERE = Path(__file__).resolve().parents[1]
# beside the package in a checkout, inside it where a wheel was installed
PRETRAINED = HERE / "pretrained" if (HERE / "pretrained").is_dir() else HERE.parent / "pretrained"
NAMES_SHOWN = 4  # of missing or odd tensors, in a message


def sha256_file(path: str | Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Returns the tensors of a .safetensors file or a torch checkpoint, on the CPU, and what else the file says.

    Weights that quantise packed come back as float32.

    A torch checkpoint's nested dicts are flattened: {"GAN": {"S.w": tensor}, "version": "1"} gives the tensor "GAN.S.w"
    and {"version": "1"}. It is read by torch's unpickler of plain data, which runs no code.
    Raises: ValueError when the file is missing, not whole, holds anything but tensors and plain data, or would unfold
    to more than its own size.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"expected a weight file, got {path}, which is {'a folder' if path.is_dir() else 'missing'}; check the path"
        )
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                said = dict(file.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise ValueError(f"expected a whole safetensors file, got {path} ({first_line(error)}); copy it again") from error
        return dequantise(stored), said
    return flatten(read_checkpoint(path), path)


def check_tensors(
    tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path: str | Path
) -> dict[str, torch.Tensor]:
    """Returns the tensors, floats as float32, if names and shapes are those expected and every value is finite.

    Raises: ValueError naming the file and the tensors that are missing, odd, of another shape, or not finite.
    """

    def some(names) -> str:
        names = [show(name) for name in sorted(names)]
        return ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if names[NAMES_SHOWN:] else "")

    if missing := expected.keys() - tensors.keys():
        raise ValueError(
            f"expected the tensor(s) {some(missing)} in {path}, got none of that name"
            "; the file is of another network: pass that one's name"
        )
    if odd := tensors.keys() - expected.keys():
        raise ValueError(f"expected no tensor(s) {some(odd)} in {path}; it was written for another network")
    checked = {}
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"expected {name} of shape {list(expected[name].shape)}, got {list(tensor.shape)} in {path}"
                "; the file is of another network: pass that one's name"
            )
        checked[name] = tensor.float() if expected[name].is_floating_point() else tensor
        if not torch.isfinite(checked[name]).all():
            raise ValueError(f"expected finite values, got NaN or infinity in {name} of {path}; train or copy it again")
    return checked


def save_weights(
    path: str | Path, tensors: Mapping[str, torch.Tensor], card: Mapping, *, metadata: Mapping[str, str] | None = None
) -> dict:
    """Writes <name>.safetensors, then its card <name>.json with the SHA-256, each atomically. Returns the card.

    Raises: ValueError when path does not end in .safetensors, or a value is not finite.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"expected a path that ends in .safetensors, got {path}")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"expected finite values, got NaN or infinity in {name}; nothing was written to {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=dict(metadata or {}))
    card = {**card, "sha256": sha256_file(temporary)}
    temporary.replace(path)
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(card, indent=2, default=str) + "\n")
    os.replace(temporary, path.with_suffix(".json"))
    return card
