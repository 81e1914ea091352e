"""What the search lowers: terms of images and logits, one number per sample, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from ganinv.interfaces import Evaluation, Term


def own_logit(evaluation: Evaluation) -> torch.Tensor:
    """Returns the logit [N] of each sample's identity."""
    return evaluation.logits.gather(1, evaluation.identities[:, None]).squeeze(1)


def cross_entropy(evaluation: Evaluation) -> torch.Tensor:
    """Returns -log p(identity) [N]."""
    return F.cross_entropy(evaluation.logits, evaluation.identities, reduction="none")


def confidence(evaluation: Evaluation) -> torch.Tensor:
    """Returns 1 - p(identity) [N]. Source: Fredrikson et al. 2015, Algorithm 1; Khosravy et al. 2021."""
    return 1 - own_logit(Evaluation(evaluation.images, evaluation.logits.softmax(1), evaluation.identities))


def logit(evaluation: Evaluation) -> torch.Tensor:
    """Returns the negative logit of the identity [N]. Source: Nguyen et al. 2023, Re-thinking Model Inversion, Eq. 3."""
    return -own_logit(evaluation)


def max_margin(evaluation: Evaluation) -> torch.Tensor:
    """Returns the best other logit minus the identity's [N]. Source: Yuan et al. 2023, Pseudo Label-Guided MI, Eq. 4."""
    own = F.one_hot(evaluation.identities, evaluation.logits.shape[1]).bool()
    return evaluation.logits.masked_fill(own, -torch.inf).amax(1) - own_logit(evaluation)


def poincare(evaluation: Evaluation) -> torch.Tensor:
    """Returns the hyperbolic distance [N] between normalised logits and the identity's corner of the unit ball.

    Source: Struppek et al. 2022, Plug & Play Attacks, Eq. 5; the corner is drawn in to 0.9999 as there.
    """
    u = evaluation.logits / evaluation.logits.abs().sum(1, keepdim=True)
    v = 0.9999 * F.one_hot(evaluation.identities, u.shape[1]).to(u)
    gap = (u - v).square().sum(1)
    room = (1 - u.square().sum(1)) * (1 - v.square().sum(1))
    return torch.acosh((1 + 2 * gap / room.clamp_min(1e-6)).clamp_min(1 + 1e-6))


def total_variation(evaluation: Evaluation) -> torch.Tensor:
    """Returns the mean absolute difference of neighbouring pixels [N]."""
    x = evaluation.images
    return x.diff(dim=2).abs().mean((1, 2, 3)) + x.diff(dim=3).abs().mean((1, 2, 3))


def l2(evaluation: Evaluation) -> torch.Tensor:
    """Returns the mean squared pixel [N]: the distance to mid-grey."""
    return evaluation.images.square().mean((1, 2, 3))


TERMS: dict[str, Term] = {
    "cross_entropy": cross_entropy,
    "confidence": confidence,
    "logit": logit,
    "max_margin": max_margin,
    "poincare": poincare,
    "total_variation": total_variation,
    "l2": l2,
}


OBJECTIVES = ("max_margin", "logit", "cross_entropy", "poincare", "confidence")  # the terms that know the identity


def weighted_sum(weights: Mapping[str, float]) -> Term:
    """Returns the objective sum_i weight_i * term_i, [N].

    Raises: ValueError for a name that is not in TERMS.
    """
    unknown = sorted(set(weights) - set(TERMS))
    if unknown or not weights:
        raise ValueError(f"expected objective terms among {', '.join(TERMS)}, got {', '.join(unknown) or 'none'}")
    chosen = [(TERMS[name], weight) for name, weight in weights.items() if weight != 0]
    return lambda evaluation: sum(weight * term(evaluation) for term, weight in chosen)
