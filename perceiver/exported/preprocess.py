"""Conversion of raw samples to the inputs of an exported model, in NumPy; the rules are those of `perceiver.modalities`.

The tests compare both on random samples of every built-in kind.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceiver.exported.tokenizers import BYTES, NUM_SPECIAL, encode_pairs
from perceiver.modalities.cells.values import values_of_row
from perceiver.modalities.media.resampling import ROLLOFF, ZEROS, filter_width, most_samples, resampling_ratio, samples_read
from perceiver.modalities.texts.cut_texts import too_long

Array = NDArray[Any]
Spec = Mapping[str, Any]


def preprocess(raw: Any, spec: Spec, name: str) -> dict[str | None, Array]:
    """Convert one raw sample of a modality to arrays by part; a single one is under None.

    Args:
        raw: raw sample as `perceiver.Perceiver.predict` takes it; arrays instead of tensors.
        spec: spec of the modality.
        name: name of the sample in error messages.

    Raises:
        ValueError, TypeError: if the sample does not fit the spec.
    """
    kind = str(spec.get("kind"))
    convert = KINDS.get(kind)
    if convert is None and not is_plain_array(spec):
        raise ValueError(
            f"{name}: its kind {kind!r} prepares samples with its own code, which the file does not hold. Pass prepared "
            "arrays to `run`."
        )
    return (convert or _array)(raw, spec, name)


def is_plain_array(spec: Spec) -> bool:
    """Return whether samples of a kind that is not built in are arrays of the spec's shape, prepared without its code."""
    return "." not in str(spec.get("kind")) or "channel_axis" in spec


def as_array(raw: Any, name: str) -> Array:
    """Return an array or a list of numbers as an array of numbers."""
    if not isinstance(raw, np.ndarray | list):
        if not hasattr(raw, "__array__"):
            raise TypeError(f"{name}: expected an array or (for images) a PIL image, got {type(raw).__name__}.")
        raw = np.asarray(raw)
    try:
        x = np.asarray(raw)
    except ValueError as error:
        raise ValueError(f"{name}: cannot be converted to an array: {error}") from None
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected numbers, got an array of type {x.dtype}.")
    return x


def _image(raw: Any, spec: Spec, name: str) -> dict[str | None, Array]:
    if isinstance(raw, Path | bytes | bytearray):
        raw = _image_file(raw, name)
    return _finished(_pixels(raw, spec, name), spec, name)


def _pixels(raw: Any, spec: Spec, name: str) -> Array:
    if type(raw).__module__.startswith("PIL."):
        from perceiver.modalities.media.framing import pixels_of

        raw = np.array(pixels_of(raw, spec, name=name))
    x = np.moveaxis(raw, -1, 0) if isinstance(raw, np.ndarray) and raw.ndim == 3 else as_array(raw, name)
    return _scale(x[None] if x.ndim == 2 else x, spec, name)


def _image_file(file: Path | bytes | bytearray, name: str) -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name}: image files need Pillow: pip install pillow. Arrays do not.") from error
    from perceiver.modalities.media.framing import image_formats

    what = f"{file}" if isinstance(file, Path) else f"{len(file)} bytes"
    try:
        content = file.read_bytes() if isinstance(file, Path) else bytes(file)
        image = Image.open(io.BytesIO(content), formats=image_formats())
        image.load()
    except Exception as error:
        raise ValueError(f"{name}: cannot read {what} as image ({type(error).__name__}: {error}).") from error
    return image


def _video(raw: Any, spec: Spec, name: str) -> dict[str | None, Array]:
    if isinstance(raw, list | tuple) and raw and all(type(frame).__module__.startswith("PIL.") for frame in raw):
        channels, _, *size = spec["shape"]
        still = {**spec, "shape": [channels, *size]}
        frames = [_pixels(frame, still, f"{name}, frame {number}") for number, frame in enumerate(raw)]
        if sizes := {frame.shape for frame in frames[1:]} - {frames[0].shape}:
            raise ValueError(f"{name}: expected frames of one size, got {frames[0].shape} and {sizes.pop()}.")
        return _finished(np.stack(frames, axis=1), spec, name)
    x = np.moveaxis(raw, -1, 0) if isinstance(raw, np.ndarray) and raw.ndim == 4 else as_array(raw, name)
    return _finished(_scale(x[None] if x.ndim == 3 else x, spec, name), spec, name)


