"""What one attack does: its configuration, and what of it can be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ganinv.attack.objectives import OBJECTIVES
from ganinv.attack.spaces import SEARCH_SPACES
from ganinv.engine.batches import parse_memory
from ganinv.engine.precision import PRECISIONS
from ganinv.interfaces import Recognizer


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How the search steps. Adam's short memory (Struppek et al. 2022 use betas 0.1, 0.1) suits few, noisy steps."""

    optimizer: str = "adam"  # adam | gradient_descent
    lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    decay: bool = True  # the learning rate follows a half cosine to a tenth
    transforms: int = 2  # random transforms of every sample in every step
    patience: int = 0  # stop a sample after this many steps without improvement, and return its best; 0: never
    threshold: float = 0.0  # stop a sample whose objective is at or below this; needs patience
    halve_at: tuple[float, ...] = ()  # shares of the steps after which the worse half of each user's samples is dropped
    leave_at: float = 0.0  # stop a sample that the target has scored at least this in 10 steps running; 0: never


OPTIMIZERS: dict[str, Callable] = {
    "adam": lambda params, optim: torch.optim.Adam(params, optim.lr, betas=optim.betas),
    "gradient_descent": lambda params, optim: torch.optim.SGD(params, optim.lr),
}


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The random transform of every view."""

    flip: float = 0.5  # probability of a mirror image
    degrees: float = 5.0  # largest rotation
    scale: tuple[float, float] = (0.95, 1.1)  # smallest and largest magnification
    shift: float = 0.04  # largest shift, as a share of the side


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """What one attack does; everything but the models, the identities and the seed."""

    space: str = "w_plus"  # z | w | w_plus | pixels
    objective: str = "max_margin"  # max_margin | logit | cross_entropy | poincare | confidence
    tv: float = 0.0  # weight of total variation
    l2: float = 0.0  # weight of the squared pixels
    steps: int = 100
    candidates: int = 2000  # seeded latents scored by the target for the start; 0: random ones, unscored
    restarts: int = 4  # best candidates per identity that are optimised
    keep: int = 1  # results kept per identity
    psi: float = 0.8  # truncation of the start
    bound: float = 2.0  # standard deviations of the prior that w may leave its mean
    final_transforms: int = 64  # random transforms in the final choice
    batch: int = 0  # most candidates that share a batch, which changes last bits alone; 0: 40, on CUDA as --memory says
    memory: str = "4GiB"  # most memory to take, for which the batch is planned
    blur_sigma: float = 0.0  # pixels: smoothing between steps
    log_every: int = 0  # steps between rows of steps.jsonl; 0: 1, on CUDA 10
    image_every: int = 25  # steps between pictures for Weights & Biases
    precision: str = "float32"  # float32 | bfloat16 | auto: the fastest that leaves the target's scores
    optim: Optim = field(default_factory=Optim)
    augment: Augment = field(default_factory=Augment)


def check_config(config: AttackConfig, recognizer: Recognizer, identities: tuple[int, ...], has_prior: bool) -> None:
    """Raises: ValueError for anything in a configuration that cannot be run."""
    if config.space not in SEARCH_SPACES:
        raise ValueError(f"expected a space among {', '.join(SEARCH_SPACES)}, got {config.space}")
    if config.space != "pixels" and not has_prior:
        raise ValueError(f"expected a generator for the space {config.space}, got none; pass --generator")
    if not recognizer.num_identities:
        raise ValueError("expected a target with identities (logits), got one that only embeds")
    unknown = [identity for identity in identities if not 0 <= identity < recognizer.num_identities]
    if unknown or not identities:
        last = recognizer.num_identities - 1
        raise ValueError(f"expected identities from 0 to {last}, got {', '.join(map(str, unknown)) or 'none'}")
    parse_memory(config.memory)
    least = {"steps": 0, "candidates": 0, "restarts": 1, "keep": 1, "final_transforms": 1, "image_every": 1}
    least |= {"batch": 0, "log_every": 0}
    for name, value in least.items():
        if getattr(config, name) < value:
            raise ValueError(f"expected {name} of at least {value}, got {getattr(config, name)}")
    if config.precision not in PRECISIONS:
        raise ValueError(f"expected a precision among {', '.join(PRECISIONS)}, got {config.precision}")
    if config.objective not in OBJECTIVES:
        raise ValueError(f"expected an objective among {', '.join(OBJECTIVES)}, got {config.objective}")
    ranges = {"psi": (0.0, 2.0), "bound": (0.0, 100.0), "blur_sigma": (0.0, 5.0)}
    for name, (low, high) in ranges.items():
        if not low <= getattr(config, name) <= high:
            raise ValueError(f"expected {name} from {low} to {high}, got {getattr(config, name)}")
    if config.optim.patience < 0 or not config.optim.lr > 0:
        raise ValueError(
            f"expected optim.patience of at least 0 and optim.lr above 0, got {config.optim.patience} and {config.optim.lr}"
        )
    if config.optim.optimizer not in OPTIMIZERS:
        raise ValueError(f"expected an optimizer among {', '.join(OPTIMIZERS)}, got {config.optim.optimizer}")
    if not all(0 < share < 1 for share in config.optim.halve_at) or not 0 <= config.optim.leave_at <= 1:
        raise ValueError(
            "expected optim.halve_at of shares between 0 and 1 and optim.leave_at from 0 to 1, got "
            f"{list(config.optim.halve_at)} and {config.optim.leave_at}"
        )
    if config.optim.transforms < 1:
        raise ValueError(f"expected optim.transforms of at least 1, got {config.optim.transforms}")
    if config.keep > config.restarts:
        raise ValueError(f"expected to keep at most the {config.restarts} restarts, got {config.keep}")
    if config.space != "pixels" and 0 < config.candidates < config.restarts:
        raise ValueError(f"expected at most {config.candidates} restarts (the candidates), got {config.restarts}")
