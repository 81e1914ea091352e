"""Intervals, tests and the number of users that a difference needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch
from scipy import special

from ganinv.errors import AbsentError

MOST_USERS = 1000  # of a study that users_to_show names: beyond it, "so many more" is no advice


def summarize(values: torch.Tensor, seed: int) -> dict:
    """Returns {"mean", "ci95", "n"} of values [T]; ci95 is [None, None] when T is 1."""
    interval = list(bootstrap_interval(values, seed)) if len(values) > 1 else [None, None]
    return {"mean": values.mean().item(), "ci95": interval, "n": len(values)}


def bootstrap_interval(values: torch.Tensor, seed: int, num: int = 10000, level: float = 0.95) -> tuple[float, float]:
    """Returns (low, high), the percentile bootstrap interval of the mean of values [n], one per identity.

    seed: of the resampling; num: resamples. With few identities the interval is too narrow, and values that are all
    equal give one of no width: it speaks of the spread seen between identities and of nothing else.
    Raises: ValueError with fewer than two values, from which no interval can be had.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    count = values.numel()
    if count < 2:
        raise ValueError(f"expected at least 2 identities for a confidence interval, got {count}")
    values = values.double().flatten().cpu()
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, 10**6 // count)  # indices drawn at once: 8 MB
    means = [
        values[torch.randint(count, (min(rows, num - start), count), generator=generator)].mean(1)
        for start in range(0, num, rows)
    ]
    tail = (1 - level) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def summarize_explained(errors: torch.Tensor, guesses: torch.Tensor, seed: int, num: int = 2000) -> dict:
    """Returns {"mean", "ci95", "n"} of 1 - sum errors / sum guesses, the share of variance explained over people [P].

    errors, guesses: [P], the squared error of an estimate and of the guess of one who knows nothing. ci95: percentiles over
    `num` resamples of the people; [None, None] of one person.
    Raises: AbsentError where the guess is never wrong.
    """
    errors, guesses, count = errors.double().cpu(), guesses.double().cpu(), len(errors)
    if not count or guesses.sum() <= 0:
        raise AbsentError("needs people who differ from the guess: nothing varies here")
    interval: list[float | None] = [None, None]
    if count > 1:
        rows = torch.randint(count, (num, count), generator=torch.Generator().manual_seed(seed))
        ratios = 1 - errors[rows].sum(1) / guesses[rows].sum(1).clamp_min(1e-12)
        interval = ratios.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"mean": (1 - errors.sum() / guesses.sum()).item(), "ci95": interval, "n": count}


def sign_flip_p(differences: torch.Tensor, seed: int = 0, num: int = 100_000) -> float:
    """Returns the two-sided p of paired differences [n], one per user, having mean 0 but for chance.

    If a pair's two sides could be swapped, every choice of signs was as likely: p is the share of choices whose mean is
    as far from 0. All 2^n choices up to n 16, else `num` random ones and the one seen. It is at least 2^(1-n).
    Raises: ValueError without a difference.
    Source: Fisher 1935, The Design of Experiments, section 21.
    """
    values = differences.double().flatten().cpu()
    count = len(values)
    if not count:
        raise ValueError("expected at least 1 paired difference, got none")
    if count <= 16:
        signs = 1 - 2 * (torch.arange(2**count)[:, None] >> torch.arange(count) & 1)  # [2^n,n]
    else:
        signs = 1 - 2 * torch.randint(2, (num, count), generator=torch.Generator().manual_seed(seed))
    sums = (signs.double() @ values).abs()
    far = int((sums >= values.sum().abs() - 1e-9 * values.abs().sum()).sum())  # equal sums, differently rounded
    return far / len(sums) if count <= 16 else (far + 1) / (num + 1)


def exact_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Returns (low, high), the interval of a share of which `hits` of `count` were seen; it holds for any count.

    Raises: ValueError without a count, or for more hits than that.
    Source: Clopper and Pearson 1934, The Use of Confidence or Fiducial Limits.
    """
    if not 0 <= hits <= count or not count:
        raise ValueError(f"expected hits of at least one try, got {hits} of {count}")
    tail = (1 - level) / 2
    low = float(special.betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Returns the two-sided p of a pair's two sides succeeding alike, from the pairs in which one of them alone did.

    Source: McNemar 1947, in its exact form: a sign test of these pairs.
    """
    count = only_first + only_second
    tail = sum(math.comb(count, k) for k in range(min(only_first, only_second) + 1)) / 2**count
    return min(1.0, 2 * tail)


def least_p(users: int) -> float:
    """Returns the least two-sided p that a paired test can give with so many users: all of them differ one way."""
    return min(1.0, 2.0 ** (1 - users))


def fewest_users(level: float = 0.05) -> int:
    """Returns how many users a paired test needs at least to give a p of `level` or less: least_p of them is."""
    return 1 + math.ceil(math.log2(1 / level))


def users_to_show(only_first: int, only_second: int, users: int, level: float = 0.05) -> int | None:
    """Returns at how many users mcnemar_p would be `level` or less if both shares stayed as they are; None where the first
    is not higher, or where MOST_USERS would not do."""
    if only_first <= only_second:
        return None
    return next(
        (
            count
            for count in range(fewest_users(level), MOST_USERS + 1)
            if mcnemar_p(only_first * count // users, -(-only_second * count // users)) <= level
        ),
        None,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns each p corrected for that there are several: below a level, at most that share of wrong rejections in all.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def users_needed(differences: torch.Tensor, difference: float, level: float = 0.05, power: float = 0.8) -> int:
    """Returns how many users it takes to see a mean paired difference, from the spread of those of n users.

    ((z + z') s / difference)^2 + z^2 / 2 for a sign-flip test of `level`, which sees nothing in fewer users than 1 -
    log2(level), and in that many only if all differ in one direction. The spread of a few users is itself uncertain: of
    five, a true spread twice as large, and four times the users, is no surprise.
    Raises: ValueError for fewer than 2 differences, or a difference of 0.
    Source: Guenther 1981, Sample Size Formulas for Normal Theory T Tests.
    """
    if len(differences) < 2 or not difference:
        raise ValueError(f"expected 2 users or more and a difference other than 0, got {len(differences)} and {difference}")
    normal = NormalDist()
    z, other = normal.inv_cdf(1 - level / 2), normal.inv_cdf(power)
    spread, least = differences.double().std().item(), fewest_users(level)
    ratio = spread / abs(difference)
    count = max(math.ceil(((z + other) * ratio) ** 2 + z**2 / 2), least)
    agree = normal.cdf(1 / ratio) ** least if ratio else 1.0  # all of the fewest users
    return count + 1 if count == least and agree < power else count
