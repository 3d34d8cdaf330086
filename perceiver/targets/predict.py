"""Predictions for raw samples: preprocessing as in training, batches, and the interpretation of outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceiver.modalities.kinds import kind_of
from perceiver.modalities.preprocess import preprocess
from perceiver.modalities.spec import ModalitySpec
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.targets.files import is_file, read_file
from perceiver.targets.kinds import Target, target_of
from perceiver.targets.pixels import cut_to_size
from perceiver.targets.text import with_alignments
from perceiver.targets.unusual import Unusual


def predict(
    forward: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Tensor],
    spec: Mapping[str, Any] | None,
    samples: Any,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    open_files: bool = True,
) -> list[Any]:
    """Predict the target of the spec for raw samples; the caller sets evaluation mode. See `Perceiver.predict`.

    Args:
        forward: inputs and masks of B samples -> the outputs for the target.
        spec: spec with modalities and target.
        samples: one sample, or an iterable of samples.
        batch_size: number of samples at a time.
        device: device for the inputs of `forward`.
        open_files: whether strings and paths name files to open.
    """
    target = target_of(spec)
    if spec is None or target is None:
        raise ValueError(
            "predict: expected a model whose spec has class names, labels or values, such as one from perceiver.load."
        )
    if batch_size < 1:
        raise ValueError(f"predict: expected batch_size of at least 1, got {batch_size}.")
    modalities = spec.get("modalities")
    if not modalities:
        raise ValueError("predict: the spec of this model has no modalities, so that samples cannot be prepared.")
    predictions: list[Any] = []
    for batch in batches_of(samples, modalities, batch_size=batch_size, device=device, open_files=open_files):
        predictions.extend(_predictions(forward, target, batch, modalities))
    return predictions


def batches_of(
    samples: Any,
    modalities: Mapping[str, ModalitySpec],
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    open_files: bool = True,
) -> Iterator[Batch]:
    """Yield raw samples, preprocessed as in training, in batches; warn at the end of unknown categories and cut texts."""
    collate = Collate(modalities=modalities)
    unusual = Unusual(modalities, asker="predict")
    prepared = (
        prepare(raw, modalities, number=number, open_files=open_files, seen=unusual.add)
        for number, raw in enumerate(_samples(samples, modalities))
    )
    while rows := list(islice(prepared, batch_size)):
        yield collate(rows).to(device)
    unusual.warn()


def predict_prepared(
    forward: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Tensor],
    target: Target,
    samples: Sequence[Sample],
    *,
    modalities: Mapping[str, ModalitySpec],
    device: torch.device | str = "cpu",
) -> list[Any]:
    """Predict the target for samples from `prepare`, as one batch; the caller sets evaluation mode.

    Args:
        forward: inputs and masks of B samples -> the outputs for the target.
        target: the target of the spec.
        samples: prepared samples.
        modalities: spec of each modality, by name.
        device: device for the inputs of `forward`.

    Raises:
        ValueError: if samples cannot be collated; names one of them by its id.
    """
    batch = Collate(modalities=modalities)(samples).to(device)
    return list(_predictions(forward, target, batch, modalities))


def _predictions(
    forward: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Any],
    target: Target,
    batch: Batch,
    modalities: Mapping[str, ModalitySpec],
) -> Sequence[Any]:
    outputs = forward(batch.inputs, batch.masks)
    predicted = cut_to_size(target.predict(outputs), target=target, masks=batch.masks)
    return with_alignments(predicted, outputs, target=target, batch=batch, modalities=modalities)


def prepare(
    raw: Any,
    modalities: Mapping[str, ModalitySpec],
    *,
    number: int,
    open_files: bool = True,
    seen: Callable[[str, Any], None] = lambda name, value: None,
) -> Sample:
    """Preprocess a raw sample: a dict of modalities, or the raw value of the only modality.

    Args:
        raw: the sample.
        modalities: spec of each modality, by name.
        number: number of the sample, for messages.
        open_files: whether strings and paths name files to open.
        seen: gets the name and the raw value of each modality, once it is preprocessed.

    Raises:
        ValueError: if the sample does not fit the modalities; names it by `number`.
    """
    if not isinstance(raw, Mapping) or _is_value(raw, modalities):
        if len(modalities) != 1:
            raise ValueError(f"sample {number}: expected a dict with any of {sorted(modalities)}, got {type(raw).__name__}.")
        raw = {next(iter(modalities)): raw}
    unknown = set(raw) - set(modalities)
    if unknown:
        raise ValueError(
            f"sample {number}: expected any of the modalities {sorted(modalities)}, got also {sorted(map(str, unknown))}."
        )
    inputs: dict[str, Tensor | dict[str, Tensor]] = {}
    for name, value in raw.items():
        where = f"sample {number}, modality {name!r}"
        if is_file(value, modalities[name]):
            if not open_files and isinstance(value, str | Path):
                raise ValueError(f"{where}: expected a value or the bytes of a file, got {value!r:.60}, which names a file.")
            value = read_file(value, modalities[name], where=where)
        inputs[name] = preprocess(value, spec=modalities[name], name=where)
        seen(name, value)
    return Sample(inputs=inputs, id=str(number))


def _is_value(raw: Mapping[Any, Any], modalities: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a dict is the value of the only modality, such as a row of a table, and not a dict of modalities."""
    if len(modalities) != 1:
        return False
    [(name, modality)] = modalities.items()
    if kind_of(modality).several_columns:
        return not (set(raw) == {name} and isinstance(raw[name], Mapping | str | Path | bytes))
    return bool(modality.get("kind") == "timeseries") and "values" in raw and set(raw) != {name}


def _samples(samples: Any, modalities: Mapping[str, ModalitySpec]) -> Iterable[Any]:
    """Iterate over the samples; a single sample counts as one."""
    if isinstance(samples, Mapping | str | Path | bytes | bytearray | Image.Image):
        return [samples]
    if len(modalities) == 1:
        [spec] = modalities.values()
        if isinstance(samples, np.ndarray | Tensor):
            return [samples] if _is_one(samples, spec) else samples
        if isinstance(samples, list | tuple) and _is_one_list(samples, spec):
            return [samples]
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


def _is_one_list(samples: Sequence[Any], modality: Mapping[str, Any]) -> bool:
    """Return whether a list is one sample: numbers, the frames of a video, or a pair of sound and sample rate."""
    kind = modality.get("kind")
    if kind == "video" and samples and all(isinstance(frame, Image.Image) for frame in samples):
        return True
    if kind == "audio" and isinstance(samples, tuple) and len(samples) == 2 and isinstance(samples[1], int | np.integer):
        return True
    if not samples or not all(isinstance(one, int | float | list) for one in samples):
        return False
    try:
        array = np.asarray(samples)
    except ValueError:
        return False
    return array.dtype.kind in "biuf" and _is_one(array, modality)
