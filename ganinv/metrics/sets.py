"""Metrics of sets of embeddings: distances between distributions, and how well one covers another."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def knowledge_extraction(
    embeddings: torch.Tensor, owners: torch.Tensor, references: torch.Tensor, person: torch.Tensor
) -> torch.Tensor:
    """Returns [M], 1 where a classifier that learnt from reconstructions alone names a reference's person, else 0.

    embeddings [N,D] of reconstructions of owners [N]; references [M,D] of photos of person [M], who are among the owners.
    The classifier takes the owner whose reconstructions' mean direction is nearest; guessing gives 1 / owners.
    Raises: ValueError for fewer than two owners, or a person who is none of them.
    Source: Struppek et al. 2024, Be Careful What You Smooth For, section 5 (there a ResNet is trained on the pictures;
    here the features are fixed, so that a picture a user is enough).
    """
    check_features(embeddings, references)
    people = owners.unique()
    if len(people) < 2 or not torch.isin(person, people).all():
        raise ValueError(f"expected references of at least 2 owners {people.tolist()}, got {person.unique().tolist()}")
    rows = F.normalize(embeddings.double(), dim=1)
    means = F.normalize(torch.stack([rows[owners == one].mean(0) for one in people]), dim=1)
    named = people[(F.normalize(references.double(), dim=1) @ means.T).argmax(1)]
    return (named == person).double()


def precision_recall(real: torch.Tensor, fake: torch.Tensor, k: int = 3) -> tuple[float, float]:
    """Returns (precision, recall) of fake features [N,D] for real ones [M,D], both in [0,1].

    precision: the share of fakes within the reach of a real one, its distance to its k-th nearest other real; recall: the
    share of reals within that of a fake.
    Raises: ValueError unless each side has more than k rows, of one size.
    Source: Kynkaanniemi et al. 2019, Improved Precision and Recall Metric, Eq. 1 and 2.
    """
    between = distances(real, fake)  # [M,N]
    reach, fake_reach = neighbour_distance(real, k), neighbour_distance(fake, k)
    precision = (between <= reach[:, None]).any(0).double().mean().item()
    return precision, (between <= fake_reach[None]).any(1).double().mean().item()


def density_coverage(real: torch.Tensor, fake: torch.Tensor, k: int = 5) -> tuple[float, float]:
    """Returns (density, coverage) of fake features [N,D] for real ones [M,D]; density may exceed 1.

    density: how many reals reach each fake, over k; coverage: the share of reals that reach a fake.
    Raises: ValueError unless the real side has more than k rows, of the fakes' size.
    Source: Naeem et al. 2020, Reliable Fidelity and Diversity Metrics, Eq. 4 and 5.
    """
    within = distances(real, fake) <= neighbour_distance(real, k)[:, None]  # [M,N]
    return within.double().sum(0).mean().item() / k, within.any(1).double().mean().item()


def distances(features: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Returns the L2 distances [N,M] of features [N,D] and [M,D], in float64. Raises: ValueError, see check_features."""
    check_features(features, others)
    # by differences, not by products: rounding must not move a point out of its own reach
    return torch.cdist(features.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")


def neighbour_distance(features: torch.Tensor, k: int) -> torch.Tensor:
    """Returns the distance [N] of each row to its k-th nearest other. Raises: ValueError unless there are more than k."""
    if not 0 < k < len(features):
        raise ValueError(f"expected more than k={k} rows for the k-th neighbour, and k above 0, got {len(features)} rows")
    return distances(features, features).kthvalue(k + 1, dim=1).values  # the first is the row itself


def kernel_distance(features_a: torch.Tensor, features_b: torch.Tensor) -> float:
    """Returns the squared maximum mean discrepancy of features [N,D] and [M,D], unbiased, so that it may be below 0.

    The kernel is (x.y / D + 1)^3. Raises: ValueError when either set has fewer than two samples, or the sizes differ.
    Source: Binkowski et al. 2018, Demystifying MMD GANs, the kernel inception distance (there on Inception features).
    """
    check_features(features_a, features_b)
    count_a, count_b = len(features_a), len(features_b)
    if min(count_a, count_b) < 2:
        raise ValueError(f"expected at least 2 samples a side, got {count_a} and {count_b}")
    a, b = features_a.double(), features_b.double()

    def kernel(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return (rows @ others.T / rows.shape[1] + 1) ** 3

    within_a = (kernel(a, a).sum() - kernel(a, a).trace()) / (count_a * (count_a - 1))
    within_b = (kernel(b, b).sum() - kernel(b, b).trace()) / (count_b * (count_b - 1))
    return (within_a + within_b - 2 * kernel(a, b).mean()).item()


def frechet_distance(features_a: torch.Tensor, features_b: torch.Tensor) -> float:
    """Returns the Frechet distance, at least 0, between Gaussians fitted to features [N,D] and [M,D], in float64.

    |mean_a - mean_b|^2 + Tr(A + B - 2 (A^1/2 B A^1/2)^1/2), the trace of the root from the eigenvalues of a symmetric
    matrix, so no general matrix root is needed. Biased upwards by few samples, most of all when N or M is not well
    above D: compare only values of equal N, M and D.
    Raises: ValueError when either set has fewer than two samples, or the feature sizes differ.
    Source: Heusel et al. 2017, Eq. 6 (there on Inception features; here on any).
    """
    check_features(features_a, features_b)
    if min(len(features_a), len(features_b)) < 2:
        raise ValueError(f"expected at least 2 samples a side, got {len(features_a)} and {len(features_b)}")
    a, b = features_a.double(), features_b.double()
    cov_a, cov_b = (torch.atleast_2d(torch.cov(side.T)) for side in (a, b))  # [D,D]
    spectrum, basis = torch.linalg.eigh(cov_a)
    root_a = basis * spectrum.clamp(min=0).sqrt() @ basis.T  # rounding leaves eigenvalues just below 0
    trace_root = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * trace_root
    return max(0.0, distance.item())


def check_features(features: torch.Tensor, others: torch.Tensor) -> None:
    """Raises ValueError unless features are [N,D] and others [M,D] with the same D, and neither is empty."""
    if features.ndim != 2 or others.ndim != 2 or features.shape[1] != others.shape[1]:
        raise ValueError(f"expected features [N,D] and [M,D], got {[*features.shape]} and {[*others.shape]}")
    if not len(features) or not len(others):
        raise ValueError(f"expected at least one row a side, got {len(features)} and {len(others)}")
