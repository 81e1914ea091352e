"""Network pickles of NVIDIA's StyleGAN2-ADA-PyTorch and StyleGAN3 repositories that hold a StyleGAN2, as priors.

The tensors alone are read; the Python source in the file is not run, and the networks are those of stylegan2.py.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch

from ganinv.priors.stylegan2 import LR_MLP, StyleGAN2, build_prior, take_filters
from ganinv.weights.pickles import Persistent, read_pickle
from ganinv.weights.quoting import describe_value

MOST_DEPTH = 8  # of modules in modules; the published networks have five
MOST_TENSORS = 10_000

log = logging.getLogger(__name__)


def load_checkpoint(path: str | Path, *, label: int = 0) -> StyleGAN2:
    """Returns the averaged generator, G_ema, of a network pickle, on the CPU and in float32.

    label: the class of a conditional prior. The command line always takes class 0 and says so; for another, pass
    --generator=FILE.py:FACTORY with a factory that returns load_checkpoint(path, label=3).
    Raises: ValueError when the file is missing, not whole, asks for anything but plain data, or holds no StyleGAN2.
    """
    snapshot = read_pickle(path)
    network = snapshot.get("G_ema") if isinstance(snapshot, dict) else None
    if not isinstance(network, Persistent):
        names = sorted(map(describe_value, snapshot)) if isinstance(snapshot, dict) else [describe_value(snapshot)]
        raise ValueError(f"expected a network G_ema in {path}, got {', '.join(names)[:100] or 'nothing'}")
    modules = list_modules(network, path)
    tensors = take_filters(list_tensors(modules, path), "resample_filter", 1.0, path)
    first = modules.get("synthesis.b4.conv1", {})
    if first.get("activation", "lrelu") != "lrelu":
        raise ValueError(f"expected the activation lrelu in {path}, got {describe_value(first['activation'])}")
    limit = first.get("conv_clamp")
    if limit is not None:
        limit = positive("conv_clamp", limit, path)
    lr_mlp = modules.get("mapping.fc0", {}).get("bias_gain")  # the package keeps the learning rate under this name
    if lr_mlp is None:
        log.warning("%s does not say the mapping's learning rate: assumed the paper's, %s", path, LR_MLP)
        lr_mlp = LR_MLP
    return build_prior(tensors, path, lr_mlp=positive("bias_gain", lr_mlp, path), limit=limit, label=label)


def list_modules(network: Persistent, path: str | Path) -> dict[str, dict]:
    """Returns the state of every module by its dotted name, "" for the network. Raises: ValueError if too many."""
    found: dict[str, dict] = {}
    waiting = [("", network)]
    while waiting:
        name, module = waiting.pop()
        if not isinstance(module, Persistent) or not isinstance(module.state, dict):
            continue
        if len(found) > MOST_TENSORS or name.count(".") >= MOST_DEPTH:
            raise ValueError(f"expected at most {MOST_TENSORS} modules, {MOST_DEPTH} deep, in {path}, got more")
        found[name] = module.state
        inner = module.state.get("_modules")
        if isinstance(inner, dict):
            waiting += [(f"{name}.{key}" if name else key, item) for key, item in inner.items() if isinstance(key, str)]
    return found


def list_tensors(modules: dict[str, dict], path: str | Path) -> dict[str, torch.Tensor]:
    """Returns the parameters and buffers of modules by their dotted names. Raises: ValueError for an oversized one."""
    found, size = {}, Path(path).stat().st_size
    for name, state in modules.items():
        for kind in ("_parameters", "_buffers"):
            own = state.get(kind)
            for key, value in own.items() if isinstance(own, dict) else ():
                if isinstance(value, torch.Tensor) and isinstance(key, str):
                    # by the class: a pickle can hide a tensor's methods behind attributes, which detach leaves behind
                    plain = torch.Tensor.detach(value)
                    if plain.numel() * plain.element_size() > size:
                        raise ValueError(f"expected tensors within the {size} bytes of {path}, got a larger one")
                    found[f"{name}.{key}" if name else key] = plain
    return found


def positive(name: str, value: object, path: str | Path) -> float:
    """Returns a number above 0 of the file. Raises: ValueError when it is none."""
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"expected a positive {name} in {path}, got {describe_value(value)}")
    return float(value)
