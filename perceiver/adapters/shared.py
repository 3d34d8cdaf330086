"""One adapter for several modalities of one kind, such as drawings by two artists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class SharedAdapter(nn.Module):
    """Stands for the adapter of another modality, so that both modalities have the same weights.

    `perceiver.Perceiver` and `perceiver.load` replace it by that adapter. The fusion still has a padding for each modality.

    Args:
        modality: modality whose adapter is used, of the same kind and shape.

    Examples:
        >>> from perceiver import Encoder, Fourier, Fusion, Perceiver, PooledHead
        >>> from perceiver.adapters import ImagePixels, SharedAdapter
        >>> photo = ImagePixels(image_channels=1, position=Fourier(num_bands=4, resolution=(8, 8)))
        >>> fusion = Fusion(channels={"photo": photo.channels, "sketch": photo.channels})
        >>> encoder = Encoder(token_channels=fusion.channels, num_latents=4, latent_channels=32)
        >>> adapters = {"photo": photo, "sketch": SharedAdapter(modality="photo")}
        >>> head = PooledHead(latent_channels=32, num_classes=2)
        >>> model = Perceiver(adapters=adapters, fusion=fusion, encoder=encoder, head=head)
        >>> model.adapters["sketch"] is model.adapters["photo"]
        True
    """

    def __init__(self, *, modality: str) -> None:
        super().__init__()
        self.modality = modality

    def forward(self, x: Any, mask: Tensor | None = None) -> Any:
        """Raise RuntimeError: only a model knows the other adapter."""
        raise RuntimeError(
            f"SharedAdapter: expected a perceiver.Perceiver with an adapter of {self.modality!r}, which takes its place."
        )


def with_shared(adapters: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Replace every `SharedAdapter` by the adapter that it stands for.

    Raises:
        ValueError: the other modality is unknown, or its adapter is itself a `SharedAdapter`.
    """
    owners = {name: adapter for name, adapter in adapters.items() if not isinstance(adapter, SharedAdapter)}
    for name, adapter in adapters.items():
        if isinstance(adapter, SharedAdapter) and adapter.modality not in owners:
            raise ValueError(
                f"model.adapters.{name}.modality: expected a modality with an adapter of its own, one of {sorted(owners)}, "
                f"got {adapter.modality!r}."
            )
    return {
        name: owners[adapter.modality] if isinstance(adapter, SharedAdapter) else adapter
        for name, adapter in adapters.items()
    }
