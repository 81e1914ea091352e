"""Any callable as a recognizer, asked so that its errors are one line."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.interfaces import Recognition
from ganinv.recognizers.gallery import Enrollable

log = logging.getLogger(__name__)


class CallableRecognizer(Enrollable, nn.Module):
    """Any callable images [N,3,R,R] -> Recognition | logits [N,C] | (embeddings [N,D], logits [N,C] or None).

    Where there are only logits, their direction is the embedding. Called once with sample images, to learn C and D. Bare
    rows of length 1 are taken for embeddings: attacked as logits, their axes would pass for users.
    """

    def __init__(self, recognize: Callable, sample: torch.Tensor):
        super().__init__()
        self.recognize, self.only_embeds = recognize, False
        with torch.no_grad():
            answer = ask(recognize, sample)
            found, self.only_classifies = self.read(answer, len(sample)), isinstance(answer, torch.Tensor)
            if self.only_classifies and are_embeddings(found.logits):
                log.warning("its answers all have length 1: they are taken for embeddings, of users to enrol with --gallery")
                self.only_embeds, self.only_classifies = True, False
                found = Recognition(found.embeddings, None)
        if found.logits is not None and sample.any() and (kind := name_outputs(found.logits)):
            log.warning("its answers look like %s, not like logits: the attack is weaker and its scores mislead; %s", *kind)
        self.embedding_dim = found.embeddings.shape[1]
        self.num_identities = None if found.logits is None else found.logits.shape[1]

    def forward(self, images: torch.Tensor) -> Recognition:
        """Returns unit embeddings [N,D] and logits [N,C] or None. Raises: ValueError for an answer of another form."""
        return self.read(self.recognize(images), len(images))

    def read(self, answer: object, count: int) -> Recognition:
        """Returns the recognition of an answer for so many images. Raises: ValueError for one of another form."""
        if isinstance(answer, Recognition):
            embeddings, logits = answer.embeddings, answer.logits
        elif isinstance(answer, torch.Tensor):
            embeddings, logits = answer, None if self.only_embeds else answer
        elif isinstance(answer, tuple) and len(answer) == 2:
            embeddings, logits = answer
        else:
            raise ValueError(
                "expected a Recognition, logits [N,C] or (embeddings, logits) from the recognizer, "
                f"got {type(answer).__name__}; return one of these"
            )
        for name, value in (("embeddings", embeddings), ("logits", logits)):
            if name == "logits" and value is None:
                continue
            if not isinstance(value, torch.Tensor) or value.ndim != 2 or len(value) != count:
                got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise ValueError(
                    f"expected {name} of shape [{count},...] from the recognizer, got {got}; give one row per image"
                )
        return Recognition(F.normalize(embeddings.float(), dim=1), logits)


def are_embeddings(answer: torch.Tensor) -> bool:
    """Says whether rows [N,C] have length 1 and are no probabilities, of which one that is sure has length 1 too."""
    norms, sums = answer.norm(dim=1), answer.sum(1)
    ones = torch.ones_like(norms)
    probabilities = bool(answer.min() >= 0) and torch.allclose(sums, ones, atol=1e-3)
    return answer.shape[1] > 1 and torch.allclose(norms, ones, atol=1e-3) and not probabilities


NARROW = 0.2  # of logits, which may be small of an untrained network; cosines and sigmoids of trained ones spread wider
SMALLEST = 1e-12  # a probability below it is taken for it: its logarithm must stay finite
OUTPUTS = ("logits", "probabilities", "cosines", "embeddings")  # what a network's one tensor is


def to_logits(answer: torch.Tensor, output: str, scale: float) -> torch.Tensor:
    """Returns logits [N,C] of answers: of probabilities their logarithm, of cosines scale times them."""
    if output == "probabilities":
        return answer.clamp_min(SMALLEST).log()
    return answer * scale if output == "cosines" else answer


def name_outputs(answer: torch.Tensor) -> tuple[str, str] | None:
    """Returns what answers [N,C] look like that are no logits, and what to do; None for logits, by their looks."""
    sums = answer.sum(1)
    if answer.shape[1] < 2:
        return None
    if answer.min() >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return "probabilities (rows that sum to 1)", "return their logarithm, or say output=probabilities on the card"
    low, high = answer.min().item(), answer.max().item()
    if low >= -1 and high <= 1 and high - low > NARROW:
        what = f"cosines or sigmoids (numbers from {low:.2f} to {high:.2f})"
        return what, "return them times the scale of the training, or say output=cosines and scale on the card"
    return None


def ask(recognizer: Callable, images: torch.Tensor):
    """Returns the recognizer's answer. Raises: ValueError in one line, with the place, for whatever its code raises.

    What says that memory is short passes unchanged.
    """
    # which may change its images in place
    return call_theirs(lambda: recognizer(images.clone()), f"an answer for images {list(images.shape)}", "recognizer")


def call_theirs(call: Callable[[], object], wanted: str, giver: str):
    """Returns what a user's code gives. wanted, giver: words for what and whose. Raises: as ask."""
    try:
        return call()
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "DefaultCPUAllocator" in str(error):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"expected {wanted}, got {type(error).__name__} ({brief(error)}) from the {giver}, at "
            f"{place.filename}:{place.lineno}; mend the code there"
        ) from error


def brief(error: BaseException) -> str:
    """Returns the last line of an error, where torch says what went wrong, cut to 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
