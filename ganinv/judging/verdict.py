"""The judges' verdict on reconstructions. The attack never grades itself: it sees no judge and no reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ganinv import images as image_convention
from ganinv.interfaces import AbsentError, Recognition, Recognizer
from ganinv.judging.recognitions import See, Sight
from ganinv.judging.robustness import MILD, PROJECTION
from ganinv.metrics import perceptual
from ganinv.metrics.perceptual import PerceptualDistance
from ganinv.metrics.scores import (
    identity_rank,
    identity_score,
    mean_cosine,
    nearest_distance,
    nearest_similarity,
    template_threshold,
)
from ganinv.metrics.sets import density_coverage, frechet_distance, kernel_distance, knowledge_extraction, precision_recall
from ganinv.metrics.statistics import summarize

if TYPE_CHECKING:
    from ganinv.judging.memorisation import Memory
    from ganinv.worlds.truth import Truth
from ganinv.metrics.faces import detect_faces
from ganinv.worlds.references import Judge, References

NEEDS_PHOTOS = "needs reference photos: pass --photos DIR"


NEEDS_TRAINING = "needs the photos that the prior was trained on: pass --photos DIR"


FARS = (1e-2, 1e-3, 1e-4)  # false-accept rates; one that the references have too few pairs for is absent


LEAST_COVERED = 10  # pictures and references of a user, below which neighbours say nothing of their spread


DECISION_FAR = 1e-2  # the share of other users' photos that a judge would take for a user


@dataclass(frozen=True)
class Verdict:
    """summary: metric -> {"mean", "ci95", "n"} over identities; per_identity: one dict each; absent: metric -> reason.

    A metric is in summary and in every per_identity entry, or in absent, never in both. ci95 is [low, high], and
    [None, None] for a single identity, from which no interval can be had. pictures: one dict each, {"identity", "k",
    "taken_by": {judge: whether it takes the picture for the user}, "disagreement"}; none where a judge cannot decide.
    sets: metrics of all pictures together, name -> {"value", "pictures", "references", "features"}; they have no interval.
    """

    summary: dict[str, dict]
    per_identity: list[dict]
    absent: dict[str, str]
    pictures: list[dict] = field(default_factory=list)
    sets: dict[str, dict] = field(default_factory=dict)


def evaluate(
    images: torch.Tensor,
    identities: Sequence[int],
    target: Recognizer,
    judges: Sequence[Judge],
    references: References | None,
    *,
    seed: int,
    face_trunk: str | Path | None = None,
    choice_scores: torch.Tensor | None = None,
    truth: Truth | None = None,
    sight: Sight | None = None,
    memory: Memory | str = NEEDS_TRAINING,
) -> Verdict:
    """Returns the verdict on reconstructions; deterministic.

    images: [T,K,3,R,R] in [-1,1], on the recognizers' device; identities: T of them, in the same order; target: gives
    target_score on the plain picture, no transforms; judges: at most one that sees users and one that does not;
    seed: of the bootstrap; face_trunk: safetensors file of lpips_face; choice_scores: [T,K], the target's mean score over
    the transforms of the final choice, reported as target_score_transformed; truth: of rendered people,
    for factor_recovery; sight: of these pictures and any others, None for one of their own without a projection; memory:
    of the prior, or why there is none.
    Per-identity values are means over the K kept; summary means are means over identities, each counting once.
    Raises: ValueError when shapes, range, identities or judges are not as above.
    """
    if images.ndim != 5 or len(images) != len(identities) or images.numel() == 0:
        raise ValueError(f"expected images [T,K,3,R,R] of {len(identities)} identities, got {[*images.shape]}")
    flat = image_convention.check(images.flatten(0, 1))
    owners = torch.tensor(list(identities)).repeat_interleave(images.shape[1])
    judge, verifier = find_judge(judges, sees_users=True), find_judge(judges, sees_users=False)
    sight = sight or Sight(flat)

    def look(one: Judge | None, change: str = "") -> Recognition | None:
        return one and sight(one.recognizer, flat, change)

    by_judge, by_verifier = partial(look, judge), partial(look, verifier)
    seen_by_judge, seen_by_verifier = by_judge(), by_verifier()

    def target_score() -> torch.Tensor:
        return identity_score(closed_set(sight(target, flat), "target"), owners)

    def judge_score() -> torch.Tensor:
        return identity_score(closed_set(seen_by_judge, "judge"), owners)

    def decisions() -> list[torch.Tensor]:
        return [
            take_for_user(seen, owners, one, references)
            for one, seen in ((judge, seen_by_judge), (verifier, seen_by_verifier))
        ]

    compare = partial(compare_with_photos, flat, owners, references)
    measures: dict[str, Callable[[], torch.Tensor]] = {
        "target_score": target_score,
        "judge_score": judge_score,
        "target_judge_gap": lambda: target_score() - judge_score(),
        "judge_rank": lambda: identity_rank(closed_set(seen_by_judge, "judge"), owners).float(),
        "acc_at_1": lambda: hits_within(seen_by_judge, owners, 1),
        "acc_at_5": lambda: hits_within(seen_by_judge, owners, 5),
        "identity_similarity": lambda: compare_embeddings(seen_by_verifier, owners, verifier, references),
        "identity_similarity_judge": lambda: compare_embeddings(seen_by_judge, owners, judge, references),
        **{
            name_rate(far, sees_users): partial(accept, seen, owners, one, references, far)
            for sees_users, one, seen in ((False, verifier, seen_by_verifier), (True, judge, seen_by_judge))
            for far in FARS
        },
        "taken_for_user": lambda: torch.stack(decisions()).all(0).float(),
        "judges_agree": lambda: (decisions()[0] == decisions()[1]).float(),
        "acc_at_1_perturbed": lambda: hits_changed(by_judge, owners, MILD),
        "identity_similarity_perturbed": lambda: compare_changed(by_verifier, owners, verifier, references, MILD),
        "acc_at_1_projected": lambda: hits_within(by_judge(PROJECTION), owners, 1),
        "identity_similarity_projected": lambda: compare_embeddings(by_verifier(PROJECTION), owners, verifier, references),
        "projection_error": lambda: sight.change_size(flat, PROJECTION),
        "delta_eval": lambda: distance_to_nearest(seen_by_judge, owners, judge, references),
        "delta_face": lambda: distance_to_nearest(seen_by_verifier, owners, verifier, references),
        "nearest_own": lambda: similarity_to_nearest(seen_by_verifier, owners, verifier, references),
        "nearest_training": lambda: recalled(memory).nearest(seen_by_verifier.embeddings),
        "copies": lambda: (recalled(memory).nearest(seen_by_verifier.embeddings) > recalled(memory).threshold).float(),
        "knowledge_extraction": lambda: extract_knowledge(seen_by_verifier, owners, verifier, references),
        **{
            name: partial(cover_references, name, seen_by_verifier, owners, verifier, references)
            for name in ("precision", "recall", "density", "coverage")
        },
        "lpips": lambda: compare(perceptual.lpips_imagenet),
        "lpips_face": lambda: compare(lambda: load_face_distance(face_trunk)),
        "face_detected": lambda: sight.look("face", detect_faces, flat),
        "factor_recovery": lambda: recover_factors(truth, flat, owners),
    }
    if choice_scores is not None:
        measures = {"target_score_transformed": lambda: choice_scores.flatten()} | measures
    values: dict[str, torch.Tensor] = {}  # metric -> [T], float64
    absent: dict[str, str] = {}
    for name, measure in measures.items():
        try:
            values[name] = measure().double().view(images.shape[:2]).mean(1)
        except AbsentError as error:
            absent[name] = str(error)
    sets: dict[str, dict] = {}
    for name in SET_METRICS:
        try:
            sets[name] = compare_sets(name, seen_by_verifier, owners, verifier, references)
        except AbsentError as error:
            absent[name] = str(error)
    both = "judges_agree" in values
    pictures = tell_decisions(identities, images.shape[1], (judge, verifier), decisions()) if both else []
    return Verdict(
        {name: summarize(of_identities, seed) for name, of_identities in values.items()},
        [
            {"identity": int(identity)} | {name: of_identities[row].item() for name, of_identities in values.items()}
            for row, identity in enumerate(identities)
        ],
        absent,
        pictures,
        sets,
    )


def name_rate(far: float, sees_users: bool) -> str:
    """Returns the metric's name of the share that the judge which sees users, or the other, accepts at a rate."""
    return "accepted_at_far_" + f"{far:.0e}".replace("e-0", "e-") + ("_judge" if sees_users else "")


