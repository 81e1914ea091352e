"""Metrics against answers by hand."""

import math

import pytest
import torch

from ganinv.metrics.scores import (
    accuracy_at,
    face_scores,
    identity_rank,
    identity_score,
    mean_cosine,
    nearest_distance,
    nearest_similarity,
    template_threshold,
)
from ganinv.metrics.sets import density_coverage, frechet_distance, kernel_distance, knowledge_extraction, precision_recall
from ganinv.metrics.statistics import (
    bootstrap_interval,
    exact_interval,
    fewest_users,
    holm,
    least_p,
    mcnemar_p,
    sign_flip_p,
    users_needed,
    users_to_show,
)


def test_identity_score_is_the_softmax_of_the_identity():
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]])
    assert identity_score(logits, torch.tensor([0, 1])).tolist() == pytest.approx([0.75, 0.25])


def test_identity_score_stays_in_range_for_huge_logits():
    scores = identity_score(torch.tensor([[1e4, -1e4], [1e4, -1e4]]), torch.tensor([0, 1]))
    assert scores.tolist() == [1.0, 0.0]


def test_rank_counts_ties_and_nan_against_the_identity():
    logits = torch.tensor([[3.0, 2, 1], [3, 2, 1], [1, 1, 1], [0, math.nan, -1], [math.nan, 0, 0]])
    assert identity_rank(logits, torch.tensor([0, 2, 1, 0, 0])).tolist() == [1, 3, 3, 2, 3]


@pytest.mark.parametrize("identity", [-1, 3])
def test_an_identity_that_is_no_class_is_the_callers_mistake(identity):
    for measure in (identity_rank, identity_score):
        with pytest.raises(ValueError, match=r"expected identities in 0-2, .* got \[-?\d\]"):
            measure(torch.zeros(1, 3), torch.tensor([identity]))


def test_accuracy_at_k():
    ranks = torch.tensor([1, 2, 5, 6])
    assert [accuracy_at(ranks, k) for k in (1, 2, 5, 6)] == [0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ValueError, match="at least one rank"):
        accuracy_at(ranks[:0], 1)
    with pytest.raises(ValueError, match="k >= 1"):
        accuracy_at(ranks, 0)


def test_mean_cosine_is_the_mean_over_references_whatever_their_norms():
    references = torch.tensor([[1.0, 0], [0, 7.0]])
    embeddings = torch.tensor([[2.0, 0], [1, 1], [-1, 0]])
    assert mean_cosine(embeddings, references).tolist() == pytest.approx([0.5, math.sqrt(0.5), -0.5])


def test_cosines_do_not_leave_their_range_by_rounding():
    rows = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))
    for row in rows:
        for value in (mean_cosine(row[None], row[None]), nearest_similarity(-row[None], row[None])):
            assert -1 <= value.item() <= 1


def test_mean_cosine_without_references_raises():
    with pytest.raises(ValueError, match="at least one row"):
        mean_cosine(torch.ones(1, 2), torch.ones(0, 2))
    with pytest.raises(ValueError, match=r"\[N,D\] and \[M,D\]"):
        mean_cosine(torch.ones(1, 2), torch.ones(1, 3))


def test_template_threshold_leaves_a_share_of_other_peoples_photos_above_it():
    person = torch.arange(20).repeat_interleave(3)  # 60 photos, each compared with 19 people
    rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    threshold = template_threshold(rows, person, 1e-2)
    unit = rows / rows.norm(dim=1, keepdim=True)
    means = [
        (unit[photo] @ unit[person == other].T).mean().item()
        for photo in range(60)
        for other in range(20)
        if other != person[photo]
    ]
    above = [mean for mean in means if mean > threshold + 1e-6]
    assert len(means) == 1140 and len(above) == 11  # a hundredth, rounded down
    with pytest.raises(ValueError, match="at least 10000 pairs of different people for a FAR of 0.001, got 1140"):
        template_threshold(rows, person, 1e-3)


