"""Changes on toys: a linear prior draws what it can, and a pattern that it cannot draw is gone."""

from __future__ import annotations

import pytest
import torch

from ganinv.judging.robustness import (
    MILD,
    Projection,
    ProjectionSearch,
    count_together,
    pyramid_distance,
    with_projection,
)
from tests.toys import toy_world


def some_images(count=3, side=32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9


@pytest.mark.parametrize("name", MILD)
def test_a_mild_change_keeps_the_convention_is_the_same_twice_and_for_a_picture_alone(name):
    images = some_images()
    changed = MILD[name](images)
    assert changed.shape == images.shape and changed.dtype == images.dtype and changed.abs().max() <= 1
    assert 0 < (changed - images).abs().mean() < 0.6
    assert torch.equal(changed, MILD[name](images))
    assert torch.allclose(changed[1], MILD[name](images[1:2])[0], atol=1e-6)


def test_pyramid_distance_by_hand():
    image, plain = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    assert pyramid_distance(image, plain, 4).item() == pytest.approx(4 * 0.25)
    checks = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1  # averages of four are 0
    assert pyramid_distance(image, checks.expand(1, 3, 8, 8), 4).item() == pytest.approx(1)


@pytest.fixture(scope="module")
def projected():
    """Pictures that a linear prior draws; the same with a pattern that it cannot draw; their projections."""
    generator, _, known = toy_world()
    drawn = generator.synthesize(known[:, None].expand(-1, 2, -1))
    pattern = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    pattern = 0.1 * (pattern - pattern @ generator.matrix.T @ generator.matrix).view(3, 1, 8, 8)
    project = Projection(generator, "cpu", ProjectionSearch(steps=200, lr=0.05))
    images = torch.cat([drawn, drawn + pattern])
    return project, images, project(images)


def test_a_projection_leaves_what_the_prior_draws_and_takes_what_it_does_not(projected):
    _, images, found = projected
    assert (found[:3] - images[:3]).abs().max() < 0.02  # 8 bits are 0.004 apart
    assert (images[3:] - images[:3]).abs().max() > 0.2
    assert (found[3:] - images[:3]).abs().max() < 0.06  # coarser levels see a little of the pattern


def test_a_projection_is_the_same_twice_and_for_a_picture_alone(projected):
    project, images, found = projected
    assert torch.equal(found, project(images))
    assert torch.allclose(found[4], project(images[4:5])[0], atol=0.01)


@pytest.mark.parametrize("side, together", [(64, 40), (96, 17), (128, 16), (1024, 16)])
def test_large_pictures_are_projected_few_at_a_time(side, together):
    assert count_together(torch.empty(50, 3, side, side, device="meta")) == together


def test_a_projection_stays_within_the_bounds_of_the_prior():
    generator, _, _ = toy_world()
    far = generator.synthesize(torch.full((1, 2, 4), 9.0))
    project = Projection(generator, "cpu", ProjectionSearch(steps=100, bound=0.5))
    v = project.whitening.to_v(project(far.clamp(-1, 1))[0, 0].flatten() @ generator.matrix.T)
    assert 0.4 < v.abs().max() < 0.55


def test_a_world_without_a_prior_has_no_projection():
    assert with_projection(None).keys() == MILD.keys() and with_projection(len)["projection"] is len
