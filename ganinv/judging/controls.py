"""Controls: what the same judges say of pictures that no search made, and of the users' own photos."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ganinv.judging.comparisons import DECISION_FAR
from ganinv.judging.verdict import Verdict
from ganinv.metrics.catalogue import CATALOGUE, FARS, name_rate
from ganinv.metrics.scores import identity_rank, template_threshold
from ganinv.metrics.statistics import sign_flip_p, summarize
from ganinv.worlds.references import Judge, References

if TYPE_CHECKING:
    from ganinv.worlds.truth import Truth


def strongest_differences(verdict: Verdict, controls: Mapping[str, Verdict], seed: int) -> list[dict]:
    """Returns strongest_difference of the catalogue's headline metrics, of those that have one."""
    names = [metric.name for metric in CATALOGUE.values() if metric.headline]
    return [line for line in (strongest_difference(verdict, controls, name, seed) for name in names) if line]


def strongest_difference(verdict: Verdict, controls: Mapping[str, Verdict], metric: str, seed: int) -> dict | None:
    """Returns by how much a verdict exceeds the control with the highest mean of a metric, paired by user.

    {"metric", "control", "mean", "ci95", "n", "p"}: the interval is of the mean over users of the difference, p of a
    sign-flip test. None when the verdict or every control lacks the metric.
    """
    having = {name: control for name, control in controls.items() if metric in control.summary}
    if metric not in verdict.summary or not having:
        return None
    name = max(having, key=lambda name: having[name].summary[metric]["mean"])
    pairs = zip(verdict.per_identity, having[name].per_identity, strict=True)
    differences = torch.tensor([ours[metric] - theirs[metric] for ours, theirs in pairs], dtype=torch.float64)
    found = {"metric": metric, "control": name} | summarize(differences, seed)
    return found | {"p": sign_flip_p(differences, seed)}


@torch.no_grad()
def measure_photos(
    judges: Sequence[Judge],
    references: References | None,
    identities: Sequence[int],
    seed: int,
    truth: Truth | None = None,
) -> dict[str, dict]:
    """Returns what the users' own reference photos reach, metric -> {"mean", "ci95", "n"}: the ceiling.

    A photo is compared with the user's others. Only what the stored embeddings say is there: similarity, acceptance and
    decision under each judge, and acc_at_1 where the judge that sees users can classify embeddings; and, of rendered
    people, the factor_recovery of their photos.
    """
    if references is None:
        return {}
    known = [judge for judge in judges if judge.name in references.embeddings]
    thresholds = {judge.name: find_thresholds(references, judge.name) for judge in known}
    values: dict[str, list[float]] = {}
    for identity in identities:
        for name, value in measure_own_photos(known, references, thresholds, int(identity)).items():
            values.setdefault(name, []).append(value)
        if truth is not None and references.photos is not None:
            own = references.photos.images(references.photos.person == identity)
            found = truth.recover(own, torch.full((len(own),), int(identity)))
            values.setdefault("factor_recovery", []).append(found.mean().item())
    # a metric that some user lacks would be a mean over other users than the run's
    return {
        name: summarize(torch.tensor(of_users, dtype=torch.float64), seed)
        for name, of_users in values.items()
        if len(of_users) == len(identities)
    }


@dataclass(frozen=True)
class Thresholds:
    """Cosines that the references have pairs enough for: pairs, false-accept rate -> of two photos; template: of a photo's
    mean to a user's, at which a judge takes it for the user, None where there are too few."""

    pairs: dict[float, float]
    template: float | None


def find_thresholds(references: References, judge: str) -> Thresholds:
    """Returns a judge's thresholds. What cannot be had is absent here as in the verdict, which says why."""
    pairs, template = {}, None
    for far in FARS:
        with contextlib.suppress(ValueError):
            pairs[far] = references.threshold(judge, far)
    with contextlib.suppress(ValueError):
        template = references.threshold(judge, DECISION_FAR, template_threshold)
    return Thresholds(pairs, template)


def measure_own_photos(
    judges: Sequence[Judge], references: References, thresholds: Mapping[str, Thresholds], identity: int
) -> dict[str, float]:
    """Returns metric -> mean over one user's reference photos, each compared with the user's others."""
    values: dict[str, float] = {}
    decisions = []
    for judge in judges:
        own = F.normalize(references.embeddings[judge.name][references.person == identity].float(), dim=1)
        classify = getattr(judge.recognizer, "classify", None)
        if judge.sees_users and classify and len(own):
            device = next(judge.recognizer.parameters()).device
            ranks = identity_rank(classify(own.to(device)).cpu(), torch.full((len(own),), identity))
            values["acc_at_1"] = (ranks == 1).double().mean().item()
        if len(own) < 2:
            continue
        others = (own @ own.T)[~torch.eye(len(own), dtype=torch.bool)].view(len(own), -1)  # a photo's cosines to the rest
        values["identity_similarity_judge" if judge.sees_users else "identity_similarity"] = others.double().mean().item()
        limits = thresholds[judge.name]
        for far, threshold in limits.pairs.items():
            values[name_rate(far, judge.sees_users)] = (others > threshold).double().mean().item()
        if limits.template is not None:
            decisions.append(others.mean(1) > limits.template)
    if len(decisions) == 2:
        values["taken_for_user"] = (decisions[0] & decisions[1]).double().mean().item()
        values["judges_agree"] = (decisions[0] == decisions[1]).double().mean().item()
    return values