def tell_decisions(
    identities: Sequence[int], kept: int, judges: Sequence[Judge], decisions: list[torch.Tensor]
) -> list[dict]:
    """Returns Verdict.pictures of the judges' decisions, each [T*K] bool in the order of the pictures."""
    taken = [dict(zip([one.name for one in judges], said, strict=True)) for said in torch.stack(decisions, 1).tolist()]
    places = [{"identity": int(identity), "k": k} for identity in identities for k in range(kept)]
    return [
        place | {"taken_by": by, "disagreement": len(set(by.values())) > 1} for place, by in zip(places, taken, strict=True)
    ]


def find_judge(judges: Sequence[Judge], *, sees_users: bool) -> Judge | None:
    """Returns the judge that does, or does not, see users; None without one. Raises: ValueError when there are two."""
    found = [judge for judge in judges if judge.sees_users == sees_users]
    if len(found) > 1:
        names = ", ".join(judge.name for judge in found)
        raise ValueError(f"expected at most one judge with sees_users={sees_users}, got {names}; pass one of them")
    return found[0] if found else None


def closed_set(seen: Recognition | None, role: str) -> torch.Tensor:
    """Returns the logits [N,C]. Raises: AbsentError without a recognition; ValueError when it has no logits."""
    if seen is None:
        raise AbsentError("needs a judge that was trained on the target's users; this world has none")
    if seen.logits is None:
        raise ValueError(f"expected a {role} with logits over the users, got an open-set recognizer")
    return seen.logits


