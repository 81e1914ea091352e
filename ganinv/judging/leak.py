"""Does it leak? How many users the judges accept and name in the pictures, beside pictures that know nothing of the target.

And the second question, which never hides the first: does the search add to choosing among random faces by the target's
own score? Chosen pictures are an attack too, the weakest one, and no null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

from ganinv.errors import Absent, AbsentError
from ganinv.judging.recognitions import RecognitionCache
from ganinv.judging.verdict import Verdict
from ganinv.metrics.scores import face_scores, passed_by
from ganinv.metrics.statistics import exact_interval, least_p, mcnemar_p, sign_flip_p, summarize
from ganinv.worlds.references import Judge, References

RATES = (1e-3, 1e-2)  # false-match rates at which a judge may accept, the strictest first
NEEDED = 2  # judges who must agree, where there are so many
# the least share of the users' own photos that a judge must accept to take part: below a half it says no to a true likeness
# more often than yes, and where two must agree its weakness would be a veto
COMPETENT = 0.5
LEVEL = 0.05  # of p, at or below which chance is called no explanation
SELECTION = "best candidate"  # the control that the target itself chose: an attack, not a null
STRANGER = "another user's photo"  # of the references: the zero-effort impostor
SHOWN, SUGGESTED, NOT_SHOWN = "shown", "suggested", "not shown"


@dataclass(frozen=True)
class Rate:
    """A share that was counted, with its exact interval."""

    hits: int
    n: int

    @classmethod
    def of(cls, said: torch.Tensor) -> Rate:
        """Returns the rate of answers [N] bool."""
        return cls(int(said.sum()), said.numel())

    def describe(self) -> dict:
        """Returns {"hits", "n", "share", "ci95"}."""
        return {**asdict(self), "share": self.hits / self.n, "ci95": list(exact_interval(self.hits, self.n))}


@dataclass(frozen=True, kw_only=True)
class JudgeRates:
    """One judge and its rule: a picture is accepted for a user where its mean score with the user's reference photos is
    beyond the threshold, and named where no other of `people` users scores as high.

    threshold: a similarity, or a distance where the metric is Euclidean; far: the false-match rate at it; basis: whose
    pairs gave it. strangers: of all the references' photos of other people, those that it would accept for a user; own: of
    the references' photos, those that it accepts for whom they show, by the other photos of that person; None where
    everybody has but one.
    """

    judge: str
    sees_users: bool
    metric: str
    far: float
    threshold: float
    basis: str
    people: int
    accepted: Rate
    named: Rate
    strangers: Rate
    own: Rate | None


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A judge who takes no part in the first answer, and why."""

    judge: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class NullRates:
    """What the same judges say of one control, and the paired test against it: users given away by one side alone."""

    control: str
    accepted: dict[str, Rate]
    named: dict[str, Rate]
    given_away: Rate
    only_pictures: int
    only_control: int
    p: float


