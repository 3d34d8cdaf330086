"""From raw samples to the tensors a model was trained on, and back: for training, validation and prediction alike.

Everything that it takes is in the spec of the modality, which goes into the checkpoint with the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perceiver.modalities.kinds import kind_of
from perceiver.modalities.modality import ModalitySpec


def preprocess(raw: Any, *, modality: ModalitySpec, name: str) -> Tensor | dict[str, Tensor]:
    """One raw sample of one modality -> what its adapter takes: tensors in the model's layout, scaled and normalised.

    What a raw sample may be is documented at the class of its kind, `perceiver.modalities.kinds.KINDS`. Kinds that are only
    a word take arrays or tensors of the shape that their adapter takes.

    Args:
        raw: the sample.
        modality: its spec.
        name: what error messages call it.

    Raises:
        ValueError: if shape, range or columns are not those of the spec.
        TypeError: if it is nothing that the kind takes.
    """
    return kind_of(modality).preprocess(raw, modality, name)


def normalise(x: Tensor, modality: ModalitySpec) -> Tensor:
    """Subtract the spec's `mean` and divide by its `std`, per channel; any leading batch dimensions."""
    return kind_of(modality).normalise(x, modality)


def unnormalised(x: Tensor, modality: ModalitySpec) -> Tensor:
    """A normalised sample, or a batch, as it was before, float32: the inverse of `normalise`."""
    x = x.to(torch.float32)
    if "mean" not in modality:
        return x
    # The inverse of an affine map is one.
    inverse = {
        **modality,
        "mean": [-mean / std for mean, std in zip(modality["mean"], modality["std"], strict=True)],
        "std": [1 / std for std in modality["std"]],
    }
    return normalise(x, inverse)
