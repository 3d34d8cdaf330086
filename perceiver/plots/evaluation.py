"""Helpers for figures: specs of a model's modalities, batches on its device, outputs for its target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from perceiver.decoders.decoder import SequenceDecoder, target_name
from perceiver.decoders.next_token import NextTokenHead
from perceiver.modalities.spec import ModalitySpec
from perceiver.model import Perceiver
from perceiver.samples.batch import Batch


def modalities_of(model: Perceiver) -> Mapping[str, ModalitySpec]:
    """Return the spec of each modality of the model; empty if the model's spec does not describe it."""
    known = (model.spec or {}).get("modalities", {})
    return {name: known.get(name, {}) for name in model.adapters}


def on_device(model: Perceiver, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Move batches to the device of the model, one at a time."""
    device = next(model.parameters()).device
    for batch in batches:
        yield batch.to(device)


def target_outputs(model: Perceiver, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> Any:
    """Return the outputs for the spec's target; all outputs of a decoder of several outputs without a target."""
    if isinstance(model.head, SequenceDecoder | NextTokenHead) or target_name(model.head) is not None:
        return model.target_outputs(inputs, masks)
    return model(inputs, masks)
