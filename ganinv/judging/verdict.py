"""The judges' verdict on reconstructions. The attack never grades itself: it sees no judge and no reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ganinv import images as image_convention
from ganinv.errors import Absent, AbsentError
from ganinv.interfaces import Recognizer
from ganinv.judging.measures import NEEDS_TRAINING, SETS, Case, find_measure
from ganinv.judging.recognitions import RecognitionCache
from ganinv.metrics.catalogue import CATALOGUE
from ganinv.metrics.statistics import summarize
from ganinv.worlds.references import Judge, References

if TYPE_CHECKING:
    from ganinv.judging.memorisation import TrainingPhotos
    from ganinv.worlds.truth import Truth


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
    recognitions: RecognitionCache | None = None,
    training: TrainingPhotos | Absent | None = None,
) -> Verdict:
    """Returns the verdict on reconstructions: every metric of the catalogue, or why it is absent; deterministic.

    images: [T,K,3,R,R] in [-1,1], on the recognizers' device; identities: T of them, in the same order; target: gives
    target_score on the plain picture, no transforms; judges: the first that sees users and the first that does not;
    seed: of the bootstrap; face_trunk: safetensors file of lpips_face; choice_scores: [T,K], the target's mean score over
    the transforms of the final choice, reported as target_score_transformed; truth: of rendered people,
    for factor_recovery; recognitions: of these pictures and any others, None for its own without a projection; training:
    photos of the prior, None for none.
    Per-identity values are means over the K kept; summary means are means over identities, each counting once.
    Raises: ValueError when shapes, range, identities or judges are not as above.
    """
    if images.ndim != 5 or len(images) != len(identities) or images.numel() == 0:
        raise ValueError(f"expected images [T,K,3,R,R] of {len(identities)} identities, got {[*images.shape]}")
    flat = image_convention.check(images.flatten(0, 1))
    case = Case(
        images=flat, owners=torch.tensor(list(identities)).repeat_interleave(images.shape[1]), target=target,
        judge=find_judge(judges, sees_users=True), verifier=find_judge(judges, sees_users=False), references=references,
        recognitions=recognitions or RecognitionCache(flat), face_trunk=face_trunk, truth=truth,
        choice_scores=None if choice_scores is None else choice_scores.flatten(),
        training=training or Absent(NEEDS_TRAINING),
    )  # fmt: skip
    values: dict[str, torch.Tensor] = {}  # metric -> [T], float64
    absent: dict[str, str] = {}
    sets: dict[str, dict] = {}
    for name in CATALOGUE:
        try:
            if name in SETS:
                sets[name] = case.compare(SETS[name], case.verifier)
            else:
                values[name] = find_measure(name)(case).double().view(images.shape[:2]).mean(1)
        except AbsentError as error:
            absent[name] = str(error)
    return Verdict(
        {name: summarize(of_identities, seed) for name, of_identities in values.items()},
        [
            {"identity": int(identity)} | {name: of_identities[row].item() for name, of_identities in values.items()}
            for row, identity in enumerate(identities)
        ],
        absent,
        describe_decisions(case, identities) if "judges_agree" in values else [],
        sets,
    )


def describe_decisions(case: Case, identities: Sequence[int]) -> list[dict]:
    """Returns Verdict.pictures: what both judges decide of each picture. Raises: AbsentError where one cannot."""
    names = (case.judge.name, case.verifier.name)
    taken = [dict(zip(names, said, strict=True)) for said in torch.stack(case.decide(), 1).tolist()]
    return [
        place | {"taken_by": by, "disagreement": len(set(by.values())) > 1}
        for place, by in zip(list_places(identities, len(case.owners) // len(identities)), taken, strict=True)
    ]


def list_places(identities: Sequence[int], kept: int) -> list[dict]:
    """Returns {"identity", "k"} of each picture, in their order."""
    return [{"identity": int(identity), "k": k} for identity in identities for k in range(kept)]


def find_judge(judges: Sequence[Judge], *, sees_users: bool) -> Judge | None:
    """Returns the first judge that does, or does not, see users, whom the metrics of one judge are of; None without one."""
    return next((judge for judge in judges if judge.sees_users == sees_users), None)
