"""Metrics against answers by hand."""

import math

import pytest
import torch

from ganinv import metrics


def test_identity_score_is_the_softmax_of_the_identity():
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]])
    assert metrics.identity_score(logits, torch.tensor([0, 1])).tolist() == pytest.approx([0.75, 0.25])


def test_identity_score_stays_in_range_for_huge_logits():
    scores = metrics.identity_score(torch.tensor([[1e4, -1e4], [1e4, -1e4]]), torch.tensor([0, 1]))
    assert scores.tolist() == [1.0, 0.0]


def test_rank_counts_ties_and_nan_against_the_identity():
    logits = torch.tensor([[3.0, 2, 1], [3, 2, 1], [1, 1, 1], [0, math.nan, -1], [math.nan, 0, 0]])
    assert metrics.identity_rank(logits, torch.tensor([0, 2, 1, 0, 0])).tolist() == [1, 3, 3, 2, 3]


@pytest.mark.parametrize("identity", [-1, 3])
def test_an_identity_that_is_no_class_is_the_callers_mistake(identity):
    for measure in (metrics.identity_rank, metrics.identity_score):
        with pytest.raises(ValueError, match=r"expected identities in 0-2, .* got \[-?\d\]"):
            measure(torch.zeros(1, 3), torch.tensor([identity]))


def test_accuracy_at_k():
    ranks = torch.tensor([1, 2, 5, 6])
    assert [metrics.accuracy_at(ranks, k) for k in (1, 2, 5, 6)] == [0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ValueError, match="at least one rank"):
        metrics.accuracy_at(ranks[:0], 1)
    with pytest.raises(ValueError, match="k >= 1"):
        metrics.accuracy_at(ranks, 0)


def test_mean_cosine_is_the_mean_over_references_whatever_their_norms():
    references = torch.tensor([[1.0, 0], [0, 7.0]])
    embeddings = torch.tensor([[2.0, 0], [1, 1], [-1, 0]])
    assert metrics.mean_cosine(embeddings, references).tolist() == pytest.approx([0.5, math.sqrt(0.5), -0.5])


def test_cosines_do_not_leave_their_range_by_rounding():
    rows = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))
    for row in rows:
        for value in (metrics.mean_cosine(row[None], row[None]), metrics.nearest_similarity(-row[None], row[None])):
            assert -1 <= value.item() <= 1


def test_mean_cosine_without_references_raises():
    with pytest.raises(ValueError, match="at least one row"):
        metrics.mean_cosine(torch.ones(1, 2), torch.ones(0, 2))
    with pytest.raises(ValueError, match=r"\[N,D\] and \[M,D\]"):
        metrics.mean_cosine(torch.ones(1, 2), torch.ones(1, 3))


def test_nearest_similarity_does_not_depend_on_the_chunk():
    generator = torch.Generator().manual_seed(0)
    features, bank = torch.randn(10, 5, generator=generator), torch.randn(20, 5, generator=generator)
    features[3] = 4 * bank[7]
    expected = (features[:, None] * bank).sum(2) / features.norm(dim=1)[:, None] / bank.norm(dim=1)
    for chunk in (1, 3, 1024):
        found = metrics.nearest_similarity(features, bank, chunk)
        assert torch.allclose(found, expected.amax(1), atol=1e-6)
        assert found[3] == pytest.approx(1)


def test_bootstrap_interval_of_two_values_spans_them():
    # the resampled mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4
    assert metrics.bootstrap_interval(torch.tensor([0.0, 1.0]), seed=0) == (0.0, 1.0)
    assert metrics.bootstrap_interval(torch.tensor([0.0, 1.0]), seed=0, level=0.4) == (0.5, 0.5)


def test_bootstrap_interval_agrees_with_the_normal_one_for_many_values():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    low, high = metrics.bootstrap_interval(values, seed=2)
    half = 1.96 * values.std().item() / 20
    assert low == pytest.approx(values.mean().item() - half, abs=0.01)
    assert high == pytest.approx(values.mean().item() + half, abs=0.01)
    assert (low, high) == metrics.bootstrap_interval(values, seed=2) != metrics.bootstrap_interval(values, seed=3)


def test_bootstrap_draws_the_number_of_resamples_asked_for(monkeypatch):
    drawn, draw = [], torch.randint
    monkeypatch.setattr(torch, "randint", lambda high, size, **rest: drawn.append(size) or draw(high, size, **rest))
    metrics.bootstrap_interval(torch.rand(3000), seed=0, num=700)  # 333 resamples at once
    assert sum(rows for rows, _ in drawn) == 700
    assert {count for _, count in drawn} == {3000}


def test_one_identity_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 identities"):
        metrics.bootstrap_interval(torch.tensor([0.3]), seed=0)


def test_frechet_distance_of_equal_covariances_is_the_squared_difference_of_means():
    features = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    shift = torch.arange(6.0)
    assert metrics.frechet_distance(features, features + shift) == pytest.approx(shift.square().sum().item(), rel=1e-5)
    for seed in range(20):  # rounding falls on either side of 0
        features = torch.randn(50, 6, generator=torch.Generator().manual_seed(seed))
        assert 0 <= metrics.frechet_distance(features, features) < 1e-9


def test_frechet_distance_of_scaled_features_is_the_squared_difference_of_deviations():
    features = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    features -= features.mean(0)
    expected = (3 - 1) ** 2 * features.var(0).sum().item()  # B = 9 A, Tr(A + 9A - 2*3A) = 4 Tr A
    assert metrics.frechet_distance(features, 3 * features) == pytest.approx(expected)


def test_frechet_distance_is_symmetric_when_covariances_do_not_commute_and_are_singular():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 8, generator=generator), torch.randn(5, 8, generator=generator) * 2
    assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a))
    # against the eigenvalues of the plain product A B
    root = torch.linalg.eigvals(torch.cov(a.T.double()) @ torch.cov(b.T.double())).real.clamp(min=0).sqrt().sum()
    traces = torch.cov(a.T).trace() + torch.cov(b.T).trace()
    expected = (a.mean(0) - b.mean(0)).square().sum() + traces - 2 * root
    assert metrics.frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-4)


def test_frechet_distance_of_one_feature_and_of_one_sample():
    assert metrics.frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]])) == pytest.approx(9)
    with pytest.raises(ValueError, match="at least 2 samples"):
        metrics.frechet_distance(torch.zeros(1, 2), torch.zeros(5, 2))
