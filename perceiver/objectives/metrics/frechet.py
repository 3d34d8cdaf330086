"""Fréchet distance of Gaussians fitted to features: Heusel et al. 2017 (arXiv:1706.08500), section 2, in any features.

With the features of a judge of the project it is called FD. It is not FID, whose features are those of Inception, and is
comparable only between models that the same judge measures on as many samples.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torchmetrics import Metric

log = logging.getLogger(__name__)


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Return the squared Fréchet distance of two Gaussians, `()`, in float64.

    Args:
        mean, other_mean: `(F,)`.
        covariance, other_covariance: `(F, F)`, symmetric and positive semi-definite.

    Examples:
        >>> import torch
        >>> from perceiver.objectives.metrics.frechet import frechet_distance
        >>> zeros, ones, unit = torch.zeros(2), torch.ones(2), torch.eye(2)
        >>> float(frechet_distance(zeros, unit, ones, 4 * unit))  # |1 - 0|² + sum of (2 - 1)²
        4.0
    """
    mean, covariance, other_mean, other_covariance = (
        one.double() for one in (mean, covariance, other_mean, other_covariance)
    )
    # The trace of (C1 C2)^(1/2) is that of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric: real eigenvalues, no iteration.
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    squared = (mean - other_mean).square().sum()
    distance: Tensor = squared + covariance.trace() + other_covariance.trace() - 2 * shared
    return distance.clamp(min=0)


class FrechetDistance(Metric):
    """Fréchet distance between the features of generated and of real samples of a split.

    NaN below two samples of either, or if a feature is not finite, which a warning tells.

    Args:
        channels: F, the number of features.
    """

    full_state_update = False
    counts: Tensor
    broken: Tensor
    sums: Tensor
    products: Tensor

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        zeros = {"counts": (2,), "broken": (2,), "sums": (2, channels), "products": (2, channels, channels)}
        for name, shape in zeros.items():
            self.add_state(name, default=torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor, *, real: bool) -> None:
        """Add features `(B, F)` of generated or of real samples."""
        own = features.detach().double()
        row = int(real)
        # Not in place: a state from inference mode may be updated outside of it.
        counts, broken, sums, products = (one.clone() for one in (self.counts, self.broken, self.sums, self.products))
        counts[row] += len(own)
        broken[row] += (~own.isfinite().all(dim=1)).sum()
        sums[row] += own.sum(dim=0)
        products[row] += own.T @ own
        self.counts, self.broken, self.sums, self.products = counts, broken, sums, products

    def compute(self) -> Tensor:
        """Return the distance in float32."""
        generated, real = (int(one) for one in self.broken)
        if generated or real:
            log.warning(
                "frechet_distance: left out, since %d of %d generated and %d of %d real samples have features that are not "
                "finite.",
                *(generated, int(self.counts[0]), real, int(self.counts[1])),
            )
        if generated or real or bool((self.counts < 2).any()):
            return torch.full((), torch.nan)
        means = self.sums / self.counts[:, None]
        scatter = self.products - self.counts[:, None, None] * means[:, :, None] * means[:, None, :]
        covariances = scatter / (self.counts - 1)[:, None, None]
        return frechet_distance(means[0], covariances[0], means[1], covariances[1]).float()
