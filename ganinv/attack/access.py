"""What an attack may see of a target: rung by rung less, and every picture counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from ganinv.interfaces import RUNGS, Recognition, Recognizer

Operator = Callable[[Recognition], Recognition]  # what whoever runs the target does to its answers: rounds, hides, blurs


class Queries:
    """How many pictures a target was asked about: for gradients, for answers alone, for each identity, and for all."""

    def __init__(self, num_identities: int = 0, device: torch.device | str = "cpu"):
        self.gradients = self.answers = self.shared = 0
        self.each = torch.zeros(num_identities, dtype=torch.long, device=device)  # so that no device is waited for

    def count(self, pictures: int, identities: torch.Tensor | None, *, gradients: bool) -> None:
        """Adds the pictures of one call. identities [pictures]: whom they were asked for; None: all of them together."""
        if gradients:
            self.gradients += pictures
        else:
            self.answers += pictures
        if identities is None or not len(self.each):
            self.shared += pictures
        else:
            self.each.index_add_(0, identities, torch.ones_like(identities))

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Takes back what is counted inside where that fails: a batch that is repeated with fewer counts once."""
        before = self.get_state()
        try:
            yield
        except BaseException:
            self.set_state(before)
            raise

    def get_state(self) -> dict:
        """Returns the counts."""
        return {"gradients": self.gradients, "answers": self.answers, "shared": self.shared, "each": self.each.clone()}

    def set_state(self, state: Mapping) -> None:
        """Goes on from what get_state gave."""
        self.gradients, self.answers, self.shared = (state[name] for name in ("gradients", "answers", "shared"))
        self.each = state["each"].to(self.each.device)

    def add(self, other: Queries) -> None:
        """Adds another tally as pictures asked for all together."""
        self.gradients, self.answers = self.gradients + other.gradients, self.answers + other.answers
        self.shared += other.gradients + other.answers

    def merge(self, state: Mapping) -> None:
        """Adds the counts that get_state of another tally gave, those for each identity too."""
        self.gradients, self.answers, self.shared = (
            getattr(self, name) + state[name] for name in ("gradients", "answers", "shared")
        )
        self.each += state["each"].to(self.each.device)

    def describe(self) -> dict:
        """Returns {"gradients", "answers", "shared", "per_identity": {identity: pictures}}, of identities asked for."""
        each = {identity: count for identity, count in enumerate(self.each.tolist()) if count}
        return {"gradients": self.gradients, "answers": self.answers, "shared": self.shared, "per_identity": each}


class TargetAccess:
    """A target as far as an attack may see it: interfaces.Access.

    recognizer: the target; rung: one of RUNGS; queries: a tally to share with another access; operator: what is done to
    every answer below the rung "gradients" before it leaves. There, answers are detached copies, and no attribute leads to
    the target: it is held by a closure. That stops mistakes; nothing in Python stops who opens closures.
    Raises: ValueError for an unknown rung, or one that the target has no answer for.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        rung: str = "gradients",
        *,
        queries: Queries | None = None,
        operator: Operator | None = None,
    ):
        if rung not in RUNGS:
            raise ValueError(f"expected an access among {', '.join(RUNGS)}, got {rung}")
        if rung in ("scores", "decisions") and not recognizer.num_identities:
            raise ValueError(f"expected a target with identities for the access {rung}, got one that only embeds")
        self.rung, self.queries = rung, queries or Queries()
        self.num_identities, self.embedding_dim = recognizer.num_identities, recognizer.embedding_dim
        self.metric = getattr(recognizer, "metric", "cosine")
        self.answer = recognizer if rung == "gradients" else hide(recognizer, rung, operator or (lambda found: found))

    def __call__(self, images: torch.Tensor, identities: torch.Tensor | None = None) -> Recognition:
        """Returns what may be seen of images [N,3,H,W], asked for identities [N]; None: for all of them together."""
        found = self.answer(images.clone())  # a target that changes its input in place changes its own copy
        gradients = self.rung == "gradients" and images.requires_grad and torch.is_grad_enabled()
        self.queries.count(len(images), identities, gradients=gradients)
        return found


def hide(recognizer: Recognizer, rung: str, operator: Operator) -> Callable[[torch.Tensor], Recognition]:
    """Returns a function that answers for images with detached numbers alone, as far as a rung goes."""

    @torch.no_grad()
    def answer(images: torch.Tensor) -> Recognition:
        found = recognizer(images.detach())
        scores = None if found.logits is None else found.logits.softmax(1)
        if rung == "decisions":
            scores = decide(recognizer, found)
        seen = operator(Recognition(found.embeddings.clone() if rung == "embeddings" else None, scores))
        logs = None if seen.logits is None else seen.logits.clamp_min(torch.finfo(seen.logits.dtype).tiny).log()
        return Recognition(None if seen.embeddings is None else seen.embeddings.detach(), logs)

    return answer


def decide(recognizer: Recognizer, found: Recognition) -> torch.Tensor:
    """Returns [N,C]: 1 for the identity that the target names, else 0.

    That is the target's own `decide` (Recognition -> [N], -1 for nobody) where it has one, else the highest score.
    """
    own = getattr(recognizer, "decide", None)
    named = found.logits.argmax(1) if own is None else own(found)
    return (named[:, None] == torch.arange(found.logits.shape[1], device=named.device)).to(found.logits.dtype)


def check_answers(access: TargetAccess, reads: str, shape: tuple[int, ...], device: torch.device) -> None:
    """Shows a target random pictures of a shape [3,H,W]; returns if its answers change with the picture.

    Raises: ValueError when they have no gradient, or one of nothing but zeros.
    """
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(4, *shape, generator=generator) * 2 - 1).to(device).requires_grad_()
    with torch.enable_grad():
        value = getattr(access(images), reads)
        direction = torch.randn(value.shape, generator=generator).to(value)
        found = value.requires_grad and torch.autograd.grad((value * direction).sum(), images, allow_unused=True)[0]
    if not isinstance(found, torch.Tensor) or not found.any():
        raise ValueError(
            f"expected a target whose {reads} have gradients, got none (detached, rounded, or times 0); mend it, or pass "
            "--access=scores --optim.optimizer=antithetic"
        )
