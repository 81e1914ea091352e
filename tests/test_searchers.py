"""Searches without gradients on toys whose answers are arithmetic; what peers' code has wrong is pinned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cmaes import CMA

from ganinv.attack.access import TargetAccess
from ganinv.attack.config import AttackConfig, Augment, Optim
from ganinv.attack.invert import invert
from ganinv.attack.searchers import SEARCHERS, cross_over, weigh_fitness
from ganinv.engine.randomness import Streams
from tests.toys import toy_world

CENTRE = torch.tensor([0.5, -0.3, 0.2, 0.4])


def make(name: str, start: torch.Tensor, **optim):
    """Returns a searcher of one parameter [N,1,D], and that."""
    parameter = torch.nn.Parameter(start.clone())
    return SEARCHERS[name]([parameter], Optim(optimizer=name, **optim), 100), parameter


def take_step(searcher, parameter, loss, streams, step=0, rows=None):
    """Asks and tells once; returns the points."""
    rows, draws, points = torch.arange(len(parameter)) if rows is None else rows, streams.take(), []
    for values in searcher.ask(step, rows, draws):
        points.append(values[0] if values else parameter.detach()[rows].clone())
    streams.advance(draws)
    searcher.tell(step, rows, torch.stack([loss(point) for point in points]), None)
    return points


def squares(values: torch.Tensor) -> torch.Tensor:
    return (values - CENTRE).square().sum((1, 2))


def streams(count: int) -> Streams:
    return Streams((0, number) for number in range(count))


@pytest.mark.parametrize(
    ("name", "steps", "optim", "near"),
    [
        ("zeroth_order", 150, {"lr": 0.05, "pairs": 8}, 0.1),
        ("cma_es", 60, {"sigma": 0.3, "pairs": 6}, 0.02),
        ("genetic", 120, {"sigma": 0.3, "pairs": 16}, 0.15),
    ],
)
def test_a_search_finds_the_bottom_of_a_bowl(name, steps, optim, near):
    searcher, parameter = make(name, torch.zeros(3, 1, 4), **optim)
    drawn = streams(3)
    for step in range(steps):
        points = take_step(searcher, parameter, squares, drawn, step)
    assert len(points) == searcher.count_points(searcher.optim)
    assert (parameter.detach() - CENTRE).norm(dim=2).max() < near


def test_a_slope_of_steps_is_the_gradient_of_a_linear_loss():
    wanted, seen = torch.tensor([1.0, -2.0, 0.5, 0.0]), []
    searcher, parameter = make("zeroth_order", torch.zeros(400, 1, 4), pairs=40, sigma=0.1)
    searcher.optimizer.step = seen.extend
    take_step(searcher, parameter, lambda values: (values * wanted).sum((1, 2)), streams(400))
    torch.testing.assert_close(seen[0].mean((0, 1)), wanted, atol=0.06, rtol=0)


def test_cma_es_is_the_package_s():
    searcher, parameter = make("cma_es", torch.zeros(1, 1, 4), sigma=0.3, pairs=3)
    own, drawn = CMA(np.zeros(4), 0.3, population_size=6), streams(1)
    for step in range(10):
        seed = int(drawn.take().uniform(1, 0, 1).double() * 2**24)
        own.reseed_rng(seed)
        points = [own.ask() for _ in range(6)]
        own.tell([(point, float(((torch.tensor(point).float() - CENTRE) ** 2).sum())) for point in points])
        take_step(searcher, parameter, squares, drawn, step)
    np.testing.assert_allclose(parameter.detach().numpy()[0, 0], own.mean, atol=1e-4)


def test_cma_es_moves_the_leading_coordinates_alone_and_all_layers_alike():
    searcher, parameter = make("cma_es", torch.ones(2, 3, 8), coordinates=2, pairs=3)
    take_step(searcher, parameter, lambda values: values.square().sum((1, 2)), streams(2))
    moved = parameter.detach() - 1
    assert not moved[..., :6].any() and moved[..., 6:].all()
    assert torch.equal(moved[:, 0], moved[:, 1]) and torch.equal(moved[:, 0], moved[:, 2])


def test_a_coordinate_comes_from_the_fitter_parent_more_often():
    losses = torch.tensor([[1.0], [3.0]])
    fitness = weigh_fitness(losses)
    assert (fitness > 0).all() and fitness[0] > fitness[1]
    # with log-probabilities -1 and -3 for a fitness, as published, the share would be 1/4: the weaker parent's
    numbers = torch.rand(1, 1, 4000, generator=torch.Generator().manual_seed(0))
    child = cross_over(torch.ones(1, 1, 4000), torch.zeros(1, 1, 4000), fitness[:1], fitness[1:], numbers)
    share = float(fitness[0] / fitness.sum())
    assert share > 0.85 and abs(child.mean() - share) < 0.03


def test_the_best_of_a_generation_survives():
    searcher, parameter = make("genetic", torch.zeros(2, 1, 4), pairs=4, sigma=0.3)
    drawn = streams(2)
    take_step(searcher, parameter, squares, drawn)
    best, before = parameter.detach().clone(), squares(parameter.detach())
    points = take_step(searcher, parameter, squares, drawn, 1)
    torch.testing.assert_close(points[0], best)
    assert (squares(parameter.detach()) <= before).all()


def test_a_sphere_that_is_accepted_grows_and_one_that_is_not_repels():
    searcher, parameter = make("boundary", torch.zeros(1, 1, 4), sigma=0.9, pairs=50)
    drawn = streams(1)
    take_step(searcher, parameter, lambda values: torch.zeros(len(values)), drawn)
    assert not parameter.detach().any() and searcher.radius.item() == pytest.approx(0.9 * 1.3)
    searcher.radius[:] = 0.9
    take_step(searcher, parameter, lambda values: (values[:, 0, 0] > 0.3).float(), drawn, 1)  # a wall on the right
    moved = parameter.detach()[0, 0]
    assert moved.norm() == pytest.approx(0.3) and moved[0] < -0.25  # a third of the radius, to the left


def test_a_step_that_leads_out_is_taken_back():
    searcher, parameter = make("boundary", torch.zeros(1, 1, 4), sigma=0.9, pairs=10)
    drawn = streams(1)
    take_step(searcher, parameter, lambda values: (values[:, 0, 0] > 0.1).float(), drawn)
    assert parameter.detach().any()
    take_step(searcher, parameter, lambda values: torch.ones(len(values)), drawn, 1)
    assert not parameter.detach().any()


def test_labels_alone_lead_away_from_the_border():
    def outside(values):
        return ((values - CENTRE).norm(dim=(1, 2)) > 1).float()

    start = (CENTRE + torch.tensor([0.55, 0.55, 0.55, 0.0])).expand(4, 1, 4)  # just inside
    searcher, parameter = make("boundary", start, sigma=0.3, pairs=16)
    drawn = streams(4)
    for step in range(60):
        take_step(searcher, parameter, outside, drawn, step)
    assert (parameter.detach() - CENTRE).norm(dim=(1, 2)).max() < 0.5


def test_labels_alone_in_the_one_loop():
    generator, recognizer, _ = toy_world()
    config = AttackConfig(
        space="w", access="decisions", objective="confidence", steps=10, candidates=32, restarts=2, final_transforms=2,
        optim=Optim(optimizer="boundary", transforms=1, pairs=4), augment=Augment(degrees=0.0),
    )  # fmt: skip
    result = invert(generator, recognizer, (0, 1, 2), config)
    assert result.queries["gradients"] == 0 and result.queries["per_identity"][1] == 2 * (10 * 9 + 2)
    with torch.no_grad():
        named = TargetAccess(recognizer, "decisions")(result.images[:, 0]).logits.argmax(1)
    assert named.tolist() == [0, 1, 2]
    assert invert(generator, recognizer, (0,), replace(config, steps=0)).queries["per_identity"] == {0: 4}
