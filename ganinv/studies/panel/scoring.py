"""What the answers say: how often raters were right, against chance and controls."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from scipy.stats import binom, binomtest

from ganinv.studies.panel.answers import Answers
from ganinv.studies.panel.trials import CHANCE, KINDS

RESAMPLES = 10000
BOOTSTRAP_SEED = 0


def score_panel(key: Mapping, answers: Sequence[Answers], catch_threshold: float) -> dict:
    """Returns the score of a panel.

    rows: one a condition, over the raters who were right in at least catch_threshold of the catch trials (over all where
    there are none); rows_all: over all raters, where somebody failed; raters, agreement and absent: see below.
    """
    absent = {}
    raters = [describe_rater(key, one, catch_threshold) for one in answers]
    reliable = [one for one, rater in zip(answers, raters, strict=True) if not rater["flagged"]]
    rows = [score_condition(key, reliable, name) for name in list_conditions(key)] if reliable else []
    if not reliable:
        absent["rows"] = f"no rater was right in at least {catch_threshold:.0%} of the catch trials"
    if not any(item["kind"] == "catch" for item in key["items"].values()):
        absent["catch trials"] = "the panel has none, so no rater could be checked"
    compare_with_control(key, reliable, rows)
    agreement = measure_agreement(key, reliable)
    if agreement is None:
        absent["agreement"] = f"needs 2 raters who pass the catch trials, got {len(reliable)}"
    score = {"panel": key["panel"], "chance": CHANCE, "catch_threshold": catch_threshold, "raters": raters, "rows": rows}
    if len(reliable) < len(answers):
        score["rows_all"] = [score_condition(key, answers, name) for name in list_conditions(key)]
    return score | {"agreement": agreement, "absent": absent}


def list_conditions(key: Mapping) -> list[str]:
    """Returns the conditions: methods, then controls, then catch trials."""
    kinds = {item["condition"]: item["kind"] for item in key["items"].values()}
    return sorted(kinds, key=lambda name: (KINDS.index(kinds[name]), name))


def describe_rater(key: Mapping, answers: Answers, catch_threshold: float) -> dict:
    """Returns a rater's catch trials, whether they are flagged for them, and their median time an item."""
    caught = [answers.choices[name] == item["answer"] for name, item in key["items"].items() if item["kind"] == "catch"]
    return {
        "rater": answers.rater,
        "catch_correct": sum(caught),
        "catch_n": len(caught),
        "flagged": bool(caught) and sum(caught) / len(caught) < catch_threshold,
        "median_seconds": round(statistics.median(answers.seconds.values()), 1),
    }


def score_condition(key: Mapping, answers: Sequence[Answers], condition: str) -> dict:
    """Returns one row: how often the raters were right in a condition, with its 95 % interval, and p over chance.

    p_over_chance: one-sided and exact, see chance_tail; p_binomial: the same if raters did not agree for other reasons
    than being right, which they do: too small with more than one rater, the same with one.
    """
    items = {name: item for name, item in key["items"].items() if item["condition"] == condition}
    rates = hit_rates(items, answers)
    correct = sum(one.choices[name] == item["answer"] for one in answers for name, item in items.items())
    count = len(items) * len(answers)
    seconds = [one.seconds[name] for one in answers for name in items]
    low, high, interval = accuracy_interval(rates)
    choices = [
        [sum(one.choices[name] == person for one in answers) for person in item["people"]] for name, item in items.items()
    ]
    return {
        "condition": condition, "kind": next(iter(items.values()))["kind"], "accuracy": correct / count, "ci95": [low, high],
        "interval": interval, "over_chance": correct / count - CHANCE, "p_over_chance": chance_tail(choices, correct),
        "p_binomial": binomial_tail(correct, count, CHANCE),
        "correct": correct, "n": count, "raters": rates.shape[0], "users": rates.shape[1],
        "median_seconds": round(statistics.median(seconds), 1),
    }  # fmt: skip


def hit_rates(items: Mapping[str, Mapping], answers: Sequence[Answers]) -> torch.Tensor:
    """Returns the share [raters,users] of each user's items in which each rater was right; users in order of number."""
    users = sorted({item["user"] for item in items.values()})
    rates = torch.zeros(len(answers), len(users), dtype=torch.float64)
    for column, user in enumerate(users):
        own = {name: item for name, item in items.items() if item["user"] == user}
        for row, one in enumerate(answers):
            rates[row, column] = sum(one.choices[name] == item["answer"] for name, item in own.items()) / len(own)
    return rates


def compare_with_control(key: Mapping, answers: Sequence[Answers], rows: Sequence[dict]) -> None:
    """Adds over_control {"control","mean","ci95"} to the rows of methods: the difference to the strongest control.

    Paired by rater and user, interval clustered by both. A row has none where there is no control of the same users.
    """
    controls = [row for row in rows if row["kind"] == "control"]
    if not controls:
        return
    strongest = max(controls, key=lambda row: row["accuracy"])["condition"]

    def of(condition: str) -> dict:
        return {name: item for name, item in key["items"].items() if item["condition"] == condition}

    base = of(strongest)
    for row in rows:
        items = of(row["condition"])
        if row["kind"] == "method" and {i["user"] for i in items.values()} == {i["user"] for i in base.values()}:
            difference = hit_rates(items, answers) - hit_rates(base, answers)
            low, high = cluster_interval(difference) if difference.numel() > 1 else (None, None)
            row["over_control"] = {"control": strongest, "mean": difference.mean().item(), "ci95": [low, high]}