def test_nearest_similarity_does_not_depend_on_the_chunk():
    generator = torch.Generator().manual_seed(0)
    features, bank = torch.randn(10, 5, generator=generator), torch.randn(20, 5, generator=generator)
    features[3] = 4 * bank[7]
    expected = (features[:, None] * bank).sum(2) / features.norm(dim=1)[:, None] / bank.norm(dim=1)
    for chunk in (1, 3, 1024):
        found = nearest_similarity(features, bank, chunk)
        assert torch.allclose(found, expected.amax(1), atol=1e-6)
        assert found[3] == pytest.approx(1)


def test_bootstrap_interval_of_two_values_spans_them():
    # the resampled mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4
    assert bootstrap_interval(torch.tensor([0.0, 1.0]), seed=0) == (0.0, 1.0)
    assert bootstrap_interval(torch.tensor([0.0, 1.0]), seed=0, level=0.4) == (0.5, 0.5)


def test_bootstrap_interval_agrees_with_the_normal_one_for_many_values():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    low, high = bootstrap_interval(values, seed=2)
    half = 1.96 * values.std().item() / 20
    assert low == pytest.approx(values.mean().item() - half, abs=0.01)
    assert high == pytest.approx(values.mean().item() + half, abs=0.01)
    assert (low, high) == bootstrap_interval(values, seed=2) != bootstrap_interval(values, seed=3)


def test_bootstrap_draws_the_number_of_resamples_asked_for(monkeypatch):
    drawn, draw = [], torch.randint
    monkeypatch.setattr(torch, "randint", lambda high, size, **rest: drawn.append(size) or draw(high, size, **rest))
    bootstrap_interval(torch.rand(3000), seed=0, num=700)  # 333 resamples at once
    assert sum(rows for rows, _ in drawn) == 700
    assert {count for _, count in drawn} == {3000}


def test_one_identity_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 identities"):
        bootstrap_interval(torch.tensor([0.3]), seed=0)


def test_frechet_distance_of_equal_covariances_is_the_squared_difference_of_means():
    features = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    shift = torch.arange(6.0)
    assert frechet_distance(features, features + shift) == pytest.approx(shift.square().sum().item(), rel=1e-5)
    for seed in range(20):  # rounding falls on either side of 0
        features = torch.randn(50, 6, generator=torch.Generator().manual_seed(seed))
        assert 0 <= frechet_distance(features, features) < 1e-9


def test_frechet_distance_of_scaled_features_is_the_squared_difference_of_deviations():
    features = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    features -= features.mean(0)
    expected = (3 - 1) ** 2 * features.var(0).sum().item()  # B = 9 A, Tr(A + 9A - 2*3A) = 4 Tr A
    assert frechet_distance(features, 3 * features) == pytest.approx(expected)


def test_frechet_distance_is_symmetric_when_covariances_do_not_commute_and_are_singular():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 8, generator=generator), torch.randn(5, 8, generator=generator) * 2
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    # against the eigenvalues of the plain product A B
    root = torch.linalg.eigvals(torch.cov(a.T.double()) @ torch.cov(b.T.double())).real.clamp(min=0).sqrt().sum()
    traces = torch.cov(a.T).trace() + torch.cov(b.T).trace()
    expected = (a.mean(0) - b.mean(0)).square().sum() + traces - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-4)


def test_frechet_distance_of_one_feature_and_of_one_sample():
    assert frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]])) == pytest.approx(9)
    with pytest.raises(ValueError, match="at least 2 samples"):
        frechet_distance(torch.zeros(1, 2), torch.zeros(5, 2))


def test_nearest_distance_is_the_square_of_the_chord():
    references = torch.tensor([[1.0, 0], [0, 1]])
    embeddings = torch.tensor([[1.0, 0], [-1, 0], [math.sqrt(0.5), -math.sqrt(0.5)]])
    expected = [0, 2, (1 - math.sqrt(0.5)) ** 2 + 0.5]
    assert nearest_distance(embeddings, references).tolist() == pytest.approx(expected, abs=1e-6)


