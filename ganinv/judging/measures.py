"""How each metric of the catalogue is measured: one function each, of a Case, under the metric's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ganinv import images as image_convention
from ganinv.errors import Absent, AbsentError
from ganinv.interfaces import Recognition, Recognizer
from ganinv.judging.comparisons import (
    accept,
    closed_set,
    compare_embeddings,
    compare_sets,
    cover_references,
    distance_to_nearest,
    extract_knowledge,
    hits_within,
    similarity_to_nearest,
    take_for_user,
)
from ganinv.judging.recognitions import RecognitionCache
from ganinv.judging.robustness import MILD, PROJECTION
from ganinv.judging.work import FACE
from ganinv.metrics import perceptual
from ganinv.metrics.catalogue import FARS, find_metric, name_rate
from ganinv.metrics.faces import detect_faces
from ganinv.metrics.perceptual import PerceptualDistance
from ganinv.metrics.scores import identity_rank, identity_score
from ganinv.metrics.sets import frechet_distance, kernel_distance
from ganinv.worlds.references import Judge, References

if TYPE_CHECKING:
    from ganinv.judging.memorisation import TrainingPhotos
    from ganinv.worlds.truth import Truth

NEEDS_PHOTOS = "needs reference photos: pass --photos DIR"
NEEDS_TRAINING = "needs the photos that the prior was trained on: pass --photos DIR"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Pictures before the judges, and all that a metric may ask of them.

    images: [N,3,R,R] in [-1,1]; owners: [N], the user whom each was made of; judge: it has met the users; verifier: it has
    not; either may be None. recognitions: of these pictures and any others. choice_scores: [N], the target's mean score
    over the transforms of the final choice. What is missing is None, or Absent with its reason.
    """

    images: torch.Tensor
    owners: torch.Tensor
    target: Recognizer
    judge: Judge | None
    verifier: Judge | None
    references: References | None
    recognitions: RecognitionCache
    face_trunk: str | Path | None = None
    choice_scores: torch.Tensor | None = None
    truth: Truth | None = None
    training: TrainingPhotos | Absent = field(default_factory=lambda: Absent(NEEDS_TRAINING))

    def see(self, judge: Judge | None, change: str = "") -> Recognition | None:
        """Returns what a judge sees in the pictures after a change; None without the judge."""
        return judge and self.recognitions(judge.recognizer, self.images, change)

    def compare(self, measure: Callable[..., torch.Tensor], judge: Judge | None, change: str = "") -> torch.Tensor:
        """Returns a measure of comparisons.py of the pictures and a judge's references."""
        return measure(self.see(judge, change), self.owners, judge, self.references)

    def decide(self) -> list[torch.Tensor]:
        """Returns whether the judge, and whether the verifier, takes each picture for its owner: two of [N] bool."""
        return [self.compare(take_for_user, judge) for judge in (self.judge, self.verifier)]


# ---- the registry

Measure = Callable[[Case], torch.Tensor]  # -> [N]: of each picture
MEASURES: dict[str, Measure] = {}
SETS = {  # metrics of all pictures together; below so many of them, or of photos, they say nothing
    "fid": partial(compare_sets, frechet_distance, 1000),  # covariances of 256 features are fitted
    "kid": partial(compare_sets, kernel_distance, 100),
}


def measures(name: str) -> Callable[[Measure], Measure]:
    """Returns what registers a function as the measure of a metric of the catalogue.

    Raises: ValueError for a metric that the catalogue lacks, or that has a measure.
    """

    def register(measure: Measure) -> Measure:
        find_metric(name)
        if name in MEASURES or name in SETS:
            raise ValueError(f"expected one measure of the metric {name}, got a second; give it another name")
        MEASURES[name] = measure
        return measure

    return register


def find_measure(name: str) -> Measure:
    """Returns the measure of a metric. Raises: ValueError for one that the catalogue has and nothing measures."""
    if name not in MEASURES:
        raise ValueError(f"expected a measure of the metric {name}, got none; write one under @measures({name!r})")
    return MEASURES[name]


# ---- scores and ranks


@measures("target_score_transformed")
def target_score_transformed(case: Case) -> torch.Tensor:
    """Returns the target's mean score over the transforms of the final choice."""
    if case.choice_scores is None:
        raise AbsentError("needs a search, which scores its choice under transforms; none took part")
    return case.choice_scores


