"""What the search lowers: terms of images and recognition, one number per sample, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from ganinv.attack.registry import Registry
from ganinv.interfaces import Evaluation, Term

OBJECTIVES: Registry[Term] = Registry("an objective")  # terms that know the identity
IMAGE_TERMS: Registry[Term] = Registry("an image term")  # terms of the pictures alone, which no target is asked for


def pick(values: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
    """Returns the value [N] of each row's own identity, of values [N,C]."""
    return values.gather(1, identities[:, None]).squeeze(1)


@OBJECTIVES.register("max_margin")
def max_margin(evaluation: Evaluation) -> torch.Tensor:
    """Returns the best other logit minus the identity's [N]. Source: Yuan et al. 2023, Pseudo Label-Guided MI, Eq. 4."""
    own = F.one_hot(evaluation.identities, evaluation.logits.shape[1]).bool()
    return evaluation.logits.masked_fill(own, -torch.inf).amax(1) - pick(evaluation.logits, evaluation.identities)


@OBJECTIVES.register("logit")
def logit(evaluation: Evaluation) -> torch.Tensor:
    """Returns the negative logit of the identity [N]. Source: Nguyen et al. 2023, Re-thinking Model Inversion, Eq. 3."""
    return -pick(evaluation.logits, evaluation.identities)


@OBJECTIVES.register("cross_entropy")
def cross_entropy(evaluation: Evaluation) -> torch.Tensor:
    """Returns -log p(identity) [N]."""
    return F.cross_entropy(evaluation.logits, evaluation.identities, reduction="none")


@OBJECTIVES.register("poincare")
def poincare(evaluation: Evaluation) -> torch.Tensor:
    """Returns the hyperbolic distance [N] between normalised logits and the identity's corner of the unit ball.

    Source: Struppek et al. 2022, Plug & Play Attacks, Eq. 5; the corner is drawn in to 0.9999 as there.
    """
    u = evaluation.logits / evaluation.logits.abs().sum(1, keepdim=True)
    v = 0.9999 * F.one_hot(evaluation.identities, u.shape[1]).to(u)
    gap = (u - v).square().sum(1)
    room = (1 - u.square().sum(1)) * (1 - v.square().sum(1))
    return torch.acosh((1 + 2 * gap / room.clamp_min(1e-6)).clamp_min(1 + 1e-6))


@OBJECTIVES.register("confidence")
def confidence(evaluation: Evaluation) -> torch.Tensor:
    """Returns 1 - p(identity) [N]. Source: Fredrikson et al. 2015, Algorithm 1; Khosravy et al. 2021."""
    return 1 - pick(evaluation.logits.softmax(1), evaluation.identities)


@IMAGE_TERMS.register("total_variation")
def total_variation(evaluation: Evaluation) -> torch.Tensor:
    """Returns the mean absolute difference of neighbouring pixels [N]."""
    x = evaluation.images
    return x.diff(dim=2).abs().mean((1, 2, 3)) + x.diff(dim=3).abs().mean((1, 2, 3))


@IMAGE_TERMS.register("l2")
def l2(evaluation: Evaluation) -> torch.Tensor:
    """Returns the mean squared pixel [N]: the distance to mid-grey."""
    return evaluation.images.square().mean((1, 2, 3))


def weighted_sum(weights: Mapping[str, float]) -> Term:
    """Returns the objective sum_i weight_i * term_i, [N].

    Raises: ValueError for a name that is in neither table.
    """
    terms = {**OBJECTIVES, **IMAGE_TERMS}
    unknown = sorted(set(weights) - set(terms))
    if unknown or not weights:
        raise ValueError(f"expected objective terms among {', '.join(terms)}, got {', '.join(unknown) or 'none'}")
    chosen = [(terms[name], weight) for name, weight in weights.items() if weight != 0]
    return lambda evaluation: sum(weight * term(evaluation) for term, weight in chosen)
