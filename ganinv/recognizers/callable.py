"""Any callable as a recognizer, asked so that its errors are one line."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.errors import find_code
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
                length = f"{found.logits.norm(dim=1).mean():.3g}"
                log.warning(
                    "its answers all have length %s: they are taken for embeddings, of users to enrol with --gallery", length
                )
                self.only_embeds, self.only_classifies = True, False
                found = Recognition(found.embeddings, None)
        if not self.only_classifies and found.logits is not None and are_embeddings(found.logits):
            check_order(answer)
        if self.only_classifies and (size := found.logits.shape[1]) in EMBEDDING_SIZES:
            log.warning(
                "its %d outputs are taken for as many users: if they are an embedding, say output=embeddings on the card, or "
                "return (embeddings, None), and enrol users with --gallery", size
            )  # fmt: skip
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
    """Says whether rows [N,C] all have length 1, or another one though they differ.

    Probabilities are none, of which one that is sure has length 1 too; nor are rows of zeros, as of a head not yet trained.
    """
    norms, sums = answer.float().norm(dim=1), answer.sum(1)
    ones = torch.ones_like(norms)
    if answer.shape[1] < 2 or norms.min() < SMALLEST or (answer.min() >= 0 and torch.allclose(sums.float(), ones, atol=1e-3)):
        return False
    differ = len(answer) > 1 and F.cosine_similarity(answer[:1].float(), answer[1:].float()).min() < ALIKE
    return torch.allclose(norms, ones, atol=1e-3) or bool(differ and torch.allclose(norms, norms.mean(), rtol=1e-3))


def check_order(answer: object) -> None:
    """Raises: ValueError where a pair's logits all have one length and its embeddings have not: it is in the other order."""
    embeddings = answer.embeddings if isinstance(answer, Recognition) else answer[0]
    if not are_embeddings(embeddings):
        raise ValueError(
            "expected (embeddings, logits) from the recognizer, got rows of one length as logits"
            "; return them in the other order"
        )


NARROW = 0.2  # of logits, which may be small of an untrained network; cosines and sigmoids of trained ones spread wider
ALIKE = 0.99  # of two answers' cosine: of an untrained network, all have nearly one length
EMBEDDING_SIZES = (128, 256, 512)  # of face recognizers; as numbers of users they are rare
FARTHEST = 4.0  # squared distance of two embeddings of length 1
SMALLEST = 1e-12  # a probability below it is taken for it: its logarithm must stay finite; a length below it is none
OUTPUTS = ("logits", "probabilities", "cosines", "distances", "embeddings")  # what a network's one tensor is


def to_logits(answer: torch.Tensor, output: str, scale: float) -> torch.Tensor:
    """Returns logits [N,C] of answers: of probabilities their logarithm, of cosines and minus distances scale times them."""
    if output == "probabilities":
        return answer.clamp_min(SMALLEST).log()
    signs = {"cosines": 1, "distances": -1}
    return answer * (signs[output] * scale) if output in signs else answer


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
    if low >= 0 and answer.shape[1] > 2:
        what = f"distances (no number below 0, up to {high:.3g})"
        return what, "return minus the distance times a scale, or say output=distances and scale on the card"
    if low >= -FARTHEST and high <= 0 and answer.logsumexp(1).abs().max() > 1e-3:  # 0 of logarithms of probabilities
        return f"minus distances (numbers from {low:.2f} to {high:.2f})", "return them times a scale, such as 64"
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
    except (Exception, SystemExit) as error:
        if "DefaultCPUAllocator" in str(error):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = find_code(error) or f"{last.filename}:{last.lineno}"
        raise ValueError(
            f"expected {wanted}, got {type(error).__name__} ({brief(error)}) from the {giver}, at {place}"
            "; mend the code there"
        ) from error


def brief(error: BaseException) -> str:
    """Returns the last line of an error, where torch says what went wrong, cut to 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
