"""The paper's pixel-space attack on the same target and users, in three variants."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ganinv import cli, images
from ganinv.attack.config import Augment, Optim
from ganinv.commands.attack_run import AttackRun, recall, run_attack
from ganinv.worlds.world import Assets

STILL = Augment(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.0)


@dataclass(frozen=True, kw_only=True)
class PixelAttack(AttackRun):
    """Gray-box pixel search: gradient descent on 1 - p(user) from mid-grey, nothing known of the user.

    Source: Khosravy et al. 2021, after Fredrikson et al. 2015, Algorithm 1, whose stop rule this is: no improvement for
    `patience` steps, or 1 - p at or below `threshold`; the best picture on the way is returned.
    """

    variant: str = "gray-box"  # gray-box | white-box | modern
    start: str = "grey"  # grey | public-mean | FILE | FOLDER with <identity>.png
    space: str = "pixels"  # pixels
    objective: str = "confidence"
    steps: int = 1000
    restarts: int = 1
    final_transforms: int = 1
    optim: Optim = field(
        default_factory=lambda: Optim(
            optimizer="gradient_descent", lr=10.0, decay=False, transforms=1, patience=100, threshold=0.01
        )
    )
    augment: Augment = STILL


@dataclass(frozen=True, kw_only=True)
class WhiteBox(PixelAttack):
    """White-box pixel search: the same with partial information on the user, given as a start picture."""

    variant: str = "white-box"  # gray-box | white-box | modern
    start: str = "public-mean"  # grey | public-mean | FILE | FOLDER with <identity>.png


@dataclass(frozen=True, kw_only=True)
class Modern(PixelAttack):
    """A strong pixel search: Adam, total variation, L2, random transforms."""

    variant: str = "modern"  # gray-box | white-box | modern
    objective: str = "max_margin"
    steps: int = 300
    tv: float = 50.0  # weight of total variation
    l2: float = 0.1  # weight of the squared pixels
    restarts: int = 2
    final_transforms: int = 64
    optim: Optim = field(default_factory=lambda: Optim(lr=0.05, transforms=2))
    augment: Augment = field(default_factory=Augment)


VARIANTS = {"gray-box": PixelAttack, "white-box": WhiteBox, "modern": Modern}


def find_variant(argv: list[str]) -> type[PixelAttack]:
    """Returns the configuration whose defaults argv asks for. Raises: SystemExit 2 for an unknown variant."""
    words = [word.partition("=") for word in argv]
    for position, (name, equals, value) in enumerate(words):
        if name == "--variant":
            chosen = value if equals else "".join(argv[position + 1 : position + 2])
            if chosen not in VARIANTS:
                print(f"error: expected a variant among {', '.join(VARIANTS)}, got {chosen or 'none'}", file=sys.stderr)
                raise SystemExit(2)
            return VARIANTS[chosen]
    return PixelAttack


def make_start(config: PixelAttack, assets: Assets) -> torch.Tensor:
    """Returns the first pictures [T,C,R,R]: one channel in a world of greyscale photos.

    Raises: ValueError when a start picture is missing or broken.
    """
    world, identities = assets.world, cli.parse_identities(config.identities)
    channels, side = 1 if world.grey else 3, world.resolution
    if config.start == "grey":
        return torch.zeros(len(identities), channels, side, side)
    place = world.folder / "public_mean.png" if config.start == "public-mean" else Path(config.start)
    files = [place / f"{identity}.png" for identity in identities] if place.is_dir() else [place] * len(identities)
    pictures = torch.cat([images.load(file, side) for file in files])
    return pictures.mean(1, keepdim=True) if world.grey else pictures


def run(config: PixelAttack) -> dict:
    """Runs the attack. Raises: ValueError for another space than pixels."""
    config = recall(config, VARIANTS)
    if config.space != "pixels":
        raise ValueError(f"expected the space pixels, got {config.space}; run scripts/latent_attack.py")
    return run_attack(config, "pixel", make_start=make_start)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(find_variant(sys.argv[1:]), run)
