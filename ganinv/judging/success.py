"""Success attack rates, as template inversion reports them: how often a picture passes as the user at a system's door.

Type I: against what the user was enrolled with; type II: against other photos of the user. A system is the target itself at
its operator's threshold, or a judge at a false-match rate. Beside the pictures stand the same rates of controls.
Source: Mai et al. 2019, On the Reconstruction of Face Images from Deep Face Templates, section 4.3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from ganinv.errors import AbsentError
from ganinv.interfaces import Recognizer
from ganinv.judging.leak import RATES, find_shipped
from ganinv.judging.recognitions import RecognitionCache
from ganinv.judging.work import Work
from ganinv.metrics.scores import face_scores, passed_by
from ganinv.metrics.statistics import exact_interval, summarize
from ganinv.photos import load_photos
from ganinv.recognizers.recognize import BATCH
from ganinv.worlds.references import Judge, References

ATTACK = "the attack"
NEEDED = {  # type -> what it takes
    "I": "needs templates or photos that the users were enrolled with",
    "II": "needs other photos of every user, as the system sees them",
}
IMPOSTOR = "zero-effort impostor"  # other people's photos, shown as they are


@dataclass(frozen=True, kw_only=True)
class System:
    """What decides whether a picture passes as a user.

    see: pictures [N,3,R,R] -> embeddings [N,D]; thresholds: "FMR 0.001", "operator", ... -> a similarity, or a distance
    where the metric is Euclidean; enrolled, others: user -> embeddings [m,D], of type I and type II, {} where there are
    none; others may hold more users than are attacked, whose photos are the impostors.
    """

    name: str
    metric: str
    see: Callable[[torch.Tensor], torch.Tensor]
    thresholds: Mapping[str, float]
    enrolled: Mapping[int, torch.Tensor] = field(default_factory=dict)
    others: Mapping[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class SuccessRates:
    """rows: one for each system, type, threshold and kind of picture, the attack's first; see measure_success."""

    rows: tuple[dict, ...]
    unmeasured: dict[str, str] = field(default_factory=dict)  # "system, type II" -> why it has no row

    def describe(self) -> dict:
        """Returns the entry of report.json."""
        return {"rows": list(self.rows), "unmeasured": self.unmeasured}


def measure_success(
    systems: Sequence[System],
    images: torch.Tensor,
    identities: Sequence[int],
    controls: Mapping[str, torch.Tensor],
    *,
    seed: int,
) -> SuccessRates:
    """Returns how often pictures pass as their users.

    images, controls: [T,K,3,R,R], of which the first of each user counts. A row: {"system", "type", "at", "threshold",
    "pictures", "share", "ci95", "interval", "users", "comparisons"}; the interval is exact where each user gives one
    comparison, else the bootstrap over users: comparisons of one user are not independent.
    Raises: AbsentError where no system has a template or a photo of every user.
    """
    rows, unmeasured = [], {}
    for system in systems:
        seen = {name: system.see(shown[:, 0]) for name, shown in {ATTACK: images, **controls}.items()}
        for kind, templates in (("I", system.enrolled), ("II", system.others)):
            reason = NEEDED[kind] if any(int(user) not in templates for user in identities) else ""
            if reason or not system.thresholds:
                unmeasured[f"{system.name}, type {kind}"] = reason or "needs a threshold"
                continue
            scores = {
                name: [
                    face_scores(one[None], templates[int(user)], system.metric)[0]
                    for one, user in zip(embeddings, identities, strict=True)
                ]
                for name, embeddings in seen.items()
            }
            if len(system.others) > 1:
                scores[IMPOSTOR] = [score_impostors(system, templates, int(user)) for user in identities]
            for at, threshold in system.thresholds.items():
                limit = -threshold if system.metric == "euclidean" else threshold
                for name, of_users in scores.items():
                    row = {"system": system.name, "type": kind, "at": at, "threshold": threshold, "pictures": name}
                    rows.append(row | count_success(of_users, limit, seed))
    if not rows:
        raise AbsentError("needs templates or photos that the users were enrolled with, or references of every user")
    return SuccessRates(tuple(rows), unmeasured)


def score_impostors(system: System, templates: Mapping[int, torch.Tensor], user: int) -> torch.Tensor:
    """Returns the scores of all photos of others with one user's templates."""
    strangers = torch.cat([rows for other, rows in system.others.items() if other != user])
    return face_scores(strangers, templates[user], system.metric).flatten()


