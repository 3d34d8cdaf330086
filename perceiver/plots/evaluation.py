"""Models while figures look at them: evaluating, without gradients, and afterwards as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from perceiver.modalities.modality import ModalitySpec
from perceiver.model import Perceiver


def modalities_of(model: Perceiver) -> Mapping[str, ModalitySpec]:
    """The spec of each modality that the model has; empty for one that the spec does not describe."""
    known = (model.spec or {}).get("modalities", {})
    return {name: known.get(name, {}) for name in model.adapters}


def target_outputs(model: Perceiver, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> Any:
    """What the model says of the spec's target; of a decoder of several outputs that names none as such, all of them."""
    if getattr(model.head, "target", None) is None:
        return model(inputs, masks)
    return model.target_outputs(inputs, masks)