def _scale(x: Array, spec: Spec, name: str) -> Array:
    """See `perceiver.modalities.arrays.scale`."""
    low, high = spec.get("range", (0, 255))
    if x.dtype == np.bool_:
        return x.astype(np.float32)
    if x.dtype.kind != "f":
        x = x.astype(np.float32)
        if x.size and (x.min() < low or x.max() > high):
            raise ValueError(f"{name}: expected integers in [{low}, {high}], got values in [{x.min():g}, {x.max():g}].")
        return ((x - np.float32(low)) / np.float32(high - low)).astype(np.float32)
    valid = x[np.isfinite(x)]
    if valid.size and (valid.min() < -1e-4 or valid.max() > 1 + 1e-4):
        raise ValueError(
            f"{name}: expected floating-point values in [0, 1], got values in [{valid.min():g}, {valid.max():g}]. Pass "
            f"integers for raw values in [{low}, {high}], or scale them."
        )
    return x.astype(np.float32)


def _audio(raw: Any, spec: Spec, name: str) -> dict[str | None, Array]:
    rate = None
    if isinstance(raw, tuple) and len(raw) == 2:
        raw, rate = raw
    x = as_array(raw, name)
    if x.dtype.kind in "iu":
        if x.dtype in (np.int64, np.uint64):
            if x.size and (x.min() < -(2**15) or x.max() >= 2**15):
                raise ValueError(
                    f"{name}: expected 16-bit integers, got values from {x.min()} to {x.max()}. Pass an array whose dtype "
                    "matches its full scale, such as int32, or floating-point samples in [-1, 1]."
                )
            x = x.astype(np.int16)
        limits = np.iinfo(x.dtype)
        middle = (int(limits.min) + int(limits.max) + 1) / 2
        x = (x.astype(np.float64) - middle) / (int(limits.max) + 1 - middle)
    x = x.astype(np.float32)
    x = x[None] if x.ndim == 1 else x
    if x.ndim == 2 and x.shape[0] > x.shape[1] > 0:
        raise ValueError(f"{name}: expected (channels, samples), got {x.shape}; transpose it.")
    channels = spec["shape"][0]
    if channels == 1 and x.ndim == 2 and x.shape[0] > 1:
        x = x.mean(axis=0, keepdims=True, dtype=np.float32)
    if channels > 1 and x.ndim == 2 and x.shape[0] == 1:
        x = np.repeat(x, channels, axis=0)
    most = most_samples(spec)
    if rate is not None and rate != spec["sample_rate"]:
        check_shape(x, spec, name)
        x = _resampled(x, int(rate), int(spec["sample_rate"]), name, most=most)
    return _finished(x[..., :most], spec, name)


