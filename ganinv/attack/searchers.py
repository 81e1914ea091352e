"""How the search moves: down a gradient, by what points about it are worth, or by whether they are accepted at all.

Those without gradients ask about 2 * pairs points a step, about `sigma` away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from ganinv.attack.config import Optim
from ganinv.attack.registry import Registry
from ganinv.engine import descent
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

    def build(self) -> descent.Adam | descent.GradientDescent:
        """Returns the optimiser."""
        return descent.Adam(self.parameters, self.optim.lr, self.optim.betas)

    def ask(self, step: int, rows: torch.Tensor, draws: Draws) -> Iterator[list[torch.Tensor]]:
        """Yields one point: where the samples stand."""
        yield []

    def tell(self, step: int, rows: torch.Tensor, losses: torch.Tensor, gradients: list[torch.Tensor] | None) -> None:
        """Takes one step down the gradients."""
        self.optimizer.lr = falling_rate(self.optim, step, self.steps)
        self.optimizer.step(gradients)

    def state_dict(self) -> dict:
        """Returns the optimiser's moments."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping) -> None:
        """Goes on from what state_dict gave."""
        self.optimizer.load_state_dict(state)


@SEARCHERS.register("gradient_descent")
class GradientDescent(Adam):
    """Steps of the gradient times the learning rate."""

    def build(self) -> descent.GradientDescent:
        """Returns the optimiser."""
        return descent.GradientDescent(self.parameters, self.optim.lr)


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


