"""Where the features of samples ought to be: the optimal transport from their Gaussian to that of photos.

Sources: Dowson and Landau 1982 (the distance of two Gaussians and the map between them); Heusel et al. 2017, Eq. 6 (that
distance of features, as a measure of generators).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

RIDGE = 1e-3  # of the photos' mean variance, added to every variance: what hardly varies is not blown up


@dataclass(frozen=True)
class Gaussian:
    """mean [D] and covariance [D,D], in float64."""

    mean: torch.Tensor
    covariance: torch.Tensor

    def project(self, basis: torch.Tensor) -> Gaussian:
        """Returns the Gaussian of x @ basis [D,K]."""
        return Gaussian(self.mean @ basis, basis.T @ self.covariance @ basis)

    def widen(self, variance: torch.Tensor) -> Gaussian:
        """Returns the Gaussian with so much variance [] more in every direction."""
        return Gaussian(self.mean, self.covariance + variance * torch.eye(len(self.mean)).to(self.covariance))


class Sums:
    """The sums over rows [N,D] that come in parts, to which a Gaussian is fitted."""

    def __init__(self) -> None:
        self.count, self.total, self.products = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: torch.Tensor) -> None:
        """Takes rows more."""
        rows = rows.double()
        self.count += len(rows)
        self.total = self.total.to(rows) + rows.sum(0)
        self.products = self.products.to(rows) + rows.T @ rows

    def fit(self) -> Gaussian:
        """Returns the Gaussian of all rows, at least two."""
        mean = self.total / self.count
        return Gaussian(mean, (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1))


def fit_gaussian(rows: torch.Tensor, recent: torch.Tensor | None = None) -> Gaussian:
    """Returns the Gaussian of rows [N,D]; its mean is that of `recent` rows where they are given."""
    mean = (rows if recent is None else recent).double().mean(0)
    return Gaussian(mean, torch.cov(rows.double().T))


def find_root(covariance: torch.Tensor) -> torch.Tensor:
    """Returns the symmetric root of a covariance [D,D]."""
    spectrum, basis = torch.linalg.eigh(covariance)
    return basis * spectrum.clamp(min=0).sqrt() @ basis.T  # rounding leaves eigenvalues just below 0


def find_components(gaussian: Gaussian, most: int) -> torch.Tensor:
    """Returns the leading principal components [D,K], at most `most`; those in which nothing varies are left out."""
    spectrum, basis = torch.linalg.eigh(gaussian.covariance)
    varies = (spectrum > 1e-9 * spectrum[-1]).sum().clamp(min=1)
    return basis[:, -min(most, int(varies)) :]


@dataclass(frozen=True)
class Gap:
    """How far samples are from photos, in units of the photos' variance: the Frechet distance, the part of it that the
    means make, and the samples' own variance (1 is as varied as photos)."""

    distance: float
    mean: float
    spread: float


class Transport:
    """The optimal transport of samples' features to photos', T(x) = m_r + A (x - m_f), anew whenever samples have moved.

    A = R (R S_f R)^(-1/2) R with R = S_r^(1/2), of means m and covariances S of photos (r) and samples (f), in the leading
    principal components of the photos.
    """

    def __init__(self, photos: Gaussian, components: int):
        basis = find_components(photos, components)
        kept = photos.project(basis)
        self.variance = kept.covariance.trace()
        self.ridge = RIDGE * self.variance / len(kept.mean)
        self.photos = kept.widen(self.ridge)
        self.root = find_root(self.photos.covariance)
        self.basis, self.target = basis.float(), kept.mean.float()
        self.source, self.matrix = self.target, torch.eye(len(self.target)).to(self.target)
        self.gap = Gap(0.0, 0.0, 1.0)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Returns features [N,D] in the components [N,K]."""
        return features.float() @ self.basis

    def update(self, rows: torch.Tensor, recent: torch.Tensor | None = None) -> Gap:
        """Finds the map anew of samples' rows [N,K], and returns how far they are from photos.

        recent: the last of them, whose mean counts: one that lags behind makes the samples swing about the photos.
        """
        own = fit_gaussian(rows, recent)
        samples = own.widen(self.ridge)
        spectrum, basis = torch.linalg.eigh(self.root @ samples.covariance @ self.root)
        spread = spectrum.clamp(min=self.ridge.square()).sqrt()  # its least value, but for rounding
        self.matrix = (self.root @ (basis / spread @ basis.T) @ self.root).float()
        self.source = samples.mean.float()
        means = (samples.mean - self.photos.mean).square().sum()
        variances = samples.covariance.trace() + self.photos.covariance.trace() - 2 * spread.sum()
        numbers = (means + variances, means, own.covariance.trace())
        self.gap = Gap(*(torch.stack(numbers) / self.variance).tolist())  # read at once: reading waits for the device
        return self.gap

    def pull(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns a loss [] whose gradient in rows [N,K] is that of the Frechet distance, over the photos' variance.

        The distance's gradient in a row x is 2 (x - T(x)) / N: with every sample where T takes it, it is 0.
        """
        with torch.no_grad():
            away = rows - self.target - (rows - self.source) @ self.matrix
        return 2 * (rows * away).sum(1).mean() / self.variance.float()

    def state(self) -> dict:
        """Returns all that the transport holds, as tensors and numbers."""
        photos = {"mean": self.photos.mean, "covariance": self.photos.covariance}
        tensors = {name: getattr(self, name) for name in ("variance", "ridge", "root", "basis", "target", "source", "matrix")}
        return {"photos": photos, "gap": {**vars(self.gap)}} | tensors

    def restore(self, state: dict) -> None:
        """Takes up a state."""
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(self.basis.device))
        self.basis = self.basis.T.contiguous().T  # as eigh lays it out: the last bits of a product depend on that
        self.photos = Gaussian(**{name: value.to(self.basis.device) for name, value in state["photos"].items()})
        self.gap = Gap(**state["gap"])
