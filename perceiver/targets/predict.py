"""Predictions for raw samples: preprocessing as in training, batches, and the interpretation of outputs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceiver.batch import Sample
from perceiver.collate import Collate
from perceiver.modalities.preprocess import preprocess
from perceiver.modalities.spec import ModalitySpec
from perceiver.targets.kinds import target_of
from perceiver.targets.pixels import cut_to_size


def predict(
    forward: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Tensor],
    spec: Mapping[str, Any] | None,
    samples: Any,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> list[Any]:
    """Predict the target of the spec for raw samples; the caller sets evaluation mode. See `Perceiver.predict`.

    Args:
        forward: inputs and masks of B samples -> the outputs for the target.
        spec: spec with modalities and target.
        samples: one sample, or an iterable of samples.
        batch_size: number of samples at a time.
        device: device for the inputs of `forward`.
    """
    target = target_of(spec)
    if spec is None or target is None:
        raise ValueError(
            "predict: this model has no spec with class names, labels or values; use a model that perceiver.load returned."
        )
    if batch_size < 1:
        raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}.")
    modalities = spec["modalities"]
    collate = Collate(modalities=modalities)
    predictions: list[Any] = []
    prepared = (prepare(raw, modalities, number=number) for number, raw in enumerate(_samples(samples, modalities)))
    while rows := list(islice(prepared, batch_size)):
        batch = collate(rows).to(device)
        predicted = target.predict(forward(batch.inputs, batch.masks))
        predictions.extend(cut_to_size(predicted, target=target, masks=batch.masks))
    return predictions


def prepare(raw: Any, modalities: Mapping[str, ModalitySpec], *, number: int) -> Sample:
    """Preprocess a raw sample: a dict of modalities, or the raw value of the only modality.

    Raises:
        ValueError: if the sample does not fit the modalities; names it by `number`.
    """
    if not isinstance(raw, Mapping):
        if len(modalities) != 1:
            raise ValueError(f"sample {number}: expected a dict with any of {sorted(modalities)}, got {type(raw).__name__}.")
        raw = {next(iter(modalities)): raw}
    unknown = set(raw) - set(modalities)
    if unknown:
        raise ValueError(
            f"sample {number}: expected any of the modalities {sorted(modalities)}, got also {sorted(unknown)}."
        )
    inputs: dict[str, Tensor | dict[str, Tensor]] = {}
    for name, value in raw.items():
        where = f"sample {number}, modality {name!r}"
        if isinstance(value, Path | bytes | bytearray):
            value = _read(value, kind=modalities[name].get("kind"), where=where)
        inputs[name] = preprocess(value, spec=modalities[name], name=where)
    return Sample(inputs=inputs, id=str(number))


def _samples(samples: Any, modalities: Mapping[str, ModalitySpec]) -> Iterable[Any]:
    """Iterate over the samples; a single sample counts as one."""
    if isinstance(samples, Mapping | str | Path | bytes | bytearray | Image.Image):
        return [samples]
    if isinstance(samples, np.ndarray | Tensor) and len(modalities) == 1:
        [spec] = modalities.values()
        return [samples] if _is_one(samples, spec) else samples
    if not isinstance(samples, Iterable):
        raise TypeError(f"predict: expected a sample or an iterable of samples, got {type(samples).__name__}.")
    return samples


def _is_one(x: Any, spec: ModalitySpec) -> bool:
    """Return whether an array is one sample of a modality, rather than several along its first axis."""
    kind, shape = spec.get("kind"), spec.get("shape")
    if kind == "text":
        return int(x.ndim) == 1
    if kind == "timeseries":
        return bool(x.ndim == 1 or (x.ndim == 2 and x.shape[-1] == spec["num_values"]))
    if shape is None or x.ndim > len(shape):
        return False
    # A single channel may be omitted: then the first of as many axes is the batch axis.
    alone = kind in ("image", "video", "audio") and shape[0] == 1 and x.ndim == len(shape)
    return not alone or 1 in (x.shape[0], x.shape[-1])


def _read(file: Path | bytes | bytearray, *, kind: Any, where: str) -> Any:
    """Decode an image file, or a file of UTF-8 text."""
    what = f"{file}" if isinstance(file, Path) else f"{len(file)} bytes"
    if kind not in ("image", "text"):
        raise ValueError(
            f"{where}: expected an array or a tensor, got {what}; files of kind {kind!r} are read by data modules only."
        )
    try:
        content = file.read_bytes() if isinstance(file, Path) else bytes(file)
        if kind == "text":
            return content.decode()
        image = Image.open(io.BytesIO(content))
        image.load()
    except Exception as error:
        raise ValueError(f"{where}: cannot read {what} as {kind} ({type(error).__name__}: {error}).") from error
    return image
