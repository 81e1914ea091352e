"""How far reconstructions are from photos, in the eyes of a recognizer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.recognizers.cosine import CosineRecognizer


class FaceDistance(nn.Module):
    """How far reconstructions are from photos [N,3,R,R], in the eyes of a recognizer: two numbers [].

    The first is over its features before each pooling, of unit norm over the channels (Zhang et al. 2018, Eq. 1, mean over
    layers); the second is 1 - cosine of the embeddings. The recognizer must have been trained on public people only, and
    must not be a judge of what this prior yields. Raises: ValueError for one without a plain chain of convolutions.
    """

    def __init__(self, recognizer: CosineRecognizer):
        super().__init__()
        if not isinstance(recognizer.backbone[0], nn.Sequential):
            raise ValueError(f"expected an alexnet_trunk or a vgg_trunk for its features, got {recognizer.architecture}")
        self.recognizer = [recognizer]  # in a list: no part of the state, never trained

    def describe(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns the features [N,C,h,w] of every scale, and the embeddings [N,D], all of unit norm."""
        trunk, *rest = self.recognizer[0].backbone
        x, described = images * 2, []
        for layer in trunk:
            if isinstance(layer, nn.MaxPool2d):
                described.append(F.normalize(x.float(), dim=1))
            x = layer(x)
        for layer in rest:
            x = layer(x)
        return [*described, F.normalize(x.float(), dim=1)]

    def forward(self, reconstructions: torch.Tensor, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            *theirs, their_embeddings = self.describe(photos)
        *ours, our_embeddings = self.describe(reconstructions)
        layers = [(a - b).square().sum(1).mean() for a, b in zip(ours, theirs, strict=True)]
        return torch.stack(layers).mean(), 1 - (our_embeddings * their_embeddings).sum(1).mean()