def hits_within(seen: Recognition | None, owners: torch.Tensor, k: int) -> torch.Tensor:
    """Returns [N], 1 where the owner ranks k or better, else 0. Raises: AbsentError when there are only k classes."""
    logits = closed_set(seen, "judge")
    if logits.shape[1] <= k:
        raise AbsentError(f"needs a judge of more than {k} identities, got {logits.shape[1]}: every rank would count")
    return (identity_rank(logits, owners) <= k).float()


def for_owners(
    measure: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor | float],
    seen: Recognition | None,
    owners: torch.Tensor,
    judge: Judge | None,
    references: References | None,
) -> torch.Tensor:
    """Returns [N], for each owner what measure(owner, embeddings [n,D] of the pictures, references [m,D]) says: [n] or one.

    Raises: AbsentError without the judge, or without references of an owner.
    """
    if seen is None or judge is None:
        raise AbsentError("needs another judge (one that saw the users, or one that did not); this world has none")
    if references is None or judge.name not in references.embeddings:
        raise AbsentError(f"needs references embedded by the judge {judge.name}; this world has none")
    rows, person = references.embeddings[judge.name].cpu(), references.person.cpu()
    theirs = {owner: rows[person == owner] for owner in owners.unique().tolist()}
    if missing := [owner for owner, photos in theirs.items() if not len(photos)]:
        raise AbsentError(f"needs references of every identity, got none of {missing}")
    found = torch.empty(len(owners))
    for owner, photos in theirs.items():
        found[owners == owner] = torch.as_tensor(measure(owner, seen.embeddings[owners == owner], photos)).float()
    return found


def compare_embeddings(
    seen: Recognition | None, owners: torch.Tensor, judge: Judge | None, references: References | None
) -> torch.Tensor:
    """Returns the mean cosine [N] of each embedding to its owner's references. Raises: AbsentError, see for_owners."""
    return for_owners(lambda _, shown, photos: mean_cosine(shown, photos), seen, owners, judge, references)


def distance_to_nearest(
    seen: Recognition | None, owners: torch.Tensor, judge: Judge | None, references: References | None
) -> torch.Tensor:
    """Returns the squared L2 distance [N], in [0,4], of each embedding to its owner's nearest reference, both unit norm.

    Raises: AbsentError, see for_owners.
    """
    return for_owners(lambda _, shown, photos: nearest_distance(shown, photos), seen, owners, judge, references)


def similarity_to_nearest(
    seen: Recognition | None, owners: torch.Tensor, judge: Judge | None, references: References | None
) -> torch.Tensor:
    """Returns the cosine [N] of each embedding to its owner's nearest reference. Raises: AbsentError, see for_owners."""
    return for_owners(lambda _, shown, photos: nearest_similarity(shown, photos), seen, owners, judge, references)


def recalled(memory: Memory | str) -> Memory:
    """Returns a memory. Raises: AbsentError where it is the reason that there is none."""
    if isinstance(memory, str):
        raise AbsentError(memory)
    return memory


def extract_knowledge(
    seen: Recognition | None, owners: torch.Tensor, judge: Judge | None, references: References | None
) -> torch.Tensor:
    """Returns [N], for each picture the share of its owner's references that a classifier which learnt from all these
    pictures names right. Raises: AbsentError for a single owner, and see for_owners.
    """
    if len(owners.unique()) < 2:
        raise AbsentError("needs at least two users to tell apart, this run has one")

    def classify(owner: int, _: torch.Tensor, photos: torch.Tensor) -> torch.Tensor:
        person = torch.full((len(photos),), owner)
        return knowledge_extraction(seen.embeddings, owners, photos, person).mean()

    return for_owners(classify, seen, owners, judge, references)


