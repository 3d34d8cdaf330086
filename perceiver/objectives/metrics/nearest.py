"""Memorisation: are generated samples closer to training samples than test samples are?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

CHUNK = 512
"""Queries at a time: all distances of 2,000 images to 55,000 would take 440 MB."""


def nearest_distances(queries: Tensor, training: Tensor) -> Tensor:
    """Return the Euclidean distance of each query to its nearest training sample, `(Q,)`, per element a root mean square.

    Args:
        queries: `(Q, …)`.
        training: `(N, …)`.

    Examples:
        >>> import torch
        >>> from perceiver.objectives.metrics.nearest import nearest_distances
        >>> nearest_distances(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 4.0]]))
        tensor([0.7071])
    """
    flat = training.flatten(1)
    squares = flat.square().sum(dim=1)
    found = []
    for part in queries.flatten(1).split(CHUNK):
        rows = part.square().sum(dim=1, keepdim=True) + squares - 2 * part @ flat.T
        found.append(rows.min(dim=1).values.clamp(min=0))
    return (torch.cat(found) / flat.shape[1]).sqrt()


class NearestTraining(Metric):
    """Distances of generated and of real test samples to their nearest training samples, as medians, and their ratio.

    A ratio of at least 1 means that generated samples are no closer to training samples than test samples are. All samples
    are kept until `reset`.

    Args:
        training: returns the training samples `(N, …)`, in the same units as the others.
    """

    full_state_update = False
    generated: list[Tensor]
    real: list[Tensor]

    NAMES = ("nearest_training", "nearest_training_of_test", "nearest_training_ratio")

    def __init__(self, *, training: Callable[[], Tensor]) -> None:
        super().__init__()
        self._training = training
        self.add_state("generated", default=[], dist_reduce_fx="cat")
        self.add_state("real", default=[], dist_reduce_fx="cat")

    def update(self, samples: Tensor, *, real: bool) -> None:
        """Add generated or real samples `(B, …)`."""
        (self.real if real else self.generated).append(samples.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """Return the results by name; nothing without samples."""
        states = [torch.cat(one) if isinstance(one, list) and one else one for one in (self.generated, self.real)]
        if not all(isinstance(one, Tensor) for one in states):
            return {}
        training = self._training().to(states[0])  # type: ignore[arg-type]
        generated, real = (nearest_distances(one, training).median() for one in states if isinstance(one, Tensor))
        return dict(zip(self.NAMES, (generated, real, generated / real), strict=True))
