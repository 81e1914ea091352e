"""Toy models whose answers are arithmetic: a linear prior, and a recognizer that measures distances to known pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.interfaces import Recognition
from ganinv.photos import Photos


class LinearGenerator(nn.Module):
    """Images that are an orthonormal linear map of the mean w; w of z is z itself."""

    z_dim = w_dim = 4
    num_ws = 2
    resolution = 8

    def __init__(self):
        super().__init__()
        matrix = torch.linalg.qr(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))[0]
        self.register_buffer("matrix", matrix.T)  # [4,64], orthonormal rows

    def map(self, z, psi=1.0):
        return (psi * z)[:, None].expand(-1, self.num_ws, -1)

    def synthesize(self, w):
        return (w.mean(1) @ self.matrix).view(-1, 1, 8, 8).expand(-1, 3, -1, -1)


class DistanceRecognizer(nn.Module):
    """logits = -sharpness * |grey - centre|^2: the best picture of an identity is its centre."""

    def __init__(self, centres: torch.Tensor, sharpness: float = 4.0):
        super().__init__()
        self.centres, self.sharpness = nn.Parameter(centres), sharpness  # [C,64]
        self.num_identities, self.embedding_dim = len(centres), centres.shape[1]

    def forward(self, images):
        grey = images.mean(1).flatten(1)
        logits = -self.sharpness * (grey[:, None] - self.centres).square().sum(2)
        return Recognition(F.normalize(grey, dim=1), logits)


class RawRecognizer(DistanceRecognizer):
    """The same, whose embeddings are the grey pixels themselves, compared by their Euclidean distance."""

    metric = "euclidean"

    def forward(self, images):
        return Recognition(images.mean(1).flatten(1), super().forward(images).logits)


def photos_of(person: list[int], side: int = 4) -> Photos:
    """Returns black photos of the people whose numbers are listed."""
    count = len(person)
    names = tuple(f"p{number}" for number in range(max(person) + 1))
    pixels = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    return Photos(pixels, torch.tensor(person), names, tuple(f"{index}.png" for index in range(count)))


def toy_world() -> tuple[LinearGenerator, DistanceRecognizer, torch.Tensor]:
    """Returns a prior, a target of three identities, and the known w [3,4] at which each identity's picture lies."""
    generator = LinearGenerator()
    known = torch.tensor([[0.8, -0.5, 0.3, 0.6], [-0.7, 0.9, 0.2, -0.4], [0.1, 0.3, -1.0, 0.5]])
    centres = generator.synthesize(known[:, None].expand(-1, 2, -1))[:, 0].flatten(1)
    return generator, DistanceRecognizer(centres), known
