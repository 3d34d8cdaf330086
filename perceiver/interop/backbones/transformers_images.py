"""Vision transformers of transformers: the patches of the last layer as a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from jaxtyping import Bool, Float
from torch import Tensor

from perceiver.adapters.backbones.network import FeatureNetwork
from perceiver.interop.backbones.request import BackboneError, BackboneRequest
from perceiver.interop.backbones.transformers_models import Directory, family_of, made

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # numbers of Pillow


@final
class TransformersImageNetwork(FeatureNetwork):
    """A vision transformer with random weights: a feature per patch, without those of special tokens. Reads no files.

    Args:
        model_type, config: see `perceiver.interop.backbones.transformers_models.FAMILIES`.
    """

    def __init__(self, *, model_type: str, config: Mapping[str, Any]) -> None:
        model, settings = made(model_type, config, kind="image")
        super().__init__(channels=int(settings.hidden_size), strides=(int(settings.patch_size),) * 2, channels_last=True)
        self.model = model
        self.model_type = model_type
        self.prefix_tokens = family_of(model_type).prefix_tokens

    def forward(
        self, x: Float[Tensor, "batch c h w"], mask: Bool[Tensor, "batch h w"] | None = None
    ) -> Float[Tensor, "batch rows columns features"]:
        """Return the features of the patches."""
        features: Tensor = self.model(pixel_values=x).last_hidden_state[:, self.prefix_tokens :]
        rows, columns = (length // stride for length, stride in zip(x.shape[2:], self.strides, strict=True))
        return features.unflatten(1, (rows, columns))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"model_type={self.model_type!r}"


@final
class TransformersImages(BackboneRequest):
    """A vision transformer for a modality of images.

    Args:
        model_name: a directory with `config.json`, `model.safetensors` and `preprocessor_config.json`, or `owner/name` on
            the Hub.
        pretrained: False for random weights.
        layers: number of layers to keep; None: all.
        frozen, lr_multiplier, embed_channels, num_bands: see `BackboneRequest`.

    Raises:
        BackboneError: the model is missing, or of an unknown type.
    """

    kind: ClassVar[str] = "image"

    def __init__(
        self,
        *,
        model_name: str,
        pretrained: bool = True,
        layers: int | None = None,
        frozen: bool = True,
        lr_multiplier: float = 1.0,
        embed_channels: int | None = None,
        num_bands: int = 8,
    ) -> None:
        super().__init__(frozen=frozen, lr_multiplier=lr_multiplier, embed_channels=embed_channels, num_bands=num_bands)
        self.pretrained = pretrained
        self.layers = layers
        self._directory = Directory.find(model_name, kind="image", files=("preprocessor_config.json",))

    def facts(self) -> dict[str, Any]:
        """Return size, framing and normalisation of the pretraining."""
        config, settings = self._directory.config(), self._directory.settings("preprocessor_config.json")
        channels, side = int(config.get("num_channels", 3)), int(config.get("image_size", 224))
        resized = settings.get("size")
        shortest = resized.get("shortest_edge") if isinstance(resized, dict) else resized
        try:
            return {
                "shape": [channels, side, side],
                "mean": [float(value) for value in settings.get("image_mean", [0.5] * channels)],
                "std": [float(value) for value in settings.get("image_std", [0.5] * channels)],
                "crop_fraction": min(1.0, side / float(shortest)) if shortest and settings.get("do_center_crop") else 1.0,
                "interpolation": _FILTERS.get(settings.get("resample", 2), "bilinear"),
            }
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise BackboneError(f"{self._directory.folder}/preprocessor_config.json: {error}") from error

    def network(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """See `BackboneRequest.network`."""
        return {
            "_target_": "perceiver.interop.backbones.transformers_images.TransformersImageNetwork",
            "model_type": self._directory.model_type(),
            "config": self._directory.config(layers=self.layers, pretrained=bool(self.pretrained)),
        }

    def places(self, spec: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[float]]:
        """See `BackboneRequest.places`."""
        patch = int(self._directory.config().get("patch_size", 16))
        resolution = [max(1, (length or 224) // patch) for length in spec["shape"][1:]]
        return {"_target_": "perceiver.adapters.backbones.axes.RowsAndColumns"}, resolution

    def weights(self, spec: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """See `BackboneRequest.weights`."""
        if not self.pretrained:
            return None
        return {f"model.{name}": value for name, value in self._directory.weights(layers=self.layers).items()}