@measures("target_score")
def target_score(case: Case) -> torch.Tensor:
    """Returns the target's score of each owner in the plain picture."""
    return identity_score(closed_set(case.recognitions(case.target, case.images), "target"), case.owners)


@measures("judge_score")
def judge_score(case: Case) -> torch.Tensor:
    """Returns the judge's score of each owner."""
    return identity_score(closed_set(case.see(case.judge), "judge"), case.owners)


@measures("target_judge_gap")
def target_judge_gap(case: Case) -> torch.Tensor:
    """Returns by how much the target's score exceeds the judge's."""
    return target_score(case) - judge_score(case)


@measures("judge_rank")
def judge_rank(case: Case) -> torch.Tensor:
    """Returns the owner's rank among the judge's classes."""
    return identity_rank(closed_set(case.see(case.judge), "judge"), case.owners).float()


@measures("acc_at_1")
def acc_at_1(case: Case) -> torch.Tensor:
    """Returns whether the owner ranks first."""
    return hits_within(case.see(case.judge), case.owners, 1)


@measures("acc_at_5")
def acc_at_5(case: Case) -> torch.Tensor:
    """Returns whether the owner is among the first five."""
    return hits_within(case.see(case.judge), case.owners, 5)


# ---- likeness to the owner's photos


@measures("identity_similarity")
def identity_similarity(case: Case) -> torch.Tensor:
    """Returns the mean cosine to the owner's photos under the verifier."""
    return case.compare(compare_embeddings, case.verifier)


@measures("identity_similarity_judge")
def identity_similarity_judge(case: Case) -> torch.Tensor:
    """Returns the same under the judge."""
    return case.compare(compare_embeddings, case.judge)


def accepted(case: Case, *, far: float, sees_users: bool) -> torch.Tensor:
    """Returns the share of the owner's photos that a judge takes for the person in the picture, at a false-accept rate."""
    return case.compare(partial(accept, far=far), case.judge if sees_users else case.verifier)


for _sees_users in (False, True):
    for _far in FARS:
        measures(name_rate(_far, _sees_users))(partial(accepted, far=_far, sees_users=_sees_users))


@measures("taken_for_user")
def taken_for_user(case: Case) -> torch.Tensor:
    """Returns whether both take the picture for its owner."""
    return torch.stack(case.decide()).all(0).float()


@measures("judges_agree")
def judges_agree(case: Case) -> torch.Tensor:
    """Returns whether they decide alike."""
    one, other = case.decide()
    return (one == other).float()


@measures("delta_eval")
def delta_eval(case: Case) -> torch.Tensor:
    """Returns the squared distance to the owner's nearest photo under the judge."""
    return case.compare(distance_to_nearest, case.judge)


@measures("delta_face")
def delta_face(case: Case) -> torch.Tensor:
    """Returns the same under the verifier."""
    return case.compare(distance_to_nearest, case.verifier)


# ---- what survives changes


def lowest(measure: Callable[[str], torch.Tensor], changes: Iterable[str]) -> torch.Tensor:
    """Returns the lowest [N] of what measure(change) says of the plain picture and of every change."""
    return torch.stack([measure(change) for change in ("", *changes)]).amin(0)


@measures("acc_at_1_perturbed")
def acc_at_1_perturbed(case: Case) -> torch.Tensor:
    """Returns whether the owner ranks first in the picture and after every change."""
    return lowest(lambda change: hits_within(case.see(case.judge, change), case.owners, 1), MILD)


@measures("identity_similarity_perturbed")
def identity_similarity_perturbed(case: Case) -> torch.Tensor:
    """Returns the lowest similarity over the picture and its changes."""
    return lowest(lambda change: case.compare(compare_embeddings, case.verifier, change), MILD)


@measures("acc_at_1_projected")
def acc_at_1_projected(case: Case) -> torch.Tensor:
    """Returns whether the owner ranks first in what the prior draws of the picture."""
    return hits_within(case.see(case.judge, PROJECTION), case.owners, 1)


@measures("identity_similarity_projected")
def identity_similarity_projected(case: Case) -> torch.Tensor:
    """Returns the similarity of what the prior draws of the picture."""
    return case.compare(compare_embeddings, case.verifier, PROJECTION)