def accuracy_interval(rates: torch.Tensor) -> tuple[float, float, str]:
    """Returns (low, high, how) of the mean of rates [raters,users].

    Clustered by rater and user. Where all are alike, resampling would say that nothing is uncertain: then the exact
    binomial interval of as many trials as there are users (raters, where there is one user).
    """
    if rates.min() < rates.max():
        return *cluster_interval(rates), "resampled raters and users"
    clusters = rates.shape[1] if rates.shape[1] > 1 else rates.shape[0]
    return *exact_interval(round(rates.mean().item() * clusters), clusters), f"exact binomial, n {clusters}"


def cluster_interval(rates: torch.Tensor) -> tuple[float, float]:
    """Returns the 95 % interval of the mean of rates [raters,users]: raters and users are resampled independently.

    Somewhat too wide, by design; with few raters or users too narrow all the same.
    Source: Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), section 3.
    """
    generator = torch.Generator().manual_seed(BOOTSTRAP_SEED)

    def draw_counts(size: int) -> torch.Tensor:
        drawn = torch.randint(size, (RESAMPLES, size), generator=generator)
        return torch.zeros(RESAMPLES, size, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())

    raters, users = map(draw_counts, rates.shape)
    means = ((raters @ rates) * users).sum(1) / rates.numel()
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def chance_tail(choices: Sequence[Sequence[int]], correct: int) -> float:
    """Returns the probability of `correct` or more right answers if pictures told nothing of their users.

    choices: of each picture, how many raters chose each of its people. The choices are taken as they are, and each of a
    picture's people as equally likely to be the right one, so that raters who agree on a wrong one count as one surprise.
    Exact, and binomial with one rater. Pictures are taken as independent. Of simulated panels that tell nothing (5 users,
    10 raters, of whom nine in ten agree) 3 % come below 0.05; by a binomial over all answers 26 % would.
    """
    totals = {0: 1.0}  # right answers -> probability
    for row in choices:
        after: Counter[int] = Counter()
        for total, share in totals.items():
            for raters in row:
                after[total + raters] += share / len(row)
        totals = after
    return min(1.0, math.fsum(share for total, share in totals.items() if total >= correct))


def binomial_tail(correct: int, count: int, share: float) -> float:
    """Returns the probability of `correct` or more of `count` independent answers being right, each with `share`."""
    return float(binom.sf(correct - 1, count, share))


def exact_interval(correct: int, count: int) -> tuple[float, float]:
    """Returns the exact 95 % interval of a binomial share. Source: Clopper and Pearson 1934."""
    interval = binomtest(correct, count).proportion_ci(method="exact")
    return float(interval.low), float(interval.high)


def measure_agreement(key: Mapping, answers: Sequence[Answers]) -> dict | None:
    """Returns how far raters agree on whom a picture resembles, right or wrong, catch trials apart; None with one rater.

    observed: share of pairs of raters that chose the same person; fleiss_kappa: chance from how often each person was
    chosen in the whole panel; kappa: chance at one in five, the better one where items offer different people.
    """
    items = [name for name, item in key["items"].items() if item["kind"] != "catch"]
    if len(answers) < 2 or not items:
        return None
    people = sorted({person for name in items for person in key["items"][name]["people"]})
    counts = torch.zeros(len(items), len(people))
    for row, name in enumerate(items):
        for one in answers:
            counts[row, people.index(one.choices[name])] += 1
    observed, kappa = fleiss_kappa(counts, CHANCE)
    return {
        "observed": observed, "kappa": kappa, "fleiss_kappa": fleiss_kappa(counts)[1],
        "items": len(items), "raters": len(answers),
    }  # fmt: skip


def fleiss_kappa(counts: torch.Tensor, chance: float | None = None) -> tuple[float, float | None]:
    """Returns (observed agreement, kappa) of counts [items,categories] by the same number of raters an item.

    chance: the agreement of raters who guess; None: from how often each category was chosen. kappa is None where that
    is 1, as when all chose one category throughout.
    Raises: ValueError unless each item has the same number of raters, at least two.
    Source: Fleiss 1971; with a fixed chance Randolph 2005, Free-marginal multirater kappa.
    """
    counts = counts.double()
    raters = counts.sum(1)
    if counts.ndim != 2 or not len(counts) or raters.min() < 2 or raters.min() < raters.max():
        raise ValueError(f"expected counts [items,categories] of 2 or more raters an item, got {raters.tolist()}")
    pairs = raters * (raters - 1)
    observed = ((counts.square().sum(1) - raters) / pairs).mean().item()
    if chance is None:
        chance = (counts.sum(0) / counts.sum()).square().sum().item()
    return observed, None if chance >= 1 else (observed - chance) / (1 - chance)
