"""Audio: raw waveforms `(B, channels, samples)` as frames of samples, log-mel frames or log-mel values.

Frames are counted from the first sample, whatever follows: a recording alone and the same recording padded
among longer ones give the same valid tokens. Positions are absolute seconds, the same in every recording.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.adapters.content import Content
from perceiver.adapters.log_mel import LogMel
from perceiver.runtime.ranges import check_positive
from perceiver.runtime.regularising import regularising
from perceiver.tokens.masks import grid_mask, patch_mask, zero_masked
from perceiver.tokens.positions import PositionEncoding, grid_coordinates, time_coordinates
from perceiver.tokens.tokens import Tokens


class WaveformFrames(nn.Module):
    """One token per frame of raw samples (Perceiver, section 4.2: segments of 128 samples).

    The last frame is filled up with zeros. Channels of a token: the frame of the first audio channel, of the
    second, and so on; then the position.

    Args:
        audio_channels: 1 for mono, 2 for stereo.
        frame: samples per token; frames do not overlap.
        sample_rate: in hertz.
        duration_seconds: reference duration; times in [0, duration] become coordinates in [-1, 1], later ones
            go beyond. None: the frames of every recording go from -1 to 1, as in the published multimodal autoencoder.
        position: encoding of one coordinate, the time of the middle of the frame.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import WaveformFrames
        >>> adapter = WaveformFrames(
        ...     frame=64, sample_rate=8000, duration_seconds=1.0, position=Fourier(num_bands=4, resolution=(125,))
        ... )
        >>> tokens = adapter(torch.rand(2, 1, 8000))
        >>> tokens.grid, tokens.channels
        ((125,), 73)
    """

    holds_everything = True

    def __init__(
        self,
        *,
        audio_channels: int = 1,
        frame: int,
        sample_rate: int,
        duration_seconds: float | None,
        position: PositionEncoding,
    ) -> None:
        super().__init__()
        check_positive(
            type(self).__name__,
            audio_channels=audio_channels,
            frame=frame,
            sample_rate=sample_rate,
            duration_seconds=1.0 if duration_seconds is None else duration_seconds,
        )
        self.audio_channels = audio_channels
        self.frame = frame
        self.sample_rate = sample_rate
        self.duration_seconds = duration_seconds
        self.position = position
        self.channels = audio_channels * frame + position.channels
        self.position_channels = position.channels
        self.content_channels = audio_channels * frame

    def forward(
        self, x: Float[Tensor, "batch audio_channels samples"], mask: Bool[Tensor, "batch *samples"] | None = None
    ) -> Tokens:
        """Convert waveforms to Tokens on the grid `(T,)`, T = ceil(samples / frame).

        Args:
            x: `(B, audio_channels, samples)`.
            mask: True where valid: `(B,)` presence, `(B, samples)`, or None. A frame with any valid sample is
                valid.

        Raises:
            ValueError: for another shape, another number of channels or no samples at all.
            TypeError: for integer samples or a mask that is not boolean.
        """
        ragged = mask is not None and mask.ndim > 1
        x, mask = _checked_waveform(x, mask, audio_channels=self.audio_channels, adapter=type(self).__name__)
        content = self._frames(x)
        token_mask = None if mask is None else patch_mask(mask, (self.frame,))
        if self.duration_seconds is None:
            (times,) = grid_coordinates(content.shape[1:2], mask=token_mask if ragged else None, device=x.device)
        else:
            times = _frame_times(content.shape[1], self.frame / self.sample_rate, self.duration_seconds, x.device)
        return Tokens(parts=(content, *self.position((times,))), mask=token_mask)

    def content(
        self, x: Float[Tensor, "batch audio_channels samples"], mask: Bool[Tensor, "batch *samples"] | None = None
    ) -> Content:
        """Return the samples of each frame, `(B, T, audio_channels * frame)`; those beyond the end are not valid."""
        full = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:])
        valid = torch.ones_like(x, dtype=torch.bool) if full is None else full[:, None].expand(x.shape)
        return Content(values=self._frames(x), valid=self._frames(valid))

    def with_content(
        self, x: Float[Tensor, "batch audio_channels samples"], values: Float[Tensor, "batch frames channels"]
    ) -> Tensor:
        """Return the waveform of these frames."""
        framed = values.reshape(*values.shape[:2], self.audio_channels, self.frame).transpose(1, 2)
        return framed.flatten(2)[..., : x.shape[2]]

    def _frames(self, x: Tensor) -> Tensor:
        """Cut `(B, audio_channels, samples)` into `(B, T, audio_channels * frame)`, padded with zeros at the end."""
        batch, audio_channels, samples = x.shape
        framed = F.pad(x, (0, -samples % self.frame)).reshape(batch, audio_channels, -1, self.frame)
        return framed.transpose(1, 2).flatten(2)

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"audio_channels={self.audio_channels}, frame={self.frame}, sample_rate={self.sample_rate}"


@regularising(augment=None)
class _LogMelTokens(nn.Module, ABC):
    """Tokens of a log-mel spectrum; subclasses choose which of its axes are the grid."""

    def __init__(
        self,
        *,
        audio_channels: int = 1,
        sample_rate: int,
        num_mels: int,
        window_seconds: float,
        hop_seconds: float,
        duration_seconds: float,
        position: PositionEncoding,
        min_hertz: float = 0.0,
        max_hertz: float | None = None,
        epsilon: float = 1e-6,
        mean: float = 0.0,
        std: float = 1.0,
        subtract_mean: bool = False,
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_positive(type(self).__name__, audio_channels=audio_channels, duration_seconds=duration_seconds)
        self.audio_channels = audio_channels
        self.duration_seconds = duration_seconds
        self.log_mel = LogMel(
            sample_rate=sample_rate,
            num_mels=num_mels,
            window_seconds=window_seconds,
            hop_seconds=hop_seconds,
            min_hertz=min_hertz,
            max_hertz=max_hertz,
            epsilon=epsilon,
            mean=mean,
            std=std,
        )
        self.subtract_mean = subtract_mean
        self.augment = augment
        self.position = position
        self.content_channels = self._token_channels(audio_channels, num_mels)
        self.position_channels = position.channels
        self.channels = self.content_channels + position.channels

    @staticmethod
    @abstractmethod
    def _token_channels(audio_channels: int, num_mels: int) -> int:
        """Number of values of the spectrum in one token."""

    @staticmethod
    @abstractmethod
    def _arranged(spectrum: Tensor) -> Tensor:
        """Bring a spectrum `(B, audio_channels, num_mels, T)` to `(B, *grid, values)`."""

    def content(
        self, x: Float[Tensor, "batch audio_channels samples"], mask: Bool[Tensor, "batch *samples"] | None = None
    ) -> Content:
        """Return the log-mel spectrum without `augment`, `(B, *grid, values)`.

        Windows overlap, so a frame reveals a little of its neighbours: hide spans of several frames.
        """
        spectrum, _ = self._spectrum(x, mask)
        return Content(values=self._arranged(spectrum))

    def _values_and_times(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The augmented spectrum `(B, *grid, values)`, the times of its hops, and their validity `(B, T)`."""
        spectrum, hops = self._spectrum(x, mask)
        values = self._arranged(spectrum if self.augment is None else self.augment(spectrum))
        return values, _frame_times(values.shape[1], self.log_mel.step_seconds, self.duration_seconds, x.device), hops

    def _spectrum(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The normalised spectrum `(B, audio_channels, num_mels, T)` and the validity of its hops `(B, T)`."""
        x, mask = _checked_waveform(x, mask, audio_channels=self.audio_channels, adapter=type(self).__name__)
        spectrum = self.log_mel(x)
        hops = None if mask is None else patch_mask(mask, (self.log_mel.hop,))
        if not self.subtract_mean:
            return spectrum, hops
        valid = torch.ones_like(spectrum[:, :1, :1]) if hops is None else hops[:, None, None].to(spectrum.dtype)
        mean = (spectrum * valid).sum(dim=-1, keepdim=True) / valid.sum(dim=-1, keepdim=True).clamp(min=1)
        return spectrum - mean, hops


class LogMelFrames(_LogMelTokens):
    """One token per hop: the logarithm of its mel spectrum, `audio_channels * num_mels` values, and its time.

    Args:
        audio_channels: 1 for mono, 2 for stereo; each channel has a separate spectrum.
        sample_rate: in hertz.
        num_mels: mel bands (HTK scale) between `min_hertz` and `max_hertz`.
        window_seconds: Hann window, centred on the hop; at least `hop_seconds`.
        hop_seconds: from one token to the next, rounded to whole samples.
        duration_seconds: reference duration; times in [0, duration] become coordinates in [-1, 1], later ones
            go beyond.
        position: encoding of one coordinate, the time of the middle of the hop.
        min_hertz, max_hertz: the range of the mel bands; None is half the sample rate.
        epsilon: added to the power before the logarithm; silence becomes log(epsilon).
        mean, std: statistics of log-mel values in the training data; tokens hold `(log(power + epsilon) - mean) / std`.
        subtract_mean: subtract from each mel band its mean over the valid hops of the recording: what a microphone, a room
            and the loudness add to all hops (Atal 1974, "Effectiveness of linear prediction characteristics of the speech
            wave for automatic speaker identification and verification").
        augment: a module applied to the normalised spectrum `(B, audio_channels, num_mels, T)`, such as `SpectrumMasking`;
            it returns a spectrum of the same shape, unchanged in evaluation mode.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import LogMelFrames
        >>> adapter = LogMelFrames(
        ...     sample_rate=8000, num_mels=40, window_seconds=0.025, hop_seconds=0.01, duration_seconds=1.0,
        ...     position=Fourier(num_bands=4, resolution=(100,)),
        ... )
        >>> tokens = adapter(torch.rand(2, 1, 8000))
        >>> tokens.grid, tokens.channels
        ((100,), 49)
    """

    @staticmethod
    def _token_channels(audio_channels: int, num_mels: int) -> int:
        return audio_channels * num_mels

    @staticmethod
    def _arranged(spectrum: Tensor) -> Tensor:
        return spectrum.permute(0, 3, 1, 2).flatten(2)

    def forward(
        self, x: Float[Tensor, "batch audio_channels samples"], mask: Bool[Tensor, "batch *samples"] | None = None
    ) -> Tokens:
        """Waveform -> Tokens on the grid `(T,)`, T = ceil(samples / hop).

        Arguments and errors as in `WaveformFrames`; a hop with any valid sample is valid.
        """
        values, times, hops = self._values_and_times(x, mask)
        return Tokens(parts=(values, *self.position((times,))), mask=hops)


class LogMelBins(_LogMelTokens):
    """One token per hop and mel band: single values on a grid of time and frequency (Perceiver, section 4.2).

    Args:
        audio_channels, sample_rate, num_mels, window_seconds, hop_seconds, duration_seconds, min_hertz,
            max_hertz, epsilon, mean, std, subtract_mean, augment: as in `LogMelFrames`.
        position: encoding of two coordinates: the time of the middle of the hop, and the mel band from -1
            (lowest) to 1 (highest).

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import LogMelBins
        >>> adapter = LogMelBins(
        ...     sample_rate=8000, num_mels=40, window_seconds=0.025, hop_seconds=0.01, duration_seconds=1.0,
        ...     position=Fourier(num_bands=4, resolution=(100, 40)),
        ... )
        >>> tokens = adapter(torch.rand(2, 1, 8000))
        >>> tokens.grid, tokens.channels
        ((100, 40), 19)
    """

    @staticmethod
    def _token_channels(audio_channels: int, num_mels: int) -> int:
        return audio_channels

    @staticmethod
    def _arranged(spectrum: Tensor) -> Tensor:
        return spectrum.permute(0, 3, 2, 1)

    def forward(
        self, x: Float[Tensor, "batch audio_channels samples"], mask: Bool[Tensor, "batch *samples"] | None = None
    ) -> Tokens:
        """Convert waveforms to Tokens on the grid `(T, num_mels)`, T = ceil(samples / hop).

        Arguments and errors as in `WaveformFrames`; a hop with any valid sample is valid.
        """
        values, times, hops = self._values_and_times(x, mask)
        num_mels = values.shape[2]
        _, bands = grid_coordinates((1, num_mels), device=x.device)
        token_mask = None if hops is None else hops[..., None].expand(-1, -1, num_mels)
        return Tokens(parts=(values, *self.position((times[:, :, None], bands))), mask=token_mask)


def _checked_waveform(
    x: Tensor, mask: Tensor | None, *, audio_channels: int, adapter: str
) -> tuple[Float[Tensor, "batch audio_channels samples"], Bool[Tensor, "batch samples"] | None]:
    """Return the waveform with zeros where it is masked, and its mask per sample."""
    if x.ndim != 3:
        raise ValueError(
            f"{adapter}: expected a waveform (batch, {audio_channels}, samples), got shape {tuple(x.shape)}. "
            "Add the missing axis, e.g. `x[:, None]` for mono (batch, samples)."
        )
    if not x.is_floating_point():
        raise TypeError(f"{adapter}: expected floating point samples, got {x.dtype}. Scale int16, e.g., with `x / 32768`.")
    batch, channels, samples = x.shape
    if channels != audio_channels:
        raise ValueError(
            f"{adapter}: expected {audio_channels} audio channels in (batch, channels, samples), got "
            f"{channels} in shape {tuple(x.shape)}. Set audio_channels={channels}, or mix down to mono with "
            "`x.mean(dim=1, keepdim=True)`."
        )
    if samples == 0:
        raise ValueError(
            f"{adapter}: expected at least one sample, got shape {tuple(x.shape)}. Leave an absent "
            "recording's key out, or pass zeros with a mask that is all False."
        )
    mask = grid_mask(mask, batch=batch, grid=(samples,), name=f"{adapter} mask")
    return (x, None) if mask is None else (zero_masked(x, mask[:, None]), mask)


def _frame_times(
    num_frames: int, step_seconds: float, duration_seconds: float, device: torch.device
) -> Float[Tensor, "1 frames 1"]:
    """Return the coordinates of the middles of consecutive frames from time 0."""
    return time_coordinates(
        num_frames,
        step_seconds=step_seconds,
        duration_seconds=duration_seconds,
        offset_seconds=step_seconds / 2,
        device=device,
    )
