"""The map of the package: its seams, and the conventions that they share.

Conventions, stated here once:
  images      float32 [N,3,H,W], RGB, in [-1,1], any H and W; greyscale is three equal channels
  latents     z [N,z_dim]; w [N,num_ws,w_dim]
  identity    int64 index of a registered user: a class of the target, or a row of the templates
  losses      one number per sample [N], lower is better, never a mean: a sample never depends on its batch neighbours
  letters     N samples, T identities, K kept per identity, R resolution, D embedding size, L latents per image

One straight line: prior -> candidates -> search space -> images -> transforms -> target, as far as the attacker may see
it -> objective -> searcher -> selection -> judges -> report. A new paper is a new search space, objective, searcher or
selection score for the same loop: docs/extending.md shows how to add each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from ganinv.errors import AbsentError as AbsentError
from ganinv.errors import FaultError as FaultError

Rows = torch.Tensor | slice  # of some samples: indices [n], or a slice


@dataclass(frozen=True)
class Recognition:
    """What a recognizer says of images, or what an attack may see of it.

    embeddings [N,D] of unit norm, raw where the metric is Euclidean; logits [N,C], None for an open-set recognizer. An
    access that shows no embeddings gives None, and in place of logits the logarithms of the scores that it shows.
    """

    embeddings: torch.Tensor | None
    logits: torch.Tensor | None


class Generator(Protocol):
    """A frozen prior in eval mode. synthesize is deterministic: noise inputs are fixed."""

    z_dim: int
    num_ws: int
    w_dim: int
    resolution: int

    def map(self, z: torch.Tensor, psi: float = 1.0) -> torch.Tensor:
        """Returns w [N,num_ws,w_dim] of z [N,z_dim], pulled towards the mean w by psi (1 leaves it, 0 is the mean)."""
        ...

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,R,R], about [-1,1], of w [N,num_ws,w_dim]."""
        ...


class Recognizer(Protocol):
    """A frozen recognizer in eval mode; owns its crop, resize and normalisation.

    It may state a `metric`, by which its embeddings are compared: "cosine" (unit norm, the default) or "euclidean" (raw).
    A published one also states `threshold`, of the metric, at which its publishers take two pictures for one person (None:
    they give none), and `about`, a line on licence, training data and source.
    """

    num_identities: int | None
    embedding_dim: int

    def __call__(self, images: torch.Tensor) -> Recognition:
        """Returns the recognition of images [N,3,H,W] in [-1,1]; differentiable."""
        ...


# ---- the seams of an attack

RUNGS = ("gradients", "embeddings", "scores", "decisions")  # each sees less of the target than the one before


class Access(Protocol):
    """All that an attack holds of a target. It is asked with images, answers as far as its rung goes, and counts."""

    rung: str  # one of RUNGS
    num_identities: int | None
    embedding_dim: int
    metric: str  # cosine | euclidean

    def __call__(self, images: torch.Tensor, identities: torch.Tensor | None = None) -> Recognition:
        """Returns what may be seen of images [N,3,H,W], asked for identities [N]; None: for all of them together."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What an objective sees of N samples.

    images [N,3,R,R]: as the search space gives them; views [N,3,R,R]: randomly transformed, which is what the target was
    shown; recognition: what may be seen of the views; identities [N].
    """

    images: torch.Tensor
    views: torch.Tensor
    recognition: Recognition
    identities: torch.Tensor

    @property
    def logits(self) -> torch.Tensor:
        """Returns the logits [N,C] of the views. Raises: ValueError where none may be seen."""
        return require(self.recognition, "logits")

    @property
    def embeddings(self) -> torch.Tensor:
        """Returns the embeddings [N,D] of the views. Raises: ValueError where none may be seen."""
        return require(self.recognition, "embeddings")


def require(recognition: Recognition, name: str) -> torch.Tensor:
    """Returns the logits or the embeddings of a recognition. Raises: ValueError where it has none."""
    value = getattr(recognition, name)
    if value is None:
        reason = {"logits": "the target only embeds", "embeddings": "this access shows scores alone"}[name]
        raise ValueError(f"expected {name} from the target, got none: {reason}; choose another goal, objective or access")
    return value


Term = Callable[[Evaluation], torch.Tensor]  # -> [N], lower is better


class Goal(Protocol):
    """What a search wants: a class (the user's score), or a template (a given embedding)."""

    reads: str  # logits | embeddings: what of the recognition the goal lives on

    def __call__(self, evaluation: Evaluation) -> torch.Tensor:
        """Returns the losses [N], lower is better."""
        ...

    def score(self, recognition: Recognition, identities: torch.Tensor) -> torch.Tensor:
        """Returns how near each sample is to its identity [N], in [0,1]: what is reported, and the final choice's score."""
        ...

    def rank(self, recognition: Recognition, identities: torch.Tensor) -> torch.Tensor:
        """Returns the scores [N,T] of each sample for every identity [T], higher is better: those of the start choice."""
        ...


class SearchSpace(Protocol):
    """A torch Module whose own parameters [N,...], not those of its parts, are searched, one row per sample."""

    needs_prior: bool  # whether it begins at latents z [N,z_dim] of a prior; False: at pictures [N,C,R,R]

    def __call__(self, rows: Rows = slice(None)) -> torch.Tensor:
        """Returns the images [n,3,R,R] of some samples."""
        ...

    def project_(self) -> None:
        """Puts the parameters back to where they are allowed, in place; called after every step."""
        ...

    def latents(self) -> dict[str, torch.Tensor]:
        """Returns what a run folder keeps, detached: name -> [N,...]."""
        ...


class Searcher(Protocol):
    """Moves the parameters [N,...] of a search space, every sample by itself.

    Made of (parameters, optim, steps). In every step the loop takes what ask yields, measures it, and calls tell.
    """

    gradients: bool  # whether tell is to get gradients, which only the access "gradients" gives

    def ask(self, step: int, rows: torch.Tensor, draws) -> Iterator[list[torch.Tensor]]:
        """Yields the points to measure: values [n,...] of each parameter for the samples rows [n]; []: where they stand.

        draws: random numbers of these samples, engine.randomness.Draws; every sample draws equally many.
        """
        ...

    def tell(self, step: int, rows: torch.Tensor, losses: torch.Tensor, gradients: list[torch.Tensor] | None) -> None:
        """Moves the parameters, in place. losses [M,n] of the M points; gradients [N,...] of each parameter, or None."""
        ...

    def state_dict(self) -> dict:
        """Returns what it remembers between steps."""
        ...

    def load_state_dict(self, state: Mapping) -> None:
        """Goes on from what state_dict gave, to the bit."""
        ...
