"""Sound: waveforms of any integer type and sample rate to float32 waveforms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from perceiver.modalities.arrays import as_tensor, check_shape, positive
from perceiver.modalities.media.resampling import ROLLOFF, ZEROS, most_samples, resampling_ratio, samples_read
from perceiver.modalities.modality import Modality
from perceiver.modalities.spec import ModalitySpec
from perceiver.modalities.statistics import require_any


@final
class AudioModality(Modality):
    """Sound: `(samples,)` or `(channels, samples)`, or a pair of sound and sample rate -> `(channels, samples)`.

    Integers have the range of their type, but 64-bit integers the range of 16 bits. A single channel is repeated if the spec
    has several. Other sample rates are resampled, and sound longer than the spec's `max_seconds` is cut.
    """

    channel_axis = 0
    settings: ClassVar = {"sample_rate": None, "channels": 1, "max_seconds": None}
    peak = 1.0

    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return channels, sample rate and maximum length."""
        positive(settings, "sample_rate", optional=False)
        positive(settings, "channels", optional=False)
        positive(settings, "max_seconds", whole=False)
        return {
            "shape": [settings["channels"], None],
            "sample_rate": settings["sample_rate"],
            "max_seconds": settings["max_seconds"],
            "integer_bits": 16,  # for numbers in lists, which have no type
        }

    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        """Convert one recording to the spec's sample rate."""
        rate = None
        if isinstance(raw, tuple) and len(raw) == 2:
            raw, rate = raw
        x = as_tensor(raw, name)
        if not x.is_floating_point():
            if x.dtype == torch.int64:
                x = _sixteen_bits(x, name)
            limits = torch.iinfo(x.dtype)
            middle = (limits.min + limits.max + 1) / 2  # unsigned sound is silent in the middle of its range
            x = (x.to(torch.float64) - middle) / (limits.max + 1 - middle)
        x = x.to(torch.float32)
        x = x[None] if x.ndim == 1 else x
        if x.ndim == 2 and x.shape[0] > x.shape[1] > 0:
            raise ValueError(f"{name}: expected (channels, samples), got {tuple(x.shape)}; transpose it.")
        if spec["shape"][0] == 1 and x.ndim == 2 and x.shape[0] > 1:
            x = x.mean(dim=0, keepdim=True)
        if spec["shape"][0] > 1 and x.ndim == 2 and x.shape[0] == 1:
            x = x.expand(spec["shape"][0], -1)
        most = most_samples(spec)
        if rate is not None and rate != spec["sample_rate"]:
            check_shape(x, spec, name)
            x = _resampled(x, int(rate), int(spec["sample_rate"]), name, most=most)
        return x[..., :most]

    def statistics(self, samples: Iterable[Any], spec: ModalitySpec) -> dict[str, Any]:
        """Return mean 0, so that silence stays 0, and the root mean square of each channel."""
        count, squares = 0, torch.zeros(())
        for x in samples:
            count, squares = count + x.shape[1], squares + x.double().square().sum(dim=1)
        require_any(count)
        rms = (squares / count).sqrt()
        if not bool((rms > 0).all()):
            raise ValueError("all training recordings are silent and cannot be normalised.")
        return {"mean": [0.0] * len(rms), "std": rms.tolist()}


def _sixteen_bits(x: Tensor, name: str) -> Tensor:
    """Interpret lists of integers, which have no type to define full scale, as 16-bit samples."""
    if x.numel() and (x.amin() < -(2**15) or x.amax() >= 2**15):
        raise ValueError(
            f"{name}: expected 16-bit integers, got values from {int(x.amin())} to {int(x.amax())}. Pass an array "
            "whose dtype matches its full scale, such as int32, or floating-point samples in [-1, 1]."
        )
    return x.to(torch.int16)


def _resampled(x: Tensor, rate: int, wanted: int, name: str, *, most: int | None) -> Tensor:
    """Resample sound from `rate` to `wanted` samples per second, of which the first `most` are needed; None: all."""
    from torchaudio.functional import resample  # slow to import, rarely needed

    ratio = resampling_ratio(rate, wanted, name)
    if most is not None:
        x = x[..., : samples_read(most, *ratio)]
    resampled: Tensor = resample(x, *ratio, lowpass_filter_width=ZEROS, rolloff=ROLLOFF)
    return resampled
