"""Time series: values, times in seconds, and which values are present."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceiver.modalities.arrays import as_tensor, normalise


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
    values = as_tensor(parts["values"], name).to(torch.float64)
    values = values[:, None] if values.ndim == 1 and num_values == 1 else values
    if values.ndim != 2 or values.shape[1] != num_values or len(values) == 0:
        raise ValueError(
            f"{name}: expected values of shape (any, {num_values}) as in training, one row per step, got "
            f"{tuple(values.shape)}."
        )
    times = _times(parts.get("times"), len(values), modality, name)
    present = ~values.isnan()
    if parts.get("present") is not None:
        said = as_tensor(parts["present"], name).to(torch.bool)
        said = said[:, None] if said.ndim == 1 and num_values == 1 else said
        if said.shape != values.shape:
            raise ValueError(f"{name}: expected present of shape {tuple(values.shape)}, as values, got {tuple(said.shape)}.")
        present = present & said
    if bool((times[1:] <= times[:-1]).any()):
        values, times, present = _in_order(values, times, present)
    values = torch.where(present, normalise(values, modality), values.new_zeros(())).to(torch.float32)
    return {"values": values, "times": times} | ({} if bool(present.all()) else {"present": present})


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
    times = as_tensor(raw, name).to(torch.float64)
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
