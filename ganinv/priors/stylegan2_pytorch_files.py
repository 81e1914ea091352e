"""Priors of stylegan2-pytorch from files and into them: its own model_<N>.pt, and ours, smaller and with a card."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from ganinv.engine.meta import on_meta
from ganinv.priors.stylegan2_pytorch import LR_MLP, StyleGAN2PyTorch, build_networks, import_stylegan2_pytorch
from ganinv.weights.cards import read_card, read_json
from ganinv.weights.checkpoints import find_checkpoint
from ganinv.weights.files import check_tensors, read_tensors, save_weights
from ganinv.weights.quantisation import dequantise, quantise
from ganinv.weights.quoting import show

MOST_BLOCKS = 10  # 2048 px; what asks for more is no checkpoint
PARTS = ("S", "G", "D", "SE", "GE", "D_aug", "D_cl")  # of the package's StyleGAN2; SE and GE are the averaged networks

log = logging.getLogger(__name__)


def load_checkpoint(path: str | Path) -> StyleGAN2PyTorch:
    """Returns the prior of stylegan2-pytorch's own model_<N>.pt or of a file that save_prior wrote, on the CPU.

    path: the file, or a folder models/<name>, whose latest model_<N>.pt is taken. Raises: see parse_checkpoint.
    """
    path = find_checkpoint(path)
    return parse_checkpoint(path, *read_tensors(path))


def parse_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], said: Mapping) -> StyleGAN2PyTorch:
    """Returns the prior of what read_tensors gave of a file.

    The architecture is read off the tensors, so a model_<N>.pt needs no .config.json beside it; lr_mlp alone stands
    there, and is assumed and logged where nothing says it. A card beside a .safetensors file must carry its SHA-256.
    Raises: ValueError when a file is missing or not whole, its tensors are missing, odd, of another shape or not
    finite, or its card or .config.json is of another model.
    """
    if path.suffix == ".safetensors" and os.path.lexists(path.with_suffix(".json")):
        read_card(path)
    if any(name.startswith("GAN.") for name in tensors):
        tensors = {name.removeprefix("GAN."): value for name, value in tensors.items() if name.startswith("GAN.")}
    tensors = dict(tensors)
    extras = {name: tensors.pop(name) for name in ("mean_w", "noise") if name in tensors}
    if odd := sorted(name for name in tensors if name.split(".")[0] not in PARTS):
        raise ValueError(f"expected tensors of {', '.join(PARTS)} in {path}, got {', '.join(map(show, odd[:4]))}")
    weights = {name: value for name, value in tensors.items() if name.startswith(("SE.", "GE."))}
    if not weights and any(name.startswith("G.") for name in tensors):
        log.warning("%s has no averaged networks SE and GE: S and G are taken, whose pictures are worse", path)
        weights = {name.replace(".", "E.", 1): value for name, value in tensors.items() if name.startswith(("S.", "G."))}
    architecture = infer_architecture(weights, path)
    prior = build_prior(weights, architecture, find_lr_mlp(path, said, architecture), extras, path)
    if architecture["attention"] and is_older(said.get("version")):
        log.warning("%s is of stylegan2-pytorch before 1.8.8, whose attention layers divide by another number", path)
        prior.use_older_norms()
    return prior


def is_older(version: object) -> bool:
    """Says whether a checkpoint's version of stylegan2-pytorch has the norms of before 1.8.8."""
    numbers = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})", version) if isinstance(version, str) else None
    return numbers is not None and tuple(map(int, numbers.groups())) < (1, 8, 8)