def cover_references(
    name: str, seen: Recognition | None, owners: torch.Tensor, judge: Judge | None, references: References | None
) -> torch.Tensor:
    """Returns precision, recall, density or coverage [N] of each owner's pictures for the references, the same for all.

    Raises: AbsentError with fewer than LEAST_COVERED of either for an owner, and see for_owners.
    """

    def cover(_: int, shown: torch.Tensor, photos: torch.Tensor) -> float:
        if min(len(shown), len(photos)) < LEAST_COVERED:
            raise AbsentError(
                f"needs at least {LEAST_COVERED} pictures and references of every user, got {len(shown)} and {len(photos)}"
            )
        if name in ("precision", "recall"):
            return precision_recall(photos, shown)[name == "recall"]
        return density_coverage(photos, shown)[name == "coverage"]

    return for_owners(cover, seen, owners, judge, references)


SET_METRICS = {  # name -> the measure, and the pictures and references below which it says nothing
    "fid": (frechet_distance, 1000),  # covariances of 256 features are fitted
    "kid": (kernel_distance, 100),
}


def compare_sets(
    name: str, seen: Recognition | None, owners: torch.Tensor, judge: Judge | None, references: References | None
) -> dict:
    """Returns an entry of Verdict.sets: all pictures against all references of their owners, in the judge's features.

    Raises: AbsentError with too few of either, and see for_owners.
    """
    measure, least = SET_METRICS[name]
    compare_embeddings(seen, owners, judge, references)  # raises for what is missing
    photos = references.embeddings[judge.name].cpu()[torch.isin(references.person.cpu(), owners)]
    if min(len(seen.embeddings), len(photos)) < least:
        raise AbsentError(
            f"needs at least {least} pictures and reference photos of their users, got {len(owners)} and {len(photos)}"
        )
    value = measure(seen.embeddings, photos)
    return {"value": value, "pictures": len(owners), "references": len(photos), "features": f"of the {judge.name}"}


def accept(
    seen: Recognition | None, owners: torch.Tensor, judge: Judge | None, references: References | None, far: float
) -> torch.Tensor:
    """Returns the share [N] of the owner's references that the judge takes for the person in each picture.

    The threshold is where a share `far` of pairs of different people among the references passes. Raises: AbsentError
    without references of the owner, or with too few pairs for such a rate.
    """
    compare_embeddings(seen, owners, judge, references)  # raises for what is missing
    rows, person = references.embeddings[judge.name].float().cpu(), references.person.cpu()
    try:
        threshold = references.threshold(judge.name, far)
    except ValueError as error:
        raise AbsentError(str(error)) from error
    passes = (seen.embeddings @ torch.nn.functional.normalize(rows, dim=1).T > threshold).float()  # [N,M]
    theirs = (person[None] == owners[:, None]).float()
    return (passes * theirs).sum(1) / theirs.sum(1)


def take_for_user(
    seen: Recognition | None, owners: torch.Tensor, judge: Judge | None, references: References | None
) -> torch.Tensor:
    """Returns [N] bool: whether a judge takes each picture for its owner; both judges decide by this one rule.

    The mean cosine to the owner's references must be above that of 99 in 100 photos of the other users. Raises:
    AbsentError without references of the owner, or with too few for such a rate.
    """
    similarity = compare_embeddings(seen, owners, judge, references)
    try:
        threshold = references.threshold(judge.name, DECISION_FAR, template_threshold)
    except ValueError as error:
        raise AbsentError(str(error)) from error
    return similarity > threshold


def hits_changed(see: See, owners: torch.Tensor, changes: Iterable[str]) -> torch.Tensor:
    """Returns [N], 1 where the owner ranks first in the picture and after every change. Raises: see hits_within."""
    return torch.stack([hits_within(see(change), owners, 1) for change in ("", *changes)]).amin(0)


def compare_changed(
    see: See, owners: torch.Tensor, judge: Judge | None, references: References | None, changes: Iterable[str]
) -> torch.Tensor:
    """Returns compare_embeddings [N], the lowest over the picture and its changes. Raises: AbsentError."""
    found = [compare_embeddings(see(change), owners, judge, references) for change in ("", *changes)]
    return torch.stack(found).amin(0)


def load_face_distance(face_trunk: str | Path | None) -> PerceptualDistance:
    """Returns the distance over a face trunk. Raises: AbsentError when the world has no such file."""
    if face_trunk is None:
        raise AbsentError("needs a perceptual trunk trained on faces; this world has none")
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


def recover_factors(truth: Truth | None, images: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """Returns the share [N] of the owner's true factors that is in each picture. Raises: AbsentError for real people."""
    if truth is None:
        raise AbsentError("needs users whose true factors are known: rendered people, as in the world synthetic")
    return truth.recover(images, owners)
