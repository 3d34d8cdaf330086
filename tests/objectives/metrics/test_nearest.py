"""Nearest training samples against scikit-learn."""

import torch
from sklearn.neighbors import NearestNeighbors

from perceiver.objectives.metrics.nearest import NearestTraining, nearest_distances


def test_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    training, queries = torch.rand(50, 1, 4, 4, generator=generator), torch.rand(20, 1, 4, 4, generator=generator)
    found = nearest_distances(queries, training)
    theirs, _ = NearestNeighbors(n_neighbors=1).fit(training.flatten(1).numpy()).kneighbors(queries.flatten(1).numpy())
    torch.testing.assert_close(found, torch.from_numpy(theirs[:, 0] / 4).float(), atol=1e-5, rtol=1e-5)


def test_copies_are_found_out() -> None:
    generator = torch.Generator().manual_seed(0)
    training, test = torch.rand(30, 16, generator=generator), torch.rand(10, 16, generator=generator)
    metric = NearestTraining(training=lambda: training)
    metric.update(test, real=True)
    assert metric.compute() == {}, "nothing was generated"
    metric.reset()
    metric.update(training[:5] + 0.001, real=False)
    metric.update(test, real=True)
    found = metric.compute()
    assert float(found["nearest_training"]) < 0.01
    assert float(found["nearest_training_ratio"]) < 0.05
    metric.reset()
    metric.update(test, real=False)
    metric.update(test, real=True)
    assert float(metric.compute()["nearest_training_ratio"]) == 1
