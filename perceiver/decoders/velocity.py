"""Head for flow matching: the velocity of each token of a noisy sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from perceiver.adapters.layout import OutputLayout
from perceiver.attention.projection import lecun_linear
from perceiver.decoders.decoder import StateHead


@dataclass(frozen=True, kw_only=True)
class Velocity:
    """The predicted velocity of noisy samples.

    Args:
        values: `(B, *grid, c)`, in the layout of the adapter's `content`.
        latents: `(B, N, D)`, the `previous` of the next call of a model with latent self-conditioning.
    """

    values: Float[Tensor, "batch *grid channels"]
    latents: Float[Tensor, "batch latents channels"]


class VelocityHead(StateHead):
    """A linear map of the written tokens of a `perceiver.interface.Interface` to the velocity of their content.

    Args:
        state_channels: width d of the state.
        adapters: the model's adapters by modality.
        modality: modality that is generated. Its adapter must hold the whole input in the content of its tokens: pixels,
            patches, frames of samples, points.
        condition_dropout: share of the training samples from which all conditions are absent, as
            `perceiver.objectives.FlowMatching` trains the model. Recorded here, so that a loaded model knows whether it
            can be guided.

    Raises:
        ValueError: without an adapter of the modality, if the adapter cannot make a raw input of its tokens, or for an
            invalid share.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import ImagePatches
        >>> from perceiver.decoders import VelocityHead
        >>> image = ImagePatches(image_channels=1, patch=4, position=Fourier(num_bands=4, resolution=(7, 7)))
        >>> head = VelocityHead(state_channels=32, adapters={"image": image}, modality="image")
        >>> head(torch.rand(2, 7, 7, 32)).shape
        torch.Size([2, 7, 7, 16])
    """

    output_channels: int

    def __init__(
        self,
        *,
        state_channels: int,
        adapters: Mapping[str, nn.Module],
        modality: str = "image",
        condition_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= condition_dropout < 1:
            raise ValueError(
                f"VelocityHead.condition_dropout: expected a share of at least 0 and below 1, got {condition_dropout}."
            )
        if modality not in adapters:
            raise ValueError(
                f"VelocityHead.modality: expected one of the model's modalities {sorted(adapters)}, got {modality!r}."
            )
        adapter = adapters[modality]
        channels = getattr(adapter, "content_channels", 0)
        if not (channels and hasattr(adapter, "with_content")):
            raise ValueError(
                f"VelocityHead.modality: expected an adapter from whose tokens {modality!r} can be made again, such as "
                f"ImagePatches or WaveformFrames, with content and the method with_content; got {type(adapter).__name__}."
            )
        self.modality = modality
        self.condition_dropout = condition_dropout
        self.output_channels = channels
        self.norm = nn.LayerNorm(state_channels)
        self.output = lecun_linear(state_channels, channels)
        nn.init.zeros_(self.output.weight)

    def forward(self, state: Float[Tensor, "batch *grid channels"]) -> Float[Tensor, "batch *grid content"]:
        """Map written tokens `(B, *grid, d)` to velocities `(B, *grid, c)`."""
        velocity: Tensor = self.output(self.norm(state))
        return velocity

    def layout(self, adapters: Mapping[str, nn.Module] | nn.ModuleDict) -> OutputLayout:
        """Return the conversion between raw samples and the content of their tokens."""
        return OutputLayout(modality=self.modality, adapter=adapters[self.modality], channels=self.output_channels)
