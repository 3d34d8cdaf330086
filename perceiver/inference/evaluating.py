"""Evaluation mode without gradients; the previous mode is restored afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from perceiver.batch import Batch
from perceiver.model import Perceiver


@contextmanager
def evaluating(model: Perceiver) -> Iterator[None]:
    """Set evaluation mode and disable gradients; restore the mode on exit."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def on_device(model: Perceiver, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches on the model's device, one at a time."""
    device = next(model.parameters()).device
    for batch in batches:
        yield batch.to(device)