def test_a_classifier_that_learnt_from_reconstructions_names_photos():
    east, north, west = [1.0, 0], [0, 1.0], [-1.0, 0]
    embeddings, owners = torch.tensor([east, [3.0, 0.3], north]), torch.tensor([4, 4, 7])
    references, person = torch.tensor([east, north, [0.6, 0.5], west]), torch.tensor([4, 7, 7, 4])
    found = knowledge_extraction(embeddings, owners, references, person)
    # west is a quarter turn and more from both: from north 90 degrees, from east about 177
    assert found.tolist() == [1, 1, 0, 0]
    for wrong in ((embeddings[:2], owners[:2], references, person), (embeddings, owners, references, person + 1)):
        with pytest.raises(ValueError, match="at least 2 owners"):
            knowledge_extraction(*wrong)


def test_precision_and_recall_on_a_line():
    real = torch.tensor([[0.0], [1], [2], [10]])
    fake = torch.tensor([[0.5], [4.0], [5.0], [30]])
    # reaches, k 1: reals 1, 1, 1, 8; fakes 3.5, 1, 1, 25
    # fakes within: 0.5 (of 0), 4 (of 10), 5 (of 10), not 30; reals within: 0, 1, 2 (of 0.5), 10 (of 30)
    assert precision_recall(real, fake, k=1) == (0.75, 1.0)
    # reaches, k 2: reals 2, 1, 2, 9
    assert density_coverage(real, fake, k=2) == ((3 + 2 + 1 + 0) / 4 / 2, 1.0)
    assert density_coverage(real, torch.tensor([[0.5], [-50]]), k=1) == ((2 + 0) / 2, 0.5)


def test_precision_and_recall_of_the_same_points_and_of_strangers():
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    assert precision_recall(points, points) == (1, 1)
    density, coverage = density_coverage(points, points, k=5)
    assert density == pytest.approx(6 / 5, abs=0.3) and coverage == 1  # a point reaches itself too
    assert precision_recall(points, points + 100) == (0, 0)
    assert density_coverage(points, points + 100) == (0, 0)
    for few in (points[:3], points[:0]):
        with pytest.raises(ValueError, match="more than k=3 rows|at least one row"):
            precision_recall(points, few)


def test_kernel_distance_by_hand():
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    # within a: k(0,1) = 1; within b: k(1,2) = 27; between: k(0,1) = k(0,2) = 1, k(1,1) = 8, k(1,2) = 27
    assert kernel_distance(a, b) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)
    with pytest.raises(ValueError, match="at least 2 samples"):
        kernel_distance(a[:1], b)


class Features(torch.nn.Module):
    """What torchmetrics takes for the network that makes features: pictures that are their own features."""

    num_features = 6

    def forward(self, images):
        return images.flatten(1)


def test_kernel_and_frechet_distance_are_those_of_torchmetrics():
    kid_module = pytest.importorskip("torchmetrics.image.kid")
    fid_module = pytest.importorskip("torchmetrics.image.fid")
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(80, 6, generator=generator), torch.randn(80, 6, generator=generator) * 1.5 + 0.5
    kid = kid_module.KernelInceptionDistance(feature=Features(), subsets=1, subset_size=80)
    fid = fid_module.FrechetInceptionDistance(feature=Features())
    for measure in (kid, fid):
        measure.update(a[:, :, None, None], real=True)
        measure.update(b[:, :, None, None], real=False)
    assert kernel_distance(a, b) == pytest.approx(kid.compute()[0].item(), rel=1e-4)
    assert frechet_distance(a, b) == pytest.approx(fid.compute().item(), rel=1e-4)


def test_sign_flips_by_hand():
    assert sign_flip_p(torch.ones(5)) == 2 / 32  # five users: never below it
    # of +-1 +-2 +-3 +-4, as far from 0 as 1+2+3-4 = 2: all but the sum 0, which is 1+4-2-3, 2+3-1-4
    assert sign_flip_p(torch.tensor([1.0, 2, 3, -4])) == 14 / 16
    assert sign_flip_p(torch.zeros(4)) == 1
    assert sign_flip_p(torch.tensor([0.1, 0.2, 0.3])) == sign_flip_p(-torch.tensor([0.3, 0.1, 0.2])) == 0.25
    with pytest.raises(ValueError, match="at least 1 paired difference"):
        sign_flip_p(torch.zeros(0))


