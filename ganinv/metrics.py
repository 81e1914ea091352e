"""Pure functions of logits, embeddings and features. A metric that cannot be computed raises; it never returns 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

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


def accept_threshold(embeddings: torch.Tensor, person: torch.Tensor, far: float) -> float:
    """Returns the cosine above which at most a share `far` of the pairs of different people lie.

    embeddings: [M,D] of photos of person [M]; a pair is accepted when its cosine is above the threshold.
    Raises: ValueError when there are fewer than 10/far such pairs, from which no such rate can be read.
    Source: ISO/IEC 19795-1, false match rate at a decision threshold.
    """
    rows = F.normalize(embeddings.float(), dim=1)
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    return passed_by((rows @ rows.T)[first, second][person[first] != person[second]], far)


def template_threshold(embeddings: torch.Tensor, person: torch.Tensor, far: float) -> float:
    """Returns the mean cosine to a person's photos above which at most a share `far` of other people's photos lie.

    embeddings: [M,D] of photos of person [M]; each photo is compared with every person that it does not show.
    Raises: ValueError when there are fewer than 10/far such comparisons.
    """
    rows = F.normalize(embeddings.float(), dim=1)
    people = person.unique()
    means = torch.stack([(rows @ rows[person == one].T).mean(1) for one in people], 1)  # [M,people]
    return passed_by(means[person[:, None] != people[None]], far)


def passed_by(impostors: torch.Tensor, far: float) -> float:
    """Returns the value that at most a share `far` of impostors' scores [n] are above. Raises: ValueError for n < 10/far."""
    least = math.ceil(10 / far)
    if len(impostors) < least:
        raise ValueError(f"expected at least {least} pairs of different people for a FAR of {far:g}, got {len(impostors)}")
    return impostors.sort().values[len(impostors) - 1 - int(far * len(impostors))].item()


def nearest_photo(features: torch.Tensor, bank: torch.Tensor, chunk: int = 1024) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the largest cosine [N] in [-1,1] of each row of features [N,D] to the rows of a bank [M,D], and which row.

    chunk: rows compared at once; bounds the memory to chunk * M numbers and leaves the result alone.
    Raises: ValueError when the bank is empty, or the feature sizes differ.
    """
    check_features(features, bank)
    bank = F.normalize(bank.float(), dim=1).T
    best = [(F.normalize(part.float(), dim=1) @ bank).max(1) for part in features.split(chunk)]
    return torch.cat([one.values for one in best]).clamp(-1, 1), torch.cat([one.indices for one in best])


def nearest_similarity(features: torch.Tensor, bank: torch.Tensor, chunk: int = 1024) -> torch.Tensor:
    """Returns the largest cosine [N] of each row of features [N,D] to the rows of a bank [M,D]; see nearest_photo.

    A reconstruction whose nearest bank photo is nearer than photos of one person are to each other is a copy.
    """
    return nearest_photo(features, bank, chunk)[0]


def summarize(values: torch.Tensor, seed: int) -> dict:
    """Returns {"mean", "ci95", "n"} of values [T]; ci95 is [None, None] when T is 1."""
    interval = list(bootstrap_interval(values, seed)) if len(values) > 1 else [None, None]
    return {"mean": values.mean().item(), "ci95": interval, "n": len(values)}


def nearest_distance(embeddings: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Returns the squared L2 distance [N] in [0,4] of each embedding [N,D] to the nearest reference [M,D], both unit norm.

    Raises: ValueError when there is no reference, or the embedding sizes differ.
    Source: Struppek et al. 2022, section 4 (delta_eval and delta_face; there the features are not of unit norm).
    """
    return 2 - 2 * nearest_similarity(embeddings, references)


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


def sign_flip_p(differences: torch.Tensor, seed: int = 0, num: int = 100_000) -> float:
    """Returns the two-sided p of paired differences [n], one per user, having mean 0 but for chance.

    If a pair's two sides could be swapped, every choice of signs was as likely: p is the share of choices whose mean is
    as far from 0. All 2^n choices up to n 16, else `num` random ones and the one seen. It is at least 2^(1-n).
    Raises: ValueError without a difference.
    Source: Fisher 1935, The Design of Experiments, section 21.
    """
    values = differences.double().flatten().cpu()
    count = len(values)
    if not count:
        raise ValueError("expected at least 1 paired difference, got none")
    if count <= 16:
        signs = 1 - 2 * (torch.arange(2**count)[:, None] >> torch.arange(count) & 1)  # [2^n,n]
    else:
        signs = 1 - 2 * torch.randint(2, (num, count), generator=torch.Generator().manual_seed(seed))
    sums = (signs.double() @ values).abs()
    far = int((sums >= values.sum().abs() - 1e-9 * values.abs().sum()).sum())  # equal sums, differently rounded
    return far / len(sums) if count <= 16 else (far + 1) / (num + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns each p corrected for that there are several: below a level, at most that share of wrong rejections in all.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def users_needed(differences: torch.Tensor, difference: float, level: float = 0.05, power: float = 0.8) -> int:
    """Returns how many users it takes to see a mean paired difference, from the spread of those of n users.

    ((z + z') s / difference)^2 + z^2 / 2 for a sign-flip test of `level`, which sees nothing in fewer users than 1 -
    log2(level), and in that many only if all differ in one direction. The spread of a few users is itself uncertain: of
    five, a true spread twice as large, and four times the users, is no surprise.
    Raises: ValueError for fewer than 2 differences, or a difference of 0.
    Source: Guenther 1981, Sample Size Formulas for Normal Theory T Tests.
    """
    if len(differences) < 2 or not difference:
        raise ValueError(f"expected 2 users or more and a difference other than 0, got {len(differences)} and {difference}")
    normal = NormalDist()
    z, other = normal.inv_cdf(1 - level / 2), normal.inv_cdf(power)
    spread, least = differences.double().std().item(), 1 + math.ceil(math.log2(1 / level))
    ratio = spread / abs(difference)
    count = max(math.ceil(((z + other) * ratio) ** 2 + z**2 / 2), least)
    agree = normal.cdf(1 / ratio) ** least if ratio else 1.0  # all of the fewest users
    return count + 1 if count == least and agree < power else count


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
