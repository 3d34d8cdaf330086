"""Augmentation of batches of time series, with separate random parameters for every series.

Each transform takes the tensors of `perceiver.modalities.timeseries.TimeSeriesModality`, `values` `(B, T, F)`, normalised,
`times` `(B, T)` and `present` `(B, T, F)`, the last two optional, and the mask `(B, T)` or `(B,)` (True is valid) or None,
and returns the same. Missing values stay missing, absent series stay absent.

Sources: T. T. Um et al., "Data Augmentation of Wearable Sensor Data" (2017); A. Le Guennec et al., "Data Augmentation for
Time Series Classification using Convolutional Neural Networks" (2016).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Series = dict[str, Tensor]
Mask = Bool[Tensor, "batch *time"] | None


class RandomJitter(nn.Module):
    """Add Gaussian noise to every value of every step.

    Args:
        std: standard deviation of the noise, in standard deviations of the value.
    """

    def __init__(self, *, std: float) -> None:
        super().__init__()
        _require(self, "std", std, 0 <= std < math.inf, "0 or more")
        self.std = std

    def forward(self, series: Series, mask: Mask) -> tuple[Series, Mask]:
        """Transform the values; shapes, times, missing values and mask are unchanged."""
        values = series["values"]
        return {**series, "values": _kept(values + torch.randn_like(values) * self.std, series)}, mask

    def extra_repr(self) -> str:
        return f"std={self.std}"


class RandomScale(nn.Module):
    """Multiply every series, each of its values by a factor of its own.

    Args:
        scale: (smallest, largest) factor, uniformly distributed; of normalised values, so about their mean.
    """

    def __init__(self, *, scale: Sequence[float]) -> None:
        super().__init__()
        self.scale = _range(self, "scale", scale)
        _require(self, "scale", list(scale), self.scale[0] > 0, "factors above 0")

    def forward(self, series: Series, mask: Mask) -> tuple[Series, Mask]:
        """Transform the values; shapes, times, missing values and mask are unchanged."""
        values = series["values"]
        low, high = self.scale
        factor = low + (high - low) * torch.rand_like(values[:, :1])
        return {**series, "values": values * factor}, mask

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class RandomCrop(nn.Module):
    """Keep a random span of every series; at least one step remains.

    Adapters count time from the first step, so this also shifts series.

    Args:
        share: (smallest, largest) share of the steps that is kept, uniformly distributed.
    """

    def __init__(self, *, share: Sequence[float]) -> None:
        super().__init__()
        self.share = _range(self, "share", share)
        _require(self, "share", list(share), self.share[0] > 0 and self.share[1] <= 1, "shares above 0, up to 1")

    def forward(self, series: Series, mask: Mask) -> tuple[Series, Bool[Tensor, "batch shorter"]]:
        """Transform to series of the new maximum length, and a mask."""
        valid = _valid(series, mask)
        ends = _ends(valid)
        low, high = self.share
        share = low + (high - low) * torch.rand(ends.shape, device=ends.device)
        kept = torch.minimum((share * ends).round().long().clamp(min=1), ends)
        start = torch.minimum((torch.rand(ends.shape, device=ends.device) * (ends - kept + 1)).long(), ends - kept)
        counts = torch.nn.functional.pad(_filled(series, valid).cumsum(dim=1), (1, 0))
        empty = (counts.gather(1, (start + kept)[:, None]) == counts.gather(1, start[:, None]))[:, 0]
        start, kept = torch.where(empty, 0, start), torch.where(empty, ends, kept)  # a span of gaps alone
        width = max(1, int(kept.max()))
        steps = torch.arange(width, device=ends.device)
        index = (start[:, None] + steps).clamp(max=valid.shape[1] - 1)
        inside = (steps < kept[:, None]) & valid.gather(1, index)
        return {name: _gathered(x, index) for name, x in series.items()}, inside

    def extra_repr(self) -> str:
        return f"share={self.share}"


class RandomTimeWarp(nn.Module):
    """Let every series run faster in some sections and slower in others; times, beginning and end stay.

    Every series is cut into sections of equal duration, each of which runs at a random speed; values at the unchanged times
    are interpolated linearly. A value between a present and a missing one is that of the nearer.

    Args:
        strength: standard deviation of the logarithm of the speed.
        sections: number of sections.
    """

    def __init__(self, *, strength: float, sections: int = 4) -> None:
        super().__init__()
        _require(self, "strength", strength, 0 <= strength < math.inf, "0 or more")
        _require(self, "sections", sections, sections >= 1, "1 or more")
        self.strength = strength
        self.sections = sections

    def forward(self, series: Series, mask: Mask) -> tuple[Series, Mask]:
        """Transform the values; shapes, times and mask are unchanged. A value may be missing where another was."""
        values, valid = series["values"], _valid(series, mask)
        batch, steps = values.shape[:2]
        times = series.get("times", torch.arange(steps, dtype=torch.float64, device=values.device).expand(batch, steps))
        first = torch.where(valid, times, torch.inf).amin(dim=1, keepdim=True)
        last = torch.where(valid, times, -torch.inf).amax(dim=1, keepdim=True)
        duration = torch.where(last > first, last - first, 1.0)
        place = torch.where(valid, (times - first) / duration, -torch.inf)
        source = self._warped(torch.where(valid, place, 0.0))
        # A step that is not valid gets the place of the valid step before it, and so is never the one after a source.
        place = place.cummax(dim=1).values.contiguous()
        step = torch.where(valid, torch.arange(steps, device=values.device), -1).cummax(dim=1).values
        after = torch.searchsorted(place, source, right=True)
        after = torch.minimum(after, (_ends(valid) - 1).clamp(min=0)[:, None])
        before = step.gather(1, (after - 1).clamp(min=0))
        before = torch.where(before < 0, after, before)
        gap = place.gather(1, after) - place.gather(1, before)
        share = torch.where(gap > 0, (source - place.gather(1, before)) / torch.where(gap > 0, gap, 1.0), 0.0).clamp(0, 1)
        weights = torch.stack([1 - share, share])[..., None].to(values.dtype)
        present = series.get("present", torch.ones_like(values, dtype=torch.bool)) & valid[..., None]
        chosen = [(_gathered(values, index), _gathered(present, index)) for index in (before, after)]
        total = sum(weight * here for weight, (_, here) in zip(weights, chosen, strict=True))
        mixed = sum(
            weight * torch.where(here, value, value.new_zeros(()))
            for weight, (value, here) in zip(weights, chosen, strict=True)
        )
        nearest = torch.where(weights[1] > 0.5, chosen[1][1], chosen[0][1])
        assert isinstance(total, Tensor)
        warped = torch.where(nearest, mixed / torch.where(total > 0, total, 1.0), values.new_zeros(()))
        # A series that would lose the little that is present stays as it is.
        used = valid[..., None] & (nearest & valid[..., None]).flatten(1).any(dim=1)[:, None, None]
        changed = {**series, "values": torch.where(used, warped, values)}
        if "present" in series:
            changed["present"] = torch.where(used, nearest, series["present"])
        return changed, mask

    def _warped(self, place: Float[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
        """Map places in [0, 1] to places in [0, 1], increasing, with fixed ends."""
        logarithms = torch.randn(len(place), self.sections, dtype=place.dtype, device=place.device) * self.strength
        speeds = logarithms.exp()
        speeds = speeds / speeds.sum(dim=1, keepdim=True)
        starts = torch.nn.functional.pad(speeds.cumsum(dim=1), (1, 0))
        section = (place * self.sections).long().clamp(max=self.sections - 1)
        within = place * self.sections - section
        return (starts.gather(1, section) + within * speeds.gather(1, section)).clamp(0, 1)

    def extra_repr(self) -> str:
        return f"strength={self.strength}, sections={self.sections}"


class RandomSpanMasking(nn.Module):
    """Hide a span of steps of every series; at least one step remains.

    Args:
        share: (smallest, largest) share of the steps that is hidden, uniformly distributed.
    """

    def __init__(self, *, share: Sequence[float]) -> None:
        super().__init__()
        self.share = _range(self, "share", share)
        _require(self, "share", list(share), self.share[0] >= 0 and self.share[1] <= 1, "shares from 0 to 1")

    def forward(self, series: Series, mask: Mask) -> tuple[Series, Bool[Tensor, "batch time"]]:
        """Mask the span; values, times and shapes are unchanged."""
        valid = _valid(series, mask)
        ends = _ends(valid)
        low, high = self.share
        share = low + (high - low) * torch.rand(ends.shape, device=ends.device)
        hidden = torch.minimum((share * ends).round().long(), (ends - 1).clamp(min=0))
        start = (torch.rand(ends.shape, device=ends.device) * (ends - hidden + 1)).long()
        steps = torch.arange(valid.shape[1], device=ends.device)
        span = (steps >= start[:, None]) & (steps < (start + hidden)[:, None])
        kept = valid & ~span
        # With gaps before, a span may cover all that is present: such a series stays whole.
        return series, torch.where(_filled(series, kept).any(dim=1, keepdim=True), kept, valid)

    def extra_repr(self) -> str:
        return f"share={self.share}"


class RandomValueDropout(nn.Module):
    """Make whole values, such as sensors, missing in a series; at least one remains.

    Args:
        rate: probability that a value is missing in a series.
    """

    def __init__(self, *, rate: float) -> None:
        super().__init__()
        _require(self, "rate", rate, 0 <= rate <= 1, "0 to 1")
        self.rate = rate

    def forward(self, series: Series, mask: Mask) -> tuple[Series, Mask]:
        """Transform `present`, which is added if all values were present; missing values are 0."""
        values = series["values"]
        present = series.get("present", torch.ones_like(values, dtype=torch.bool))
        there = (present & _valid(series, mask)[..., None]).any(dim=1, keepdim=True)
        draw = torch.where(there, torch.rand(there.shape, device=values.device), -1.0)
        # The value with the largest random number remains at any rate.
        kept = present & ((draw >= self.rate) | (draw == draw.amax(dim=2, keepdim=True)))
        return {**series, "values": torch.where(kept, values, values.new_zeros(())), "present": kept}, mask

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def _kept(values: Tensor, series: Series) -> Tensor:
    """Return values with zeros where they are missing."""
    return torch.where(series["present"], values, values.new_zeros(())) if "present" in series else values


def _valid(series: Series, mask: Tensor | None) -> Bool[Tensor, "batch time"]:
    """Return the mask for every step, also if it was None."""
    batch, steps, _ = series["values"].shape
    if mask is None:
        return torch.ones(batch, steps, dtype=torch.bool, device=series["values"].device)
    return mask if mask.ndim == 2 else mask[:, None].expand(batch, steps)


def _filled(series: Series, valid: Bool[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
    """Return whether each step is valid and has any value."""
    return valid & series["present"].any(dim=2) if "present" in series else valid


def _ends(valid: Bool[Tensor, "batch time"]) -> Tensor:
    """Return `(B,)`: one past the last valid step, 0 if there is none."""
    steps = torch.arange(1, valid.shape[1] + 1, device=valid.device)
    return torch.where(valid, steps, 0).amax(dim=1)


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """Return the steps `(B, S)` of `(B, T)` or `(B, T, F)`."""
    return x.gather(1, index) if x.ndim == 2 else x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def _range(owner: nn.Module, name: str, limits: Sequence[float]) -> tuple[float, float]:
    fits = len(limits) == 2 and all(math.isfinite(limit) for limit in limits) and limits[0] <= limits[1]
    _require(owner, name, list(limits), fits, "(smallest, largest)")
    return float(limits[0]), float(limits[1])


def _require(owner: nn.Module, name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"{type(owner).__name__}.{name}: expected {expected}, got {value}.")
