"""Decoder outputs that reconstruct a raw input: their layout, and the conversion in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from perceiver.adapters.content import Content, Reconstructible
from perceiver.tokens.masks import grid_mask


@dataclass(frozen=True, kw_only=True)
class OutputLayout:
    """The layout of outputs that reconstruct a modality.

    With as many channels as a token of the adapter holds values, there is one output per token: a patch of a video, a frame
    of sound. With as many channels as the raw input, which is channels-first, there is one output per element: a pixel.
    The published multimodal autoencoder has the former for sound and the latter for video.

    Args:
        modality: name of the modality, for error messages.
        adapter: adapter of the modality.
        channels: channels of the outputs.

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
        """Whether there is one output per token."""
        return isinstance(self.adapter, Reconstructible) and self.adapter.content_channels == self.channels

    @property
    def has_raw(self) -> bool:
        """Whether `raw` can convert outputs to a raw input."""
        return not self.of_tokens or hasattr(self.adapter, "with_content")

    def content(self, x: Any, mask: Tensor | None = None) -> Content:
        """Return the target of the outputs, `(B, *grid, channels)` in float32; input and mask are as the adapter takes them.

        Its `valid` marks valid values; None: all.

        Raises:
            ValueError: if the outputs have neither as many channels as tokens hold values nor as many as the input.
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
                f"output {self.modality!r}: has {self.channels} channels; expected {tokens_hold}, the number of "
                f"values in a token of {type(self.adapter).__name__}, or the channels of the raw input {shape} (axis "
                "1) to reconstruct it element by element. Correct the head's output_channels."
            )
        full = grid_mask(mask, batch=x.shape[0], grid=x.shape[2:], name=f"{self.modality} mask")
        values = x.movedim(1, -1).float()
        return Content(values=values, valid=None if full is None else full[..., None].expand(values.shape))

    def raw(self, x: Tensor, values: Tensor) -> Tensor:
        """Return the raw input that outputs `(B, *grid, channels)` reconstruct, in the shape of `x`."""
        if not self.of_tokens:
            return values.movedim(-1, 1)
        made: Tensor = self.adapter.with_content(x, values)  # type: ignore[operator]
        return made


def taken(x: Tensor, index: Tensor) -> Tensor:
    """Return the elements of `(B, *grid, c)` at indices `(B, k)` of the flattened grid: `(B, k, c)`."""
    flat = x.flatten(1, -2)
    return flat.gather(1, index[..., None].expand(-1, -1, flat.shape[-1]))
