"""How the search moves: down a gradient, or by what opposite points are worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from ganinv.attack.config import Optim
from ganinv.attack.registry import Registry
from ganinv.engine.randomness import Draws
from ganinv.interfaces import Searcher

SEARCHERS: Registry[type[Searcher]] = Registry("an optimizer")  # classes made of (parameters, optim, steps)


def falling_rate(optim: Optim, step: int, steps: int) -> float:
    """Returns the learning rate of a step: constant, or a half cosine from lr to a tenth of it."""
    return optim.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))) if optim.decay else optim.lr


@SEARCHERS.register("adam")
class Adam:
    """Kingma and Ba 2015, down the gradient at the samples themselves."""

    gradients = True

    @staticmethod
    def count_points(optim: Optim) -> int:
        """Returns how many points ask yields in a step."""
        return 1

    def __init__(self, parameters: list[torch.Tensor], optim: Optim, steps: int):
        self.parameters, self.optim, self.steps = parameters, optim, steps
        self.optimizer = self.build()

    def build(self) -> torch.optim.Optimizer:
        """Returns the optimiser."""
        return torch.optim.Adam(self.parameters, self.optim.lr, betas=self.optim.betas)

    def ask(self, step: int, rows: torch.Tensor, draws: Draws) -> Iterator[list[torch.Tensor]]:
        """Yields one point: where the samples stand."""
        yield []

    def tell(self, step: int, rows: torch.Tensor, losses: torch.Tensor, gradients: list[torch.Tensor] | None) -> None:
        """Takes one step down the gradients."""
        self.optimizer.param_groups[0]["lr"] = falling_rate(self.optim, step, self.steps)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def state_dict(self) -> dict:
        """Returns the optimiser's moments."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping) -> None:
        """Goes on from what state_dict gave."""
        self.optimizer.load_state_dict(state)


@SEARCHERS.register("gradient_descent")
class GradientDescent(Adam):
    """Steps of the gradient times the learning rate."""

    def build(self) -> torch.optim.Optimizer:
        """Returns the optimiser."""
        return torch.optim.SGD(self.parameters, self.optim.lr)


@SEARCHERS.register("antithetic")
class Antithetic(Adam):
    """Adam down a slope that is measured with pairs of opposite points: a search that needs no gradients.

    Every sample is moved by `sigma` in a random direction of signs and in the opposite one; the differences of the losses,
    averaged over `pairs` directions, stand for the gradient. Source: Spall 1992, SPSA, Eq. 2.2, with several directions as
    Ilyas et al. 2018, Black-box Adversarial Attacks, Algorithm 1, whose directions are normal.
    """

    gradients = False

    @staticmethod
    def count_points(optim: Optim) -> int:
        """Returns how many points ask yields in a step."""
        return 2 * optim.pairs

    def ask(self, step: int, rows: torch.Tensor, draws: Draws) -> Iterator[list[torch.Tensor]]:
        """Yields both points of each pair in turn."""
        here = [parameter.detach()[rows] for parameter in self.parameters]
        self.directions = [
            [(draws.uniform(values.numel(), 0, 1) < 0.5).view(values.shape) for values in here]
            for _ in range(self.optim.pairs)
        ]
        for signs in self.directions:
            for side in (self.optim.sigma, -self.optim.sigma):
                yield [values + torch.where(sign, side, -side) for values, sign in zip(here, signs, strict=True)]

    def tell(self, step: int, rows: torch.Tensor, losses: torch.Tensor, gradients: list[torch.Tensor] | None) -> None:
        """Takes one step down the measured slope."""
        rises = (losses[0::2] - losses[1::2]) / (2 * self.optim.sigma * self.optim.pairs)  # [pairs,n]
        slopes = [torch.zeros_like(parameter) for parameter in self.parameters]
        for rise, signs in zip(rises, self.directions, strict=True):
            for slope, sign in zip(slopes, signs, strict=True):
                rise = rise.view(-1, *[1] * (sign.ndim - 1))
                slope[rows] += torch.where(sign, rise, -rise)
        super().tell(step, rows, losses, slopes)
