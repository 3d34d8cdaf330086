"""Sound networks of transformers: wav2vec2 and its relatives on waveforms, AST on spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from perceiver.adapters.backbones.network import FeatureNetwork
from perceiver.interop.backbones.convolved import covered, frames_mask
from perceiver.interop.backbones.request import BackboneError, BackboneRequest
from perceiver.interop.backbones.transformers_models import Directory, made
from perceiver.tokens.masks import extents

AST = "audio-spectrogram-transformer"
SAMPLE_RATE = 16000  # of all published models of these types


@final
class TransformersWaveformNetwork(FeatureNetwork):
    """wav2vec2, HuBERT, WavLM or data2vec with random weights: a feature per 20 ms. Reads no files.

    Args:
        model_type, config: see `perceiver.interop.backbones.transformers_models.FAMILIES`.
        normalise: give each recording mean 0 and variance 1.
    """

    def __init__(self, *, model_type: str, config: Mapping[str, Any], normalise: bool = True) -> None:
        if model_type == AST:
            raise BackboneError(f"transformers: {AST} takes spectra; use TransformersSpectrumNetwork.")
        model, settings = made(model_type, config, kind="audio")
        self_strides = [int(stride) for stride in settings.conv_stride]
        super().__init__(channels=int(settings.hidden_size), strides=(prod(self_strides),), channels_last=True)
        self.model = model
        self.model_type = model_type
        self.normalise = normalise
        self.kernels = [int(kernel) for kernel in settings.conv_kernel]
        self.conv_strides = self_strides

    def forward(
        self, x: Float[Tensor, "batch audio_channels samples"], mask: Bool[Tensor, "batch samples"] | None = None
    ) -> Float[Tensor, "batch frames features"]:
        """Return the features of mono waveforms."""
        waveform = mono(x)
        if self.normalise:
            variance, mean = torch.var_mean(waveform, dim=1, keepdim=True, unbiased=False)
            waveform = (waveform - mean) / torch.sqrt(variance + 1e-7)
        waveform = F.pad(waveform, (0, max(0, covered(self.kernels, self.conv_strides) - waveform.shape[1])))
        return self.model(input_values=waveform).last_hidden_state  # type: ignore[no-any-return]

    def valid_tokens(self, mask: Bool[Tensor, "batch samples"]) -> Bool[Tensor, "batch frames"]:
        """Return which frames depend on valid samples only; at least one of each present recording."""
        return frames_mask(mask, kernels=self.kernels, strides=self.conv_strides)

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"model_type={self.model_type!r}, normalise={self.normalise}"


@final
class TransformersSpectrumNetwork(FeatureNetwork):
    """The audio spectrogram transformer with random weights: a feature per patch of mel bands and frames. Reads no files.

    Recordings are padded or cut to the fixed number of frames of the network, 10.24 s for the published models; patches that
    begin behind the recording are invalid.

    Args:
        config: see `perceiver.interop.backbones.transformers_models.FAMILIES`.
        mean, std: of log-mel values; they are divided by twice the deviation, as in the pretraining.
    """

    def __init__(self, *, config: Mapping[str, Any], mean: float = -4.2677393, std: float = 4.5689974) -> None:
        model, settings = made(AST, config, kind="audio")
        strides = (int(settings.frequency_stride), int(settings.time_stride))
        super().__init__(channels=int(settings.hidden_size), strides=strides, channels_last=True, pads=True)
        if not std > 0:
            raise ValueError(f"TransformersSpectrumNetwork.std: expected a number above 0, got {std}.")
        self.model = model
        self.mean = mean
        self.std = std
        self.num_mels, self.num_frames = int(settings.num_mel_bins), int(settings.max_length)
        patch = int(settings.patch_size)
        self.grid = tuple(
            (length - patch) // stride + 1 for length, stride in zip((self.num_mels, self.num_frames), strides, strict=True)
        )

    def forward(
        self, x: Float[Tensor, "batch audio_channels samples"], mask: Bool[Tensor, "batch samples"] | None = None
    ) -> Float[Tensor, "batch bands times features"]:
        """Return the features of mono waveforms of 16 kHz."""
        from torchaudio.compliance.kaldi import fbank  # only these models need it

        waveform = mono(x)
        waveform = F.pad(waveform, (0, max(0, _WINDOW - waveform.shape[1])))
        with torch.autocast(x.device.type, enabled=False):
            spectra = [
                fbank(row[None].float(), sample_frequency=SAMPLE_RATE, window_type="hanning", num_mel_bins=self.num_mels)
                for row in waveform
            ]
        spectrum = torch.stack(spectra)[:, : self.num_frames]
        spectrum = F.pad(spectrum, (0, 0, 0, self.num_frames - spectrum.shape[1]))
        spectrum = ((spectrum - self.mean) / (2 * self.std)).to(x.dtype)
        features: Tensor = self.model(input_values=spectrum).last_hidden_state[:, 2:]
        return features.unflatten(1, self.grid)  # type: ignore[no-any-return]

    def valid_tokens(self, mask: Bool[Tensor, "batch samples"]) -> Bool[Tensor, "batch bands times"]:
        """Return which patches begin within the recording."""
        [samples] = extents(mask)
        frames = (samples - _WINDOW).clamp(min=0) // _HOP + 1
        starts = torch.arange(self.grid[1], device=mask.device) * self.strides[1]
        valid = (starts < frames[:, None]) & (samples > 0)[:, None]
        return valid[:, None].expand(-1, *self.grid)

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"mean={self.mean}, std={self.std}, frames={self.num_frames}"


_WINDOW, _HOP = 400, 160  # samples of 25 and 10 ms


def mono(x: Float[Tensor, "batch audio_channels samples"]) -> Float[Tensor, "batch samples"]:
    """Return mono waveforms without the channel axis; ValueError for other waveforms."""
    if x.ndim != 3 or x.shape[1] != 1 or not x.is_floating_point():
        raise ValueError(f"sound: expected mono waveforms (batch, 1, samples), got {x.dtype} {tuple(x.shape)}.")
    return x[:, 0]


@final
class TransformersSounds(BackboneRequest):
    """A sound network of transformers for a modality of sound.

    Args:
        model_name: a directory with `config.json`, `model.safetensors` and `preprocessor_config.json`, or `owner/name` on
            the Hub.
        pretrained: False for random weights.
        layers: number of layers to keep; None: all.
        duration_seconds: times from 0 to this become positions from -1 to 1.
        frozen, lr_multiplier, embed_channels, num_bands: see `BackboneRequest`.

    Raises:
        BackboneError: the model is missing, or of an unknown type.
    """

    kind: ClassVar[str] = "audio"

    def __init__(
        self,
        *,
        model_name: str,
        pretrained: bool = True,
        layers: int | None = None,
        duration_seconds: float = 10.0,
        frozen: bool = True,
        lr_multiplier: float = 1.0,
        embed_channels: int | None = None,
        num_bands: int = 8,
    ) -> None:
        super().__init__(frozen=frozen, lr_multiplier=lr_multiplier, embed_channels=embed_channels, num_bands=num_bands)
        self.pretrained = pretrained
        self.layers = layers
        self.duration_seconds = duration_seconds
        self._directory = Directory.find(model_name, kind="audio", files=("preprocessor_config.json",))

    def facts(self) -> dict[str, Any]:
        """Return the sample rate, and a normalisation that leaves waveforms unchanged."""
        rate = self._directory.settings("preprocessor_config.json").get("sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise BackboneError(f"{self._directory.folder}: expected a sampling_rate of {SAMPLE_RATE}, got {rate!r}.")
        facts: dict[str, Any] = {"sample_rate": SAMPLE_RATE, "mean": [0.0], "std": [1.0], "shape": [1, None]}
        if self._directory.model_type() == AST:
            frames = int(self._directory.config().get("max_length", 1024))
            facts["max_seconds"] = ((frames - 1) * _HOP + _WINDOW) / SAMPLE_RATE
        return facts

    def network(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """See `BackboneRequest.network`."""
        settings = self._directory.settings("preprocessor_config.json")
        config = self._directory.config(layers=self.layers, pretrained=bool(self.pretrained))
        if self._directory.model_type() == AST:
            numbers = {key: float(settings[key]) for key in ("mean", "std") if type(settings.get(key)) in (int, float)}
            return {"_target_": f"{__name__}.TransformersSpectrumNetwork", "config": config, **numbers}
        return {
            "_target_": f"{__name__}.TransformersWaveformNetwork",
            "model_type": self._directory.model_type(),
            "config": config,
            "normalise": bool(settings.get("do_normalize", True)),
        }

    def places(self, spec: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[float]]:
        """See `BackboneRequest.places`."""
        config = self._directory.config()
        if self._directory.model_type() == AST:
            sizes = (int(config.get("num_mel_bins", 128)), int(config.get("max_length", 1024)))
            return {"_target_": "perceiver.adapters.backbones.axes.RowsAndColumns", "fixed": True}, [
                size / int(config.get(stride, 10))
                for size, stride in zip(sizes, ("frequency_stride", "time_stride"), strict=True)
            ]
        step = prod(config.get("conv_stride", [5, 2, 2, 2, 2, 2, 2])) / SAMPLE_RATE
        axes = {
            "_target_": "perceiver.adapters.backbones.axes.Times",
            "step_seconds": step,
            "duration_seconds": self.duration_seconds,
        }
        return axes, [self.duration_seconds / step]

    def weights(self, spec: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """See `BackboneRequest.weights`."""
        if not self.pretrained:
            return None
        return {f"model.{name}": value for name, value in self._directory.weights(layers=self.layers).items()}
