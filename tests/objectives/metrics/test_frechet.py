"""The Fréchet distance against closed forms, torchmetrics and numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.image.fid import _compute_fid

from perceiver.objectives.metrics.frechet import FrechetDistance, frechet_distance


@given(seed=st.integers(0, 50), channels=st.integers(1, 6))
def test_gaussians_whose_covariances_commute(seed: int, channels: int) -> None:
    """|m1 - m2|² + the sum of (sqrt(a) - sqrt(b))² over shared eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64)).Q
    one, other = torch.rand(2, channels, generator=generator, dtype=torch.float64) * 4
    means = torch.randn(2, channels, generator=generator, dtype=torch.float64)
    found = frechet_distance(means[0], basis @ one.diag() @ basis.T, means[1], basis @ other.diag() @ basis.T)
    expected = (means[0] - means[1]).square().sum() + (one.sqrt() - other.sqrt()).square().sum()
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_torchmetrics_and_symmetry() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    other = (
        torch.randn(60, 5, generator=generator, dtype=torch.float64) @ torch.randn(5, 5, generator=generator).double() + 1
    )
    args = (one.mean(0), one.T.cov(), other.mean(0), other.T.cov())
    found = frechet_distance(*args)
    torch.testing.assert_close(found, _compute_fid(*args))
    torch.testing.assert_close(found, frechet_distance(*args[2:], *args[:2]))


def test_singular_covariances() -> None:
    """Fewer samples than features."""
    x = torch.zeros(8, 8)
    x[0, 0] = 4.0
    assert float(frechet_distance(torch.zeros(8), x, torch.zeros(8), torch.zeros(8, 8))) == pytest.approx(4.0)


def test_the_metric_over_batches_is_numpys() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(30, 4, generator=generator) * 3 + 100 for _ in range(2))
    metric = FrechetDistance(channels=4)
    for part in one.split(7):
        metric.update(part, real=False)
    assert metric.compute().isnan()
    for part in other.split(11):
        metric.update(part, real=True)
    moments = [torch.tensor(each) for x in (one, other) for each in (x.numpy().mean(0), np.cov(x.numpy().T))]
    torch.testing.assert_close(metric.compute(), frechet_distance(*moments).float(), atol=1e-4, rtol=1e-4)
    assert metric.compute() > 0


def test_features_that_are_not_finite_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    metric = FrechetDistance(channels=2)
    metric.update(torch.rand(9, 2), real=True)
    metric.update(torch.tensor([[0.0, 1.0], [torch.nan, 1.0], [1.0, torch.inf]]), real=False)
    assert bool(metric.compute().isnan())
    assert "2 of 3 generated and 0 of 9 real samples have features that are not finite" in caplog.text
