"""Convolutional networks of torchvision: the feature map of any node."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from perceiver.adapters.backbones.network import FeatureNetwork
from perceiver.checkpoints.allocation import cutting
from perceiver.interop.backbones.downloads import cached_by_torch, downloaded
from perceiver.interop.backbones.request import BackboneError, BackboneRequest
from perceiver.interop.files import WeightFileError, read_weight_file

_FAMILIES = ("resnet", "resnext", "wide_resnet", "convnext", "efficientnet", "mobilenet", "regnet", "densenet", "mnasnet")
_PROBE = 64  # pixels of the image that shows the size of the feature map
_NODE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*", re.ASCII)


@final
class TorchvisionNetwork(FeatureNetwork):
    """A convolutional network of torchvision with random weights, cut behind a node. Reads no files and never the network.

    Args:
        architecture: name of a model, such as "resnet18": one of the families resnet, resnext, wide_resnet, convnext,
            efficientnet, mobilenet, regnet, densenet, mnasnet.
        stage: name of a node, such as "layer3" or "features.5"; None: the last feature map.

    Examples:
        >>> import torch
        >>> from perceiver.interop.backbones.torchvision_images import TorchvisionNetwork
        >>> network = TorchvisionNetwork(architecture="mobilenet_v3_small", stage="features.3").eval()
        >>> network(torch.rand(1, 3, 64, 64)).shape, network.strides
        (torch.Size([1, 24, 8, 8]), (8, 8))
    """

    def __init__(self, *, architecture: str, stage: str | None = None) -> None:
        from torchvision.models.feature_extraction import create_feature_extractor

        with cutting() as keep:
            model = made(architecture)
            node = stage or _last_map(model)
            if not _NODE.fullmatch(node):
                raise BackboneError(f"TorchvisionNetwork.stage: expected the name of a node, layer3, got {node[:60]!r}.")
            try:
                cut = create_feature_extractor(model.eval(), {node: "features"})
            except ValueError as error:
                names = ", ".join(name for name, _ in model.named_children())
                raise BackboneError(
                    f"TorchvisionNetwork.stage: {architecture} has no node {node!r}; its parts: {names}."
                ) from error
            keep(cut)
        with torch.no_grad():
            shape = cut(torch.zeros(1, 3, _PROBE, _PROBE))["features"].shape
        if len(shape) != 4:
            raise BackboneError(
                f"TorchvisionNetwork.stage: expected a feature map (1, C, H, W) at {node!r}, got shape {tuple(shape)}; "
                "choose an earlier node."
            )
        super().__init__(channels=shape[1], strides=(_PROBE // shape[2], _PROBE // shape[3]))
        self.model = cut
        self.architecture = architecture
        self.stage = node

    def forward(
        self, x: Float[Tensor, "batch c h w"], mask: Bool[Tensor, "batch h w"] | None = None
    ) -> Float[Tensor, "batch features rows columns"]:
        """Return the feature map."""
        return self.model(x)["features"]  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"architecture={self.architecture!r}, stage={self.stage!r}"


def made(architecture: str) -> Any:
    """Build a whole model of torchvision with random weights; BackboneError for a name that is not on the list."""
    from torchvision import models  # slow to import, rarely needed

    known = [name for name in models.list_models(module=models) if name.startswith(_FAMILIES)]
    if architecture not in known:
        raise BackboneError(
            f"torchvision: expected one of {', '.join(known[:8])}, … of the families {', '.join(_FAMILIES)}, got "
            f"{str(architecture)[:80]!r}."
        )
    return models.get_model(architecture, weights=None)


def _last_map(model: Any) -> str:
    for name in ("layer4", "features", "trunk_output", "layers"):
        if hasattr(model, name):
            return name
    raise BackboneError(f"torchvision: {type(model).__name__}: set stage to the name of a feature map.")


@final
class TorchvisionImages(BackboneRequest):
    """A convolutional network of torchvision for a modality of images.

    Args:
        model_name: see `TorchvisionNetwork`.
        pretrained: True downloads torchvision's default weights, or takes them from torch's cache; a path names a file with
            a state dict; False: random weights.
        stage: see `TorchvisionNetwork`.
        image_size: height and width, or one number for both; None: those of the pretraining.
        frozen, lr_multiplier, embed_channels, num_bands: see `BackboneRequest`.

    Raises:
        BackboneError: for an unknown model, or weights that are not available.
    """

    kind: ClassVar[str] = "image"

    def __init__(
        self,
        *,
        model_name: str,
        pretrained: bool | str = True,
        stage: str | None = None,
        image_size: int | Sequence[int] | None = None,
        frozen: bool = True,
        lr_multiplier: float = 1.0,
        embed_channels: int | None = None,
        num_bands: int = 8,
    ) -> None:
        super().__init__(frozen=frozen, lr_multiplier=lr_multiplier, embed_channels=embed_channels, num_bands=num_bands)
        self.model_name = model_name
        self.pretrained = pretrained
        self.stage = stage
        self.image_size = [image_size, image_size] if isinstance(image_size, int) else image_size
        self._built: TorchvisionNetwork | None = None

    def facts(self) -> dict[str, Any]:
        """Return size, framing and normalisation of torchvision's default weights."""
        self._network()  # an unknown model is reported first
        preset = self._weights_entry().transforms()
        [crop], [resize] = preset.crop_size, preset.resize_size
        return {
            "shape": [3, *(self.image_size or [crop, crop])],
            "mean": [float(value) for value in preset.mean],
            "std": [float(value) for value in preset.std],
            "crop_fraction": min(1.0, crop / resize),
            "interpolation": preset.interpolation.value,
        }

    def network(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """See `BackboneRequest.network`."""
        if spec["shape"][0] != 3:
            raise BackboneError(f"torchvision: {self.model_name} takes 3 channels, the data has {spec['shape'][0]}.")
        return {
            "_target_": f"{__name__}.TorchvisionNetwork",
            "architecture": self.model_name,
            "stage": self._network().stage,
        }

    def places(self, spec: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[float]]:
        """See `BackboneRequest.places`."""
        sizes = [length or 224 for length in spec["shape"][1:]]
        resolution = [-(-size // stride) for size, stride in zip(sizes, self._network().strides, strict=True)]
        return {"_target_": "perceiver.adapters.backbones.axes.RowsAndColumns"}, resolution

    def weights(self, spec: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """See `BackboneRequest.weights`."""
        if self.pretrained is False:
            return None
        if isinstance(self.pretrained, str):
            file = Path(self.pretrained).expanduser()
            state = read_weight_file(file)
        else:
            file, state = self._downloaded()
        try:
            made(self.model_name).load_state_dict(state)
        except RuntimeError as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines()[:3])[:400]
            raise WeightFileError(f"{file}: these are not weights of torchvision's {self.model_name}: {reason}") from error
        return {f"model.{name}": value for name, value in state.items()}

    def _downloaded(self) -> tuple[Path, dict[str, Tensor]]:
        address = self._weights_entry().url
        return cached_by_torch(address), downloaded(address, model=f"torchvision: {self.model_name}")

    def _weights_entry(self) -> Any:
        from torchvision import models

        return models.get_model_weights(self.model_name).DEFAULT

    def _network(self) -> TorchvisionNetwork:
        if self._built is None:
            self._built = TorchvisionNetwork(architecture=self.model_name, stage=self.stage)
        return self._built
