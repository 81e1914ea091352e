"""Torchvision networks as recognizers: an embedding of unit norm, and logits that are scaled cosines to the identities.

Source of the head: Wang et al. 2018, CosFace, Eq. 4 (training adds the margin, recognition does not).
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.engine.standins import import_torchvision
from ganinv.images import resize
from ganinv.interfaces import Recognition
from ganinv.recognizers.gallery import Enrollable

# VGG-11 (Simonyan and Zisserman 2015, configuration A) at half its width: channels, "M" for a pooling by two
VGG_TRUNK = [32, "M", 64, "M", 128, 128, "M", 256, 256, "M", 512, 512]
# the same of patches of 4x4 pixels: wide maps of few channels cost a CPU most, and say least
PATCH, PATCH_TRUNK = 4, [64, 64, "M", 128, 128, 128, "M", 256, 256, 256, "M", 512]
INCEPTION_TRUNK = [64, 64, "M", 128, 128, "M", 256, 256, "M", 512]
HIDDEN = 512  # units of the hidden layer of "mlp"
WIDEST = 4.0  # of a narrowed or widened ResNet: a card must not ask for any amount of memory


class CosineRecognizer(Enrollable, nn.Module):
    """A torchvision network whose last layer is the embedding [N,D], and one direction per identity.

    architecture: see build_backbone; input_size: side to which images are resized; num_identities: 0 for an open-set
    recognizer, whose logits are None; mirror: recognize the mean of an image's and its mirror's embeddings.
    """

    def __init__(
        self, architecture: str, *, num_identities: int, embedding_dim: int = 256, input_size: int = 64, scale: float = 24.0,
        mirror: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.mirror, self.reframe = mirror, nn.Identity()  # of images in another frame than the network's: see loading
        self.architecture, self.input_size, self.scale = architecture, input_size, scale
        self.embedding_dim = embedding_dim
        self.num_identities = num_identities or None
        self.backbone = build_backbone(architecture, embedding_dim, input_size)
        self.directions = nn.Parameter(torch.randn(num_identities, embedding_dim)) if num_identities else None

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Returns embeddings [N,D] of unit norm, float32, of images [N,3,H,W] in [-1,1]."""
        features = self.backbone(
            resize(self.reframe(images), self.input_size) * 2
        ).float()  # photos have a standard deviation near 0.5
        return F.normalize(features, dim=1)

    def forward(self, images: torch.Tensor) -> Recognition:
        """Returns embeddings [N,D] and logits [N,C] in [-scale,scale]."""
        embeddings = self.embed(images)
        if self.mirror:
            embeddings = F.normalize(embeddings + self.embed(images.flip(3)), dim=1)
        if self.directions is None:
            return Recognition(embeddings, None)
        return Recognition(embeddings, self.classify(embeddings))

    def classify(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Returns logits [N,C] in [-scale,scale] of embeddings [N,D] of unit norm."""
        with torch.autocast(embeddings.device.type, enabled=False):  # 16 bits round a logit of 24 by a tenth
            return self.scale * embeddings @ F.normalize(self.directions, dim=1).T


def build_backbone(architecture: str, embedding_dim: int, input_size: int = 64) -> nn.Module:
    """Returns a randomly initialised network: images [N,3,S,S] -> features [N,embedding_dim].

    architecture: any torchvision classifier constructor that takes `num_classes`; "alexnet_trunk" or "vgg_trunk", the
    convolutions of AlexNet or of a narrow VGG-11 with a pooled linear embedding; "vgg_patches" and "inception_patches", a VGG
    and naive Inception modules of patches of 4x4 pixels; "resnet18-0.5", a ResNet-18 or 34 whose stages have so many times
    the channels; "mlp", one hidden layer; "linear", an affine map of the pixels: with the head of CosineRecognizer a linear
    softmax, up to the unit norm. The last two alone need S, input_size.
    Raises: ValueError for another name, or a width that is none.
    """
    torchvision = import_torchvision()
    norm = nn.BatchNorm1d(embedding_dim)  # affine, once it is trained
    if architecture in ("linear", "mlp"):
        pixels = 3 * input_size**2
        if architecture == "linear":
            return nn.Sequential(nn.Flatten(), nn.Linear(pixels, embedding_dim), norm)
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, embedding_dim), norm)
    if architecture == "alexnet_trunk":
        trunk = torchvision.models.alexnet(weights=None).features
        return nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, embedding_dim), norm)
    if architecture == "vgg_trunk":
        trunk = torchvision.models.vgg.make_layers(VGG_TRUNK, batch_norm=True)
        return nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, embedding_dim), norm)
    if architecture == "vgg_patches":
        trunk = torchvision.models.vgg.make_layers(PATCH_TRUNK, batch_norm=True)
        trunk[0] = nn.Conv2d(3 * PATCH**2, PATCH_TRUNK[0], 3, padding=1)
        layers = (nn.PixelUnshuffle(PATCH), trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, embedding_dim))
        return nn.Sequential(*layers, norm)
    if architecture == "inception_patches":
        trunk = build_inception(3 * PATCH**2, INCEPTION_TRUNK)
        layers = (nn.PixelUnshuffle(PATCH), trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, embedding_dim))
        return nn.Sequential(*layers, norm)
    if match := re.fullmatch(r"(resnet18|resnet34)-(\d{1,3}(?:\.\d{1,6})?)", architecture):
        return nn.Sequential(build_resnet(match[1], float(match[2]), embedding_dim), norm)
    if architecture not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"expected a torchvision classifier such as resnet18, linear or mlp, got {architecture}")
    options = {"aux_logits": False, "init_weights": True} if architecture == "googlenet" else {}
    network = torchvision.models.get_model(architecture, weights=None, num_classes=embedding_dim, **options)
    return nn.Sequential(network, norm)


class Inception(nn.Module):
    """Convolutions of three widths side by side. Source: Szegedy et al. 2015, Fig. 2a, less its pooling."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        widths = {1: channels // 4, 3: channels // 2, 5: channels // 4}
        self.branches = nn.ModuleList(nn.Conv2d(inputs, width, side, padding=side // 2) for side, width in widths.items())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def build_inception(inputs: int, channels: list[int | str]) -> nn.Sequential:
    """Returns Inception modules of so many channels, each with batch norm and ReLU; "M": a pooling by two."""
    layers: list[nn.Module] = []
    for count in channels:
        if count == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [Inception(inputs, count), nn.BatchNorm2d(count), nn.ReLU(inplace=True)]
            inputs = count
    return nn.Sequential(*layers)


def build_resnet(name: str, width: float, embedding_dim: int) -> nn.Module:
    """Returns a ResNet-18 or 34 whose four stages have `width` times the channels; its first convolution keeps 64.

    Raises: ValueError for a width that leaves no channel, or is above WIDEST.
    """
    from torchvision.models.resnet import BasicBlock, ResNet

    last = round(512 * width)
    if not 1 / 64 <= width <= WIDEST:
        raise ValueError(f"expected a width of {1 / 64:g} to {WIDEST:g} times {name}, got {width:g}")

    class Scaled(ResNet):
        def _make_layer(self, block, planes, *args, **options):
            return super()._make_layer(block, round(planes * width), *args, **options)

    network = Scaled(BasicBlock, {"resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3]}[name])
    network.fc = nn.Linear(last, embedding_dim)
    return network
