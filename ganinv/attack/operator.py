"""What whoever runs a target does to its answers: rounds, hides, blurs, refuses. Each is one function of what is shown."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch

from ganinv.attack.config import Operator
from ganinv.engine.randomness import seeded
from ganinv.interfaces import Recognition, Recognizer
from ganinv.metrics.faces import detect_faces
from ganinv.ranges import check_ranges

ANSWERS = ("scores", "similarities")
FACE = 0.9  # of MTCNN, from which a picture is answered
ANGLES = 4  # numbers that stand for a picture where noise is made of it
WAVES = 16  # cosines that are added for one answer's noise, by then as good as normal
RUGGED = 5.0  # how fast the angles turn: pictures of 64 px a grey level apart have noise of their own


@dataclass(frozen=True)
class Asked:
    """Of one call: whom each picture claims to be [N], None for nobody."""

    identities: torch.Tensor | None = None


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
        embeddings, scores = (blur(values, options, images) for values in (embeddings, scores))
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


def blur(values: torch.Tensor | None, options: Operator, images: torch.Tensor) -> torch.Tensor | None:
    """Returns answers [N,...] to images [N,3,H,W] with noise that the picture and the seed decide.

    Asked again, the same picture gets the same answer: nobody averages the noise away, and it matters neither in which order
    nor in which batches pictures are asked. It is a rugged function of the picture, a sum of cosines of random phases, rather
    than a hash of its bits, so that the last bits of a picture, which do depend on the batch, move it in its last bits.
    """
    if values is None:
        return None
    turns, mix, phases = draw_waves(options.noise_seed, images[0].numel(), values[0].numel())
    angles = images.detach().double().cpu().flatten(1) @ turns  # [N,ANGLES]
    noise = ((angles @ mix).view(len(values), WAVES, -1) + phases).cos().sum(1) * math.sqrt(2 / WAVES)
    return values + options.noise * noise.view(values.shape).to(values)


@functools.lru_cache(4)
def draw_waves(seed: int, pixels: int, answers: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns of a noise turns [pixels,ANGLES], mix [ANGLES,WAVES*answers] of whole numbers, and phases [WAVES,answers]."""
    generator = seeded(seed, "noise", pixels, answers)
    turns = RUGGED * torch.randn(pixels, ANGLES, generator=generator, dtype=torch.float64)
    mix = torch.randint(-3, 4, (ANGLES, WAVES * answers), generator=generator).double()
    return turns, mix, 2 * math.pi * torch.rand(WAVES, answers, generator=generator, dtype=torch.float64)


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
