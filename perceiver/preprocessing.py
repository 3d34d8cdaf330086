"""From raw samples to the tensors a model was trained on: one function for training, validation and prediction.

Everything it needs stands in the spec of the modality, which goes into the checkpoint with the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceiver.framing import Frame, to_rgb, upright
from perceiver.text import VOCABULARY_SIZE, encode_bytes


def preprocess(raw: Any, *, modality: Mapping[str, Any], name: str) -> Tensor | dict[str, Tensor]:
    """One raw sample of one modality -> float32 tensor in the model's layout, scaled and normalised.

    Images are PIL images, arrays or tensors `(H, W)`, `(H, W, C)` (arrays) or `(C, H, W)` (tensors): integers lie in the
    spec's `range`, floating-point values in [0, 1]. PIL images are turned upright as EXIF says, and where the spec has a
    `crop_fraction`, scaled and cropped as in training (`perceiver.framing.Frame`). Videos are arrays `(T, H, W)` or
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
        return _text(raw, modality, name)
    if kind == "image":
        x = _image(raw, modality, name)
    elif kind == "video":
        x = _video(raw, modality, name)
    elif kind == "audio":
        x = _audio(raw, modality, name)
    else:
        x = _tensor(raw, name).to(torch.float32)
    _check_shape(x, modality, name)
    if modality.get("unit_sphere"):
        x = to_unit_sphere(x)
    return normalise(x, modality)


