"""Judges, and the references that they have embedded: photos of users that no recognizer was trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ganinv.interfaces import Recognizer
from ganinv.metrics.scores import METRICS, accept_threshold
from ganinv.photos import Photos
from ganinv.recognizers.recognize import BATCH
from ganinv.weights.files import read_tensors


@dataclass(frozen=True)
class Judge:
    """An independent recognizer. sees_users: it was trained on the target's users (other photos) and has their classes.

    A judge that sees users gives judge_score, judge_rank and accuracy; one that does not ("verifier") gives
    identity_similarity, so that no number of it can come from having learnt the users. Any number of judges decide
    whether a target leaks, each by its own metric and thresholds.

    metric: "cosine", a similarity; "euclidean", a distance between raw embeddings. thresholds: false-match rate ->
    similarity or distance at which it is reached, measured on impostor_pairs pairs of other people; without them the
    references must give them. declared: what its publisher or owner says of its training, "" where nobody says anything.
    """

    name: str
    recognizer: Recognizer
    sees_users: bool
    metric: str = "cosine"
    thresholds: Mapping[float, float] = field(default_factory=dict)
    impostor_pairs: int = 0
    declared: str = ""

    def __post_init__(self):
        if self.metric not in METRICS:
            raise ValueError(f"expected the metric {' or '.join(METRICS)} of the judge {self.name}, got {self.metric}")


@dataclass(frozen=True)
class References:
    """Photos of the target's users that neither the target nor any judge was trained on (the caller's word).

    embeddings: judge name -> [M,D]; person: identity [M] of each row; photos: the pictures themselves, for LPIPS only,
    numbered by the same identities, in any number and order; None where pictures may not be passed on.
    """

    embeddings: dict[str, torch.Tensor]
    person: torch.Tensor
    photos: Photos | None = None
    thresholds: dict[tuple, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        for name, rows in self.embeddings.items():
            if rows.ndim != 2 or self.person.shape != rows.shape[:1]:
                got = f"{[*rows.shape]} for {[*self.person.shape]} references"
                raise ValueError(f"expected embeddings [M,D] of the judge {name} for person [M], got {got}")

    def threshold(self, judge: str, far: float, measure: Callable = accept_threshold) -> float:
        """Returns a judge's threshold at a false-accept rate, by metrics' accept_threshold or template_threshold; kept.

        Raises: ValueError when there are too few references for such a rate.
        """
        key = (judge, far, measure)
        if key not in self.thresholds:
            self.thresholds[key] = measure(self.embeddings[judge].float().cpu(), self.person.cpu(), far)
        return self.thresholds[key]

    @classmethod
    @torch.no_grad()
    def from_photos(cls, photos: Photos, judges: Sequence[Judge], device: str | torch.device = "cpu") -> References:
        """Returns references embedded by each judge; photos.person are the target's identities."""
        embeddings = {}
        for judge in judges:
            parts = torch.arange(len(photos)).split(BATCH)
            rows = [judge.recognizer(photos.images(part).to(device)).embeddings.cpu() for part in parts]
            embeddings[judge.name] = torch.cat(rows)
        return cls(embeddings, photos.person, photos)

    def save(self, path: str | Path) -> None:
        """Writes "<judge>.embeddings", in 16 bits, and "person", and no picture, as safetensors; atomic."""
        from safetensors.torch import save_file

        tensors = {f"{name}.embeddings": rows.cpu().half().contiguous() for name, rows in self.embeddings.items()}
        path = Path(path)
        temporary = path.with_name(f"{path.name}.tmp")
        save_file({**tensors, "person": self.person.cpu().contiguous()}, temporary)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path, photos: Photos | None = None) -> References:
        """Returns what save wrote, with the photos if the caller has them.

        Raises: ValueError when the file is missing, truncated or holds something else.
        """
        tensors, _ = read_tensors(path)
        person = tensors.pop("person", None)
        suffix = ".embeddings"
        if person is None or not all(name.endswith(suffix) for name in tensors):
            raise ValueError(f"expected person and <judge>{suffix} in {path}, got {sorted(tensors) or 'no embeddings'}")
        return cls({name.removesuffix(suffix): rows.float() for name, rows in tensors.items()}, person, photos)
