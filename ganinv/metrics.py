"""Pure functions of logits, embeddings and features. A metric that cannot be computed raises; it never returns 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def identity_score(logits: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
    """Returns the softmax score [N] in [0,1] that logits [N,C] give to identities [N].

    Raises: ValueError when an identity is no class of the logits.
    Source: Khosravy et al. 2021, the recognition score of an inverted image.
    """
    return logits.double().softmax(1).gather(1, check_identities(logits, identities)[:, None])[:, 0].float()


def identity_rank(logits: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
    """Returns the rank [N] int64 of identities [N] among logits [N,C]: 1 is the best, C the worst.

    Ties and values that are no number count against the identity, so a constant recognizer gives rank C, not 1.
    Raises: ValueError when an identity is no class of the logits.
    """
    own = logits.gather(1, check_identities(logits, identities)[:, None])
    beaten = logits < own  # False for NaN, hence not beaten
    return logits.shape[1] - beaten.sum(1)


def accuracy_at(ranks: torch.Tensor, k: int) -> float:
    """Returns the share of ranks [N] that are k or better, in [0,1].

    Raises: ValueError when there is no rank or k is below 1.
    """
    if k < 1 or ranks.numel() == 0:
        raise ValueError(f"expected k >= 1 and at least one rank, got k={k} and {ranks.numel()} ranks")
    return (ranks <= k).double().mean().item()


def mean_cosine(embeddings: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Returns the mean cosine [N] in [-1,1] of each embedding [N,D] to all references [M,D] of one identity.

    Raises: ValueError when there is no reference, or the embedding sizes differ.
    """
    check_features(embeddings, references)
    return (F.normalize(embeddings.float(), dim=1) @ F.normalize(references.float(), dim=1).T).mean(1).clamp(-1, 1)


def nearest_similarity(features: torch.Tensor, bank: torch.Tensor, chunk: int = 1024) -> torch.Tensor:
    """Returns the largest cosine [N] in [-1,1] of each row of features [N,D] to the rows of a bank [M,D].

    A reconstruction whose nearest bank photo is nearer than photos of one person are to each other is a copy.
    chunk: rows compared at once; bounds the memory to chunk * M numbers and leaves the result alone.
    Raises: ValueError when the bank is empty, or the feature sizes differ.
    """
    check_features(features, bank)
    bank = F.normalize(bank.float(), dim=1).T
    rows = [(F.normalize(part.float(), dim=1) @ bank).amax(1) for part in features.split(chunk)]
    return torch.cat(rows).clamp(-1, 1)


def bootstrap_interval(values: torch.Tensor, seed: int, num: int = 10000, level: float = 0.95) -> tuple[float, float]:
    """Returns (low, high), the percentile bootstrap interval of the mean of values [n], one per identity.

    seed: of the resampling; num: resamples. With few identities the interval is too narrow, and values that are all
    equal give one of no width: it speaks of the spread seen between identities and of nothing else.
    Raises: ValueError with fewer than two values, from which no interval can be had.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    count = values.numel()
    if count < 2:
        raise ValueError(f"expected at least 2 identities for a confidence interval, got {count}")
    values = values.double().flatten().cpu()
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, 10**6 // count)  # indices drawn at once: 8 MB
    means = [
        values[torch.randint(count, (min(rows, num - start), count), generator=generator)].mean(1)
        for start in range(0, num, rows)
    ]
    tail = (1 - level) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


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


def check_identities(logits: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
    """Returns identities [N] on the logits' device, if each is a class of logits [N,C]; raises ValueError else."""
    if logits.ndim != 2 or identities.shape != logits.shape[:1]:
        raise ValueError(f"expected logits [N,C] and identities [N], got {[*logits.shape]} and {[*identities.shape]}")
    if identities.numel() and not 0 <= identities.min() <= identities.max() < logits.shape[1]:
        known, got = logits.shape[1], sorted(set(identities.tolist()))
        raise ValueError(f"expected identities in 0-{known - 1}, the recognizer's classes, got {got}")
    return identities.to(logits.device)


def check_features(features: torch.Tensor, others: torch.Tensor) -> None:
    """Raises ValueError unless features are [N,D] and others [M,D] with the same D, and neither is empty."""
    if features.ndim != 2 or others.ndim != 2 or features.shape[1] != others.shape[1]:
        raise ValueError(f"expected features [N,D] and [M,D], got {[*features.shape]} and {[*others.shape]}")
    if not len(features) or not len(others):
        raise ValueError(f"expected at least one row a side, got {len(features)} and {len(others)}")
