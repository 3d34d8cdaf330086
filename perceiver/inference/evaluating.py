"""Evaluation mode without gradients, restored afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from perceiver.batch import Batch
from perceiver.model import Perceiver


@contextmanager
def evaluating(model: Perceiver) -> Iterator[None]:
    """Evaluation mode and no gradients; the mode is given back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def on_device(model: Perceiver, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches where the model is, one at a time."""
    device = next(model.parameters()).device
    for batch in batches:
        yield batch.to(device)