def count_success(scores: Sequence[torch.Tensor], limit: float, seed: int) -> dict:
    """Returns {"share", "ci95", "interval", "users", "comparisons"} of scores [m] of each user that reach a limit."""
    passed = [of_user >= limit for of_user in scores]
    comparisons = sum(map(len, passed))
    counts = {"users": len(passed), "comparisons": comparisons}
    if all(len(of_user) == 1 for of_user in passed):
        hits = int(torch.cat(passed).sum())
        return {"share": hits / comparisons, "ci95": list(exact_interval(hits, comparisons)), "interval": "exact"} | counts
    entry = summarize(torch.stack([of_user.double().mean() for of_user in passed]), seed)
    return {"share": entry["mean"], "ci95": entry["ci95"], "interval": "bootstrap over users"} | counts


# ---- the systems of a run


def list_systems(
    target: Recognizer, judges: Sequence[Judge], references: References | None, recognitions: RecognitionCache
) -> list[System]:
    """Returns the target's own door and each judge's.

    target: an enrolled one, which has templates [T,D], metric and threshold, None where nobody set one; enrolled: the
    photos' files of each user that it was enrolled with, where they are at hand: judges see them at the pictures' size.
    Raises: AbsentError for a target without templates.
    """
    templates = getattr(target, "templates", None)
    if templates is None:
        raise AbsentError("needs a gallery: this target's users are classes, and no template of them is compared")
    files, known = getattr(target, "enrolled", None), references.photos if references is not None else None
    photos = load_photos(files, recognitions.images[""].shape[-1]) if files else None

    def see(recognizer: Recognizer, pictures: torch.Tensor) -> torch.Tensor:
        return recognitions(recognizer, pictures).embeddings

    device = templates.device
    embed = partial(embed_people, device=device, work=recognitions.work)
    others = embed(target, known)
    operator = {} if target.threshold is None else {"operator": float(target.threshold)}
    door = Judge("target", target, sees_users=True, metric=target.metric)
    systems = [
        System(
            name="target", metric=target.metric, see=partial(see, target),
            thresholds=operator | find_thresholds(door, others),
            enrolled=dict(enumerate(templates.detach().cpu()[:, None])), others=others,
        )
    ]  # fmt: skip
    for judge in judges:
        stored = references.embeddings.get(judge.name) if references is not None else None
        others = {} if stored is None else group_people(stored.float().cpu(), references.person.cpu())
        systems.append(
            System(
                name=judge.name, metric=judge.metric, see=partial(see, judge.recognizer),
                enrolled=embed(judge.recognizer, photos), thresholds=find_thresholds(judge, others), others=others,
            )
        )  # fmt: skip
    return systems


def embed_people(recognizer: Recognizer, photos, device: torch.device, work: Work) -> dict[int, torch.Tensor]:
    """Returns person -> embeddings [m,D] of Photos; {} of None."""
    if photos is None:
        return {}
    index = torch.arange(len(photos)).split(BATCH)
    parts = [work.see(recognizer, photos.images(part).to(device)).embeddings for part in index]
    return group_people(torch.cat(parts), photos.person)


def group_people(embeddings: torch.Tensor, person: torch.Tensor) -> dict[int, torch.Tensor]:
    """Returns person -> rows of embeddings [M,D]."""
    return {one: embeddings[person == one] for one in person.unique().tolist()}


def find_thresholds(judge: Judge, people: Mapping[int, torch.Tensor]) -> dict[str, float]:
    """Returns "FMR 0.001" -> threshold of single pairs, from those that came with the judge, else from pairs of `people`;
    a rate for which there are too few is left out."""
    found: dict[str, float] = {}
    for far in RATES:
        shipped = find_shipped(judge, far)
        if shipped is not None:
            found[f"FMR {far:g}"] = shipped
        elif len(people) > 1:
            rows = list(people.values())
            pairs = [face_scores(a, b, judge.metric).flatten() for i, a in enumerate(rows) for b in rows[i + 1 :]]
            with contextlib.suppress(ValueError):  # too few pairs
                limit = passed_by(torch.cat(pairs), far)
                found[f"FMR {far:g}"] = -limit if judge.metric == "euclidean" else limit
    return found
