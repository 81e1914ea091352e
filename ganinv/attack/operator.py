"""What whoever runs a target does to its answers: rounds, hides, blurs, refuses. Each is one function of what is shown."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ganinv.attack.config import Operator
from ganinv.engine.randomness import seeded
from ganinv.interfaces import Recognition, Recognizer
from ganinv.metrics.faces import detect_faces
from ganinv.ranges import check_ranges

ANSWERS = ("scores", "similarities")
FACE = 0.9  # of MTCNN, from which a picture is answered


@dataclass(frozen=True)
class Asked:
    """Of one call: whom each picture claims to be [N], None for nobody, and how many queries came before it."""

    identities: torch.Tensor | None = None
    before: int = 0


def check_operator(options: Operator, rung: str, recognizer: Recognizer) -> None:
    """Raises: ValueError for options that cannot be, or that mean nothing at a rung or of a target."""
    if options.answers not in ANSWERS:
        raise ValueError(f"expected operator.answers among {', '.join(ANSWERS)}, got {options.answers}")
    check_ranges(options)
    if rung == "gradients":
        changed = [name for name in ("decimals", "top", "claimed", "noise", "faces") if getattr(options, name)]
        if changed or options.answers != "scores":
            raise ValueError(
                f"expected an access below gradients beside operator.{(changed or ['answers'])[0]}, got gradients: who holds "
                "the network asks nobody; pass --access=scores"
            )
    if options.answers == "similarities" and (rung != "scores" or getattr(recognizer, "templates", None) is None):
        raise ValueError(
            f"expected the access scores of a target with a gallery beside operator.answers=similarities, got {rung}"
        )
    if options.claimed and options.top:
        raise ValueError("expected operator.claimed or operator.top, got both: one shows the claimed user alone")
    if options.claimed and rung == "embeddings":
        raise ValueError("expected the access scores or decisions beside operator.claimed, got embeddings")


def show_scores(
    recognizer: Recognizer, found: Recognition, rung: str, options: Operator, asked: Asked
) -> torch.Tensor | None:
    """Returns [N,C] of a recognition: probabilities, similarities, or 1 for the user who is named; None without users."""
    if found.logits is None:
        return None
    if rung == "decisions":
        if options.claimed and hasattr(recognizer, "accept"):
            accepted = recognizer.accept(found, asked.identities)
            return mark(torch.where(accepted, asked.identities, -1), found.logits)
        return decide(recognizer, found)
    return found.logits / recognizer.scale if options.answers == "similarities" else found.logits.softmax(1)


def decide(recognizer: Recognizer, found: Recognition) -> torch.Tensor:
    """Returns [N,C]: 1 for the identity that the target names, else 0.

    That is the target's own `decide` (Recognition -> [N], -1 for nobody) where it has one, else the highest score.
    """
    own = getattr(recognizer, "decide", None)
    return mark(found.logits.argmax(1) if own is None else own(found), found.logits)


def mark(named: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns [N,C], 1 at the identity named [N], -1 for nobody."""
    return (named[:, None] == torch.arange(like.shape[1], device=named.device)).to(like.dtype)


def apply_options(options: Operator, rung: str, shown: Recognition, images: torch.Tensor, asked: Asked) -> Recognition:
    """Returns what leaves the target: first noise, then refusals, rounding and what is hidden.

    A score that is hidden is what is left of 1, in equal parts, and a similarity that is hidden NaN: nothing is learnt of
    either.
    """
    scores, embeddings = shown.logits, shown.embeddings
    if options.noise and rung != "decisions":
        embeddings, scores = (blur(values, options, asked) for values in (embeddings, scores))
    if options.faces:
        refused = (detect_faces(images.detach().cpu()) < FACE).to(images.device)[:, None]
        lowest = 0.0 if options.answers == "scores" else torch.nan
        scores = None if scores is None else scores.masked_fill(refused, lowest)
        embeddings = None if embeddings is None else embeddings.masked_fill(refused, 0.0)
    if options.decimals is not None:
        scores, embeddings = (None if x is None else round_to(x, options.decimals) for x in (scores, embeddings))
    if scores is not None and options.top and rung == "scores":
        scores = hide_others(scores, keep_top(scores, options.top), options)
    if scores is not None and options.claimed:
        own = mark(asked.identities, scores).bool()
        scores = scores * own if rung == "decisions" else hide_others(scores, own, options)
    return Recognition(embeddings, scores)


def blur(values: torch.Tensor | None, options: Operator, asked: Asked) -> torch.Tensor | None:
    """Returns answers [N,...] with noise, every query's own: asked again, the same picture gets another answer."""
    if values is None:
        return None
    rows = [
        torch.randn(values.shape[1:], generator=seeded(options.noise_seed, "answer", asked.before + row))
        for row in range(len(values))
    ]
    return values + options.noise * torch.stack(rows).to(values)


def round_to(values: torch.Tensor, decimals: int) -> torch.Tensor:
    """Returns values rounded to so many decimals."""
    return (values.double() * 10**decimals).round().div(10**decimals).to(values.dtype)


def keep_top(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Returns [N,C], bool: the `count` highest of each row; ties go to the lower index."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)


def hide_others(scores: torch.Tensor, kept: torch.Tensor, options: Operator) -> torch.Tensor:
    """Returns scores [N,C] as who sees the kept ones alone must take them; see apply_options."""
    if options.answers == "similarities":
        return scores.masked_fill(~kept, torch.nan)
    hidden = (~kept).sum(1, keepdim=True)
    rest = (1 - (scores * kept).sum(1, keepdim=True)).clamp_min(0) / hidden.clamp_min(1)
    return torch.where(kept, scores, rest)
