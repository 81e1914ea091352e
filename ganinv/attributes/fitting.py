"""Ridge and logistic regression of attributes on embeddings, and predictions for people who took no part.

How hard the weights are held down is chosen inside each fit, on people whom that fit leaves out: what is predicted for a
person was never chosen by that person.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ganinv.engine.randomness import seeded

FOLDS = 5  # of people, for predictions
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # times the mean square of a feature
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the loss per row, for features of unit spread
STEPS = 200  # of L-BFGS, at most

Affine = tuple[torch.Tensor, torch.Tensor]  # weights [D,B], offset [B]


def fit_ridge(features: torch.Tensor, wanted: torch.Tensor, strengths: torch.Tensor) -> Affine:
    """Returns the affine map of features [n,D] to wanted [n,B] of least squares, each column's weights held down.

    strengths: [S,B], as many maps side by side, weights [S,D,B] and offset [S,B].
    Source: Hoerl and Kennard 1970, Ridge Regression.
    """
    centre, mean = features.mean(0), wanted.mean(0)
    rows = features - centre
    squares, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    along = axes.T @ (rows.T @ (wanted - mean)) / len(rows)  # [D,B]
    held = squares.clamp_min(0)[:, None] + strengths[:, None] * squares.mean() + 1e-12  # [S,D,B]
    weights = axes @ (along / held)
    return weights, mean - centre @ weights


def fit_quantities(features: torch.Tensor, wanted: torch.Tensor, people: torch.Tensor) -> Affine:
    """Returns the ridge regression of wanted [n,B], each column at the strength that is best for people left out."""
    held, tried = deal_folds(people, seed=1) == 0, torch.tensor(RIDGES, dtype=torch.float64)[:, None]
    weights, offset = fit_ridge(features[~held], wanted[~held], tried.expand(-1, wanted.shape[1]))
    errors = (features[held] @ weights + offset[:, None] - wanted[held]).square().mean(1)  # [S,B]
    weights, offset = fit_ridge(features, wanted, tried[errors.argmin(0), 0][None])
    return weights[0], offset[0]


def fit_logistic(features: torch.Tensor, shares: torch.Tensor, strength: float) -> Affine:
    """Returns the affine map of features [n,D] to the logits of shares [n,B], rows of zeros and a one.

    Source: multinomial logistic regression with an L2 penalty, by L-BFGS (Byrd et al. 1995), as scipy has it.
    """
    centre, spread = features.mean(0), features.std(0).clamp_min(1e-6)
    rows = torch.cat([(features - centre) / spread, features.new_ones(len(features), 1)], 1)
    shape = (rows.shape[1], shares.shape[1])

    from scipy.optimize import minimize  # slow to import, and a verdict fits nothing

    def lose(flat):
        weights = torch.from_numpy(flat).view(shape)
        logits, held = rows @ weights, weights[:-1]
        loss = -(shares * logits.log_softmax(1)).sum() / len(rows) + strength / 2 * held.square().sum()
        slope = rows.T @ (logits.softmax(1) - shares) / len(rows)
        slope[:-1] += strength * held
        return loss.item(), slope.flatten().numpy()

    start = torch.zeros(shape, dtype=torch.float64).flatten().numpy()
    found = minimize(lose, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    weights = torch.from_numpy(found).view(shape)
    scaled = weights[:-1] / spread[:, None]
    return scaled, weights[-1] - centre @ scaled


def fit_choice(features: torch.Tensor, shares: torch.Tensor, people: torch.Tensor) -> Affine:
    """Returns the logistic regression of shares [n,B] at the strength that is best for people left out."""
    held = deal_folds(people, seed=1) == 0

    def err(strength: float) -> float:
        weights, offset = fit_logistic(features[~held], shares[~held], strength)
        return ((features[held] @ weights + offset).softmax(1) - shares[held]).square().mean().item()

    return fit_logistic(features, shares, min(DECAYS, key=err))


def deal_folds(people: torch.Tensor, seed: int) -> torch.Tensor:
    """Returns the fold [n] of rows of people [n], each person in one of FOLDS, as even as can be."""
    distinct, row = people.unique(return_inverse=True)
    order = torch.randperm(len(distinct), generator=seeded(seed, "folds"))
    return (order % FOLDS)[row]


def cross(people: torch.Tensor, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields (rows to fit on, rows to predict), masks [n], of each fold."""
    fold = deal_folds(people, seed)
    for number in range(FOLDS):
        yield fold != number, fold == number
