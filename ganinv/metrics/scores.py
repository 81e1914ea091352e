"""Scores of logits and embeddings, picture by picture. A metric that cannot be computed raises; it never returns 0."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ganinv.metrics.sets import check_features


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


METRICS = ("cosine", "euclidean")  # how embeddings are compared: by their angle, or by their distance as they are


def face_scores(embeddings: torch.Tensor, others: torch.Tensor, metric: str = "cosine") -> torch.Tensor:
    """Returns [N,M], higher for faces more alike: the cosine of each pair of [N,D] and [M,D], or the negative distance.

    Raises: ValueError when a side is empty, or the embedding sizes differ.
    """
    check_features(embeddings, others)
    if metric == "euclidean":
        return -torch.cdist(embeddings.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist").float()
    return F.normalize(embeddings.float(), dim=1) @ F.normalize(others.float(), dim=1).T


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


def nearest_distance(embeddings: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Returns the squared L2 distance [N] in [0,4] of each embedding [N,D] to the nearest reference [M,D], both unit norm.

    Raises: ValueError when there is no reference, or the embedding sizes differ.
    Source: Struppek et al. 2022, section 4 (delta_eval and delta_face; there the features are not of unit norm).
    """
    return 2 - 2 * nearest_similarity(embeddings, references)


def check_identities(logits: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
    """Returns identities [N] on the logits' device, if each is a class of logits [N,C]; raises ValueError else."""
    if logits.ndim != 2 or identities.shape != logits.shape[:1]:
        raise ValueError(f"expected logits [N,C] and identities [N], got {[*logits.shape]} and {[*identities.shape]}")
    if identities.numel() and not 0 <= identities.min() <= identities.max() < logits.shape[1]:
        known, got = logits.shape[1], sorted(set(identities.tolist()))
        raise ValueError(f"expected identities in 0-{known - 1}, the recognizer's classes, got {got}")
    return identities.to(logits.device)