def test_many_users_get_random_sign_flips_that_agree_with_the_normal_law():
    values = torch.randn(40, generator=torch.Generator().manual_seed(3)) + 0.3
    z = values.double().sum() / values.double().square().sum().sqrt()
    expected = math.erfc(abs(z.item()) / math.sqrt(2))
    assert sign_flip_p(values) == pytest.approx(expected, abs=0.01)
    assert sign_flip_p(values) == sign_flip_p(values)
    assert sign_flip_p(torch.ones(40), num=1000) == 1 / 1001  # never 0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1] and holm([0.04]) == [0.04] and holm([]) == []


def share_seen(users, difference, repeats=300):
    """Returns how often a sign-flip test sees a difference in draws of users of spread 1."""
    draws = torch.randn(repeats, users, generator=torch.Generator().manual_seed(users)) + difference
    return sum(sign_flip_p(row) <= 0.05 for row in draws) / repeats


@pytest.mark.parametrize("difference", [1.0, 1.2, 1.5, 3.0])
def test_the_users_needed_see_the_difference_in_four_of_five_draws(difference):
    users = users_needed(torch.tensor([-1.0, 1]) / math.sqrt(2), difference)
    assert share_seen(users, difference) >= 0.75
    assert users == 6 or share_seen(users - 2, difference) < 0.8


def test_no_fewer_users_than_a_sign_flip_test_needs():
    assert users_needed(torch.tensor([0.1, 0.1, 0.1]), 0.1) == 6  # 2^(1-5) is above 0.05
    assert users_needed(torch.tensor([0.1, 0.1]), 0.1, level=0.01) == 8
    assert users_needed(torch.tensor([-1.0, 1]), -0.5) == users_needed(torch.tensor([-1.0, 1]), 0.5)
    for differences, wanted in ((torch.ones(1), 1.0), (torch.ones(3), 0.0)):
        with pytest.raises(ValueError, match="2 users or more and a difference other than 0"):
            users_needed(differences, wanted)


def test_exact_intervals_and_paired_tests_by_hand():
    for hits, count in ((0, 5), (2, 5), (5, 5), (3, 40)):
        low, high = exact_interval(hits, count)
        # at its ends the share seen, or one further off, has a probability of 2.5 %
        above = sum(math.comb(count, k) * low**k * (1 - low) ** (count - k) for k in range(hits, count + 1))
        below = sum(math.comb(count, k) * high**k * (1 - high) ** (count - k) for k in range(hits + 1))
        assert (low == 0) if hits == 0 else above == pytest.approx(0.025)
        assert (high == 1) if hits == count else below == pytest.approx(0.025)
    with pytest.raises(ValueError, match="expected hits of at least one try, got 3 of 2"):
        exact_interval(3, 2)
    assert [mcnemar_p(*pair) for pair in ((0, 0), (1, 0), (5, 0), (0, 5), (2, 2), (3, 1))] == [1, 1, 0.0625, 0.0625, 1, 0.625]
    assert [least_p(users) for users in (1, 2, 5, 6)] == [1, 0.5, 0.0625, 0.03125] and fewest_users(0.05) == 6


def test_so_many_users_would_show_it():
    assert users_to_show(1, 0, 20) == 120 and users_to_show(5, 0, 5) == 6 and users_to_show(2, 0, 10) == 30
    assert users_to_show(0, 0, 20) is None and users_to_show(2, 2, 20) is None
    many = users_to_show(3, 1, 20)  # both sides grow
    assert mcnemar_p(3 * many // 20, -(-many // 20)) <= 0.05 < mcnemar_p(3 * (many - 1) // 20, -(-(many - 1) // 20))


def test_faces_are_alike_by_angle_or_by_distance():
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0], [-3.0, -4.0]])
    assert face_scores(a, b, "euclidean").tolist() == [[0, -5, -10]]
    assert face_scores(a, b[[0, 2]]).tolist()[0] == pytest.approx([1, -1])