def draw_normals(draws: Draws, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns normal numbers of a shape [n,...], every sample its own."""
    numbers = draws.uniform(math.prod(shape), 0, 1).double().clamp(1e-7, 1 - 1e-7)
    return torch.special.ndtri(numbers).float().view(shape)


@SEARCHERS.register("zeroth_order")
class ZerothOrder(Adam):
    """Adam down a slope that is measured by steps in random directions, each compared with where the sample stands.

    Source: Zhang et al. 2024, MAP2V, section 3.4, which takes 16 directions; here they are normal, as in Ilyas et al. 2018.
    """

    gradients = False

    @staticmethod
    def count_points(optim: Optim) -> int:
        """Returns how many points ask yields in a step."""
        return 1 + 2 * optim.pairs

    def ask(self, step: int, rows: torch.Tensor, draws: Draws) -> Iterator[list[torch.Tensor]]:
        """Yields where the samples stand, then one point in each direction."""
        here = [parameter.detach()[rows] for parameter in self.parameters]
        self.directions = [[draw_normals(draws, tuple(values.shape)) for values in here] for _ in range(2 * self.optim.pairs)]
        yield []
        for steps in self.directions:
            yield [values + self.optim.sigma * step for values, step in zip(here, steps, strict=True)]

    def tell(self, step: int, rows: torch.Tensor, losses: torch.Tensor, gradients: list[torch.Tensor] | None) -> None:
        """Takes one step down the measured slope."""
        rises = (losses[1:] - losses[0]) / (self.optim.sigma * len(self.directions))
        slopes = [torch.zeros_like(parameter) for parameter in self.parameters]
        for rise, steps in zip(rises, self.directions, strict=True):
            for slope, direction in zip(slopes, steps, strict=True):
                slope[rows] += rise.view(-1, *[1] * (direction.ndim - 1)) * direction
        super().tell(step, rows, losses, slopes)


class Evolution:
    """What searches that keep a population have in common. Each sample has one of its own, of 2 * pairs points."""

    gradients = False

    @staticmethod
    def count_points(optim: Optim) -> int:
        """Returns how many points ask yields in a step."""
        return 2 * optim.pairs

    def __init__(self, parameters: list[torch.Tensor], optim: Optim, steps: int):
        self.parameters, self.optim, self.count = parameters, optim, 2 * optim.pairs
        self.begin()


@SEARCHERS.register("cma_es")
class CovarianceAdaptation(Evolution):
    """CMA-ES in the leading `coordinates` of each sample, all layers moved alike; the sample goes to the mean.

    In the whitened coordinates of w and w_plus the last ones vary most over the prior, and so lead. Source: Hansen 2016, The
    CMA Evolution Strategy: A Tutorial, as the package `cmaes` has it.
    """

    def begin(self) -> None:
        """Makes one strategy for each sample, about where it stands."""
        try:
            from cmaes import CMA
        except ImportError as error:
            raise ValueError(
                f"expected the package cmaes for the optimizer cma_es, got none ({error}); pip install cmaes"
            ) from error
        (parameter,) = self.parameters  # every space of this package has one
        self.first = parameter.detach().clone()
        self.width = min(self.optim.coordinates, self.first.shape[-1] if self.first.ndim == 3 else self.first[0].numel())
        self.strategies = [
            CMA(np.zeros(self.width), self.optim.sigma, population_size=max(4, self.count)) for _ in range(len(parameter))
        ]

    @staticmethod
    def count_points(optim: Optim) -> int:
        """Returns how many points ask yields in a step: at least four."""
        return max(4, 2 * optim.pairs)

    def place(self, rows: torch.Tensor, moves: np.ndarray) -> torch.Tensor:
        """Returns the parameter [n,...] of samples whose leading coordinates are moved by [n,width] from their start."""
        there, moves = self.first[rows].clone(), torch.from_numpy(np.asarray(moves)).to(self.first)
        if there.ndim == 3:
            there[..., -self.width :] += moves[:, None]
        else:
            there.view(len(there), -1)[:, -self.width :] += moves
        return there

    def ask(self, step: int, rows: torch.Tensor, draws: Draws) -> Iterator[list[torch.Tensor]]:
        """Yields one generation, point by point."""
        seeds = (draws.uniform(len(rows), 0, 1).double() * 2**24).long().tolist()
        strategies = [self.strategies[row] for row in rows.tolist()]
        for strategy, seed in zip(strategies, seeds, strict=True):
            strategy.reseed_rng(seed)
        self.moves = [[strategy.ask() for _ in range(strategy.population_size)] for strategy in strategies]
        for point in zip(*self.moves, strict=True):
            yield [self.place(rows, np.stack(point))]

    @torch.no_grad()
    def tell(self, step: int, rows: torch.Tensor, losses: torch.Tensor, gradients: list[torch.Tensor] | None) -> None:
        """Updates each strategy by its own points."""
        table, means = losses.T.double().cpu().tolist(), []
        for row, moves, values in zip(rows.tolist(), self.moves, table, strict=True):
            self.strategies[row].tell(list(zip(moves, values, strict=True)))
            means.append(self.strategies[row].mean)
        self.parameters[0][rows] = self.place(rows, np.stack(means))

    def state_dict(self) -> dict:
        """Returns the numbers of every strategy; its random numbers begin anew each generation."""
        kept = [
            {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else float(value)
             for name, value in vars(strategy).items() if isinstance(value, np.ndarray | float | np.floating)}
            | {"_g": strategy.generation}
            for strategy in self.strategies
        ]  # fmt: skip
        return {"first": self.first, "strategies": kept}

    def load_state_dict(self, state: Mapping) -> None:
        """Goes on from what state_dict gave."""
        self.first = state["first"].to(self.first)
        for strategy, kept in zip(self.strategies, state["strategies"], strict=True):
            for name, value in kept.items():
                setattr(strategy, name, value.numpy().copy() if isinstance(value, torch.Tensor) else value)


@SEARCHERS.register("genetic")
class Genetic(Evolution):
    """A genetic algorithm: parents by fitness, each coordinate from one of two, some of them mutated; the best is kept.

    A coordinate comes from the fitter parent with the fitness's share of both; in the published code that fitness is a
    log-probability, which is negative, and the share is then the weaker parent's. Here fitness is exp(lowest loss - loss),
    which is positive. Source: An et al. 2022, MIRROR, Algorithm 2.
    """

    mutated = 0.1  # share of the coordinates

    def begin(self) -> None:
        """Begins without a population: the first is drawn about where each sample stands."""
        self.values = [torch.zeros(self.count, *parameter.shape, device=parameter.device) for parameter in self.parameters]
        self.losses = torch.full((self.count, len(self.parameters[0])), torch.inf, device=self.parameters[0].device)

    def ask(self, step: int, rows: torch.Tensor, draws: Draws) -> Iterator[list[torch.Tensor]]:
        """Yields the next generation."""
        self.children = [self.breed(values, parameter, rows, draws) for values, parameter in zip(
            self.values, self.parameters, strict=True)]  # fmt: skip
        for number in range(self.count):
            yield [values[number] for values in self.children]

    def breed(self, values: torch.Tensor, parameter: torch.Tensor, rows: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Returns children [count,n,...] of a population; about where the samples stand where there is none yet."""
        shape, samples = (len(rows), self.count, *parameter.shape[1:]), torch.arange(len(rows), device=parameter.device)
        noise = self.optim.sigma * draw_normals(draws, shape).transpose(0, 1)
        numbers = draws.uniform(2 * math.prod(shape), 0, 1).view(len(rows), 2, *shape[1:])
        picks = draws.uniform(2 * len(rows) * self.count, 0, 1).view(len(rows), 2, self.count)
        if self.losses[:, rows].isinf().any():
            return parameter.detach()[rows] + noise
        fitness = weigh_fitness(self.losses[:, rows])  # [count,n]
        edges = (fitness / fitness.sum(0)).cumsum(0).T.contiguous()  # [n,count]
        parents = torch.searchsorted(edges, picks.view(len(rows), -1)).clamp(max=self.count - 1).view(len(rows), 2, -1)
        first, second = (values[parents[:, side].T, rows[None]] for side in (0, 1))  # [count,n,...]
        a, b = (fitness[parents[:, side].T, samples[None]] for side in (0, 1))
        children = cross_over(first, second, a, b, numbers[:, 0].transpose(0, 1))
        children = torch.where(numbers[:, 1].transpose(0, 1) < self.mutated, children + noise, children)
        best = self.losses[:, rows].argmin(0)
        children[0] = values[best, rows]  # the elite
        return children

    @torch.no_grad()
    def tell(self, step: int, rows: torch.Tensor, losses: torch.Tensor, gradients: list[torch.Tensor] | None) -> None:
        """Takes the children for the population, and puts each sample at the best of them."""
        best = losses.argmin(0)
        self.losses[:, rows] = losses
        for values, children, parameter in zip(self.values, self.children, self.parameters, strict=True):
            values[:, rows] = children
            parameter[rows] = children[best, torch.arange(len(rows), device=best.device)]

    def state_dict(self) -> dict:
        """Returns the population and its losses."""
        return {"values": self.values, "losses": self.losses}

    def load_state_dict(self, state: Mapping) -> None:
        """Goes on from what state_dict gave."""
        self.values = [kept.to(values) for kept, values in zip(state["values"], self.values, strict=True)]
        self.losses = state["losses"].to(self.losses)


def weigh_fitness(losses: torch.Tensor) -> torch.Tensor:
    """Returns the fitness [count,n] of a population of losses [count,n]: positive, 1 for the best of each sample."""
    return (losses.amin(0) - losses).exp().clamp_min(1e-6)


def cross_over(
    first: torch.Tensor, second: torch.Tensor, fitness: torch.Tensor, other: torch.Tensor, numbers: torch.Tensor
) -> torch.Tensor:
    """Returns children [count,n,...]: each coordinate from `first` with its share of both fitnesses [count,n]."""
    share = (fitness / (fitness + other)).view(*fitness.shape, *[1] * (first.ndim - 2))
    return torch.where(numbers < share, first, second)


@SEARCHERS.register("boundary")
class BoundaryRepulsion(Evolution):
    """Moves away from the points of a sphere that are not accepted as the user; where all are, the sphere grows.

    Needs no score: a loss below ACCEPTED counts as yes, which the objective "confidence" of decisions gives. A step that
    leads out is taken back. Until a sample is accepted, it goes to its point of the lowest loss. Source: Kahla et al. 2022,
    Label-Only Model Inversion Attacks via Boundary Repulsion, Algorithm 1: the sphere grows by 1.3, and a step is a third of
    its radius, at most 3.
    """

    accepted, growth, longest = 0.6, 1.3, 3.0

    @staticmethod
    def count_points(optim: Optim) -> int:
        """Returns how many points ask yields in a step."""
        return 1 + 2 * optim.pairs

    def begin(self) -> None:
        """Begins with the smallest sphere, and no place to go back to."""
        count, device = len(self.parameters[0]), self.parameters[0].device
        self.radius = torch.full((count,), self.optim.sigma, device=device)
        self.inside = torch.zeros(count, dtype=torch.bool, device=device)
        self.before = [parameter.detach().clone() for parameter in self.parameters]

    def ask(self, step: int, rows: torch.Tensor, draws: Draws) -> Iterator[list[torch.Tensor]]:
        """Yields where the samples stand, then points of their spheres."""
        here = [parameter.detach()[rows] for parameter in self.parameters]
        drawn = [[draw_normals(draws, tuple(values.shape)) for values in here] for _ in range(self.count)]
        lengths = [sum(part.flatten(1).square().sum(1) for part in parts).sqrt() for parts in drawn]
        self.directions = [
            [part / length.view(-1, *[1] * (part.ndim - 1)) for part in parts]
            for parts, length in zip(drawn, lengths, strict=True)
        ]
        yield []
        for parts in self.directions:
            yield [
                values + self.radius[rows].view(-1, *[1] * (values.ndim - 1)) * part
                for values, part in zip(here, parts, strict=True)
            ]

    @torch.no_grad()
    def tell(self, step: int, rows: torch.Tensor, losses: torch.Tensor, gradients: list[torch.Tensor] | None) -> None:
        """Moves each sample, or lets its sphere grow."""
        yes = losses < self.accepted
        here, outside = yes[0], ~yes[1:]
        back, all_in, radius = self.inside[rows] & ~here, ~outside.any(0), self.radius[rows]
        length = (radius / 3).clamp(max=self.longest)
        best = losses.argmin(0)
        for place, parameter in enumerate(self.parameters):
            parts = torch.stack([part[place] for part in self.directions])  # [count,n,...]
            wide = [1] * (parts.ndim - 2)
            away = -(parts * outside.view(*outside.shape, *wide)).sum(0) / self.count
            size = away.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *wide)
            now = parameter[rows]
            pushed = now + length.view(-1, *wide) * away / size * (~all_in).view(-1, *wide)
            lowest = torch.cat([torch.zeros_like(parts[:1]), parts])[best, torch.arange(len(rows), device=best.device)]
            moved = torch.where(here.view(-1, *wide), pushed, now + radius.view(-1, *wide) * lowest)
            parameter[rows] = torch.where(back.view(-1, *wide), self.before[place][rows], moved)
            self.before[place][rows] = torch.where(here.view(-1, *wide), now, self.before[place][rows])
        self.radius[rows] = torch.where(here & all_in, radius * self.growth, radius)
        self.inside[rows] = here | self.inside[rows]

    def state_dict(self) -> dict:
        """Returns the spheres and where each sample was last accepted."""
        return {"radius": self.radius, "inside": self.inside, "before": self.before}

    def load_state_dict(self, state: Mapping) -> None:
        """Goes on from what state_dict gave."""
        self.radius, self.inside = state["radius"].to(self.radius), state["inside"].to(self.inside)
        self.before = [kept.to(values) for kept, values in zip(state["before"], self.before, strict=True)]
