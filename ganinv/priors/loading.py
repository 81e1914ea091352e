"""From a spec to a frozen prior."""

from __future__ import annotations

from pathlib import Path

import torch

from ganinv.interfaces import Generator
from ganinv.priors import rosinality
from ganinv.priors.checks import NUMBERS, check_prior
from ganinv.weights.checkpoints import find_checkpoint
from ganinv.weights.files import read_tensors
from ganinv.weights.specs import call_factory, freeze, split_spec


def load_generator(spec: str, device: torch.device | str = "cpu") -> Generator:
    """Returns the frozen prior of a spec: a checkpoint, a folder of stylegan2-pytorch's, or code.

    "people", where no file of that name lies, is the renderer of the synthetic world: the prior that knows everyone;
    "digiface" the published DCGAN of rendered people, from its package.
    Raises: ValueError when there is no such file or code, or it gives no prior.
    """
    if spec == "people" and not Path(spec).exists():
        from ganinv.priors.rendered import RenderedPeople

        return freeze(RenderedPeople(), device)
    if spec == "digiface" and not Path(spec).exists():
        from ganinv.priors.published import load_digiface

        return freeze(load_digiface(), device)
    code = split_spec(spec)
    if code is None:
        return freeze(load_prior(spec), device)
    generator = freeze(call_factory(*code), device)
    lacking = [name for name in NUMBERS if not isinstance(getattr(generator, name, None), int)]
    lacking += [name for name in ("map", "synthesize") if not callable(getattr(generator, name, None))]
    if lacking:
        raise ValueError(f"expected a prior as interfaces.Generator says, got {type(generator).__name__} without {lacking}")
    check_prior(generator, device=device)
    return generator


def load_prior(path: str | Path) -> Generator:
    """Returns the prior of a checkpoint, on the CPU: NVIDIA's .pkl, or rosinality's, stylegan2-pytorch's or our own file.

    Raises: ValueError when there is no such file, or it cannot be read as one of them.
    """
    from ganinv.priors import nvidia, stylegan2_pytorch_files

    path = find_checkpoint(path)
    if path.suffix == ".pkl":
        return nvidia.load_checkpoint(path)
    tensors, said = read_tensors(path)
    tensors = unwrap(tensors)
    if rosinality.is_checkpoint(tensors):
        return rosinality.parse_checkpoint(path, tensors)
    return stylegan2_pytorch_files.parse_checkpoint(path, tensors, said)


def unwrap(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns a prior's tensors under the names of its own trainer, whatever they are wrapped in: "module.", "params_ema".

    Of several copies of rosinality's generator, that is taken whose prefix says "ema".
    """
    marks = (("input.input", rosinality.PREFIX), ("GE.initial_conv.weight", "GAN."), ("G.initial_conv.weight", "GAN."))
    for mark, own in marks:
        found = [name.removesuffix(mark) for name in tensors if name.endswith(mark)]
        if not found or own in found:
            continue
        prefix = next((one for one in found if "ema" in one), found[0])
        if prefix or own == rosinality.PREFIX:
            inside = {own + name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            return inside | {name: tensor for name, tensor in tensors.items() if name == "latent_avg"}
    return tensors
