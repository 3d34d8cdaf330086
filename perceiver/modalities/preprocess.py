"""From raw samples to the tensors a model was trained on: one function for training, validation and prediction.

Everything it needs stands in the spec of the modality, which goes into the checkpoint with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from perceiver.modalities.arrays import as_tensor, check_shape, normalise
from perceiver.modalities.audio import audio
from perceiver.modalities.image import image, video
from perceiver.modalities.points import to_unit_sphere
from perceiver.modalities.table import table
from perceiver.modalities.text import text
from perceiver.modalities.timeseries import timeseries


def preprocess(raw: Any, *, modality: Mapping[str, Any], name: str) -> Tensor | dict[str, Tensor]:
    """One raw sample of one modality -> float32 tensor in the model's layout, scaled and normalised.

    Images are PIL images, arrays or tensors `(H, W)`, `(H, W, C)` (arrays) or `(C, H, W)` (tensors): integers lie in the
    spec's `range`, floating-point values in [0, 1]. PIL images are turned upright as EXIF says, and where the spec has a
    `crop_fraction`, scaled and cropped as in training (`framing.Frame`). Videos are arrays `(T, H, W)` or
    `(T, H, W, C)`, tensors `(C, T, H, W)`, or lists of images. Sound is `(samples,)` or `(channels, samples)`, integers in
    the range of their type, or a pair of that and its sample rate, which is resampled where it differs; what is longer than
    the spec's `max_seconds` is cut. Text is a string, of which the UTF-8 bytes are taken, or the ids of a tokenizer; it is
    cut behind the spec's `max_length` ids, and becomes int64. Time series and tables become dicts of tensors: see
    `timeseries` and `table`. Other kinds are arrays or tensors of the shape that their adapter takes; point sets are centred
    and scaled first if the spec says `unit_sphere`.

    Args:
        raw: the sample.
        modality: its spec: `kind`, `shape` (None for free sizes) and, also `range`, `mean`, `std`, `sample_rate`.
        name: what error messages call it.

    Raises:
        ValueError: if shape, range or columns are not those of the spec.
        TypeError: if it is nothing of the kinds above.
    """
    kind = modality.get("kind")
    if kind == "timeseries":
        return timeseries(raw, modality=modality, name=name)
    if kind == "table":
        return table(raw, modality=modality, name=name)
    if kind == "text":
        return text(raw, modality, name)
    if kind == "image":
        x = image(raw, modality, name)
    elif kind == "video":
        x = video(raw, modality, name)
    elif kind == "audio":
        x = audio(raw, modality, name)
    else:
        x = as_tensor(raw, name)
    check_shape(x, modality, name)
    if modality.get("unit_sphere"):
        # Coordinates of maps have more digits than float32: they are moved to their mean first.
        x = to_unit_sphere(x if x.dtype == torch.float32 else x.to(torch.float64))
    return normalise(x.to(torch.float32), modality)
