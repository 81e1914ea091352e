"""Models of TensorFlow.js read as data: NAME.json, a graph and a manifest of tensors, and NAME.bin beside it, their bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch


def read_tfjs(file: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a TensorFlow.js model, of layers or a graph, as float32.

    A tensor that is stored as unsigned integers q is q * scale + minimum, as its manifest says.
    Raises: ValueError when the manifest is none, or the weights are not of its length.
    """
    try:
        groups = json.loads(file.read_text())["weightsManifest"]
        entries = [entry for group in groups for entry in group["weights"]]
        raw, offset, tensors = file.with_suffix(".bin").read_bytes(), 0, {}
        for entry in entries:
            stored = entry.get("quantization", {})
            kind, count = np.dtype(stored.get("dtype", entry["dtype"])), math.prod(entry["shape"])
            values = np.frombuffer(raw, kind, count, offset).astype(np.float32)
            offset += count * kind.itemsize
            values = values * np.float32(stored.get("scale", 1.0)) + np.float32(stored.get("min", 0.0))
            tensors[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected a model of TensorFlow.js, {file} and its .bin, got none ({error})") from error
    if offset != len(raw):
        raise ValueError(f"expected {offset} bytes in {file.with_suffix('.bin')}, got {len(raw)}; take both files anew")
    return tensors
