"""LPIPS over two trunks that are never mixed up: ImageNet's AlexNet with learned heads, and a face AlexNet without.

`lpips` in a report is the published metric and needs the published ImageNet weights. `lpips_face` is the same distance
over a trunk trained on faces, with equal weights for all channels; its numbers compare with each other only.
Source: Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Eq. 1.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ganinv import images as image_convention
from ganinv.engine.standins import import_torchvision
from ganinv.interfaces import AbsentError
from ganinv.weights.files import read_tensors, sha256_file

TRUNK_FILE = "alexnet-owt-7be5be79.pth"
TRUNK_SHA256 = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
SMALLEST_SIDE = 31  # below it AlexNet's second pooling has nothing left
CONNECT_TIMEOUT_S = 5.0  # a machine without network says so in seconds, not minutes
ASK_AGAIN_S = 60.0  # and is not waited for by each of the metrics that one report asks for
unreachable: dict[Path, tuple[float, OSError]] = {}  # when, and why the download's server was not


class PerceptualDistance:
    """LPIPS distances between images [N,3,H,W] and [M,3,H,W] in [-1,1]: 0 for equal images, larger is less alike.

    model: an lpips.LPIPS, frozen. Each image passes through the trunk once, however many it is compared with.
    """

    def __init__(self, model: nn.Module):
        self.model = model.eval().requires_grad_(False)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns the features [N,C,h,w] of each layer, of unit norm over the channels.

        Raises: AbsentError when a side is below 31; ValueError when images break the convention.
        """
        image_convention.check(images)
        if min(images.shape[-2:]) < SMALLEST_SIDE:
            size = "x".join(map(str, images.shape[-2:]))
            raise AbsentError(f"expected images of at least {SMALLEST_SIDE} px a side for LPIPS, got {size}")
        import lpips

        return [lpips.normalize_tensor(layer) for layer in self.model.net(self.model.scaling_layer(images))]

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Returns distances [N,M]. Raises: ValueError when the sizes differ; see features."""
        if images.shape[1:] != others.shape[1:]:
            raise ValueError(f"expected images of one size, got {[*images.shape]} and {[*others.shape]}; resize first")
        ours, theirs = self.features(images), self.features(others)
        return torch.stack([self.to_one([layer[n : n + 1] for layer in ours], theirs) for n in range(len(images))])

    def to_one(self, one: list[torch.Tensor], others: list[torch.Tensor]) -> torch.Tensor:
        """Returns distances [M] of one image's features [1,C,h,w] a layer to others [M,C,h,w] a layer."""
        total = 0.0
        for layer, (left, right) in enumerate(zip(one, others, strict=True)):
            difference = (left - right).square()
            head = self.model.lins[layer](difference) if self.model.lpips else difference.sum(1, keepdim=True)
            total = total + head.mean((1, 2, 3))
        return total

    def nearest(self, images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Returns the distance [N] of each image to the nearest of the others [M,3,H,W]. Raises: see __call__."""
        if not len(others):
            raise ValueError("expected at least one image to compare with, got none")
        return self(images, others).amin(1)


class TimesTwo(nn.Module):
    """The input scaling that the face trunk was trained with (CosineRecognizer.embed), for lpips's ImageNet scaling."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * 2


def lpips_imagenet() -> PerceptualDistance:
    """Returns the published metric: LPIPS v0.1, AlexNet trunk, learned heads.

    The trunk file is looked for in torch.hub's checkpoint folder ($TORCH_HOME/hub/checkpoints) and downloaded there
    when it is missing, unless GANINV_OFFLINE=1. It is read as tensors only, after its SHA-256 was checked.
    Raises: AbsentError, naming file, folder and cure, when the file cannot be had or is not the published one, or
    lpips is not installed.
    """
    path = find_trunk_file()
    digest = sha256_file(path)
    if digest != TRUNK_SHA256:
        raise AbsentError(f"expected SHA-256 {TRUNK_SHA256[:8]}... of {path}, got {digest[:8]}...; remove the file")
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = build_model(heads=True)
    load_trunk(model, select_prefix(state, "features."), path)
    return PerceptualDistance(model)


def lpips_face(trunk_file: str | Path) -> PerceptualDistance:
    """Returns the same distance over AlexNet's convolutions from a CosineRecognizer("alexnet_trunk") safetensors file.

    No learned heads: each layer's squared difference of channel-normalised features is summed over channels, averaged
    over places and summed over the five layers (`lpips=False` in the lpips package). The package's ImageNet scaling
    of the input is replaced by the scaling that this trunk was trained with, images * 2.
    Raises: ValueError when the file is missing or holds no such trunk; AbsentError when lpips is not installed.
    """
    state, _ = read_tensors(trunk_file)
    model = build_model(heads=False)
    model.scaling_layer = TimesTwo()
    load_trunk(model, select_prefix(state, "backbone.0."), trunk_file)
    return PerceptualDistance(model)


def build_model(*, heads: bool) -> nn.Module:
    """Returns an lpips.LPIPS over an AlexNet trunk of random weights, which the caller replaces; heads: learned ones.

    Raises: AbsentError when lpips is not installed.
    """
    import_torchvision()
    try:
        import lpips
    except ImportError as error:
        raise AbsentError(f"needs the package lpips ({error}): pip install lpips") from error
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # building draws from the global generator
        # lpips 0.1.4 calls torchvision the old way, which warns twice and changes nothing
        warnings.filterwarnings("ignore", "The parameter 'pretrained' is deprecated", UserWarning)
        warnings.filterwarnings("ignore", "Arguments other than a weight enum", UserWarning)
        return lpips.LPIPS(net="alex", pnet_rand=True, lpips=heads, verbose=False)


def load_trunk(model: nn.Module, trunk: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Copies AlexNet's features ("0.weight", "0.bias", "3.weight", ...) into the model's five slices, strictly.

    Raises: ValueError naming the source when a tensor is missing, unexpected or of another shape.
    """
    slices = [getattr(model.net, f"slice{number}") for number in range(1, model.net.N_slices + 1)]
    wanted = {key: tensor.shape for part in slices for key, tensor in part.state_dict().items()}
    got = {key: tensor.shape for key, tensor in trunk.items()}
    if wanted != got:
        wrong = sorted(key for key in {*wanted, *got} if wanted.get(key) != got.get(key))
        raise ValueError(f"expected the tensors of torchvision's AlexNet features in {source}, got others for {wrong}")
    for part in slices:
        part.load_state_dict({key: trunk[key].float() for key in part.state_dict()}, strict=True)


def select_prefix(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Returns the tensors whose name starts with a prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def find_trunk_file() -> Path:
    """Returns the path of the ImageNet trunk, downloaded if need be. Raises: AbsentError; see lpips_imagenet."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / TRUNK_FILE
    with contextlib.suppress(OSError):  # a folder of another user
        if path.exists():
            return path
    if os.environ.get("GANINV_OFFLINE") == "1":
        raise AbsentError(f"needs {TRUNK_FILE} in {path.parent}: copy it there, or unset GANINV_OFFLINE to download it")
    when, error = unreachable.get(path, (0.0, None))
    if error is None or time.monotonic() - when > ASK_AGAIN_S:
        try:
            download(path)
            return path
        except OSError as failed:  # URLError and timeouts are OSErrors
            error = failed
            if isinstance(error, (urllib.error.URLError, TimeoutError)):
                unreachable[path] = (time.monotonic(), error)
    raise AbsentError(f"needs {TRUNK_FILE} in {path.parent} and cannot download it ({error}): copy it there") from error


def download(path: Path) -> None:
    """Writes the ImageNet trunk (244 MB) under a temporary name, then renames. Raises: OSError."""
    from torchvision.models import AlexNet_Weights

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with urllib.request.urlopen(AlexNet_Weights.IMAGENET1K_V1.url, timeout=CONNECT_TIMEOUT_S) as source:
            print(f"downloading {TRUNK_FILE} (244 MB) to {path.parent}, once", file=sys.stderr)
            with open(temporary, "wb") as file:
                while block := source.read(1 << 20):
                    file.write(block)
        if sha256_file(temporary) != TRUNK_SHA256:
            raise OSError("the downloaded file is broken")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