def timeseries(raw: Any, *, modality: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """One time series -> `values` (T, F) float32, `times` (T,) float64 in seconds and, if any are missing, `present` (T, F).

    Values are normalised by the spec's `mean` and `std`; missing ones are 0. Steps that are out of order are sorted by time;
    those of the same time become one, with the mean of each value.

    Args:
        raw: `{"values": (T, F), "times": (T,), "present": (T, F)}`, of which `present` may be left out, or the values alone,
            where the spec has `step_seconds`; (T,) of a single value. NaN is missing. Times are numbers in seconds or
            `datetime64`.
        modality: `num_values` (F) and, also `mean`, `std`, `step_seconds`.
        name: what error messages call it.

    Raises:
        ValueError: other shapes, no times, or times that are NaN or infinite.
    """
    parts = raw if isinstance(raw, Mapping) else {"values": raw}
    if "values" not in parts or set(parts) - {"values", "times", "present"}:
        raise ValueError(f"{name}: expected values, times and maybe present, got {sorted(str(part) for part in parts)}.")
    num_values = int(modality["num_values"])
    values = _tensor(parts["values"], name).to(torch.float64)
    values = values[:, None] if values.ndim == 1 and num_values == 1 else values
    if values.ndim != 2 or values.shape[1] != num_values or len(values) == 0:
        raise ValueError(
            f"{name}: expected values of shape (any, {num_values}) as in training, one row per step, got "
            f"{tuple(values.shape)}."
        )
    times = _times(parts.get("times"), len(values), modality, name)
    present = ~values.isnan()
    if parts.get("present") is not None:
        said = _tensor(parts["present"], name).to(torch.bool)
        said = said[:, None] if said.ndim == 1 and num_values == 1 else said
        if said.shape != values.shape:
            raise ValueError(f"{name}: expected present of shape {tuple(values.shape)}, as values, got {tuple(said.shape)}.")
        present = present & said
    if bool((times[1:] <= times[:-1]).any()):
        values, times, present = _in_order(values, times, present)
    values = torch.where(present, normalise(values, modality), values.new_zeros(())).to(torch.float32)
    return {"values": values, "times": times} | ({} if bool(present.all()) else {"present": present})


def table(raw: Any, *, modality: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """One row of a table -> `numbers` (n,) float32, `categories` (k,) int64 and `present` (n + k,).

    Numbers are normalised by the spec's `mean` and `std`; missing ones are 0. Categories are numbered from 1 in the order of
    the spec; one that it does not know, or that is missing, is 0.

    Args:
        raw: from column to value; None, NaN, an empty text or no entry at all where it is missing.
        modality: `numbers`, a list of names; `categories`, from name to a list of the known values; maybe `mean` and `std`.
        name: what error messages call it.

    Raises:
        ValueError: a column that the spec does not have, or no number where it has one.
        TypeError: no mapping.
    """
    if not isinstance(raw, Mapping):
        raise TypeError(f"{name}: expected a dict from column to value, got {type(raw).__name__}.")
    numbers, categories = list(modality.get("numbers") or ()), dict(modality.get("categories") or {})
    if unknown := set(raw) - set(numbers) - set(categories):
        raise ValueError(
            f"{name}: expected columns among {[*numbers, *categories]}, got also {sorted(str(one) for one in unknown)}."
        )
    values = [_number(raw.get(column), f"{name}, column {column!r}") for column in numbers]
    texts = [None if is_missing(raw.get(column)) else value_text(raw[column]) for column in categories]
    known = [list(one) for one in categories.values()]
    x = torch.tensor([math.nan if one is None else one for one in values], dtype=torch.float64)
    x = normalise(x, modality) if numbers else x
    return {
        "numbers": torch.where(x.isnan(), x.new_zeros(()), x).to(torch.float32),
        "categories": torch.tensor(
            [of.index(text) + 1 if text in of else 0 for text, of in zip(texts, known, strict=True)], dtype=torch.int64
        ),
        "present": torch.tensor([one is not None for one in (*values, *texts)], dtype=torch.bool),
    }


def is_missing(value: Any) -> bool:
    """Whether a value of a table is none: None, NaN, or text of nothing but spaces."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def value_text(value: Any) -> str:
    """A class or category as text, the same for 1, 1.0 and "1": files and libraries differ in how they write it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def to_unit_sphere(points: Tensor, *, num_coordinates: int = 3) -> Tensor:
    """A point set `(P, coordinates + features)`, moved to the mean of its points and scaled so that the farthest is at 1.

    A set whose points are all in one place stays at 0.
    """
    coordinates = points[:, :num_coordinates]
    coordinates = coordinates - coordinates.mean(dim=0)
    radius = torch.linalg.vector_norm(coordinates, dim=1).amax()
    scaled = coordinates / torch.where(radius > 0, radius, torch.ones_like(radius))
    return torch.cat([scaled, points[:, num_coordinates:]], dim=1)


def scale(x: Tensor, modality: Mapping[str, Any], *, name: str = "image") -> Tensor:
    """Integers of the spec's `range`, booleans, or floats in [0, 1], to float32 in [0, 1]; any shape."""
    low, high = modality.get("range", (0, 255))
    if x.dtype == torch.bool:
        return x.to(torch.float32)
    if not (x.is_floating_point() or x.is_complex()):
        x = x.to(torch.float32)
        if x.numel() and (x.amin() < low or x.amax() > high):
            raise ValueError(f"{name}: expected integers in [{low}, {high}], got values in [{x.amin():g}, {x.amax():g}].")
        scaled: Tensor = (x - low) / (high - low)
        return scaled
    valid = x[x.isfinite()]
    if valid.numel() and (valid.amin() < -1e-4 or valid.amax() > 1 + 1e-4):
        raise ValueError(
            f"{name}: expected floating-point values in [0, 1], got values in [{valid.amin():g}, {valid.amax():g}]. Pass "
            f"integers for raw values in [{low}, {high}], or scale them."
        )
    return x.to(torch.float32)


def normalise(x: Tensor, modality: Mapping[str, Any]) -> Tensor:
    """Subtract the spec's `mean` and divide by its `std`, per channel; any leading batch dimensions."""
    if "mean" not in modality:
        return x
    last = modality.get("kind") in ("points", "timeseries", "table")
    axis = modality.get("channel_axis", -1 if last else 0)
    trailing = 0 if last or axis == -1 else len(modality["shape"]) - 1
    dtype = torch.promote_types(x.dtype, torch.float32)
    mean, std = (torch.tensor(modality[key], dtype=dtype).reshape(-1, *[1] * trailing) for key in ("mean", "std"))
    normalised: Tensor = (x - mean.to(x.device)) / std.to(x.device)
    return normalised


def _image(raw: Any, modality: Mapping[str, Any], name: str) -> Tensor:
    if isinstance(raw, Image.Image):
        raw = np.array(_pixels(raw, modality, name))
    if isinstance(raw, np.ndarray) and raw.ndim == 3:
        raw = np.moveaxis(raw, -1, 0)
    x = _tensor(raw, name)
    return scale(x[None] if x.ndim == 2 else x, modality, name=name)


def _pixels(image: Image.Image, modality: Mapping[str, Any], name: str) -> Image.Image:
    """In the mode of the training images and, where these were framed, in their size."""
    channels, *size = modality["shape"]
    framed = "crop_fraction" in modality
    if (channels == 3 and list(modality.get("range", (0, 255))) == [0, 255]) or (channels == 1 and framed):
        try:
            image = to_rgb(upright(image))
        except ValueError as error:
            raise ValueError(f"{name}: {error}.") from None
        image = Frame(size=size, crop_fraction=modality["crop_fraction"])(image) if framed else image
        return image if channels == 3 else image.convert("L")
    # More than 8 bits per pixel (modes I, I;16, F) would be cut off by a conversion to L.
    return image.convert("L") if channels == 1 and image.mode[0] not in "IF" else image


def _video(raw: Any, modality: Mapping[str, Any], name: str) -> Tensor:
    if isinstance(raw, list | tuple) and raw and all(isinstance(frame, Image.Image) for frame in raw):
        channels, _, *size = modality["shape"]
        still = {**modality, "shape": [channels, *size]}
        frames = [_image(frame, still, f"{name}, frame {number}") for number, frame in enumerate(raw)]
        if sizes := {tuple(frame.shape) for frame in frames[1:]} - {tuple(frames[0].shape)}:
            raise ValueError(f"{name}: expected frames of one size, got {tuple(frames[0].shape)} and {sizes.pop()}.")
        return torch.stack(frames, dim=1)
    if isinstance(raw, np.ndarray) and raw.ndim == 4:
        raw = np.moveaxis(raw, -1, 0)
    x = _tensor(raw, name)
    return scale(x[None] if x.ndim == 3 else x, modality, name=name)


def _text(raw: Any, modality: Mapping[str, Any], name: str) -> Tensor:
    size = int(modality["vocabulary_size"])
    if isinstance(raw, str):
        if size != VOCABULARY_SIZE:
            raise ValueError(
                f"{name}: expected token ids, since the model's vocabulary of {size} is not that of UTF-8 bytes "
                f"({VOCABULARY_SIZE}); pass the ids of its tokenizer."
            )
        ids = encode_bytes(raw)
    else:
        ids = _tensor(raw, name)
    if ids.ndim != 1 or len(ids) == 0 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(
            f"{name}: expected a text or its ids, integers (length,), not empty; got {ids.dtype} {tuple(ids.shape)}."
        )
    ids = ids.to(torch.int64)[: modality.get("max_length")]
    if int(ids.min()) < 0 or int(ids.max()) >= size:
        raise ValueError(f"{name}: expected ids from 0 to {size - 1}, got {int(ids.min())} to {int(ids.max())}.")
    return ids


def _times(raw: Any, steps: int, modality: Mapping[str, Any], name: str) -> Tensor:
    """(T,) float64, in seconds."""
    if raw is None:
        if modality.get("step_seconds") is None:
            raise ValueError(
                f"{name}: expected times, since the spec has no step_seconds; pass {{'values': …, 'times': …}}."
            )
        return torch.arange(steps, dtype=torch.float64) * float(modality["step_seconds"])
    if np.asarray(raw).dtype.kind == "M":
        instants = np.asarray(raw).astype("datetime64[us]")
        if np.isnat(instants).any():
            raise ValueError(f"{name}: {int(np.isnat(instants).sum())} of {steps} times are missing.")
        raw = instants.astype(np.int64) / 1e6
    times = _tensor(raw, name).to(torch.float64)
    if times.shape != (steps,):
        raise ValueError(f"{name}: expected times of shape ({steps},), one per step, got {tuple(times.shape)}.")
    if not bool(times.isfinite().all()):
        raise ValueError(f"{name}: {int((~times.isfinite()).sum())} of {steps} times are NaN or infinite.")
    return times


def _in_order(values: Tensor, times: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same with times that grow from step to step."""
    unique, step = times.unique(return_inverse=True)
    zeros = values.new_zeros(len(unique), values.shape[1])
    count = zeros.index_add(0, step, present.to(values.dtype))
    total = zeros.index_add(0, step, torch.where(present, values, values.new_zeros(())))
    return total / count.clamp(min=1), unique, count > 0


def _number(value: Any, name: str) -> float | None:
    """None where it is missing."""
    if is_missing(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a number, got {value!r}.") from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise ValueError(f"{name}: expected a finite number, got {value!r}.")
    return number


def _audio(raw: Any, modality: Mapping[str, Any], name: str) -> Tensor:
    rate = None
    if isinstance(raw, tuple) and len(raw) == 2:
        raw, rate = raw
    x = _tensor(raw, name)
    if not x.is_floating_point():
        limits = torch.iinfo(x.dtype)
        middle = (limits.min + limits.max + 1) / 2  # unsigned sound is silent in the middle of its range
        x = (x.to(torch.float64) - middle) / (limits.max + 1 - middle)
    x = x.to(torch.float32)
    x = x[None] if x.ndim == 1 else x
    if x.ndim == 2 and x.shape[0] > x.shape[1] > 0:
        raise ValueError(f"{name}: expected (channels, samples), got {tuple(x.shape)}; transpose it.")
    if modality["shape"][0] == 1 and x.ndim == 2 and x.shape[0] > 1:
        x = x.mean(dim=0, keepdim=True)
    if rate is not None and rate != modality["sample_rate"]:
        x = _resampled(x, int(rate), int(modality["sample_rate"]), name)
    if modality.get("max_seconds") is not None:
        x = x[..., : max(1, round(modality["max_seconds"] * modality["sample_rate"]))]
    return x


_MOST_RESAMPLING = 1024  # times as many samples, or as few
_MOST_COEFFICIENTS = 2**22
_MOST_PHASES = 2000


def _resampled(x: Tensor, rate: int, wanted: int, name: str) -> Tensor:
    """Sound of `wanted` samples per second instead of `rate`.

    The filter has coefficients for each of `wanted` phases of `rate` samples, both divided by what they have in common: of
    rates without much in common that is gigabytes. Their ratio is then replaced by the nearest fraction of smaller numbers,
    which changes pitch and duration by less than a thousandth.
    """
    if not 1 / _MOST_RESAMPLING <= wanted / max(rate, 1) <= _MOST_RESAMPLING:
        raise ValueError(
            f"{name}: expected a sample rate of {max(1, wanted // _MOST_RESAMPLING)} to {wanted * _MOST_RESAMPLING} Hz for "
            f"resampling to {wanted} Hz, got {rate} Hz. Resample it with another program."
        )
    from torchaudio.functional import resample  # slow to import, seldom needed

    common = math.gcd(rate, wanted)
    if wanted // common * (rate // common + 16) > _MOST_COEFFICIENTS:
        ratio = Fraction(min(rate, wanted), max(rate, wanted)).limit_denominator(_MOST_PHASES)
        small, large = ratio.numerator, ratio.denominator
        rate, wanted = (small, large) if rate < wanted else (large, small)
    return x if rate == wanted else resample(x, rate, wanted)


def _tensor(raw: Any, name: str) -> Tensor:
    if isinstance(raw, Tensor):
        return raw
    if isinstance(raw, np.ndarray | list):
        # Torch takes neither negative strides nor, without a warning, read-only memory.
        try:
            return torch.as_tensor(np.require(raw, requirements=["C", "W"]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: no tensor can be made of it: {error}") from None
    raise TypeError(f"{name}: expected a tensor, an array or (for images) a PIL image, got {type(raw).__name__}.")


def _check_shape(x: Tensor, modality: Mapping[str, Any], name: str) -> None:
    shape = modality.get("shape")
    if shape is None:
        return
    fits = x.ndim == len(shape) and all(own is None or own == size for own, size in zip(shape, x.shape, strict=True))
    if not fits:
        expected = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        raise ValueError(
            f"{name}: expected shape {expected} as in training, got {tuple(x.shape)}. Resize or convert it first, or call"
            " the model on tensors, where other sizes are allowed."
        )
