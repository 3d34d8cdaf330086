"""Models while figures look at them: evaluating, without gradients, and afterwards as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

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


def modalities_of(model: Perceiver) -> Mapping[str, Mapping[str, Any]]:
    """The spec of each modality that the model has; empty for one that the spec does not describe."""
    known = (model.spec or {}).get("modalities", {})
    return {name: known.get(name, {}) for name in model.adapters}


def target_outputs(model: Perceiver, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> Any:
    """What the model says of the spec's target; of a decoder of several outputs that names none as such, all of them."""
    if getattr(model.head, "target", None) is None:
        return model(inputs, masks)
    return model.target_outputs(inputs, masks)
