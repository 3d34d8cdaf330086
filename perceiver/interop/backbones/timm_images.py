"""Image networks of timm: the feature map of any stage of a convolutional network or transformer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

from jaxtyping import Bool, Float
from torch import Tensor

from perceiver.adapters.backbones.network import FeatureNetwork
from perceiver.checkpoints.allocation import cutting
from perceiver.interop.backbones.downloads import fetched
from perceiver.interop.backbones.request import BackboneError, BackboneRequest
from perceiver.interop.files import WeightFileError, read_weight_file

# timm's other names, `hf-hub:…` and `local-dir:…`, fetch or open what they name.
_NAME = re.compile(r"[a-z0-9_]+", re.ASCII)


@final
class TimmNetwork(FeatureNetwork):
    """A network of timm with random weights, cut behind a stage. Reads no files and never the network.

    Args:
        architecture: name of a model without its weights, such as "resnet18".
        stage: number of the stage from 0; negative numbers count from the last.
        image_channels: C of the image.
        image_size: height and width, for networks that need to know them; None: that of the architecture.

    Examples:
        >>> import torch
        >>> from perceiver.interop.backbones.timm_images import TimmNetwork
        >>> network = TimmNetwork(architecture="test_resnet", stage=2).eval()
        >>> network(torch.rand(1, 3, 64, 64)).shape, network.strides
        (torch.Size([1, 48, 8, 8]), (8, 8))
    """

    def __init__(
        self, *, architecture: str, stage: int = -1, image_channels: int = 3, image_size: Sequence[int] | None = None
    ) -> None:
        with cutting() as keep:
            model = made(architecture, image_channels=image_channels, image_size=image_size)
            stages = model.feature_info
            if not -len(stages) <= stage < len(stages):
                raise ValueError(
                    f"TimmNetwork.stage: expected 0 to {len(stages) - 1}, or -1 to -{len(stages)} for {architecture}, got "
                    f"{stage}."
                )
            number = stage % len(stages)
            model.prune_intermediate_layers([number], prune_norm=True, prune_head=True)
            keep(model)
        super().__init__(channels=int(stages[number]["num_chs"]), strides=(int(stages[number]["reduction"]),) * 2)
        self.model = model
        self.architecture = architecture
        self.stage = number

    def forward(
        self, x: Float[Tensor, "batch c h w"], mask: Bool[Tensor, "batch h w"] | None = None
    ) -> Float[Tensor, "batch features rows columns"]:
        """Return the feature map."""
        [features] = self.model.forward_intermediates(x, indices=[self.stage], intermediates_only=True)
        return features  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"architecture={self.architecture!r}, stage={self.stage}"


def made(architecture: str, *, image_channels: int, image_size: Sequence[int] | None, **loading: Any) -> Any:
    """Build a whole model of timm; from its name alone unless `loading` arguments are given."""
    timm = _timm()
    if not isinstance(architecture, str) or not _NAME.fullmatch(architecture) or not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture}*")[:5] if _NAME.fullmatch(str(architecture)) else []
        hint = f"; did you mean {', '.join(close)}?" if close else " (timm.list_models())"
        raise BackboneError(f"timm: expected the name of a model, such as resnet18, got {str(architecture)[:80]!r}{hint}")
    sized = {} if image_size is None else {"img_size": tuple(image_size)}
    try:
        model = timm.create_model(architecture, in_chans=image_channels, **sized, **{"pretrained": False, **loading})
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        model = timm.create_model(architecture, in_chans=image_channels, **{"pretrained": False, **loading})
    if not (hasattr(model, "forward_intermediates") and hasattr(model, "prune_intermediate_layers")):
        raise BackboneError(f"timm: {architecture} offers no feature maps of its stages; choose another model.")
    return model


@final
class Timm(BackboneRequest):
    """A model of timm for a modality of images.

    Args:
        model_name: name of the model, with its weights or without: "resnet18", "resnet18.a1_in1k".
        pretrained: True downloads the weights, or takes them from the Hub's cache; a path names a file with them
            (`model.safetensors`, or a state dict of torch); False: random weights.
        stage: see `TimmNetwork`.
        image_size: height and width, or one number for both; None: those of the pretraining.
        frozen, lr_multiplier, embed_channels, num_bands: see `BackboneRequest`.

    Raises:
        BackboneError: for an unknown model, or weights that are not available.

    Examples:
        >>> from perceiver.interop.backbones import Timm
        >>> photo = Timm(model_name="test_resnet", pretrained=False, image_size=64)
        >>> photo.facts()["shape"]
        [3, 64, 64]
        >>> photo.build().channels
        130
    """

    kind: ClassVar[str] = "image"

    def __init__(
        self,
        *,
        model_name: str,
        pretrained: bool | str = True,
        stage: int = -1,
        image_size: int | Sequence[int] | None = None,
        frozen: bool = True,
        lr_multiplier: float = 1.0,
        embed_channels: int | None = None,
        num_bands: int = 8,
    ) -> None:
        super().__init__(frozen=frozen, lr_multiplier=lr_multiplier, embed_channels=embed_channels, num_bands=num_bands)
        self.model_name = model_name
        self.architecture = str(model_name).partition(".")[0]
        self.pretrained = pretrained
        self.stage = stage
        self.image_size = [image_size, image_size] if isinstance(image_size, int) else image_size

    def facts(self) -> dict[str, Any]:
        """Return size, framing and normalisation of the pretraining, from timm's data configuration."""
        settings = _data_settings(self.model_name)
        channels, *size = settings["input_size"]
        return {
            "shape": [channels, *(self.image_size or size)],
            "mean": [float(value) for value in settings["mean"]],
            "std": [float(value) for value in settings["std"]],
            "crop_fraction": float(settings["crop_pct"]),
            "interpolation": str(settings["interpolation"]),
        }

    def network(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """See `BackboneRequest.network`."""
        channels, *size = spec["shape"]
        return {
            "_target_": "perceiver.interop.backbones.timm_images.TimmNetwork",
            "architecture": self.architecture,
            "stage": self.stage,
            "image_channels": channels,
            "image_size": None if None in size else list(size),
        }

    def places(self, spec: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[float]]:
        """See `BackboneRequest.places`."""
        import torch

        with torch.device("meta"):
            network = TimmNetwork(**{key: value for key, value in self.network(spec).items() if key != "_target_"})
        size = [length or 224 for length in spec["shape"][1:]]
        resolution = [-(-length // stride) for length, stride in zip(size, network.strides, strict=True)]
        return {"_target_": "perceiver.adapters.backbones.axes.RowsAndColumns"}, resolution

    def weights(self, spec: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """See `BackboneRequest.weights`."""
        if self.pretrained is False:
            return None
        file = Path(self.pretrained).expanduser() if isinstance(self.pretrained, str) else self._download()
        node = self.network(spec)
        try:
            loaded = made(
                self.architecture,
                image_channels=node["image_channels"],
                image_size=node["image_size"],
                pretrained=True,
                pretrained_cfg_overlay={"state_dict": read_weight_file(file), "custom_load": False},
            )
        except (RuntimeError, KeyError) as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines()[:3])[:400]
            raise WeightFileError(
                f"{file}: its weights are not those of timm's {self.architecture}: {reason}. Choose the model that they "
                "belong to."
            ) from error
        return {f"model.{name}": value for name, value in loaded.state_dict().items()}

    def _download(self) -> Path:
        settings = _timm().get_pretrained_cfg(self.model_name, allow_unregistered=True)
        repository = getattr(settings, "hf_hub_id", None)
        if not repository:
            address = getattr(settings, "url", None)
            where = f"Download {address}, then set" if address else "Set"
            raise BackboneError(
                f"timm: {self.model_name} has no weights on the Hub. {where} pretrained=FILE, or pretrained=false for "
                "random weights."
            )
        return fetched(repository, ["model.safetensors"], setting="pretrained") / "model.safetensors"


def _data_settings(model_name: str) -> dict[str, Any]:
    """Return timm's data configuration of a model, without building it."""
    timm = _timm()
    if not timm.is_model(str(model_name).partition(".")[0]):
        made(str(model_name).partition(".")[0], image_channels=3, image_size=None)  # raises
    settings = timm.get_pretrained_cfg(model_name, allow_unregistered=True)
    found: dict[str, Any] = timm.data.resolve_data_config(pretrained_cfg=settings.to_dict() if settings else {})
    return found


def _timm() -> Any:
    import timm  # slow to import, rarely needed
    import timm.data

    return timm
