"""Torchvision networks as recognizers: an embedding of unit norm, and logits that are scaled cosines to the identities.

Source of the head: Wang et al. 2018, CosFace, Eq. 4 (training adds the margin, recognition does not).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.images import resize
from ganinv.interfaces import Recognition

# VGG-11 (Simonyan and Zisserman 2015, configuration A) at half its width: channels, "M" for a pooling by two
VGG_TRUNK = [32, "M", 64, "M", 128, 128, "M", 256, 256, "M", 512, 512]


class CosineRecognizer(nn.Module):
    """A torchvision network whose last layer is the embedding [N,D], and one direction per identity.

    architecture: any torchvision classifier constructor that takes `num_classes`, or "alexnet_trunk" or "vgg_trunk", the
    convolutions of AlexNet or of a narrow VGG-11 with a pooled linear embedding; input_size: side to which images are
    resized; num_identities: 0 for an open-set recognizer, whose logits are None; mirror: recognize the mean of an image's
    and its mirror's embeddings.
    """

    def __init__(
        self, architecture: str, *, num_identities: int, embedding_dim: int = 256, input_size: int = 64, scale: float = 24.0,
        mirror: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.mirror = mirror
        self.architecture, self.input_size, self.scale = architecture, input_size, scale
        self.embedding_dim = embedding_dim
        self.num_identities = num_identities or None
        self.backbone = build_backbone(architecture, embedding_dim)
        self.directions = nn.Parameter(torch.randn(num_identities, embedding_dim)) if num_identities else None

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Returns embeddings [N,D] of unit norm, float32, of images [N,3,H,W] in [-1,1]."""
        features = self.backbone(resize(images, self.input_size) * 2).float()  # photos have a standard deviation near 0.5
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
        return self.scale * embeddings @ F.normalize(self.directions, dim=1).T


def build_backbone(architecture: str, embedding_dim: int) -> nn.Module:
    """Returns a randomly initialised network: images [N,3,S,S] -> features [N,embedding_dim].

    Raises: ValueError for a name that torchvision does not have.
    """
    import torchvision

    if architecture == "alexnet_trunk":
        trunk = torchvision.models.alexnet(weights=None).features
        return nn.Sequential(
            trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, embedding_dim), nn.BatchNorm1d(embedding_dim)
        )
    if architecture == "vgg_trunk":
        trunk = torchvision.models.vgg.make_layers(VGG_TRUNK, batch_norm=True)
        return nn.Sequential(
            trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, embedding_dim), nn.BatchNorm1d(embedding_dim)
        )
    if architecture not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"expected a torchvision classifier such as resnet18, got {architecture}")
    options = {"aux_logits": False, "init_weights": True} if architecture == "googlenet" else {}
    network = torchvision.models.get_model(architecture, weights=None, num_classes=embedding_dim, **options)
    return nn.Sequential(network, nn.BatchNorm1d(embedding_dim))
