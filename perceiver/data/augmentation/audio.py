"""Augmentation of batches of recordings, with separate random parameters for every recording.

Each transform takes a waveform `(B, channels, samples)` and its mask `(B, samples)` (True is valid) or None, and returns the
same. Masking of spectra belongs to the log-mel adapters: see `perceiver.adapters.spectrum_masking`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Waveform = Float[Tensor, "batch channels samples"]
Mask = Bool[Tensor, "batch *samples"] | None


class RandomGain(nn.Module):
    """Change the level of every recording.

    Args:
        decibels: (smallest, largest) change of level; uniformly distributed.
    """

    def __init__(self, *, decibels: Sequence[float]) -> None:
        super().__init__()
        self.decibels = _range(self, "decibels", decibels)

    def forward(self, waveform: Waveform, mask: Mask) -> tuple[Waveform, Mask]:
        """Transform `(B, channels, samples)`; shape and mask are unchanged."""
        gain = 10 ** (_uniform(self.decibels, waveform) / 20)
        return waveform * gain[:, None, None], mask

    def extra_repr(self) -> str:
        return f"decibels={self.decibels}"


class RandomNoise(nn.Module):
    """Add white noise to every recording, at a level relative to the level of the recording.

    Args:
        snr_decibels: (smallest, largest) ratio of signal to noise power, uniformly distributed in decibels. Signal power is
            the mean over valid samples and channels; silence stays silent.
        probability: probability that a recording gets noise.
    """

    def __init__(self, *, snr_decibels: Sequence[float], probability: float = 1.0) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"RandomNoise.probability: expected 0 to 1, got {probability}.")
        self.snr_decibels = _range(self, "snr_decibels", snr_decibels)
        self.probability = probability

    def forward(self, waveform: Waveform, mask: Mask) -> tuple[Waveform, Mask]:
        """Transform `(B, channels, samples)`; shape, mask and masked samples are unchanged."""
        valid = _valid(waveform, mask)[:, None]
        count = valid.sum(dim=(1, 2)).clamp(min=1) * waveform.shape[1]
        power = torch.where(valid, waveform, waveform.new_zeros(())).square().sum(dim=(1, 2)) / count
        level = (power / 10 ** (_uniform(self.snr_decibels, waveform) / 10)).sqrt()
        level = level * (torch.rand_like(level) < self.probability)
        noise = torch.randn_like(waveform) * level[:, None, None]
        return torch.where(valid, waveform + noise, waveform), mask

    def extra_repr(self) -> str:
        return f"snr_decibels={self.snr_decibels}, probability={self.probability}"


class RandomTimeShift(nn.Module):
    """Shift every recording: later, after silence, or earlier, dropping its first samples; at least one remains.

    Args:
        seconds: (smallest, largest) shift, uniformly distributed; negative shifts cut. (0, 0.2) only adds silence.
        sample_rate: sample rate of the waveforms in hertz.
    """

    def __init__(self, *, seconds: Sequence[float], sample_rate: int) -> None:
        super().__init__()
        if sample_rate < 1:
            raise ValueError(f"RandomTimeShift.sample_rate: expected 1 or more, got {sample_rate}.")
        self.seconds = _range(self, "seconds", seconds)
        self.sample_rate = sample_rate

    def forward(
        self, waveform: Waveform, mask: Mask
    ) -> tuple[Float[Tensor, "batch channels shifted"], Bool[Tensor, "batch shifted"]]:
        """Transform `(B, channels, samples)` to waveforms of the new maximum length, and a mask.

        Absent recordings, whose mask is all False, stay absent.
        """
        valid = _valid(waveform, mask)
        samples = torch.arange(valid.shape[1], device=waveform.device)
        ends = torch.where(valid, samples + 1, samples.new_zeros(())).amax(dim=1)
        shift = (_uniform(self.seconds, waveform) * self.sample_rate).round().long()
        shift = torch.maximum(shift, 1 - ends)
        width = max(1, int(torch.where(ends > 0, ends + shift, ends).max()))
        source = torch.arange(width, device=waveform.device) - shift[:, None]
        inside = (source >= 0) & (source < ends[:, None])
        index = source.clamp(0, valid.shape[1] - 1)
        shifted = waveform.gather(2, index[:, None].expand(-1, waveform.shape[1], -1))
        shifted_valid = valid.gather(1, index) & inside
        silence = (source < 0) & (ends > 0)[:, None]
        return torch.where(shifted_valid[:, None], shifted, waveform.new_zeros(())), shifted_valid | silence

    def extra_repr(self) -> str:
        return f"seconds={self.seconds}, sample_rate={self.sample_rate}"


class RandomSpeed(nn.Module):
    """Play every recording faster or slower, which changes its pitch and formants, too (Ko et al. 2015).

    Args:
        factor: (smallest, largest) speed, uniformly distributed; 1.1 is a tenth faster.
    """

    def __init__(self, *, factor: Sequence[float]) -> None:
        super().__init__()
        self.factor = _range(self, "factor", factor)
        if self.factor[0] <= 0:
            raise ValueError(f"RandomSpeed.factor: expected speeds above 0, got {list(factor)}.")

    def forward(
        self, waveform: Waveform, mask: Mask
    ) -> tuple[Float[Tensor, "batch channels changed"], Bool[Tensor, "batch changed"]]:
        """Transform `(B, channels, samples)` to waveforms of the new maximum length by linear interpolation, and a mask.

        Absent recordings, whose mask is all False, stay absent.
        """
        valid = _valid(waveform, mask)
        samples = torch.arange(valid.shape[1], device=waveform.device)
        ends = torch.where(valid, samples + 1, samples.new_zeros(())).amax(dim=1)
        factor = _uniform(self.factor, waveform)
        sizes = torch.where(ends > 0, (ends / factor).round().long().clamp(min=1), 0)
        width = max(1, int(sizes.max()))
        source = torch.arange(width, device=waveform.device) * factor[:, None]
        last = (ends - 1).clamp(min=0)[:, None]
        before = torch.minimum(source.floor().long(), last)
        after = torch.minimum(before + 1, last)
        share = (source - before).clamp(max=1)[:, None]
        channels = waveform.shape[1]
        left, right = (waveform.gather(2, index[:, None].expand(-1, channels, -1)) for index in (before, after))
        changed = torch.arange(width, device=waveform.device) < sizes[:, None]
        # Padding may hold anything, and stays silent.
        return torch.where(changed[:, None], left + share * (right - left), waveform.new_zeros(())), changed

    def extra_repr(self) -> str:
        return f"factor={self.factor}"


def _range(owner: nn.Module, name: str, limits: Sequence[float]) -> tuple[float, float]:
    if len(limits) != 2 or not all(math.isfinite(limit) for limit in limits) or limits[0] > limits[1]:
        raise ValueError(f"{type(owner).__name__}.{name}: expected (smallest, largest), got {list(limits)}.")
    return float(limits[0]), float(limits[1])


def _uniform(limits: tuple[float, float], waveform: Tensor) -> Float[Tensor, "batch"]:
    """Draw a number between the limits for every recording."""
    low, high = limits
    return low + (high - low) * torch.rand(waveform.shape[0], device=waveform.device, dtype=waveform.dtype)


def _valid(waveform: Tensor, mask: Tensor | None) -> Bool[Tensor, "batch samples"]:
    """Return the mask for every sample, also if it was None."""
    batch, _, samples = waveform.shape
    if mask is None:
        return torch.ones(batch, samples, dtype=torch.bool, device=waveform.device)
    return mask if mask.ndim == 2 else mask[:, None].expand(batch, samples)