def _resampled(x: Array, rate: int, wanted: int, name: str, *, most: int | None) -> Array:
    """See `perceiver.modalities.audio._resampled`; the filter is that of `torchaudio.functional.resample`."""
    rate, wanted = resampling_ratio(rate, wanted, name)
    if most is not None:
        x = x[..., : samples_read(most, rate, wanted)]
    if rate == wanted:
        return x
    base, width = min(rate, wanted) * ROLLOFF, filter_width(rate, wanted)
    phases = np.arange(0, -wanted, -1, dtype=np.float32) / np.float32(wanted)  # in float32 there, too
    times = np.arange(-width, width + rate, dtype=np.float64) / rate + phases[:, None]
    times = (times * base).clip(-ZEROS, ZEROS)
    window = np.cos(times * math.pi / ZEROS / 2) ** 2
    filters = (np.sinc(times) * window * (base / rate)).astype(np.float32)
    length = x.shape[-1]
    padded = np.pad(x, ((0, 0), (width, width + rate)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, filters.shape[1], axis=-1)[:, ::rate]
    resampled: Array = (frames @ filters.T).reshape(len(x), -1).astype(np.float32)
    return resampled[:, : math.ceil(wanted * length / rate)]


def _points(raw: Any, spec: Spec, name: str) -> dict[str | None, Array]:
    x = as_array(raw, name)
    if spec.get("unit_sphere"):
        check_shape(x, spec, name)
        x = x if x.dtype == np.float32 else x.astype(np.float64)
        coordinates = x[:, :3] - x[:, :3].mean(axis=0)
        radius = np.sqrt((coordinates**2).sum(axis=1)).max()
        x = np.concatenate([coordinates / (radius if radius > 0 else 1), x[:, 3:]], axis=1)
    return _finished(x.astype(np.float32), spec, name)


def _array(raw: Any, spec: Spec, name: str) -> dict[str | None, Array]:
    return _points(raw, spec, name)


def _text(raw: Any, spec: Spec, name: str) -> dict[str | None, Array]:
    ids = ids_of_text(raw, spec, name)
    size, most = int(spec["vocabulary_size"]), spec.get("max_length")
    if most is not None and len(ids) > most and not spec.get("truncate", True):
        raise too_long(name, f"{len(ids)} ids", most)
    ids = ids[:most]
    if ids.min() < 0 or ids.max() >= size:
        raise ValueError(f"{name}: expected ids from 0 to {size - 1}, got {ids.min()} to {ids.max()}.")
    return {None: ids}


def ids_of_text(raw: Any, spec: Spec, name: str) -> Array:
    """Return all ids of a text, `(L,)` int64, before it is cut.

    Raises:
        ValueError: if the text or its ids are invalid.
    """
    size = int(spec["vocabulary_size"])
    if isinstance(raw, Path | bytes | bytearray):
        try:
            raw = (raw.read_bytes() if isinstance(raw, Path) else bytes(raw)).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{name}: cannot read it as text ({type(error).__name__}: {error}).") from error
    if isinstance(raw, str):
        tokenizer = spec.get("tokenizer")
        if tokenizer is not None and tokenizer.get("kind") == "pairs":
            ids = np.array(encode_pairs(raw, tokenizer.get("json"), name), dtype=np.int64)
        elif tokenizer is not None and tokenizer.get("kind", "bytes") != "bytes":
            raise ValueError(
                f"{name}: expected token ids, because this model's texts go through a tokenizer of kind "
                f"{str(tokenizer.get('kind'))[:40]!r}, which needs torch here. Pass ids from its tokenizer."
            )
        elif size != BYTES and tokenizer is None:
            raise ValueError(
                f"{name}: expected token ids, because the model has a vocabulary of {size}, unlike UTF-8 bytes ({BYTES}). "
                "Pass ids from its tokenizer."
            )
        else:
            ids = encode_bytes(raw, name)
    else:
        ids = as_array(raw, name)
    if ids.ndim != 1 or len(ids) == 0 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: expected a text, or its ids as a non-empty integer array (length,); got {ids.dtype} {ids.shape}."
        )
    return ids.astype(np.int64)


def encode_bytes(text: str, name: str) -> Array:
    """Return the ids of a text's UTF-8 bytes, `(L,)` int64."""
    try:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) + NUM_SPECIAL
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: character {error.start} of the text is half a surrogate pair and has no UTF-8 form."
        ) from None


def _table(raw: Any, spec: Spec, name: str) -> dict[str | None, Array]:
    numbers, categories, present = values_of_row(raw, spec, name=name)
    x = np.array(numbers, dtype=np.float64)
    x = normalise(x, spec, axes=0) if numbers else x
    parts: dict[str | None, Array] = {
        "numbers": np.where(np.isnan(x), 0.0, x).astype(np.float32),
        "categories": np.array(categories, dtype=np.int64),
        "present": np.array(present, dtype=np.bool_),
    }
    return {part: x for part, x in parts.items() if x.size}


