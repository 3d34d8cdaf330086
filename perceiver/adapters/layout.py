"""Outputs of a decoder that say a raw input again: in which layout, and how to get from one to the other and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from perceiver.adapters.content import Content, Reconstructible
from perceiver.masks import grid_mask


@dataclass(frozen=True, kw_only=True)
class OutputLayout:
    """The layout of outputs that reconstruct a modality.

    Outputs of as many channels as the adapter's tokens hold values are what these hold, one output for each token: patches
    of a video, frames of sound. Outputs of as many channels as the raw input has are its elements one by one, in
    channels-first inputs: pixels. The published multimodal autoencoder has the former for sound and the latter for video.

    Args:
        modality: its name, for error messages.
        adapter: of the modality.
        channels: of the outputs.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import ImagePatches, OutputLayout
        >>> adapter = ImagePatches(image_channels=3, patch=4, position=Fourier(num_bands=4, resolution=(8, 8)))
        >>> layout = OutputLayout(modality="image", adapter=adapter, channels=48)
        >>> layout.of_tokens
        True
        >>> image = torch.rand(2, 3, 32, 32)
        >>> torch.equal(layout.raw(image, layout.content(image).values), image)
        True
    """

    modality: str
    adapter: nn.Module
    channels: int

    @property
    def of_tokens(self) -> bool:
        """Whether outputs are what tokens hold."""
        return isinstance(self.adapter, Reconstructible) and self.adapter.content_channels == self.channels

    @property
    def has_raw(self) -> bool:
        """Whether there is a way back to the raw input."""
        return not self.of_tokens or hasattr(self.adapter, "with_content")

    def content(self, x: Any, mask: Tensor | None = None) -> Content:
        """Raw input and mask, as the adapter takes them -> what outputs shall be, `(B, *grid, channels)` in float32.

        Its `valid` says which values there are; None: all of them.

        Raises:
            ValueError: outputs have neither as many channels as tokens hold values nor as many as the input has.
        """
        if self.of_tokens:
            assert isinstance(self.adapter, Reconstructible)
            content = self.adapter.content(x, mask)
            valid = content.valid
            if valid is None and mask is not None:
                tokens: Tensor | None = self.adapter(x, mask).mask
                valid = None if tokens is None else tokens[..., None].expand(content.values.shape)
            return Content(values=content.values.float(), valid=valid)
        if not isinstance(x, Tensor) or x.ndim < 3 or x.shape[1] != self.channels:
            tokens_hold = getattr(self.adapter, "content_channels", 0)
            shape = tuple(x.shape) if isinstance(x, Tensor) else sorted(x)
            raise ValueError(
                f"output {self.modality!r}: has {self.channels} channels; expected {tokens_hold}, the values that a token "
                f"of {type(self.adapter).__name__} holds, or the channels of the raw input {shape}, of axis 1, to "
                "reconstruct it element by element. Correct the head's output_channels."
            )
        full = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:], name=f"{self.modality} mask")
        values = x.movedim(1, -1).float()
        return Content(values=values, valid=None if full is None else full[..., None].expand(values.shape))

    def raw(self, x: Tensor, values: Tensor) -> Tensor:
        """Outputs `(B, *grid, channels)` for an input -> the raw input that they say, of the shape of `x`."""
        if not self.of_tokens:
            return values.movedim(-1, 1)
        made: Tensor = self.adapter.with_content(x, values)  # type: ignore[operator]
        return made


def taken(x: Tensor, index: Tensor) -> Tensor:
    """`(B, *grid, c)` at places `(B, k)` of the flattened grid -> `(B, k, c)`."""
    flat = x.flatten(1, -2)
    return flat.gather(1, index[..., None].expand(-1, -1, flat.shape[-1]))

