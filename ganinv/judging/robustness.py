"""Changes that leave a face the same face: what a recognizer's verdict loses under them was a pattern, not a person.

A pattern that fools a recognizer is fine-grained: mild changes undo it, and a prior of faces cannot draw it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ganinv import images as image_convention
from ganinv.attack.spaces import Whitening, fit_whitening
from ganinv.engine.descent import Adam
from ganinv.engine.randomness import seeded
from ganinv.interfaces import Generator

Change = Callable[[torch.Tensor], torch.Tensor]  # images [N,3,R,R] -> images [N,3,R,R]


def compress(images: torch.Tensor) -> torch.Tensor:
    """Returns images after JPEG at quality 50."""

    def jpeg(image: torch.Tensor) -> torch.Tensor:
        buffer = io.BytesIO()
        image_convention.to_pil(image).save(buffer, "JPEG", quality=50)
        return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)

    return image_convention.from_uint8(torch.stack([jpeg(image) for image in images])).to(images)


def blur(images: torch.Tensor) -> torch.Tensor:
    """Returns images after a Gaussian blur of a 64th of the side."""
    return image_convention.blur(images, images.shape[-1] / 64)


def crop(images: torch.Tensor) -> torch.Tensor:
    """Returns the middle nine tenths of images, enlarged."""
    side = images.shape[-1]
    cut = max(1, side // 20)
    return image_convention.resize(images[..., cut:-cut, cut:-cut], side).clamp(-1, 1)


def add_noise(images: torch.Tensor) -> torch.Tensor:
    """Returns images with Gaussian noise of 0.1, the same on each: a picture's verdict depends on no other picture."""
    noise = torch.randn(images.shape[1:], generator=seeded("perturb")).to(images) * 0.1
    return (images + noise).clamp(-1, 1)


MILD: dict[str, Change] = {"jpeg": compress, "blur": blur, "crop": crop, "noise": add_noise}
PROJECTION = "projection"


@dataclass(frozen=True)
class ProjectionSearch:
    """How a picture's nearest in the prior is searched. 40 steps leave of a picture of the prior 0.004 in mean square."""

    steps: int = 40
    lr: float = 0.2
    bound: float = 2.0  # standard deviations of the prior that w may leave its mean
    levels: int = 4  # of the pyramid, each half the side of the last: coarse shapes are found first


class Projection:
    """Images [N,3,H,W] -> what the prior can draw that is nearest in pixels, [N,3,R,R] as an 8-bit file holds it.

    Adam in the prior's whitened w, one for each layer, from the mean face; no recognizer takes part, nothing is random,
    and no picture depends on another. A prior draws no pattern that it has not learnt, and not every face either: what
    a photograph loses here is the prior's shortcoming.
    """

    def __init__(self, generator: Generator, device: torch.device | str, search: ProjectionSearch | None = None):
        self.generator, self.search = generator, search or ProjectionSearch()
        self.whitening: Whitening = fit_whitening(generator, device=torch.device(device), count=2000)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.project(part) for part in images.split(count_together(images))])

    def project(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the projection of one batch."""
        wanted = image_convention.resize(images, self.generator.resolution)
        size = (len(images), self.generator.num_ws, self.generator.w_dim)
        v = torch.zeros(size, device=images.device, requires_grad=True)
        optimizer = Adam([v], self.search.lr, (0.9, 0.99))
        for _ in range(self.search.steps):
            drawn = self.generator.synthesize(self.whitening.to_w(v))
            (gradient,) = torch.autograd.grad(pyramid_distance(drawn, wanted, self.search.levels).sum(), [v])
            optimizer.step([gradient])
            with torch.no_grad():
                v.clamp_(-self.search.bound, self.search.bound)
        with torch.no_grad():
            drawn = self.generator.synthesize(self.whitening.to_w(v)).clamp(-1, 1)
        return image_convention.from_uint8(image_convention.to_uint8(drawn)).contiguous()

    def describe(self) -> dict:
        """Returns the settings, as a report states them."""
        return {"space": "w_plus", "distance": "squared pixels over a pyramid of halved sides", **asdict(self.search)}


def count_together(images: torch.Tensor) -> int:
    """Returns how many of images [N,3,R,R] are projected at once: as many as a search steps with at 64 px, fewer of more."""
    return max(16, 40 * 64**2 // images.shape[-2:].numel())


def pyramid_distance(images: torch.Tensor, others: torch.Tensor, levels: int) -> torch.Tensor:
    """Returns the mean squared difference [N] of images [N,3,R,R], summed over `levels` sides, each half the last."""
    total = (images - others).square().mean((1, 2, 3))
    for _ in range(levels - 1):
        images, others = F.avg_pool2d(images, 2), F.avg_pool2d(others, 2)
        total = total + (images - others).square().mean((1, 2, 3))
    return total


def with_projection(project: Change | None) -> Mapping[str, Change]:
    """Returns the mild changes, and the projection where there is a prior to project through."""
    return MILD | ({PROJECTION: project} if project else {})
