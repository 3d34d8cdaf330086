"""Conversion of raw samples to a model's input tensors, and back, for training, validation and prediction.

It depends only on the spec of the modality, which is saved in the checkpoint with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from perceiver.modalities.kinds import kind_of
from perceiver.modalities.spec import ModalitySpec


def preprocess(raw: Any, *, spec: ModalitySpec, name: str) -> Tensor | dict[str, Tensor]:
    """Convert a raw sample of a modality to its adapter's input: tensors in the model's layout, scaled and normalised.

    Raw samples are documented at the class of their kind, see `perceiver.modalities.kinds.KINDS`. Kinds without a class take
    arrays or tensors in the shape of the adapter's input.

    Args:
        raw: raw sample.
        spec: spec of the modality.
        name: name of the sample in error messages.

    Raises:
        ValueError: if shape, range or columns do not fit the spec.
        TypeError: if the kind does not take such an object.
    """
    kind = kind_of(spec)
    try:
        return kind.preprocess(raw, spec, name)
    except KeyError as error:
        if error.args and error.args[0] in spec:
            raise
        raise ValueError(
            f"{name}: the spec has no {str(error)[:60]}, which kind {spec.get('kind')!r} needs; it has {', '.join(spec)}."
        ) from error


def normalise(x: Tensor, spec: ModalitySpec) -> Tensor:
    """Subtract the spec's `mean` and divide by its `std`, per channel; any leading batch dimensions."""
    return kind_of(spec).normalise(x, spec)


def without_normalisation(spec: ModalitySpec) -> ModalitySpec:
    """Return the spec by which `preprocess` leaves a tensor as `normalise` takes it: without `mean` and `std`.

    Samples of several tensors, such as time series, are always normalised by `preprocess`: their spec is unchanged.
    """
    if isinstance(spec.get("channel_axis", kind_of(spec).channel_axis), Mapping):
        return spec
    return {key: value for key, value in spec.items() if key not in ("mean", "std")}


def unnormalised(x: Tensor, spec: ModalitySpec) -> Tensor:
    """Undo the normalisation of a sample or a batch, in float32: the inverse of `normalise`."""
    x = x.to(torch.float32)
    if "mean" not in spec:
        return x
    # The inverse of an affine map is affine.
    inverse = {
        **spec,
        "mean": [-mean / std for mean, std in zip(spec["mean"], spec["std"], strict=True)],
        "std": [1 / std for std in spec["std"]],
    }
    return normalise(x, inverse)
