"""wav2vec2, HuBERT and WavLM of torchaudio: a feature per 20 ms of any layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, ClassVar, final

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from perceiver.adapters.backbones.network import FeatureNetwork
from perceiver.checkpoints.allocation import cutting
from perceiver.interop.backbones.convolved import covered, frames_mask
from perceiver.interop.backbones.downloads import downloaded
from perceiver.interop.backbones.request import BackboneError, BackboneRequest
from perceiver.interop.backbones.transformers_sounds import SAMPLE_RATE, mono
from perceiver.interop.files import WeightFileError, read_weight_file

ARCHITECTURES = (
    *("wav2vec2_base", "wav2vec2_large", "wav2vec2_large_lv60k", "wav2vec2_xlsr_300m"),
    *("hubert_base", "hubert_large", "hubert_xlarge", "wavlm_base", "wavlm_large"),
)
"""Functions of torchaudio.models; the pipelines of the same name in capitals have weights."""

_KERNELS, _STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # of all of them


@final
class TorchaudioNetwork(FeatureNetwork):
    """A network of torchaudio on waveforms of 16 kHz, with random weights. Reads no files and never the network.

    Args:
        architecture: one of `ARCHITECTURES`.
        layers: number of transformer layers to keep; None: all.
        normalise: give each recording mean 0 and variance 1, as the large models were trained.
    """

    def __init__(self, *, architecture: str, layers: int | None = None, normalise: bool = False) -> None:
        from torchaudio import models  # slow to import, rarely needed

        if architecture not in ARCHITECTURES:
            raise BackboneError(f"torchaudio: expected one of {', '.join(ARCHITECTURES)}, got {str(architecture)[:60]!r}.")
        with cutting() as keep:
            # Whole layers would be dropped at random.
            model = getattr(models, architecture)(encoder_layer_drop=0.0)
            known = len(model.encoder.transformer.layers)
            if layers is not None:
                if not 1 <= layers <= known:
                    raise BackboneError(f"TorchaudioNetwork.layers: expected 1 to {known}, or null; got {layers}.")
                del model.encoder.transformer.layers[layers:]
            keep(model)
        channels = model.encoder.feature_projection.projection.out_features
        super().__init__(channels=channels, strides=(prod(_STRIDES),), channels_last=True)
        self.model = model
        self.architecture = architecture
        self.normalise = normalise

    def forward(
        self, x: Float[Tensor, "batch audio_channels samples"], mask: Bool[Tensor, "batch samples"] | None = None
    ) -> Float[Tensor, "batch frames features"]:
        """Return the features of mono waveforms."""
        waveform = mono(x)
        if self.normalise:
            waveform = F.layer_norm(waveform, waveform.shape[1:])
        waveform = F.pad(waveform, (0, max(0, covered(_KERNELS, _STRIDES) - waveform.shape[1])))
        return self.model(waveform)[0]  # type: ignore[no-any-return]

    def valid_tokens(self, mask: Bool[Tensor, "batch samples"]) -> Bool[Tensor, "batch frames"]:
        """Return which frames depend on valid samples only; at least one of each present recording."""
        return frames_mask(mask, kernels=_KERNELS, strides=_STRIDES)

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"architecture={self.architecture!r}, normalise={self.normalise}"


@final
class TorchaudioSounds(BackboneRequest):
    """A network of torchaudio for a modality of sound.

    Args:
        model_name: one of `ARCHITECTURES`.
        pretrained: True downloads the weights of torchaudio's pipeline, or takes them from torch's cache; a path names a
            file with a state dict; False: random weights.
        layers: see `TorchaudioNetwork`.
        duration_seconds: times from 0 to this become positions from -1 to 1.
        frozen, lr_multiplier, embed_channels, num_bands: see `BackboneRequest`.

    Raises:
        BackboneError: for an unknown model, or weights that are not available.
    """

    kind: ClassVar[str] = "audio"

    def __init__(
        self,
        *,
        model_name: str,
        pretrained: bool | str = True,
        layers: int | None = None,
        duration_seconds: float = 10.0,
        frozen: bool = True,
        lr_multiplier: float = 1.0,
        embed_channels: int | None = None,
        num_bands: int = 8,
    ) -> None:
        super().__init__(frozen=frozen, lr_multiplier=lr_multiplier, embed_channels=embed_channels, num_bands=num_bands)
        if model_name not in ARCHITECTURES:
            raise BackboneError(f"torchaudio: expected one of {', '.join(ARCHITECTURES)}, got {str(model_name)[:60]!r}.")
        self.model_name = model_name
        self.pretrained = pretrained
        self.layers = layers
        self.duration_seconds = duration_seconds

    def facts(self) -> dict[str, Any]:
        """Return the sample rate, and a normalisation that leaves waveforms unchanged."""
        return {"sample_rate": SAMPLE_RATE, "mean": [0.0], "std": [1.0], "shape": [1, None]}

    def network(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """See `BackboneRequest.network`."""
        return {
            "_target_": f"{__name__}.TorchaudioNetwork",
            "architecture": self.model_name,
            "layers": self.layers,
            "normalise": bool(self._bundle()._normalize_waveform),
        }

    def places(self, spec: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[float]]:
        """See `BackboneRequest.places`."""
        step = prod(_STRIDES) / SAMPLE_RATE
        axes = {
            "_target_": "perceiver.adapters.backbones.axes.Times",
            "step_seconds": step,
            "duration_seconds": self.duration_seconds,
        }
        return axes, [self.duration_seconds / step]

    def weights(self, spec: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """See `BackboneRequest.weights`."""
        if self.pretrained is False:
            return None
        bundle = self._bundle()
        address = f"https://download.pytorch.org/torchaudio/models/{bundle._path}"
        if isinstance(self.pretrained, str):
            state = read_weight_file(Path(self.pretrained).expanduser())
        else:
            state = downloaded(address, model=f"torchaudio: {self.model_name}")
        weights = {f"model.{name}": value for name, value in state.items()}
        if not any(name.startswith("model.encoder.transformer.") for name in weights):
            raise WeightFileError(f"{self.pretrained}: its weights are not those of torchaudio's {self.model_name}.")
        return weights

    def _bundle(self) -> Any:
        from torchaudio import pipelines

        return getattr(pipelines, self.model_name.upper())
