"""Checkpoints of rosinality's stylegan2-pytorch, and of the many projects that use its format, as priors.

The networks are those of stylegan2.py; its names are NVIDIA's, so each tensor is given its name there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from ganinv.priors.stylegan2 import LR_MLP, MOST_RESOLUTION, SEED, StyleGAN2, build_prior, take_filters

PREFIX = "g_ema."  # the averaged generator; "g" is the trained one, "d" the discriminator
LAYER = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",  # of a to_rgb
}
MOST_LAYERS = 2 * MOST_RESOLUTION.bit_length()

log = logging.getLogger(__name__)


def is_checkpoint(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether the flattened tensors of a torch checkpoint are of this format."""
    return f"{PREFIX}input.input" in tensors


def parse_checkpoint(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> StyleGAN2:
    """Returns the averaged generator, on the CPU. tensors: as weights.files.read_tensors gives them.

    The mean w is latent_avg where the file has it, else that of seeded latents. Noise that a file lacks, as some old
    ones do, is drawn, seeded, and said.
    Raises: ValueError naming the tensors that are missing, odd, of another shape or not finite.
    """
    own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    own = take_filters(own, ".kernel", 4.0, path)
    named = {rename(name, path): squeeze(name, tensor) for name, tensor in own.items()}
    if "latent_avg" in tensors:
        named["mapping.w_avg"] = tensors["latent_avg"].flatten()
    lacking = [name for name in named if name.endswith("noise_strength") and noise_of(name) not in named]
    if lacking:
        log.warning("%s holds no noise for %d layers: it is drawn with seed %d", path, len(lacking), SEED)
        generator = torch.Generator().manual_seed(SEED)
        for name in sorted(lacking):
            side = int(re.search(r"\.b(\d+)\.", name)[1])
            named[noise_of(name)] = torch.randn(side, side, generator=generator)
    return build_prior(named, path, lr_mlp=LR_MLP)


def noise_of(strength: str) -> str:
    """Returns the name of the noise that belongs to a noise_strength."""
    return strength.replace("noise_strength", "noise_const")


def rename(name: str, path: str | Path) -> str:
    """Returns NVIDIA's name of a tensor. Raises: ValueError for a name that this format does not have."""
    if name == "input.input":
        return "synthesis.b4.const"
    if match := re.fullmatch(r"style\.(\d{1,3})\.(weight|bias)", name):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}"  # style.0 normalises z
    if match := re.fullmatch(r"noises\.noise_(\d{1,3})", name):
        return f"synthesis.{conv_name(int(match[1]), path)}.noise_const"
    if match := re.fullmatch(r"(conv1|to_rgb1|convs\.(\d{1,3})|to_rgbs\.(\d{1,3}))\.(.+)", name):
        layer, conv, rgb, rest = match.groups()
        if rest in LAYER:
            if layer.startswith("conv"):
                return f"synthesis.{conv_name(int(conv) + 1 if conv else 0, path)}.{LAYER[rest]}"
            return f"synthesis.b{4 * 2 ** (int(rgb) + 1 if rgb else 0)}.torgb.{LAYER[rest]}"
    raise ValueError(f"expected tensors of rosinality's stylegan2-pytorch in {path}, got {ascii(name)[:80]}")


def conv_name(index: int, path: str | Path) -> str:
    """Returns the block and layer of the index-th convolution: one at 4 px, then two at each size."""
    if index > MOST_LAYERS:
        raise ValueError(f"expected at most {MOST_LAYERS} convolutions in {path}, got number {index}")
    return f"b{4 * 2 ** ((index + 1) // 2)}.conv{1 if index == 0 else (index + 1) % 2}"


def squeeze(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor without the dimensions of size one that this format adds; others stay, and are refused later."""
    if name.startswith("noises."):
        return tensor[0, 0] if tensor.shape[:2] == (1, 1) else tensor
    if name.endswith("noise.weight"):
        return tensor[0] if tensor.shape == (1,) else tensor
    if name == "input.input" or name.endswith("conv.weight"):
        return tensor[0] if tensor.shape[:1] == (1,) else tensor
    if "to_rgb" in name and name.endswith("bias") and "modulation" not in name:
        return tensor.flatten() if tensor.ndim == 4 else tensor
    return tensor