def infer_architecture(weights: Mapping[str, torch.Tensor], path: str | Path) -> dict:
    """Returns what build_networks takes, all but lr_mlp, read off the names and shapes of "SE.*" and "GE.*".

    fmap_max comes back as the widest layer and capacity as half the narrowest, which build the same network.
    Raises: ValueError naming a tensor that this needs and that is missing or of another rank.
    """

    def shape(name: str, ndim: int) -> torch.Size:
        got = list(weights[name].shape) if name in weights else "none of that name"
        if name not in weights or weights[name].ndim != ndim:
            raise ValueError(f"expected the tensor {name} with {ndim} dimensions in {path}, got {got}")
        return weights[name].shape

    def indices(pattern: str) -> list[int]:
        return sorted({int(match[1]) for match in (re.match(pattern, name) for name in weights) if match})

    blocks = indices(r"GE\.blocks\.(\d{1,3})\.")
    if not blocks or blocks != list(range(len(blocks))) or len(blocks) > MOST_BLOCKS:
        raise ValueError(f"expected 1 to {MOST_BLOCKS} blocks GE.blocks.0, 1, ... in {path}, got {blocks or 'none'}")
    narrowest = shape(f"GE.blocks.{blocks[-1]}.conv2.weight", 4)[0]
    return {
        "resolution": 2 ** (len(blocks) + 1),
        "capacity": -(-narrowest // 2),
        "fmap_max": shape("GE.initial_conv.weight", 4)[0],
        "attention": tuple(len(blocks) - index for index in indices(r"GE\.attns\.(\d{1,3})\.")),
        "no_const": "GE.to_initial_block.weight" in weights,
        "transparent": shape("GE.blocks.0.to_rgb.conv.weight", 4)[0] == 4,
        "w_dim": shape("SE.net.0.weight", 2)[1],
        "depth": len(indices(r"SE\.net\.(\d{1,3})\.")),
    }


def find_lr_mlp(path: Path, said: Mapping, architecture: Mapping) -> float:
    """Returns lr_mlp from a file's own metadata or the .config.json beside it; else the default, which is logged.

    Raises: ValueError when the .config.json is broken or is of another architecture.
    """
    config_path, config = path.with_name(".config.json"), dict(said)
    if "lr_mlp" not in said and path.suffix != ".safetensors" and os.path.lexists(config_path):
        config = read_json(config_path, beside=path)
        found = {"image_size": "resolution", "transparent": "transparent", "no_const": "no_const"}
        other = [name for name, ours in found.items() if config.get(name, architecture[ours]) != architecture[ours]]
        if other:
            raise ValueError(
                f"expected {other[0]} {architecture[found[other[0]]]} as in {path}, got {show(str(config[other[0]]))} from "
                f"{config_path}, which belongs to another model; remove it"
            )
    if "lr_mlp" not in config:
        log.warning("%s does not say lr_mlp: assumed the default, %s", path, LR_MLP)
        return LR_MLP
    try:
        lr_mlp = float(config["lr_mlp"])
    except (TypeError, ValueError, OverflowError):
        lr_mlp = math.nan
    if not math.isfinite(lr_mlp):
        raise ValueError(f"expected a number lr_mlp with {path}, got {show(repr(config['lr_mlp']))}")
    return lr_mlp


def build_prior(
    weights: Mapping[str, torch.Tensor], architecture: Mapping, lr_mlp: float, extras: Mapping[str, torch.Tensor], path
) -> StyleGAN2PyTorch:
    """Returns the prior of weights "SE.*" and "GE.*"; extras: mean_w, noise, if known. Raises: see load_checkpoint."""
    import_stylegan2_pytorch()  # here: what it computes while it is imported belongs on a device
    # nothing is drawn for weights that are replaced: faster, and the caller's random numbers stay
    with torch.random.fork_rng(devices=[]), on_meta():
        networks = dict(zip(("SE", "GE"), build_networks(**architecture, lr_mlp=lr_mlp), strict=True))
    expected = {f"{part}.{name}": value for part, net in networks.items() for name, value in net.state_dict().items()}
    weights = check_tensors(weights, expected, path)
    for part, network in networks.items():
        own = {name.removeprefix(f"{part}."): value for name, value in weights.items() if name.startswith(f"{part}.")}
        network.load_state_dict(own, assign=True)
    size = architecture["resolution"]
    sizes = {"mean_w": torch.empty(architecture["w_dim"]), "noise": torch.empty(1, size, size, 1)}
    extras = check_tensors(extras, {name: sizes[name] for name in extras}, path)
    return StyleGAN2PyTorch(networks["SE"], networks["GE"], **extras)


def save_prior(path: str | Path, weights: Mapping[str, torch.Tensor], card: Mapping, *, lr_mlp: float = LR_MLP) -> dict:
    """Writes a prior: <name>.safetensors with weights, mean w and noise, and its card. Returns the card.

    weights: "SE.*" and "GE.*", as train_gan returns them; stored as weights.quantisation.quantise says, and the mean w
    is that of the stored weights. card: what else there is to say: command, data, seed, metrics, ...
    Raises: ValueError when the weights are no prior, or see weights.files.save_weights.
    """
    stored = quantise(weights)
    rounded = dequantise(stored)
    architecture = infer_architecture(rounded, path)
    prior = build_prior(rounded, architecture, lr_mlp, {}, path)
    card = {**card, "kind": "stylegan2_pytorch", **architecture, "lr_mlp": lr_mlp, "stored": "int8 rows"}
    tensors = stored | {"mean_w": prior.mean_w, "noise": prior.noise}
    return save_weights(path, tensors, card, metadata={"lr_mlp": str(lr_mlp)})