@dataclass(frozen=True, kw_only=True)
class Leak:
    """The first question. A user is given away where `needed` judges both accept and name the user's first picture.

    answer: "shown" where more users are given away than under every null, with a p of at most LEVEL; "suggested" where p is
    at most twice that, so that chance would explain it only if it might as well have gone the other way; "not shown" else,
    which is no "no". p: the largest, of the nulls; least_p: the least that so many users can give. selection: the same counts
    of the selection control; users: {"identity", "given_away", "accepted", "named"} of each. left_out: judges who cannot
    decide, or are not competent: see COMPETENT, which is about the users' own photos and never about what an attack has made.
    """

    answer: str
    given_away: Rate
    needed: int
    judges: tuple[JudgeRates, ...]
    nulls: tuple[NullRates, ...]
    p: float
    least_p: float
    selection: NullRates | None
    users: tuple[dict, ...]
    left_out: tuple[LeftOut, ...] = ()

    def describe(self) -> dict:
        """Returns the entry of report.json."""
        return expand(self)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The second question: pictures against the best of many samples by the target's own score, paired by user.

    metric, difference: by how much the pictures exceed the control in a likeness, {"mean", "ci95", "n", "p"}, which gives
    the answer; users: of both, given away, where judges can say.
    """

    answer: str
    control: str
    metric: str
    difference: dict
    least_p: float
    users: NullRates | None

    def describe(self) -> dict:
        """Returns the entry of report.json."""
        return expand(self)


def expand(value: object) -> object:
    """Returns nested dataclasses as dicts, rates with their share and interval."""
    if isinstance(value, Rate):
        return value.describe()
    if isinstance(value, Mapping):
        return {key: expand(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [expand(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: expand(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


# ---- one judge


@dataclass(frozen=True)
class Decider:
    """A judge's rule over the references: people [P], their photos' embeddings [M,D] and which of the people each shows."""

    judge: Judge
    embeddings: torch.Tensor
    row: torch.Tensor  # [M], into people
    people: torch.Tensor
    far: float
    limit: float  # a score beyond which it accepts
    basis: str

    def decide(self, embeddings: torch.Tensor, users: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (accepted, named), each [N] bool, of embeddings [N,D] shown as users [N], indices into people."""
        return self.decide_scores(
            average_people(face_scores(embeddings, self.embeddings, self.judge.metric), self.row), users
        )

    def decide_scores(self, scores: torch.Tensor, users: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the same of scores [N,P]."""
        own = scores.gather(1, users[:, None])
        return (own > self.limit)[:, 0], (scores < own).sum(1) == scores.shape[1] - 1


def average_people(scores: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """Returns the mean score [N,P] with each person's photos, of scores [N,M] with photos of person row [M]."""
    return torch.stack([scores[:, row == person].mean(1) for person in range(int(row.max()) + 1)], 1)


def build_decider(judge: Judge, references: References | None, identities: Sequence[int]) -> tuple[Decider, torch.Tensor]:
    """Returns a judge's rule, and its scores [M,P] of the reference photos, each without itself.

    Raises: AbsentError without references of a user, or pairs enough for a threshold.
    """
    if references is None or judge.name not in references.embeddings:
        raise AbsentError(f"needs references embedded by the judge {judge.name}")
    people, row = references.person.cpu().unique(return_inverse=True)
    if missing := sorted({int(identity) for identity in identities} - set(people.tolist())):
        raise AbsentError(f"needs references of every user, got none of {missing}")
    if len(people) < 2:
        raise AbsentError("needs references of at least two users to name one of them")
    embeddings = references.embeddings[judge.name].float().cpu()
    scores = face_scores(embeddings, embeddings, judge.metric)
    counts = row.bincount()
    others = average_people(scores, row)
    own = F.one_hot(row, len(people)).bool()
    # of a photo's own person, the mean over the other photos; where there is none, that person is no rival
    itself = scores.diagonal()
    alone = (others[own] * counts[row] - itself) / (counts[row] - 1)
    others = others.masked_scatter(own, torch.where(counts[row] > 1, alone, torch.full_like(alone, -torch.inf)))
    far, limit, basis = find_limit(judge, others[~own])
    return Decider(judge, embeddings, row, people, far, limit, basis), others


def find_limit(judge: Judge, impostors: torch.Tensor) -> tuple[float, float, str]:
    """Returns (false-match rate, score beyond which a judge accepts, whose pairs gave it): the strictest that can be had.

    Thresholds that came with the judge are of single pairs: a mean over a user's photos varies less, so that fewer
    strangers pass than the rate says. impostors: scores of the references' photos with other people.
    Raises: AbsentError with too few of them.
    """
    reason = ""
    for far in RATES:
        shipped = find_shipped(judge, far)
        if shipped is not None:
            limit = -shipped if judge.metric == "euclidean" else shipped
            return far, limit, f"{judge.impostor_pairs} pairs of other people" if judge.impostor_pairs else "other people"
        try:
            return far, passed_by(impostors, far), f"{len(impostors)} comparisons among the references"
        except ValueError as error:
            reason = str(error)
    raise AbsentError(f"needs a threshold of the judge {judge.name}: {reason}")


def find_shipped(judge: Judge, far: float) -> float | None:
    """Returns the threshold that came with a judge at a false-match rate, None where none did."""
    return next((value for rate, value in judge.thresholds.items() if math.isclose(rate, far, rel_tol=0.01)), None)


# ---- all judges


def measure_leak(
    images: torch.Tensor,
    identities: Sequence[int],
    controls: Mapping[str, torch.Tensor],
    judges: Sequence[Judge],
    references: References | None,
    recognitions: RecognitionCache,
) -> Leak:
    """Returns the first answer.

    images, controls: [T,K,3,R,R], of which the first of each user counts, the one that the attack itself ranks best.
    Raises: AbsentError when no judge can decide.
    """
    deciders, left_out = choose_judges(judges, references, identities)
    needed = min(NEEDED, len(deciders))
    position = {person: place for place, person in enumerate(deciders[0][0].people.tolist())}
    users = torch.tensor([position[int(identity)] for identity in identities])

    def see(pictures: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {
            one.judge.name: one.decide(recognitions(one.judge.recognizer, pictures[:, 0]).embeddings, users)
            for one, _ in deciders
        }

    ours = see(images)
    strangers = {one.judge.name: decide_strangers(one, scores, users) for one, scores in deciders}
    shown = {name: see(pictures) for name, pictures in controls.items() if name != STRANGER}
    if len(users) > 1:  # the first photo of the next user
        shown[STRANGER] = {
            one.judge.name: one.decide_scores(scores[[int((one.row == user).nonzero()[0]) for user in users.roll(-1)]], users)
            for one, scores in deciders
        }
    given = give_away(ours, needed)
    rows = {name: compare_control(name, said, given, needed) for name, said in shown.items()}
    nulls = tuple(row for name, row in rows.items() if name != SELECTION)
    rates = tuple(
        JudgeRates(
            judge=one.judge.name, sees_users=one.judge.sees_users, metric=one.judge.metric, far=one.far,
            threshold=-one.limit if one.judge.metric == "euclidean" else one.limit, basis=one.basis,
            people=len(one.people), accepted=Rate.of(ours[one.judge.name][0]), named=Rate.of(ours[one.judge.name][1]),
            strangers=Rate.of(strangers[one.judge.name]), own=decide_own(one, scores),
        )
        for one, scores in deciders
    )  # fmt: skip
    per_user = tuple(
        {
            "identity": int(identity),
            "given_away": bool(given[place]),
            "accepted": {name: bool(accepted[place]) for name, (accepted, _) in ours.items()},
            "named": {name: bool(named[place]) for name, (_, named) in ours.items()},
        }
        for place, identity in enumerate(identities)
    )
    p = max((row.p for row in nulls), default=1.0)
    return Leak(
        answer=answer_leak(Rate.of(given), nulls), given_away=Rate.of(given), needed=needed, judges=rates, nulls=nulls,
        p=p, least_p=least_p(len(users)),
        selection=rows.get(SELECTION), users=per_user, left_out=left_out,
    )  # fmt: skip


def choose_judges(
    judges: Sequence[Judge], references: References | None, identities: Sequence[int]
) -> tuple[list[tuple[Decider, torch.Tensor]], tuple[LeftOut, ...]]:
    """Returns the judges who decide, see build_decider, and those who are left out.

    Raises: AbsentError when none is left.
    """
    deciders, left_out = [], []
    for judge in judges:
        try:
            decider, scores = build_decider(judge, references, identities)
        except AbsentError as error:
            left_out.append(LeftOut(judge=judge.name, reason=str(error)))
            continue
        own = decide_own(decider, scores)
        if own is None or own.hits >= COMPETENT * own.n:
            deciders.append((decider, scores))
        else:
            found, at = own.hits / own.n, f"a false-match rate of 1 in {1 / decider.far:.0f}"
            reason = f"accepts {found:.0%} of the users' own photos at {at}"
            left_out.append(LeftOut(judge=judge.name, reason=f"{reason}, and {COMPETENT:.0%} are asked of a judge"))
    if not deciders:
        weak = [f"{one.judge} {one.reason}" if one.reason.startswith("accepts") else one.reason for one in left_out]
        raise AbsentError("; ".join(dict.fromkeys(weak)) or "needs a judge; none took part")
    return deciders, tuple(left_out)


def decide_own(decider: Decider, scores: torch.Tensor) -> Rate | None:
    """Returns how many reference photos the judge accepts for whom they show; None where nobody has another photo."""
    own = scores.gather(1, decider.row[:, None])[:, 0]
    known = own > -torch.inf
    return Rate.of(own[known] > decider.limit) if known.any() else None


def decide_strangers(decider: Decider, scores: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
    """Returns whether the judge would accept each reference photo for each of the users that it does not show."""
    return (scores[:, users] > decider.limit)[decider.row[:, None] != users[None]]


def give_away(said: Mapping[str, tuple[torch.Tensor, torch.Tensor]], needed: int) -> torch.Tensor:
    """Returns [T] bool, the users whom so many judges both accept and name."""
    return torch.stack([accepted & named for accepted, named in said.values()]).sum(0) >= needed


def compare_control(
    name: str, said: Mapping[str, tuple[torch.Tensor, torch.Tensor]], ours: torch.Tensor, needed: int
) -> NullRates:
    """Returns what the judges say of a control, and the exact paired test against it."""
    theirs = give_away(said, needed)
    only_pictures, only_control = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return NullRates(
        control=name, accepted={judge: Rate.of(accepted) for judge, (accepted, _) in said.items()},
        named={judge: Rate.of(named) for judge, (_, named) in said.items()}, given_away=Rate.of(theirs),
        only_pictures=only_pictures, only_control=only_control, p=mcnemar_p(only_pictures, only_control),
    )  # fmt: skip


def answer_leak(ours: Rate, nulls: Sequence[NullRates]) -> str:
    """Returns the first answer, see Leak. Without a null nothing can be shown, nor where one does as well."""
    if not nulls or any(ours.hits <= row.given_away.hits for row in nulls):
        return NOT_SHOWN
    p = max(row.p for row in nulls)
    return SHOWN if p <= LEVEL else SUGGESTED if p <= 2 * LEVEL else NOT_SHOWN


def compare_selection(verdict: Verdict, controls: Mapping[str, Verdict], leak: Leak | Absent, *, seed: int) -> Selection:
    """Returns the second answer, from the likeness to the users' photos under the judge that never met them, else the
    other. Raises: AbsentError without the control, or without a likeness."""
    if SELECTION not in controls:
        raise AbsentError("needs a control that the target chose among random samples of a prior; this run has none")
    control = controls[SELECTION]
    names = [name for name in ("identity_similarity", "identity_similarity_judge") if name in verdict.summary]
    if not names or names[0] not in control.summary:
        raise AbsentError(verdict.absent.get("identity_similarity", "needs a judge that compares with the users' photos"))
    metric = names[0]
    pairs = zip(verdict.per_identity, control.per_identity, strict=True)
    differences = torch.tensor([ours[metric] - theirs[metric] for ours, theirs in pairs], dtype=torch.float64)
    difference = summarize(differences, seed) | {"p": sign_flip_p(differences, seed)}
    low = difference["ci95"][0]
    answer = NOT_SHOWN
    if difference["mean"] > 0:
        answer = SHOWN if difference["p"] <= LEVEL else SUGGESTED if low is not None and low > 0 else NOT_SHOWN
    return Selection(
        answer=answer, control=SELECTION, metric=metric, difference=difference, least_p=least_p(len(differences)),
        users=None if isinstance(leak, Absent) else leak.selection,
    )  # fmt: skip
