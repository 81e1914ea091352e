"""What an attack may see of a target: rung by rung less, and every picture counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from ganinv.attack.config import Operator
from ganinv.attack.operator import Asked, apply_options, check_operator, show_scores
from ganinv.interfaces import RUNGS, FaultError, Recognition, Recognizer


class Queries:
    """How many pictures a target was asked about: for gradients, for answers alone, for each identity, and for all."""

    def __init__(self, num_identities: int = 0, device: torch.device | str = "cpu"):
        self.gradients = self.answers = self.shared = 0
        self.each = torch.zeros(num_identities, dtype=torch.long, device=device)  # so that no device is waited for

    def check(self, pictures: int, identities: torch.Tensor | None, options: Operator) -> None:
        """Raises: FaultError where these pictures are more than an operator answers."""
        asked = self.gradients + self.answers
        if options.budget is not None and asked + pictures > options.budget:
            raise FaultError(f"the operator answers {options.budget} queries in all, and {asked} are spent")
        if options.limit is not None and identities is not None and len(self.each):
            after = self.each.index_add(0, identities, torch.ones_like(identities))
            user = int(after.argmax())
            if after[user] > options.limit:
                spent = int(self.each[user])
                raise FaultError(f"the operator answers {options.limit} queries a user, and {spent} are spent on {user}")

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

    recognizer: the target; rung: one of RUNGS; queries: a tally to share with another access; options: what the operator
    does to every answer below the rung "gradients" before it leaves; operator: a function that does more of that. There,
    answers are detached copies, and no attribute leads to the target: it is held by a closure. That stops mistakes; nothing
    in Python stops who opens closures. claims: a query must say for whom it asks.
    Raises: ValueError for an unknown rung, one that the target has no answer for, or options that mean nothing there.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        rung: str = "gradients",
        *,
        queries: Queries | None = None,
        options: Operator | None = None,
        operator: Callable[[Recognition], Recognition] | None = None,
    ):
        if rung not in RUNGS:
            raise ValueError(f"expected an access among {', '.join(RUNGS)}, got {rung}")
        if rung in ("scores", "decisions") and not recognizer.num_identities:
            raise ValueError(
                f"expected a target with identities for the access {rung}, got one that only embeds"
                "; enrol users with --gallery=FOLDER, or pass --access=embeddings"
            )
        self.rung, self.queries, self.options = rung, queries or Queries(), options or Operator()
        check_operator(self.options, rung, recognizer)
        self.num_identities, self.embedding_dim = recognizer.num_identities, recognizer.embedding_dim
        self.metric, self.claims = getattr(recognizer, "metric", "cosine"), self.options.claimed
        hidden = rung != "gradients"
        self.answer = hide(recognizer, rung, self.options, operator or (lambda found: found)) if hidden else recognizer

    def __call__(self, images: torch.Tensor, identities: torch.Tensor | None = None) -> Recognition:
        """Returns what may be seen of images [N,3,H,W], asked for identities [N]; None: for all of them together.

        Raises: ValueError for a query that claims nobody where it must; FaultError where the operator answers no more.
        """
        if self.claims and identities is None:
            raise ValueError("expected the user whom each picture claims to be, got none; pass identities")
        if self.options.limit is not None or self.options.budget is not None:
            self.queries.check(len(images), identities, self.options)
        asked = Asked(identities)
        images = images.clone()  # a target that changes its input in place changes its own copy
        found = self.answer(images) if self.rung == "gradients" else self.answer(images, asked)
        gradients = self.rung == "gradients" and images.requires_grad and torch.is_grad_enabled()
        self.queries.count(len(images), identities, gradients=gradients)
        return found


def hide(
    recognizer: Recognizer, rung: str, options: Operator, operator: Callable[[Recognition], Recognition]
) -> Callable[[torch.Tensor, Asked], Recognition]:
    """Returns a function that answers for images with detached numbers alone, as far as a rung goes."""

    @torch.no_grad()
    def answer(images: torch.Tensor, asked: Asked) -> Recognition:
        found = recognizer(images.detach())
        scores = show_scores(recognizer, found, rung, options, asked)
        shown = Recognition(found.embeddings.clone() if rung == "embeddings" else None, scores)
        seen = operator(apply_options(options, rung, shown, images, asked))
        logs = None if seen.logits is None else seen.logits.detach()
        if logs is not None and options.answers == "scores":
            logs = logs.clamp_min(torch.finfo(logs.dtype).tiny).log()
        return Recognition(None if seen.embeddings is None else seen.embeddings.detach(), logs)

    return answer


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
            f"expected a target whose {reads} have gradients, got none (detached, rounded, times 0, or of a softmax that is "
            "sure); mend it, or pass --access=scores --optim.optimizer=antithetic"
        )