def _timeseries(raw: Any, spec: Spec, name: str) -> dict[str | None, Array]:
    parts = raw if isinstance(raw, Mapping) else {"values": raw}
    if "values" not in parts or set(parts) - {"values", "times", "present"}:
        raise ValueError(f"{name}: expected values, times and optionally present, got {sorted(str(one) for one in parts)}.")
    num_values = int(spec["num_values"])
    values = as_array(parts["values"], name).astype(np.float64)
    values = values[:, None] if values.ndim == 1 and num_values == 1 else values
    if values.ndim != 2 or values.shape[1] != num_values or len(values) == 0:
        raise ValueError(
            f"{name}: expected values of shape (any, {num_values}) as in training, one row per step, got {values.shape}."
        )
    times = _times(parts.get("times"), len(values), spec, name)
    present = ~np.isnan(values)
    if parts.get("present") is not None:
        given = as_array(parts["present"], name).astype(np.bool_)
        given = given[:, None] if given.ndim == 1 and num_values == 1 else given
        if given.shape != values.shape:
            raise ValueError(f"{name}: expected present of shape {values.shape}, like values, got {given.shape}.")
        present = present & given
    if (times[1:] <= times[:-1]).any():
        times, step = np.unique(times, return_inverse=True)
        count, total = (np.zeros((len(times), num_values)) for _ in range(2))
        np.add.at(count, step, present)
        np.add.at(total, step, np.where(present, values, 0.0))
        values, present = total / count.clip(1), count > 0
    values = np.where(present, normalise(values, spec, axes=0), 0.0).astype(np.float32)
    return {"values": values, "times": times, "present": present}


def _times(raw: Any, steps: int, spec: Spec, name: str) -> Array:
    if raw is None:
        if spec.get("step_seconds") is None:
            raise ValueError(
                f"{name}: expected times, because the spec has no step_seconds; pass {{'values': …, 'times': …}}."
            )
        return np.arange(steps, dtype=np.float64) * float(spec["step_seconds"])
    if np.asarray(raw).dtype.kind == "M":
        instants = np.asarray(raw).astype("datetime64[us]")
        if np.isnat(instants).any():
            raise ValueError(f"{name}: {int(np.isnat(instants).sum())} of {steps} times are missing.")
        raw = instants.astype(np.int64) / 1e6
    times = as_array(raw, name).astype(np.float64)
    if times.shape != (steps,):
        raise ValueError(f"{name}: expected times of shape ({steps},), one per step, got {times.shape}.")
    if not np.isfinite(times).all():
        raise ValueError(f"{name}: {int((~np.isfinite(times)).sum())} of {steps} times are NaN or infinite.")
    return times


def normalise(x: Array, spec: Spec, *, axes: int) -> Array:
    """Subtract the spec's `mean` and divide by its `std`, with `axes` axes after that of the channels."""
    if "mean" not in spec:
        return x
    dtype = np.promote_types(x.dtype, np.float32)
    mean, std = (np.array(spec[key], dtype=dtype).reshape(-1, *[1] * axes) for key in ("mean", "std"))
    normalised: Array = (x - mean) / std
    return normalised


def check_shape(x: Array, spec: Spec, name: str) -> None:
    """Raise ValueError unless an array has the spec's shape."""
    shape = spec.get("shape")
    if shape is None:
        return
    if x.ndim != len(shape) or any(own is not None and own != size for own, size in zip(shape, x.shape, strict=True)):
        expected = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        raise ValueError(f"{name}: expected shape {expected} as in training, got {x.shape}. Resize or convert it first.")


def _finished(x: Array, spec: Spec, name: str) -> dict[str | None, Array]:
    """Check, normalise and require finite values."""
    check_shape(x, spec, name)
    last = spec.get("channel_axis", -1 if spec.get("kind") == "points" else 0) == -1
    x = normalise(x, spec, axes=0 if last else x.ndim - 1)
    return {None: x.astype(np.float32, copy=False)}


KINDS: dict[str, Callable[[Any, Spec, str], dict[str | None, Array]]] = {
    "image": _image,
    "video": _video,
    "audio": _audio,
    "points": _points,
    "text": _text,
    "timeseries": _timeseries,
    "table": _table,
}
"""Preparation of a raw sample, by kind of modality."""
