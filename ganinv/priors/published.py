"""A published generator as a prior: the DCGAN of the package gan-face-generate, which learned rendered people.

Its weights are read as data from the installed package, which is not imported. Its people are those of DigiFace-1M, who do
not exist, so a prior of it has met nobody.
Source: Radford, Metz and Chintala 2016, DCGAN; Bae et al. 2023, DigiFace-1M.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ganinv.recognizers.published.files import DIGIFACE_FILE, choose_file
from ganinv.recognizers.published.frame import WORLD, Frame, Reframe
from ganinv.weights.files import check_tensors, read_tensors

CHANNELS = (100, 512, 256, 128, 64, 3)  # of z, then of the five layers, at 4, 8, 16, 32 and 64 px
# where MTCNN finds the points in 285 of 300 samples, the median
DIGIFACE = Frame(((0.352, 0.470), (0.661, 0.465), (0.508, 0.664), (0.376, 0.826), (0.642, 0.821)))
PREFIX = "netG_state_dict.main."
EPSILON = 1e-5  # torch's default, in its batch norms

ABOUT = (
    "gan-face-generate's DCGAN: licence MIT; trained on DigiFace-1M, rendered people who do not exist; "
    "from gan-face-generate 1.1.1"
)


class DigiFace(nn.Module):
    """A DCGAN whose faces are brought into the world's frame. z and w are standard normal, 100 numbers.

    It has no mapping network: w [N,1,100] is z itself, one for all layers, so that the mean w is 0 and psi scales z. A
    smaller z gives a more ordinary face. Below the chin its picture ends before the world's does: its last rows go on.
    """

    z_dim = w_dim = CHANNELS[0]
    num_ws = 1
    resolution = 64
    about = ABOUT

    def __init__(self, layers: list[nn.ConvTranspose2d], frame: Frame = WORLD):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.reframe = Reframe(DIGIFACE, frame, self.resolution)
        self.requires_grad_(False).eval()

    def map(self, z: torch.Tensor, psi: float = 1.0) -> torch.Tensor:
        """Returns w [N,1,100], z drawn towards the mean."""
        return (psi * z)[:, None]

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,64,64] in [-1,1]. Raises: ValueError for other shapes."""
        if w.ndim != 3 or w.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"expected w of shape [N,{self.num_ws},{self.w_dim}], got {list(w.shape)}")
        first, *others = self.layers
        # on a picture of one pixel, a transposed convolution is a matrix product
        x = w[:, 0] @ first.weight.flatten(1) + first.bias.repeat_interleave(first.weight[0, 0].numel())
        x = x.view(len(w), -1, *first.kernel_size)
        for layer in others:
            x = layer(F.relu(x))
        return self.reframe(x.tanh().float())


def parse_checkpoint(path: str | Path, tensors: Mapping[str, torch.Tensor], *, frame: Frame = WORLD) -> DigiFace:
    """Returns the prior of a checkpoint's tensors, on the CPU, with batch norms folded into the layers before them.

    tensors: as loading.read_tensors gives them. Raises: ValueError naming the tensors that are missing, odd or not finite.
    """
    expected: dict[str, torch.Tensor] = {}
    for number, (inner, outer) in enumerate(zip(CHANNELS, CHANNELS[1:], strict=False)):
        expected[f"{PREFIX}{3 * number}.weight"] = torch.empty(inner, outer, 4, 4)
        if outer != CHANNELS[-1]:
            for name in ("weight", "bias", "running_mean", "running_var"):
                expected[f"{PREFIX}{3 * number + 1}.{name}"] = torch.empty(outer)
    own = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    own = check_tensors(own, expected, path)
    layers = []
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn and replaced: leave the caller's draws alone
        for number, (inner, outer) in enumerate(zip(CHANNELS, CHANNELS[1:], strict=False)):
            layer = nn.ConvTranspose2d(inner, outer, 4, 1 if number == 0 else 2, 0 if number == 0 else 1)
            weight, bias = own[f"{PREFIX}{3 * number}.weight"], torch.zeros(outer)
            if outer != CHANNELS[-1]:
                gamma, beta, mean, variance = (
                    own[f"{PREFIX}{3 * number + 1}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
                )
                weight, bias = fuse_conv_bn_weights(weight, None, mean, variance, EPSILON, gamma, beta, transpose=True)
            layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
            layers.append(layer)
    return DigiFace(layers, frame)


def load_digiface(name: str = "", *, frame: Frame = WORLD) -> DigiFace:
    """Returns the prior, on the CPU. name: a checkpoint of the same network; "": the installed package's.

    Raises: ValueError when the package or the file is missing, or the file is another, not whole, or no plain data.
    """
    path = choose_file(DIGIFACE_FILE, name, spec="digiface")
    return parse_checkpoint(path, read_tensors(path)[0], frame=frame)