@measures("projection_error")
def projection_error(case: Case) -> torch.Tensor:
    """Returns how far that is from the picture."""
    return case.recognitions.change_size(case.images, PROJECTION)


# ---- what the prior remembers


def find_training(case: Case) -> TrainingPhotos:
    """Returns the prior's training photos. Raises: AbsentError with the reason where there are none."""
    if isinstance(case.training, Absent):
        raise AbsentError(case.training.reason)
    return case.training


@measures("nearest_own")
def nearest_own(case: Case) -> torch.Tensor:
    """Returns the cosine to the owner's nearest photo."""
    return case.compare(similarity_to_nearest, case.verifier)


@measures("nearest_training")
def nearest_training(case: Case) -> torch.Tensor:
    """Returns the cosine to the nearest photo that the prior was trained on."""
    return find_training(case).nearest(case.see(case.verifier).embeddings)


@measures("copies")
def copies(case: Case) -> torch.Tensor:
    """Returns whether the picture is so near to one that it counts as a copy."""
    return (nearest_training(case) > find_training(case).threshold).float()


# ---- sets


@measures("knowledge_extraction")
def extract(case: Case) -> torch.Tensor:
    """Returns the share of the owner's photos that a classifier which learnt from all these pictures names right."""
    return case.compare(extract_knowledge, case.verifier)


for _name in ("precision", "recall", "density", "coverage"):
    measures(_name)(lambda case, name=_name: case.compare(partial(cover_references, name), case.verifier))


# ---- the picture


@measures("lpips")
def lpips(case: Case) -> torch.Tensor:
    """Returns the LPIPS distance to the owner's nearest photo."""
    return compare_with_photos(case.images, case.owners, case.references, perceptual.lpips_imagenet)


@measures("lpips_face")
def lpips_face(case: Case) -> torch.Tensor:
    """Returns the same over the world's face trunk."""
    return compare_with_photos(case.images, case.owners, case.references, lambda: load_face_distance(case.face_trunk))


@measures("face_detected")
def face_detected(case: Case) -> torch.Tensor:
    """Returns the probability of a face."""
    return case.recognitions.look(FACE, detect_faces, case.images)


@measures("factor_recovery")
def factor_recovery(case: Case) -> torch.Tensor:
    """Returns the share of the owner's true factors that is in each picture."""
    if case.truth is None:
        raise AbsentError("needs users whose true factors are known: rendered people, as in the world synthetic")
    return case.truth.recover(case.images, case.owners)


def load_face_distance(face_trunk: str | Path | None) -> PerceptualDistance:
    """Returns the distance over a face trunk. Raises: AbsentError when the world has no such file."""
    if face_trunk is None or not Path(face_trunk).is_file():
        raise AbsentError("needs a perceptual trunk trained on faces; this world has none")
    return read_face_distance(str(face_trunk), Path(face_trunk).stat().st_mtime_ns)


@lru_cache(maxsize=1)
def read_face_distance(face_trunk: str, changed: int) -> PerceptualDistance:
    """Returns the distance over a file's trunk; every control asks for it again. changed: when the file did."""
    return perceptual.lpips_face(face_trunk)


def compare_with_photos(
    images: torch.Tensor,
    owners: torch.Tensor,
    references: References | None,
    load: Callable[[], PerceptualDistance],
) -> torch.Tensor:
    """Returns the distance [N] of each image [N,3,R,R] to the nearest reference photo of its owner.

    Photos are brought to the images' size. Raises: AbsentError when a photo, or what load needs, is missing.
    """
    if references is None or references.photos is None:
        raise AbsentError(NEEDS_PHOTOS)
    photos = references.photos
    if missing := sorted(set(owners.tolist()) - set(photos.person.tolist())):
        raise AbsentError(f"needs reference photos of every identity, got none of {missing}")
    distance = load()
    distance.model.to(images.device)
    nearest = torch.empty(len(images))
    for owner in owners.unique().tolist():
        theirs = image_convention.resize(photos.images(photos.person == owner).to(images), tuple(images.shape[-2:]))
        nearest[owners == owner] = distance.nearest(images[owners == owner], theirs).cpu()
    return nearest
