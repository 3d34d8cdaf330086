"""Time series: values, times in seconds, and presence of values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from perceiver.modalities.arrays import as_tensor, positive
from perceiver.modalities.cells.written_numbers import given_separators
from perceiver.modalities.modality import Modality
from perceiver.modalities.spec import ModalitySpec
from perceiver.modalities.statistics import Moments


@final
class TimeSeriesModality(Modality):
    """Time series -> `values` (T, F) float32, `times` (T,) float64 in seconds and, if any are missing, `present` (T, F).

    Values are normalised by the spec's `mean` and `std`; missing values are 0. Steps are sorted by time; steps with the same
    time are merged by the mean of each value.

    The settings `decimal` and `thousands` are the separators of numbers in files of text, if files do not show them.
    """

    channel_axis: ClassVar = {"values": -1, "times": None, "present": -1}
    settings: ClassVar = {"time": None, "values": None, "step_seconds": None, "decimal": None, "thousands": None}

    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the column of times, the names of the values if given, and the step."""
        positive(settings, "step_seconds", whole=False)
        values = settings["values"]
        names = {} if values is None else {"names": [str(name) for name in values], "num_values": len(values)}
        if values is not None and not values:
            raise ValueError("values: expected the names of one or more columns, or null for all, got an empty list.")
        return {
            "time": settings["time"],
            "step_seconds": settings["step_seconds"],
            **names,
            **given_separators(settings),
        }

    def preprocess(self, raw: Any, spec: ModalitySpec, name: str) -> dict[str, Tensor]:
        """Convert one series.

        Args:
            raw: `{"values": (T, F), "times": (T,), "present": (T, F)}`, where `present` is optional, or only the values if
                the spec has `step_seconds`; (T,) for a single value. NaN is missing. Times are in seconds or `datetime64`.
            spec: `num_values` (F), and optionally `mean`, `std`, `step_seconds`.
            name: name of the series in error messages.

        Raises:
            ValueError: for other shapes, missing times, or times that are NaN or infinite.
        """
        parts = raw if isinstance(raw, Mapping) else {"values": raw}
        if "values" not in parts or set(parts) - {"values", "times", "present"}:
            raise ValueError(
                f"{name}: expected values, times and optionally present, got {sorted(str(part) for part in parts)}."
            )
        num_values = int(spec["num_values"])
        values = as_tensor(parts["values"], name).to(torch.float64)
        values = values[:, None] if values.ndim == 1 and num_values == 1 else values
        if values.ndim != 2 or values.shape[1] != num_values or len(values) == 0:
            raise ValueError(
                f"{name}: expected values of shape (any, {num_values}) as in training, one row per step, got "
                f"{tuple(values.shape)}."
            )
        times = _times(parts.get("times"), len(values), spec, name)
        present = ~values.isnan()
        if parts.get("present") is not None:
            given = as_tensor(parts["present"], name).to(torch.bool)
            given = given[:, None] if given.ndim == 1 and num_values == 1 else given
            if given.shape != values.shape:
                raise ValueError(
                    f"{name}: expected present of shape {tuple(values.shape)}, like values, got {tuple(given.shape)}."
                )
            present = present & given
        if bool((times[1:] <= times[:-1]).any()):
            values, times, present = _in_order(values, times, present)
        values = torch.where(present, self.normalise(values, spec), values.new_zeros(())).to(torch.float32)
        return {"values": values, "times": times} | ({} if bool(present.all()) else {"present": present})

    def statistics(self, samples: Iterable[Any], spec: ModalitySpec) -> dict[str, Any]:
        """Return mean and standard deviation of each value over the steps where it is present, and the longest duration."""
        duration, moments = 0.0, Moments()
        for x in samples:
            moments.add(x["values"], x.get("present"))
            duration = max(duration, float(x["times"][-1] - x["times"][0]))
        return {**moments.entries(), "duration_seconds": duration or 1.0}


def _times(raw: Any, steps: int, spec: ModalitySpec, name: str) -> Tensor:
    """Return times (T,) in seconds, float64."""
    if raw is None:
        if spec.get("step_seconds") is None:
            raise ValueError(
                f"{name}: expected times, because the spec has no step_seconds; pass {{'values': …, 'times': …}}."
            )
        return torch.arange(steps, dtype=torch.float64) * float(spec["step_seconds"])
    if np.asarray(raw).dtype.kind == "M":
        instants = np.asarray(raw).astype("datetime64[us]")
        if np.isnat(instants).any():
            raise ValueError(f"{name}: {int(np.isnat(instants).sum())} of {steps} times are missing.")
        raw = instants.astype(np.int64) / 1e6
    times = as_tensor(raw, name).to(torch.float64)
    if times.shape != (steps,):
        raise ValueError(f"{name}: expected times of shape ({steps},), one per step, got {tuple(times.shape)}.")
    if not bool(times.isfinite().all()):
        raise ValueError(f"{name}: {int((~times.isfinite()).sum())} of {steps} times are NaN or infinite.")
    return times


def _in_order(values: Tensor, times: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort and merge steps so that times strictly increase."""
    unique, step = times.unique(return_inverse=True)
    zeros = values.new_zeros(len(unique), values.shape[1])
    count = zeros.index_add(0, step, present.to(values.dtype))
    total = zeros.index_add(0, step, torch.where(present, values, values.new_zeros(())))
    return total / count.clamp(min=1), unique, count > 0
