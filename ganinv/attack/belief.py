"""What intervals say of an unknown vector: a Gaussian belief, narrowed by expectation propagation.

The unknown is theta [P], Gaussian before anything is known. Every answer says that row . theta lies between two numbers: a
rounded number in a narrow interval, a yes or a no on one side of a threshold. Each interval is stood for by a Gaussian factor
that gives the belief the mean and variance which the interval itself would, all other factors held fixed.
Source: Minka 2001, Expectation Propagation for Approximate Bayesian Inference, section 3; the moments of a truncated normal.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erfcx, log_ndtr

NARROW = 0.05  # standard deviations: an interval that is narrower counts as its middle, with the variance of its width
DAMPING = 0.8  # of a factor's change where it is looked at again
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def cut_above(limit: float) -> tuple[float, float]:
    """Returns the mean and the variance of a standard normal below a limit."""
    if limit < -30:  # to the third order, where the differences below cancel
        return limit + 1 / limit, 1 / limit**2
    if limit > 30:
        return 0.0, 1.0
    slope = math.sqrt(2 / math.pi) / float(erfcx(-limit / math.sqrt(2)))  # density over probability
    return -slope, max(1 - limit * slope - slope**2, 1e-12)


def cut_to(low: float, high: float) -> tuple[float, float]:
    """Returns the mean and the variance of a standard normal between two limits, of which one may be infinite."""
    if low == -math.inf:
        return cut_above(high)
    if high == math.inf:
        mean, variance = cut_above(-low)
        return -mean, variance
    middle, width = (low + high) / 2, high - low
    if width < NARROW or abs(middle) - width / 2 > 8:  # far out the whole of it lies at the nearer end
        return (
            (middle, width**2 / 12) if width < NARROW else (max(low, min(high, 0.0)), min(width, 1 / abs(middle)) ** 2 / 12)
        )
    if middle > 0:
        mean, variance = cut_to(-high, -low)
        return -mean, variance
    chance = math.exp(log_ndtr(high)) - math.exp(log_ndtr(low))
    at_low, at_high = (math.exp(-limit * limit / 2 - LOG_SQRT_2PI) / chance for limit in (low, high))
    mean = at_low - at_high
    return mean, max(1 + low * at_low - high * at_high - mean**2, 1e-12)


class Belief:
    """A Gaussian belief in theta [P]: mean [P], covariance [P,P], and the answers that made it.

    noise: variance of what is added to each answer; 0 is held a little above, so that no two answers contradict.
    """

    def __init__(self, mean: np.ndarray, covariance: np.ndarray, noise: float = 0.0):
        self.mean, self.covariance, self.noise = mean.copy(), covariance.copy(), max(noise, 1e-10)
        self.rows: list[np.ndarray] = []
        self.intervals: list[tuple[float, float]] = []
        self.factors: list[tuple[float, float]] = []  # precision, and precision times mean, of each answer
        self.fixed: list[bool] = []  # whether it counts as a number

    def predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean [n] and the variance [n] of rows [n,P] times theta."""
        return rows @ self.mean, np.maximum(((rows @ self.covariance) * rows).sum(1), 1e-14)

    def learn(self, row: np.ndarray, low: float, high: float) -> None:
        """Takes in that row . theta lies between low and high."""
        self.rows.append(row)
        self.intervals.append((low, high))
        self.factors.append((0.0, 0.0))
        self.fixed.append(False)
        self.settle(len(self.rows) - 1, 1.0)

    def reconsider(self, sweeps: int = 1) -> None:
        """Looks at every answer again in the light of all others."""
        for _ in range(sweeps):
            for number in range(len(self.rows)):
                self.settle(number, DAMPING)

    def settle(self, number: int, damping: float) -> None:
        """Gives one answer's factor the moments that its interval has beside all the others."""
        row, (low, high), (precision, shift) = self.rows[number], self.intervals[number], self.factors[number]
        column = self.covariance @ row
        variance = max(row @ column, 1e-14)
        if high - low < NARROW * math.sqrt(variance) or self.fixed[number]:  # as good as a number: least squares
            self.fixed[number] = True
            exact = (high - low) ** 2 / 12 + self.noise
            self.replace(number, (1 / exact, (low + high) / 2 / exact), 1.0, column, variance)
            return
        without = 1 / max(1 / variance - precision, 1e-9)
        mean = without * ((row @ self.mean) / variance - shift)
        spread = math.sqrt(without + self.noise)
        moved, left = cut_to((low - mean) / spread, (high - mean) / spread)
        slope, curve = moved / spread, (1 - left) / spread**2  # of the logarithm of the interval's probability
        room = max(1 - curve * without, 1e-12)
        self.replace(number, (curve / room, (slope + curve * mean) / room), damping, column, variance)

    def replace(self, number: int, new: tuple[float, float], damping: float, column: np.ndarray, variance: float) -> None:
        """Moves an answer's factor, and the belief with it. column [P]: covariance with the answer, of that variance."""
        row, (precision, shift) = self.rows[number], self.factors[number]
        step, push = (damping * (after - before) for after, before in zip(new, (precision, shift), strict=True))
        scale = 1 + step * variance
        self.mean = self.mean + column * ((push - step * (row @ self.mean)) / scale)
        self.covariance -= np.outer(column * (step / scale), column)
        self.factors[number] = (precision + step, shift + push)
