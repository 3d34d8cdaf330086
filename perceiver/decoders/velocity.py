"""Head for flow matching: the velocity of each token of a noisy sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.adapters.content import Content, Invertible
from perceiver.attention.projection import lecun_linear
from perceiver.decoders.decoder import StateHead
from perceiver.runtime.ranges import check_positive
from perceiver.tokens.masks import zero_masked


@dataclass(frozen=True, kw_only=True)
class Velocity:
    """The predicted velocity of noisy samples.

    Args:
        values: `(B, *grid, c)`, in the layout of the adapter's `content`.
        latents: `(B, N, D)`, the `previous` of the next call of a model with latent self-conditioning.

    Examples:
        >>> import torch
        >>> from perceiver.decoders import Velocity
        >>> Velocity(values=torch.rand(2, 7, 7, 16), latents=torch.rand(2, 8, 32)).values.shape
        torch.Size([2, 7, 7, 16])
    """

    values: Float[Tensor, "batch *grid content"]
    latents: Float[Tensor, "batch latents channels"]


def shifted(time: Tensor, shift: float) -> Tensor:
    """Return times `t / (t + s (1 - t))`: with a shift s above 1, times between 0 and 1 move towards the noise at 0.

    What a sample shows is decided near the noise, the earlier the more elements it has (Esser et al. 2024, arXiv:2403.03206,
    section 5.3.2, whose times run the other way).
    """
    return time / (time + shift * (1 - time))


class VelocityHead(StateHead):
    """A linear map of the written tokens of a `perceiver.encoders.interface.Interface` to the velocity of their content.

    The network predicts only what a factor of the noisy content cannot. For data of variance s², independent of the noise,
    the best factor that predicts `x - noise` from `x_t = (1 - t) noise + t x` is `(t s² - (1 - t)) / (t² s² + (1 - t)²)`,
    and the error has the variance `s² / (t² s² + (1 - t)²)`. The outputs are scaled by its root, as in Karras et al. 2022
    (arXiv:2206.00364, section 5), so that what they predict has variance 1 at every time.

    Args:
        state_channels: width d of the state.
        adapters: the model's adapters by modality.
        modality: modality that is generated. Its adapter must be `perceiver.adapters.Invertible`: pixels, patches,
            frames of samples, points with all their values.
        condition_dropout: share of the training samples from which all conditions are absent, as
            `perceiver.objectives.FlowMatching` trains the model. Recorded here, so that a loaded model knows whether it
            can be guided.
        time_shift: how much generation dwells near the noise, as the times of training do; see `shifted`. Recorded here, as
            the default of `perceiver.generation.flow.generate`.
        data_std: s, the standard deviation of the content as the adapter gets it; 1 for normalised images.

    Raises:
        ValueError: without an adapter of the modality, if its tokens do not hold the whole input, or for an invalid
            share.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import ImagePatches
        >>> from perceiver.decoders import VelocityHead
        >>> image = ImagePatches(image_channels=1, patch=4, position=Fourier(num_bands=4, resolution=(7, 7)))
        >>> head = VelocityHead(state_channels=32, adapters={"image": image}, modality="image")
        >>> noisy = torch.rand(2, 7, 7, 16)
        >>> head(torch.rand(2, 7, 7, 32), noisy=noisy, time=torch.tensor([0.1, 0.9])).shape
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
        time_shift: float = 1.0,
        data_std: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= condition_dropout < 1:
            raise ValueError(
                f"VelocityHead.condition_dropout: expected a share of at least 0 and below 1, got {condition_dropout}."
            )
        check_positive("VelocityHead", data_std=data_std, time_shift=time_shift)
        if modality not in adapters:
            raise ValueError(
                f"VelocityHead.modality: expected one of the model's modalities {sorted(adapters)}, got {modality!r}."
            )
        adapter = adapters[modality]
        if not isinstance(adapter, Invertible):
            raise ValueError(
                f"VelocityHead.modality: expected an adapter whose tokens hold all of {modality!r} "
                f"(perceiver.adapters.Invertible), such as ImagePatches, WaveformFrames or PointValues; got "
                f"{type(adapter).__name__}."
            )
        channels = adapter.content_channels
        self.modality = modality
        self.condition_dropout = condition_dropout
        self.time_shift = time_shift
        self.data_std = data_std
        self.output_channels = channels
        self.norm = nn.LayerNorm(state_channels)
        self.output = lecun_linear(state_channels, channels)
        nn.init.zeros_(self.output.weight)

    def forward(
        self,
        state: Float[Tensor, "batch *grid channels"],
        *,
        noisy: Float[Tensor, "batch *grid content"],
        time: Float[Tensor, "batch_or_1"],
    ) -> Float[Tensor, "batch *grid content"]:
        """Map written tokens `(B, *grid, d)` to velocities `(B, *grid, c)`.

        Args:
            state: written tokens.
            noisy: content of the noisy samples by token; finite.
            time: `(B or 1,)` in [0, 1].
        """
        outputs: Tensor = self.output(self.norm(state))
        t = time.to(noisy.dtype).reshape(-1, *[1] * (noisy.ndim - 1))
        variance = self.data_std**2
        total = t**2 * variance + (1 - t) ** 2
        linear = (t * variance - (1 - t)) / total * noisy
        return linear + outputs * (variance / total).sqrt()

    def noisy(
        self, adapters: Mapping[str, nn.Module] | nn.ModuleDict, x: Tensor, mask: Tensor | None
    ) -> Float[Tensor, "batch *grid content"]:
        """Return the content of noisy samples by token, with zeros where it is not valid.

        Args:
            adapters: the model's adapters by modality.
            x: noisy samples, as the adapter takes them.
            mask: validity of their elements; None: all are valid.
        """
        content = self.by_token(adapters, x, mask)
        return zero_masked(content.values, content.valid)

    def by_token(
        self,
        adapters: Mapping[str, nn.Module] | nn.ModuleDict,
        velocity: Float[Tensor, "batch *raw"],
        mask: Bool[Tensor, "batch *any"] | None,
    ) -> Content:
        """Return raw samples, or their velocity, token by token, as the outputs have it, and the validity of the values.

        Args:
            adapters: the model's adapters by modality.
            velocity: samples, as the adapter takes them, or their velocity.
            mask: validity of the samples' elements, `(B,)` or `(B, *raw grid)`; None: all are valid.
        """
        adapter = self._adapter(adapters)
        content = adapter.content(velocity, mask)
        valid = content.valid
        if valid is None and mask is not None:
            tokens: Tensor | None = cast("Any", adapter)(velocity, mask).mask
            valid = None if tokens is None else tokens[..., None].expand(content.values.shape)
        values = content.values
        return Content(values=values.to(torch.promote_types(values.dtype, torch.float32)), valid=valid)

    def raw(
        self, adapters: Mapping[str, nn.Module] | nn.ModuleDict, like: Tensor, values: Float[Tensor, "batch *grid content"]
    ) -> Float[Tensor, "batch *raw"]:
        """Return outputs in the shape of raw samples, that of `like`."""
        made: Tensor = self._adapter(adapters).with_content(like, values)
        return made

    def _adapter(self, adapters: Mapping[str, nn.Module] | nn.ModuleDict) -> Invertible:
        adapter = adapters[self.modality]
        assert isinstance(adapter, Invertible)
        return adapter
