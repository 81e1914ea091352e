"""A prior whose faces lie elsewhere in the picture than the world's do, or whose pictures are of another size."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from ganinv.images import resize
from ganinv.interfaces import Generator
from ganinv.recognizers.published.frame import Frame, Reframe


class FramedGenerator(nn.Module):
    """A prior in another frame. key: under which its pictures are kept; sha256: of the prior, whose own have another."""

    def __init__(self, generator: Generator, source: Frame, frame: Frame, *, sha256: str):
        super().__init__()
        self.generator, self.resolution = generator, generator.resolution
        self.key = hashlib.sha256(f"{sha256} {source} {frame}".encode()).hexdigest()
        self.z_dim, self.num_ws, self.w_dim = generator.z_dim, generator.num_ws, generator.w_dim
        self.reframe = Reframe(source, frame, generator.resolution)

    def map(self, z: torch.Tensor, psi: float = 1.0) -> torch.Tensor:
        """Returns w [N,num_ws,w_dim] of z [N,z_dim]."""
        return self.generator.map(z, psi)

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,R,R]; what the prior does not show of the world's frame repeats its edge."""
        return self.reframe(self.generator.synthesize(w))


class ResizedGenerator(nn.Module):
    """A prior whose pictures are shown at another size. key: beside the prior's hash, under which they are kept."""

    def __init__(self, generator: Generator, resolution: int):
        super().__init__()
        self.generator, self.resolution = generator, resolution
        self.key = f"{getattr(generator, 'key', '')} {resolution}"
        self.z_dim, self.num_ws, self.w_dim = generator.z_dim, generator.num_ws, generator.w_dim

    def map(self, z: torch.Tensor, psi: float = 1.0) -> torch.Tensor:
        """Returns w [N,num_ws,w_dim] of z [N,z_dim]."""
        return self.generator.map(z, psi)

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,resolution,resolution] of w [N,num_ws,w_dim]."""
        return resize(self.generator.synthesize(w), self.resolution)
