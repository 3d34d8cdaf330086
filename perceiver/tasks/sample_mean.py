"""The mean over samples of what only some of them have, in all processes together."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class SampleMean(Metric):
    """Mean of numbers of samples; `compute` gives it and how many samples there were, `(2,)`. The mean of none is 0."""

    full_state_update = False
    total: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, values: Tensor, there: Tensor) -> None:
        """`(B,)` numbers, and which of them count."""
        self.total += torch.where(there, values.float(), 0.0).sum()
        self.samples += there.sum()

    def compute(self) -> Tensor:
        """The mean, and the number of samples."""
        return torch.stack([self.total / self.samples.clamp(min=1), self.samples])
