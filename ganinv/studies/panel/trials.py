"""The questions of a panel: whose picture is shown, and among whom."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHOICES = 5  # people to choose from; panel.html has as many rows and keys
CHANCE = 1 / CHOICES
SWAPPED = "another user's reconstruction"  # as the report calls this control
CAUGHT = "held-out photo (catch trial)"
KINDS = ("method", "control", "catch")


@dataclass(frozen=True)
class Trial:
    """One question: the picture in `file`, and who counts as the right answer.

    kind: one of KINDS; condition: what made the picture; user: the right answer, in a control that of a picture which
    was not made to show it; barred: the person whom it was made to show instead, who may not be among the five.
    """

    kind: str
    condition: str
    user: int
    file: Path
    barred: int | None = None


def plan_trials(
    pictures: Mapping[str, Sequence[Mapping[int, Path]]],
    controls: Iterable[str],
    held_out: Mapping[int, Sequence[Path]],
    *,
    num_pictures: int,
    num_catch: int,
    people: Sequence[int],
    rng: random.Random,
) -> tuple[list[Trial], dict[str, str]]:
    """Returns the questions, and why a control or the catch trials are absent.

    pictures: condition -> for each of its runs, user -> file; controls: the conditions that searched for nobody;
    held_out: person -> photos of them that are shown nowhere else; people: all who may stand among the five.
    num_pictures: of each condition and user, from different runs; num_catch: of different people, users or not, lest the
    photos tell whom the reconstructions are of.
    """
    controls, absent = set(controls), {}
    if taken := {SWAPPED, CAUGHT} & pictures.keys():
        raise ValueError(f"expected runs with labels of their own, got {taken.pop()!r}; run with another --label")
    trials = [
        Trial("control" if condition in controls else "method", condition, user, run[user])
        for condition, runs in pictures.items()
        for user in runs[0]
        for run in rng.sample(list(runs), min(num_pictures, len(runs)))
    ]
    users = sorted({trial.user for trial in trials})
    searched = [run for condition, runs in pictures.items() if condition not in controls for run in runs]
    if len(users) < 2 or len(people) <= CHOICES:  # the right answer, four others, and the one who is shown
        absent[SWAPPED] = f"needs 2 users and {CHOICES + 1} people, got {len(users)} and {len(people)}"
    else:
        trials += plan_swapped(searched, users, {trial.file for trial in trials}, rng)
    caught = sorted(person for person in people if held_out.get(person))
    if not caught:
        absent[CAUGHT] = "nobody has a photo beside the references"
    for person in rng.sample(caught, min(num_catch, len(caught))):
        trials.append(Trial("catch", CAUGHT, person, rng.choice(list(held_out[person]))))
    return trials, absent


def plan_swapped(
    runs: Sequence[Mapping[int, Path]], users: Sequence[int], used: set[Path], rng: random.Random
) -> list[Trial]:
    """Returns a control a user: another user's reconstruction, one that is asked nowhere else where there is one."""
    order = rng.sample(list(users), len(users))
    trials = []
    for user, shown in zip(order, order[1:] + order[:1], strict=True):
        files = [run[shown] for run in runs]
        file = rng.choice([file for file in files if file not in used] or files)
        trials.append(Trial("control", SWAPPED, user, file, barred=shown))
    return trials


def choose_candidates(trials: Sequence[Trial], people: Sequence[int], rng: random.Random) -> list[tuple[int, ...]]:
    """Returns the five people of each trial, so that all people are offered about equally often.

    A person who were offered more often than others would be the likelier answer. Sorted: the page draws the order.
    Raises: ValueError when there are too few people.
    """
    least = CHOICES + any(trial.barred is not None for trial in trials)
    if len(people) < least:
        raise ValueError(f"expected at least {least} people to choose from, got {len(people)}; add their photos")
    offered = Counter(trial.user for trial in trials)
    candidates: dict[int, tuple[int, ...]] = {}
    for index in rng.sample(range(len(trials)), len(trials)):
        trial = trials[index]
        others = [person for person in people if person not in (trial.user, trial.barred)]
        rarest = sorted(others, key=lambda person: (offered[person], rng.random()))[: CHOICES - 1]
        offered.update(rarest)
        candidates[index] = tuple(sorted([trial.user, *rarest]))
    return [candidates[index] for index in range(len(trials))]
