"""What a judge says of pictures beside the photos of their users: rank, likeness, acceptance, and how sets cover each other.

seen: what the judge sees in N pictures; owners: [N], the user whom each was made of. Whatever is missing raises AbsentError.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ganinv.errors import AbsentError
from ganinv.interfaces import Recognition
from ganinv.metrics.scores import identity_rank, mean_cosine, nearest_distance, nearest_similarity, template_threshold
from ganinv.metrics.sets import density_coverage, knowledge_extraction, precision_recall
from ganinv.worlds.references import Judge, References

LEAST_COVERED = 10  # pictures and references of a user, below which neighbours say nothing of their spread
DECISION_FAR = 1e-2  # the share of other users' photos that a judge would take for a user


def closed_set(seen: Recognition | None, role: str) -> torch.Tensor:
    """Returns the logits [N,C]. Raises: AbsentError without a recognition or of one user; ValueError without logits."""
    if seen is None:
        raise AbsentError("needs a judge that was trained on the target's users; there is none")
    if seen.logits is None:
        raise ValueError(f"expected a {role} with logits over the users, got an open-set recognizer")
    if seen.logits.shape[1] == 1:
        raise AbsentError(f"needs a {role} of two users or more: the score of the only one is 1 for any picture")
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
        raise AbsentError("needs the judge of this number, trained on the users or never; there is none")
    if references is None or judge.name not in references.embeddings:
        raise AbsentError(f"needs references embedded by the judge {judge.name}; there are none")
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
    passes = (seen.embeddings @ F.normalize(rows, dim=1).T > threshold).float()  # [N,M]
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


def compare_sets(
    measure: Callable[[torch.Tensor, torch.Tensor], float],
    least: int,
    seen: Recognition | None,
    owners: torch.Tensor,
    judge: Judge | None,
    references: References | None,
) -> dict:
    """Returns an entry of Verdict.sets: all pictures against all references of their owners, in the judge's features.

    Raises: AbsentError with fewer than `least` of either, and see for_owners.
    """
    compare_embeddings(seen, owners, judge, references)  # raises for what is missing
    photos = references.embeddings[judge.name].cpu()[torch.isin(references.person.cpu(), owners)]
    if min(len(seen.embeddings), len(photos)) < least:
        raise AbsentError(
            f"needs at least {least} pictures and reference photos of their users, got {len(owners)} and {len(photos)}"
        )
    value = measure(seen.embeddings, photos)
    return {"value": value, "pictures": len(owners), "references": len(photos), "features": f"of the {judge.name}"}
