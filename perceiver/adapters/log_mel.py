"""Log-mel spectra of waveforms, the same for a recording alone and padded."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perceiver.runtime.ranges import check_positive


class LogMel(nn.Module):
    """`(..., samples)` -> `(..., num_mels, T)`: normalised log-mel power in float32, T = ceil(samples / hop).

    The window of frame t is centred on samples [t * hop, (t + 1) * hop). Samples outside the waveform count as zero:
    reflection at the ends would make frames depend on where the padding ends. Filters are
    torchaudio's (HTK scale, peak 1); the length of the Fourier transform is the smallest power of two, no
    shorter than the window, that leaves no filter between two frequencies.

    Arguments as in `LogMelFrames`.

    Examples:
        >>> import torch
        >>> from perceiver.adapters import LogMel
        >>> log_mel = LogMel(sample_rate=8000, num_mels=40, window_seconds=0.025, hop_seconds=0.01)
        >>> log_mel(torch.rand(2, 1, 8000)).shape
        torch.Size([2, 1, 40, 100])
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        num_mels: int,
        window_seconds: float,
        hop_seconds: float,
        min_hertz: float = 0.0,
        max_hertz: float | None = None,
        epsilon: float = 1e-6,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive(
            "LogMel",
            sample_rate=sample_rate,
            num_mels=num_mels,
            window_seconds=window_seconds,
            hop_seconds=hop_seconds,
            epsilon=epsilon,
            std=std,
        )
        nyquist = sample_rate / 2
        top = nyquist if max_hertz is None else max_hertz
        if not 0 <= min_hertz < top <= nyquist:
            raise ValueError(
                f"LogMel: expected 0 <= min_hertz < max_hertz <= {nyquist:g} (half of sample_rate), "
                f"got min_hertz={min_hertz}, max_hertz={max_hertz}."
            )
        self.hop = round(hop_seconds * sample_rate)
        window_samples = round(window_seconds * sample_rate)
        if not 1 <= self.hop <= window_samples:
            raise ValueError(
                "LogMel: expected a hop of at least one sample and a window no shorter than the hop; at "
                f"{sample_rate} Hz hop_seconds={hop_seconds} is {self.hop} samples and "
                f"window_seconds={window_seconds} is {window_samples}."
            )
        self.step_seconds = self.hop / sample_rate
        self.epsilon = epsilon
        self.mean = mean
        self.std = std
        filters = _mel_filters(window_samples, sample_rate, num_mels, min_hertz, top)
        self.fft_size = 2 * (filters.shape[0] - 1)
        window = torch.hann_window(window_samples, dtype=torch.float32)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, waveform: Float[Tensor, "*batch samples"]) -> Float[Tensor, "*batch mels frames"]:
        """Return the spectrum in float32 under any autocast: in bfloat16 a logarithm of power has two or three digits."""
        with torch.autocast(waveform.device.type, enabled=False):
            waveform = waveform.to(torch.float32)
            samples, window_samples = waveform.shape[-1], self.window.shape[0]
            num_frames = (samples + self.hop - 1) // self.hop  # no negative dividend: ONNX divides towards zero
            before = (window_samples - self.hop) // 2
            after = (num_frames - 1) * self.hop + window_samples - before - samples
            frames = F.pad(waveform, (before, after)).unfold(-1, window_samples, self.hop)
            # By hand rather than with torch.stft, whose checks stop torch.export over varying lengths.
            spectrum = torch.fft.rfft(frames * self.window, n=self.fft_size)
            power = spectrum.real.square() + spectrum.imag.square()
            mel = torch.matmul(power, self.filters).transpose(-1, -2)
            return (torch.log(mel + self.epsilon) - self.mean) / self.std

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMel:
        """Moves window and filters between devices only: `model.bfloat16()` must not round them."""
        window, filters = self.window, self.filters
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.window = window.to(self.window.device)
        self.filters = filters.to(self.filters.device)
        return self

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        sizes = f"num_mels={self.filters.shape[1]}, window={self.window.shape[0]}, hop={self.hop}"
        return f"{sizes}, fft_size={self.fft_size}"


def _mel_filters(
    window_samples: int, sample_rate: int, num_mels: int, min_hertz: float, max_hertz: float
) -> Float[Tensor, "frequencies mels"]:
    """The triangular filters on the coarsest frequency axis that gives each of them something to read."""
    from torchaudio.functional import melscale_fbanks  # imported here: models without sound do without

    fft_size = 2 ** max(1, math.ceil(math.log2(window_samples)))
    while True:
        with warnings.catch_warnings():
            # torchaudio warns of empty filters; here they are the sign to go on.
            warnings.simplefilter("ignore", UserWarning)
            filters: Tensor = melscale_fbanks(fft_size // 2 + 1, min_hertz, max_hertz, num_mels, sample_rate)
        if bool((filters > 0).any(dim=0).all()):
            return filters
        if fft_size >= 2**16:
            raise ValueError(
                f"LogMel.num_mels: {num_mels} mel bands between {min_hertz:g} and {max_hertz:g} Hz are too "
                "narrow to compute; use fewer bands or a wider range."
            )
        fft_size *= 2
