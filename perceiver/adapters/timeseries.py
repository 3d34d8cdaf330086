"""Time series: several values per step, at regular or irregular times, any of them missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.adapters.content import Content
from perceiver.runtime.data_checks import is_any
from perceiver.tokens.masks import grid_mask, zero_masked
from perceiver.tokens.positions import PositionEncoding, relative_time_coordinates, time_coordinates
from perceiver.tokens.tokens import Tokens


@dataclass(frozen=True)
class Steps:
    """Steps of series: values, zero if missing, and what is known of each.

    Args:
        values: `(B, T, F)`.
        presence: `(B, T, F)`, 1 for present values and 0 for missing ones; or `(1, 1, F)` if only whole steps are missing.
        coordinates: `(B, T, 1)` positions of the times, or `(1, T, 1)` for series without times.
        mask: `(B, T)`, True for valid steps; None: all are valid.
        regular: whether the series have no times, so that all share the coordinates.
    """

    values: Float[Tensor, "batch time values"]
    presence: Float[Tensor, "#batch #time values"]
    coordinates: Float[Tensor, "#batch time 1"]
    mask: Bool[Tensor, "batch time"] | None
    regular: bool

    def dense(self) -> Float[Tensor, "batch time channels"]:
        """Return values and presence `(B, T, 2 * F)`, zero for invalid steps."""
        both = torch.cat([self.values, self.presence.expand_as(self.values)], dim=-1)
        return zero_masked(both, None if self.mask is None else self.mask[..., None])


class TimeSeries(nn.Module):
    """One token per step: its values (zero if missing), the presence of each value, and the position of its time.

    Times are relative to the first valid step of the sample, so the absolute reading of a clock does not matter. If only
    whole steps are missing, presence is a part shared by all steps. Regular series share their positions, too.

    Args:
        num_values: F, values per step.
        duration_seconds: reference duration; times in [0, duration] become coordinates in [-1, 1], later times exceed 1.
        position: encoding of one coordinate, the time of the step.
        step_seconds: interval between steps of series without times, which start at their first step.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import TimeSeries
        >>> adapter = TimeSeries(num_values=2, duration_seconds=60.0, position=Fourier(num_bands=4, resolution=(60,)))
        >>> times = torch.tensor([[0.0, 1.0, 5.5]], dtype=torch.float64)
        >>> tokens = adapter({"values": torch.rand(1, 3, 2), "times": times})
        >>> tokens.grid, tokens.channels
        ((3,), 13)
    """

    def __init__(
        self,
        *,
        num_values: int,
        duration_seconds: float,
        position: PositionEncoding,
        step_seconds: float | None = None,
    ) -> None:
        super().__init__()
        if num_values < 1:
            raise ValueError(f"TimeSeries.num_values: expected at least 1 value per step, got {num_values}.")
        for name, seconds in {"duration_seconds": duration_seconds, "step_seconds": step_seconds}.items():
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"TimeSeries.{name}: expected a positive number of seconds, got {seconds}.")
        self.num_values = num_values
        self.duration_seconds = duration_seconds
        self.step_seconds = step_seconds
        self.position = position
        self.channels = 2 * num_values + position.channels
        self.position_channels = position.channels
        self.content_channels = num_values

    def forward(self, x: Mapping[str, Tensor], mask: Bool[Tensor, "batch *time"] | None = None) -> Tokens:
        """Convert series to Tokens on the grid `(T,)`.

        Args:
            x: a dict of
                `values` `(B, T, F)`;
                `times` `(B, T)` in seconds, float64 (float32 suffices for times near 0), increasing; optional if
                `step_seconds` is set;
                `present` `(B, T, F)` boolean, True for present values; optional if all are present.
            mask: True where a step is valid: `(B,)` presence, `(B, T)`, or None. The token of a valid step without any value
                is masked.

        Raises:
            ValueError: for missing or unknown keys, other shapes, no steps at all; for valid times that are not finite or do
                not increase, naming sample and step (unchecked in compiled code).
            TypeError: for other types.
        """
        steps = self.steps(x, mask)
        return Tokens(parts=(steps.values, steps.presence, *self.position((steps.coordinates,))), mask=steps.mask)

    def steps(self, x: Mapping[str, Tensor], mask: Bool[Tensor, "batch *time"] | None = None) -> Steps:
        """Return the steps of series before any is a token. Arguments and errors as in `forward`."""
        values, times, present = self._checked(x)
        mask = grid_mask(mask, batch=values.shape[0], grid=values.shape[1:2], name="TimeSeries mask")
        if times is None:
            assert self.step_seconds is not None
            coordinates = time_coordinates(
                values.shape[1],
                step_seconds=self.step_seconds,
                duration_seconds=self.duration_seconds,
                device=values.device,
            )
        else:
            _check_order(times, mask)
            coordinates = relative_time_coordinates(times, mask=mask, duration_seconds=self.duration_seconds)
        if present is None:
            values = zero_masked(values, None if mask is None else mask[..., None])
            presence = values.new_ones(1, 1, self.num_values)
        else:
            present = present if mask is None else present & mask[..., None]
            mask = present.any(dim=-1)
            values = zero_masked(values, present)
            presence = present.to(values.dtype)
        return Steps(values=values, presence=presence, coordinates=coordinates, mask=mask, regular=times is None)

    def middles(self, steps: Steps, size: int) -> Float[Tensor, "batch_or_1 groups 1"]:
        """Return the positions of consecutive groups of `size` steps: the mean over the valid steps of each.

        Series without times share the middles of complete groups.
        """
        if steps.regular:
            assert self.step_seconds is not None
            return time_coordinates(
                -(-steps.coordinates.shape[1] // size),
                step_seconds=float(self.step_seconds) * size,
                duration_seconds=self.duration_seconds,
                offset_seconds=float(self.step_seconds) * (size - 1) / 2,
                device=steps.values.device,
            )
        coordinates = steps.coordinates
        valid = torch.ones_like(coordinates) if steps.mask is None else steps.mask[..., None].to(coordinates.dtype)
        sums, counts = (
            F.pad(one, (0, 0, 0, -one.shape[1] % size)).unflatten(1, (-1, size)).sum(dim=2)
            for one in (coordinates * valid, valid)
        )
        middles: Tensor = sums / counts.clamp(min=1)
        return middles

    def content(self, x: Mapping[str, Tensor], mask: Bool[Tensor, "batch *time"] | None = None) -> Content:
        """Return the values of each step, `(B, T, F)`, valid if present; its time stays known."""
        return Content(values=x["values"], valid=x.get("present"))

    def with_content(self, x: Mapping[str, Tensor], values: Float[Tensor, "batch time values"]) -> dict[str, Tensor]:
        """Return the series with these values, all present."""
        return {name: part for name, part in x.items() if name == "times"} | {"values": values}

    def _checked(
        self, x: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch time values"], Tensor | None, Bool[Tensor, "batch time values"] | None]:
        """Return values, times and presence after checks of keys, shapes and types."""
        if not isinstance(x, Mapping):
            raise TypeError(
                "TimeSeries: expected a dict of values, times and, where values are missing, present; got "
                f"{type(x).__name__}."
            )
        if "values" not in x or set(x) - {"values", "times", "present"}:
            raise ValueError(
                f"TimeSeries: expected the keys values, times and present, the last two optional, got {sorted(x)}."
            )
        values, times, present = x["values"], x.get("times"), x.get("present")
        if values.ndim != 3 or values.shape[2] != self.num_values or values.shape[1] == 0:
            hint = ""
            if values.ndim == 3 and values.shape[1] == self.num_values:
                hint = " Steps lie along axis 1, their values along axis 2: use values.transpose(1, 2)."
            elif values.ndim == 3 and values.shape[1] == 0:
                hint = " Leave an absent series' key out, or pass one step with a mask that is all False."
            raise ValueError(
                f"TimeSeries: expected values (batch, steps, {self.num_values}), got shape {tuple(values.shape)}.{hint}"
            )
        if not values.is_floating_point():
            raise TypeError(f"TimeSeries: expected values in floating point, got {values.dtype}; use `values.float()`.")
        if present is not None:
            if present.dtype != torch.bool:
                raise TypeError(f"TimeSeries: expected present of type bool (True = present), got {present.dtype}.")
            if present.shape != values.shape:
                raise ValueError(
                    f"TimeSeries: expected present shaped like values, {tuple(values.shape)}, got {tuple(present.shape)}."
                )
        if times is None:
            if self.step_seconds is None:
                raise ValueError(
                    "TimeSeries: the series has no times, and the adapter no step_seconds. Set step_seconds, "
                    "or add times (batch, steps) in seconds."
                )
        elif times.dtype not in (torch.float64, torch.float32):
            raise TypeError(
                f"TimeSeries: expected times in float64 seconds, got {times.dtype}, which is too coarse; call "
                "`.double()` on the original times."
            )
        elif times.shape != values.shape[:2]:
            raise ValueError(
                f"TimeSeries: expected times {tuple(values.shape[:2])}, one per step, got {tuple(times.shape)}."
            )
        return values, times, present

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        seconds = f"duration_seconds={self.duration_seconds}, step_seconds={self.step_seconds}"
        return f"num_values={self.num_values}, {seconds}"


def _check_order(times: Tensor, mask: Tensor | None) -> None:
    """Raise ValueError naming the first valid time that is not finite or not later than all valid ones before it.

    Inspects values, so compiled code skips it.
    """
    valid = torch.ones_like(times, dtype=torch.bool) if mask is None else mask
    finite = times.isfinite()
    latest = torch.where(valid & finite, times, -torch.inf).cummax(dim=1).values
    early = torch.zeros_like(valid)
    early[:, 1:] = valid[:, 1:] & (times[:, 1:] <= latest[:, :-1])
    wrong = (valid & ~finite) | early
    if not is_any(wrong, message="TimeSeries: a time is not finite, or not later than those before it."):
        return
    sample, step = wrong.nonzero()[0].tolist()
    time = times[sample, step].item()
    where = f"TimeSeries: sample {sample}, step {step}: its time, {time!r},"
    if not math.isfinite(time):
        raise ValueError(f"{where} is not finite. Correct it, or mask the step.")
    raise ValueError(
        f"{where} is not later than {latest[sample, step - 1].item()!r}, the time of an earlier step. Sort the steps "
        "by time and merge steps with equal times; the adapter does not."
    )
