"""The optimal transport of Gaussians has known answers."""

from __future__ import annotations

import pytest
import torch

from ganinv.metrics.sets import frechet_distance
from ganinv.training.transport import Gaussian, Sums, Transport, fit_gaussian


def draw_rows(count: int, size: int, seed: int) -> torch.Tensor:
    """Returns rows [count,size], float64, of a Gaussian of its own."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64)
    rows = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return rows @ mixing + 3 * torch.randn(size, generator=generator, dtype=torch.float64)


def test_the_transport_carries_one_gaussian_to_the_other():
    photos, samples = draw_rows(500, 5, 0), draw_rows(400, 5, 1)
    found = Transport(fit_gaussian(photos), 5)
    rows = found.project(samples)
    gap = found.update(rows)
    carried = found.target + (rows - found.source) @ found.matrix
    expected, got = fit_gaussian(found.project(photos)), fit_gaussian(carried)
    assert torch.allclose(got.mean, expected.mean, atol=1e-4)
    assert (got.covariance - expected.covariance).norm() < 0.02 * expected.covariance.norm()  # the ridge is a thousandth
    assert gap.distance > 0.1 and found.update(carried).distance < 1e-3
    # it is the optimal one: a symmetric map without negative eigenvalues (Brenier 1991)
    assert torch.allclose(found.matrix, found.matrix.T, atol=1e-4) and torch.linalg.eigvalsh(found.matrix).min() > 0


def test_the_gap_is_the_frechet_distance_over_the_variance():
    photos, samples = draw_rows(500, 4, 2), draw_rows(300, 4, 3)
    found = Transport(fit_gaussian(photos), 4)
    gap, variance = found.update(found.project(samples)), photos.var(0).sum().item()
    assert gap.distance == pytest.approx(frechet_distance(samples, photos) / variance, rel=5e-3)
    assert gap.mean == pytest.approx(((samples.mean(0) - photos.mean(0)).square().sum() / variance).item(), rel=1e-4)
    assert gap.spread == pytest.approx((samples.var(0).sum() / variance).item(), rel=1e-4)


def test_the_pull_is_the_gradient_of_the_frechet_distance():
    photos, samples = draw_rows(500, 4, 4), draw_rows(400, 4, 5)
    found = Transport(fit_gaussian(photos), 4)
    rows = found.project(samples).requires_grad_()
    found.update(rows.detach())
    (pull,) = torch.autograd.grad(found.pull(rows), rows)
    variance, kept = photos.var(0).sum(), found.project(photos).double()
    for sample, component in ((0, 0), (7, 3), (90, 1), (200, 2)):
        ends = []
        for shift in (-1e-2, 1e-2):
            moved = rows.detach().double().clone()
            moved[sample, component] += shift
            ends.append(frechet_distance(moved, kept))
        slope = (ends[1] - ends[0]) / 2e-2 / variance
        assert pull[sample, component].item() == pytest.approx(slope.item(), rel=0.03, abs=1e-5)


def test_samples_that_lie_where_photos_do_are_left_alone():
    photos = draw_rows(500, 6, 6)
    found = Transport(fit_gaussian(photos), 6)
    rows = found.project(photos).requires_grad_()
    gap = found.update(rows.detach())
    assert gap.distance == pytest.approx(0, abs=1e-6) and gap.spread == pytest.approx(1, abs=1e-5)
    (pull,) = torch.autograd.grad(found.pull(rows), rows)
    assert pull.norm() < 1e-4 * rows.norm() / found.variance


def test_the_mean_is_that_of_the_last_samples():
    photos, samples = draw_rows(500, 3, 7), draw_rows(300, 3, 8)
    found = Transport(fit_gaussian(photos), 3)
    rows = found.project(samples)
    found.update(rows, rows[-50:])
    assert torch.allclose(found.source, rows[-50:].mean(0), atol=1e-4)


def test_only_the_leading_components_are_looked_at_and_those_in_which_nothing_varies_are_not():
    axes = torch.tensor([9.0, 0.0, 4.0, 1.0], dtype=torch.float64)
    photos = Gaussian(torch.zeros(4, dtype=torch.float64), torch.diag(axes))
    assert Transport(photos, 2).basis.abs().sum(1).tolist() == [1, 0, 1, 0]
    assert Transport(photos, 4).basis.shape == (4, 3)


def test_sums_fit_the_gaussian_of_rows_that_come_in_parts():
    rows, sums = draw_rows(90, 5, 9), Sums()
    for part in rows.split(40):
        sums.add(part)
    fitted, whole = sums.fit(), fit_gaussian(rows)
    assert torch.allclose(fitted.mean, whole.mean) and torch.allclose(fitted.covariance, whole.covariance)
