"""The mean of a number over tokens, in all batches and processes."""

from __future__ import annotations

from torch import Tensor, tensor
from torchmetrics import Metric


class TokenMean(Metric):
    """Every token weighs the same, in whatever batch it is.

    torchmetrics' own mean, where it does not look for NaN, which would synchronise with the device, ignores its weights.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", default=tensor(0.0), dist_reduce_fx="sum")

    def update(self, values: Tensor, real: Tensor) -> None:
        """Add those of `(B, k)` values that are real."""
        # Not in place: what was made in inference mode may be added to outside of it.
        self.total = self.total + (values * real).sum()
        self.count = self.count + real.sum()

    def compute(self) -> Tensor:
        """The mean; NaN if there was nothing."""
        return self.total / self.count
