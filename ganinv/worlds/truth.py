"""The truth about people who do not exist: their identity factors, read off pictures by a regressor.

Factors are standard here: each less its mean over the population, in units of its spread there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import nn

from ganinv.images import digest, resize
from ganinv.recognizers.cosine import build_backbone
from ganinv.recognizers.preprocessing import MOST_SIDE
from ganinv.recognizers.recognize import BATCH, find_device
from ganinv.rendered.factors import FACTORS, draw_people
from ganinv.weights.cards import read_card
from ganinv.weights.files import check_tensors, read_tensors, save_weights
from ganinv.weights.quantisation import quantise
from ganinv.weights.quoting import describe_value

POPULATION = range(10**9, 10**9 + 4096)  # people, none of them used elsewhere, whose factors set mean and spread
LEAST_R2 = 0.25  # factors that the regressor cannot read off real photos are left out
PASSING = 0.95  # share of a user's own photos in which the factors say that it is the user


@cache
def population() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and spread [F] of the factors in the population."""
    factors = draw_people(POPULATION).double()
    return factors.mean(0).float(), factors.std(0).float()


def standardise(factors: torch.Tensor) -> torch.Tensor:
    """Returns factors [N,F] in natural units as standard factors."""
    mean, spread = population()
    return (factors - mean.to(factors)) / spread.to(factors)


