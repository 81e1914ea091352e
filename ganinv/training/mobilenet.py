"""The trunk of MobileNetV2, with weights as Keras names them: features of pictures that know nothing of identities.

Source: Sandler et al. 2018, MobileNetV2; the network is that of keras-applications.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ganinv.weights.files import read_tensors
from ganinv.weights.tfjs import read_tfjs

STRIDES = {1: 2, 3: 2, 6: 2, 13: 2}  # of the blocks that halve their maps
EPSILON = 1e-3  # of the batch norms
TAPS = (2, 5, 12)  # blocks whose outputs are looked at: maps of a quarter, an eighth and a sixteenth of the side


class MobileNetV2(nn.Module):
    """Pictures [N,3,H,W] in [0,1] -> the outputs [N,C,h,w] of some blocks; frozen, batch norms folded.

    taps: numbers of the blocks, 0 (a half of the side, 16 channels) to 16 (a 32nd, 320 channels).
    Raises: ValueError naming a tensor that is missing.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], taps: tuple[int, ...] = TAPS):
        super().__init__()
        self.taps = taps
        first = [
            *fold(tensors, "Conv1", "bn_Conv1", stride=2),
            *fold(tensors, "expanded_conv_depthwise", "expanded_conv_depthwise_BN"),
            *fold(tensors, "expanded_conv_project", "expanded_conv_project_BN", active=False),
        ]
        self.blocks = nn.ModuleList([nn.Sequential(*first)])
        for index in range(1, max(taps) + 1):
            parts = {"expand": {}, "depthwise": {"stride": STRIDES.get(index, 1)}, "project": {"active": False}}
            layers = [
                layer
                for part, how in parts.items()
                for layer in fold(tensors, f"block_{index}_{part}", f"block_{index}_{part}_BN", **how)
            ]
            self.blocks.append(nn.Sequential(*layers))
        self.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns the outputs of the taps, largest first."""
        maps = []
        for index, block in enumerate(self.blocks):
            y = block(x)
            x = x + y if y.shape == x.shape else y
            if index in self.taps:
                maps.append(x)
        return maps


def fold(
    tensors: Mapping[str, torch.Tensor], conv: str, norm: str, *, stride: int = 1, active: bool = True
) -> list[nn.Module]:
    """Returns the layers of a Keras convolution and its batch norm, folded, then a ReLU6 where it is active.

    Raises: ValueError naming a tensor that is missing.
    """

    def find(name: str) -> torch.Tensor:
        if name not in tensors:
            raise ValueError(f"expected the tensor {name} of a MobileNetV2 as Keras names them, got none of that name")
        return tensors[name].float()

    depthwise = f"{conv}/depthwise_kernel" in tensors
    # Keras keeps kernels as [height, width, inputs, outputs]
    kernel = find(f"{conv}/depthwise_kernel").permute(2, 3, 0, 1) if depthwise else find(f"{conv}/kernel").permute(3, 2, 0, 1)
    gain = find(f"{norm}/gamma") / (find(f"{norm}/moving_variance") + EPSILON).sqrt()
    filters, inputs, side, _ = kernel.shape
    layer = nn.Conv2d(
        filters if depthwise else inputs, filters, side, stride, padding=0 if stride == 2 else side // 2,
        groups=filters if depthwise else 1,
    )  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(kernel * gain[:, None, None, None])
        layer.bias.copy_(find(f"{norm}/beta") - find(f"{norm}/moving_mean") * gain)
    padding = [nn.ZeroPad2d((0, 1, 0, 1))] if stride == 2 else []  # as Keras pads an even side
    return [*padding, layer, *([nn.ReLU6()] if active else [])]


def load_mobilenet(file: str | Path, taps: tuple[int, ...] = TAPS) -> MobileNetV2:
    """Returns the trunk of Keras' tensors: in a .safetensors file, or in a layers model of TensorFlow.js, NAME.json.

    Raises: ValueError, see MobileNetV2, read_tensors and read_tfjs.
    """
    file = Path(file)
    return MobileNetV2(read_tfjs(file) if file.suffix == ".json" else read_tensors(file)[0], taps)
