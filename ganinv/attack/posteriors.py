"""Searches whose ends are samples of what the target leaves open, rather than the likeliest picture of all.

The energy of a sample is its loss / `temperature` + |x|^2 / 2: x are coordinates in which the prior is standard normal, such
as the whitened ones of w. Where the target does not look, a sample is then one of the prior's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from ganinv.attack.config import Optim
from ganinv.attack.searchers import SEARCHERS, Adam, draw_normals, falling_rate
from ganinv.engine import descent
from ganinv.engine.randomness import Draws

HOTTER = 10.0  # times the temperature at the first step; from halfway on it is the temperature itself


@SEARCHERS.register("langevin")
class Langevin(Adam):
    """Steps down the energy with noise, so that samples end in it as often as it is low: annealed Langevin dynamics.

    A step's drift is tamed to a length of 1 at most, so that a steep loss throws nobody out. Source: Song and Ermon 2019,
    Generative Modeling by Estimating Gradients of the Data Distribution, Algorithm 1; Brosse et al. 2019, The Tamed
    Unadjusted Langevin Algorithm, Eq. 4.
    """

    def build(self) -> None:
        """Needs no optimiser."""

    def ask(self, step: int, rows: torch.Tensor, draws: Draws) -> Iterator[list[torch.Tensor]]:
        """Draws the noise of the step; yields where the samples stand."""
        self.noise = [draw_normals(draws, (len(rows), *parameter.shape[1:])) for parameter in self.parameters]
        yield []

    @torch.no_grad()
    def tell(self, step: int, rows: torch.Tensor, losses: torch.Tensor, gradients: list[torch.Tensor] | None) -> None:
        """Takes one step."""
        rate = falling_rate(self.optim, step, self.steps)
        cooled = min(1.0, 2 * step / max(1, self.steps))
        temperature = self.optim.temperature * HOTTER ** (1 - cooled)
        for parameter, gradient, noise in zip(self.parameters, gradients, self.noise, strict=True):
            slope = gradient[rows] / temperature + parameter[rows]
            length = slope.flatten(1).norm(dim=1).view(-1, *[1] * (slope.ndim - 1))
            parameter[rows] += math.sqrt(2 * rate) * noise - rate * slope / (1 + rate * length)

    def state_dict(self) -> dict:
        """Returns nothing: the next step follows from where the samples stand."""
        return {}

    def load_state_dict(self, state: Mapping) -> None:
        """Needs nothing."""


@SEARCHERS.register("gaussian")
class Gaussian(Adam):
    """Fits a normal distribution about each sample, a spread per coordinate, and ends in a draw of it.

    The energy's mean over draws, less the entropy, is what VMI minimises: the Kullback-Leibler distance to the posterior.
    Source: Wang et al. 2021, Variational Model Inversion Attacks, Eq. 5, with a Gaussian in place of a flow.
    """

    def __init__(self, parameters: list[torch.Tensor], optim: Optim, steps: int):
        start = math.log(optim.sigma)
        self.spreads = [torch.full_like(parameter.detach(), start) for parameter in parameters]
        super().__init__(parameters, optim, steps)

    def build(self) -> descent.Adam:
        """Returns the optimiser of means and logarithms of spreads."""
        return descent.Adam([*self.parameters, *self.spreads], self.optim.lr, self.optim.betas)

    def ask(self, step: int, rows: torch.Tensor, draws: Draws) -> Iterator[list[torch.Tensor]]:
        """Yields a draw."""
        self.noise = [draw_normals(draws, (len(rows), *parameter.shape[1:])) for parameter in self.parameters]
        yield self.draw(rows)

    def draw(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Returns the draw of the step [n,...]."""
        groups = zip(self.parameters, self.spreads, self.noise, strict=True)
        return [(mean[rows] + spread[rows].exp() * noise).detach() for mean, spread, noise in groups]

    @torch.no_grad()
    def tell(self, step: int, rows: torch.Tensor, losses: torch.Tensor, gradients: list[torch.Tensor] | None) -> None:
        """Moves means and spreads; at the last step the samples go to a draw."""
        slopes, widths = [], []
        for mean, spread, noise, gradient in zip(self.parameters, self.spreads, self.noise, gradients, strict=True):
            slope = gradient / self.optim.temperature
            wide = torch.zeros_like(spread)
            wide[rows] = slope[rows] * spread[rows].exp() * noise
            widths.append(wide + (2 * spread).exp() - 1)  # of the energy, then of |x|^2 / 2 and of the entropy
            slopes.append(slope + mean)
        super().tell(step, rows, losses, [*slopes, *widths])
        if step == self.steps - 1:
            for parameter, values in zip(self.parameters, self.draw(rows), strict=True):
                parameter[rows] = values

    def state_dict(self) -> dict:
        """Returns the optimiser's moments, and the spreads."""
        return {"adam": self.optimizer.state_dict(), "spreads": list(self.spreads)}

    def load_state_dict(self, state: Mapping) -> None:
        """Goes on from what state_dict gave."""
        self.optimizer.load_state_dict(state["adam"])
        with torch.no_grad():
            for spread, kept in zip(self.spreads, state["spreads"], strict=True):
                spread.copy_(kept)
