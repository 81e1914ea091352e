"""How sure: from several readings of one person to a mean and an interval that holds, as tuning people show.

A reconstruction guesses where its recognizer knows nothing. Readings x_k = a + b t + u + e_k of a standard value t vary with
the person (t, u) and from sample to sample (e_k). On people whose values are known, none of them reported, the second
moments are measured; the best linear guess of t from the mean of K readings, and how far off it is, follow from them:

    slope = cov(t, x) / (var(t + u) + var(e) / K),    variance = var(t) - slope cov(t, x)

An attribute that nothing recovers gets a slope of 0: the guess. Intervals are then widened by one number until nine in
ten of the tuning people, each left out of a fit, lie within (Vovk et al. 2005, cross-conformal prediction).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ganinv.weights.cards import read_card
from ganinv.weights.files import check_tensors, read_tensors, save_weights

LEVEL = 0.9  # of the intervals
FOLDS = 20  # of tuning people, each left out of one fit
LEAST_TUNED = 10  # people, below which nothing is calibrated


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What tuning people say of readings: one number a column [B] each, see the head of this file.

    centre: mean reading; covariance: of reading and truth; between, within: variance of a person's mean reading and of its
    samples about that; truth: mean square of the truth. width []: half the interval, in standard deviations; people []: so
    many.
    """

    centre: torch.Tensor
    covariance: torch.Tensor
    between: torch.Tensor
    within: torch.Tensor
    truth: torch.Tensor
    width: torch.Tensor
    people: torch.Tensor

    @classmethod
    def fit(cls, readings: torch.Tensor, truth: torch.Tensor) -> Calibration:
        """Returns the calibration of readings [T,K,B] of people whose standard values truth [T,B] are known.

        Raises: ValueError for too few people, or other shapes.
        """
        readings, truth = readings.double(), truth.double()
        if readings.ndim != 3 or truth.shape != (readings.shape[0], readings.shape[2]):
            raise ValueError(f"expected readings [T,K,B] and truth [T,B], got {[*readings.shape]} and {[*truth.shape]}")
        if len(readings) < LEAST_TUNED:
            raise ValueError(
                f"expected at least {LEAST_TUNED} people to calibrate on, got {len(readings)}; attack more users"
            )
        scores, fold = [], torch.arange(len(readings)) % FOLDS
        for number in fold.unique().tolist():
            held = fold == number
            mean, spread = measure_moments(readings[~held], truth[~held]).infer(readings[held])
            scores.append(((truth[held] - mean) / spread).abs().flatten())
        found = measure_moments(readings, truth)
        return cls(**{**vars(found), "width": find_quantile(torch.cat(scores), LEVEL)})

    def infer(self, readings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the posterior mean [T,B] of readings [T,K,B], and its standard deviation [B]."""
        readings = readings.double()
        seen = (self.between + self.within / readings.shape[1]).clamp_min(1e-9)
        slope = self.covariance / seen
        left = (self.truth - slope * self.covariance).clamp_min(1e-9)
        # a slope that chance explains as well is pulled to 0 (the positive part of James and Stein 1961)
        strength = self.people * slope.square() * seen / left
        kept = (1 - 1 / strength.clamp_min(1e-9)).clamp_min(0)
        variance = self.truth - (2 * kept - kept.square()) * slope * self.covariance
        return kept * slope * (readings.mean(1) - self.centre), variance.clamp_min(1e-9).sqrt()

    def interval(self, readings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the posterior mean, and the ends of the interval that holds LEVEL of the people: three of [T,B]."""
        mean, spread = self.infer(readings)
        return mean, mean - self.width * spread, mean + self.width * spread

    def save(self, path: str | Path, card: Mapping) -> dict:
        """Writes the numbers and a card: reader, attributes, target_sha256, ... Returns the card."""
        tensors = {one.name: getattr(self, one.name).double() for one in fields(self)}
        return save_weights(path, tensors, {**card, "kind": "calibration", "level": LEVEL})

    @classmethod
    def load(cls, path: str | Path) -> tuple[Calibration, dict]:
        """Returns what save wrote, and its card. Raises: ValueError when it is missing, broken or something else."""
        card, (tensors, _) = read_card(path), read_tensors(path)
        if card.get("kind") != "calibration":
            raise ValueError(f"expected a calibration in {path}, got {card.get('kind')}; run attributes.py --tune")
        size = len(tensors["centre"]) if "centre" in tensors and tensors["centre"].ndim == 1 else 0
        expected = {one.name: torch.empty(() if one.name in ("width", "people") else (size,)) for one in fields(cls)}
        checked = check_tensors(tensors, expected, path)
        return cls(**{name: value.double() for name, value in checked.items()}), card


def measure_moments(readings: torch.Tensor, truth: torch.Tensor) -> Calibration:
    """Returns the moments of readings [T,K,B] and truth [T,B], not widened."""
    count, samples, _ = readings.shape
    means = readings.mean(1)
    within = readings.var(1).mean(0) if samples > 1 else torch.zeros_like(means[0])
    centre = means.mean(0)
    seen = (means - centre).square().sum(0) / (count - 1)
    return Calibration(
        centre=centre, covariance=((means - centre) * truth).sum(0) / (count - 1),
        between=(seen - within / samples).clamp_min(0), within=within, truth=truth.square().mean(0),
        width=torch.tensor(1.0, dtype=torch.float64), people=torch.tensor(float(count), dtype=torch.float64),
    )  # fmt: skip


def find_quantile(scores: torch.Tensor, level: float) -> torch.Tensor:
    """Returns the score that so many of n are at or below, counting one more that is unknown."""
    place = min(len(scores), math.ceil((len(scores) + 1) * level))
    return scores.sort().values[place - 1]


def measure_coverage(low: torch.Tensor, high: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Returns the share [T] of each person's values [T,B] that lie in their intervals."""
    return ((truth >= low) & (truth <= high)).double().mean(1)