class FactorRegressor(nn.Module):
    """Images [N,3,H,W] in [-1,1] -> standard factors [N,F]. r2: [F], on people that it was not trained on."""

    def __init__(self, architecture: str = "vgg_trunk", input_size: int = 64):
        super().__init__()
        self.architecture, self.input_size = architecture, input_size
        self.backbone = build_backbone(architecture, len(FACTORS), input_size)
        self.register_buffer("r2", torch.zeros(len(FACTORS)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(resize(images, self.input_size) * 2).float()

    @property
    def readable(self) -> torch.Tensor:
        """Returns [F], which factors can be told from a picture: R2 of LEAST_R2 or more."""
        return self.r2 >= LEAST_R2


def save_regressor(model: FactorRegressor, path: str | Path, card: Mapping) -> dict:
    """Writes int8 weights and the card, which names the factors; returns the card."""
    card = {**card, "kind": "factors", "architecture": model.architecture, "input_size": model.input_size}
    return save_weights(path, quantise(model.state_dict()), card | {"factors": [factor.name for factor in FACTORS]})


def load_regressor(path: str | Path, device: torch.device | str = "cpu") -> FactorRegressor:
    """Returns what save_regressor wrote, frozen.

    Raises: ValueError when file or card is missing, broken, or of other factors than the renderer's.
    """
    card = read_card(path)
    if card.get("kind") != "factors" or card.get("factors") != [factor.name for factor in FACTORS]:
        raise ValueError(f"expected a regressor of the {len(FACTORS)} factors of people.FACTORS in {path}, got another")
    size = card.get("input_size")
    if not isinstance(size, int) or not 8 <= size <= MOST_SIDE:
        raise ValueError(f"expected an input_size from 8 to {MOST_SIDE} on the card of {path}, got {describe_value(size)}")
    model = FactorRegressor(str(card.get("architecture")), size)
    tensors, _ = read_tensors(path)
    model.load_state_dict(check_tensors(tensors, model.state_dict(), path))
    return model.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


@torch.no_grad()
def estimate(model: FactorRegressor, images: torch.Tensor, batch: int = BATCH) -> torch.Tensor:
    """Returns standard factors [N,F] of images [N,3,H,W], as the mean over an image and its mirror; on the CPU.

    Two factors, of the places of mole and parting, change under a mirror; they are read off the image alone.
    """
    sided = torch.tensor([factor.name in ("mole_x", "hair_parting") for factor in FACTORS])
    parts = []
    for part in images.split(batch):
        plain, mirrored = model(part).cpu(), model(part.flip(3)).cpu()
        parts.append(torch.where(sided, plain, (plain + mirrored) / 2))
    return torch.cat(parts)


@dataclass(frozen=True)
class Truth:
    """Tells how much of a rendered user's identity is in pictures, in the factors that can be read off a photo."""

    regressor: FactorRegressor
    found: dict[bytes, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)  # of each batch of pictures

    def estimate(self, images: torch.Tensor) -> torch.Tensor:
        """Returns standard factors [N,F] of images [N,3,H,W], see estimate; each batch is read once, whoever asks."""
        parts = []
        for part in images.split(BATCH):
            key = digest(part)
            if key not in self.found:
                self.found[key] = estimate(self.regressor, part.to(find_device(self.regressor)))
            parts.append(self.found[key])
        return torch.cat(parts)

    def compare(self, images: torch.Tensor, owners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns estimated and true standard factors [N,F'], the readable ones, of images [N,3,R,R] of users owners [N]."""
        readable = self.regressor.readable.cpu()
        people, row = owners.unique(return_inverse=True)
        truth = standardise(draw_people(people.tolist()))[row]
        return self.estimate(images)[:, readable], truth[:, readable]

    def recover(self, images: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
        """Returns factor_recovery [N]; see recovery."""
        return recovery(*self.compare(images, owners))

    def recover_by_factor(self, images: torch.Tensor, owners: torch.Tensor) -> dict[str, float]:
        """Returns the name of each readable factor and how much of it is recovered over all pictures."""
        names = [factor.name for factor, readable in zip(FACTORS, self.regressor.readable.tolist(), strict=True) if readable]
        return dict(zip(names, recovery_by_factor(*self.compare(images, owners)).tolist(), strict=True))


def recovery(estimates: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Returns how much of the true standard factors [N,F] the estimates [N,F] recover, a number a row.

    1 - sum (estimate - truth)^2 / sum truth^2: 1 is the person, 0 an average person, below 0 further off than that.
    Raises: ValueError when the shapes differ or there is no factor.
    """
    if estimates.shape != truth.shape or truth.ndim != 2 or not truth.shape[1]:
        raise ValueError(f"expected estimates and truth [N,F], got {list(estimates.shape)} and {list(truth.shape)}")
    return 1 - (estimates - truth).square().sum(1) / truth.square().sum(1)


def recovery_by_factor(estimates: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Returns the same for each factor [F] over all rows. Raises: ValueError when the shapes differ."""
    return recovery(estimates.T, truth.T)


def distance(estimates: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Returns the root mean square difference [N] of standard factors [N,F]."""
    return (estimates - truth).square().mean(1).sqrt()


def passing_distance(distances: Sequence[float] | torch.Tensor) -> float:
    """Returns the distance within which a share PASSING of a user's own photos lies.

    Raises: ValueError for fewer than 20 distances, from which no such share can be read.
    """
    distances = torch.as_tensor(distances, dtype=torch.float64)
    if len(distances) < 20:
        raise ValueError(f"expected at least 20 photos of users, got {len(distances)}; take more users or photos")
    return distances.quantile(PASSING).item()


def audit_judge(says_user: torch.Tensor, is_user: torch.Tensor) -> dict[str, float | int | None]:
    """Returns how a judge's word "this is the user" [N] compares with that of the factors [N], both bool.

    false_positive_rate: of the pictures that the factors say are not the user, the share that the judge takes for the
    user; false_negative_rate: of those that are, the share that it does not. None where there are no such pictures.
    """
    wrong, missed = says_user & ~is_user, ~says_user & is_user

    def share(count: torch.Tensor, of: torch.Tensor) -> float | None:
        return (count.sum() / of.sum()).item() if of.any() else None

    return {
        "pictures": len(says_user),
        "user_by_judge": int(says_user.sum()),
        "user_by_factors": int(is_user.sum()),
        "false_positive_rate": share(wrong, ~is_user),
        "false_negative_rate": share(missed, is_user),
    }
