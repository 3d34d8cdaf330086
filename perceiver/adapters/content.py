"""Optional methods of adapters with which the content of tokens can be hidden and reconstructed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Content:
    """The content of each token: values of the raw input, before any learned map.

    Args:
        values: `(B, *grid, c)`; arbitrary at invalid places.
        valid: the same shape, True for valid values; None: all values of valid tokens.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import ImagePatches
        >>> adapter = ImagePatches(image_channels=3, patch=4, position=Fourier(num_bands=4, resolution=(8, 8)))
        >>> adapter.content(torch.rand(2, 3, 32, 32)).values.shape
        torch.Size([2, 8, 8, 48])
    """

    values: Float[Tensor, "batch *grid channels"]
    valid: Bool[Tensor, "batch *grid channels"] | None = None


@runtime_checkable
class Reconstructible(Protocol):
    """An adapter whose tokens can be hidden individually: a token depends on its content and its position only.

    Parts of the content come first, then those of the position, which stay known while the content is hidden.
    Adapters may also have `with_content(x, values)`, the inverse of `content` for drawing: the raw input with other values.

    Attributes:
        channels: width of the tokens.
        position_channels: width of the parts that do not depend on the content.
        content_channels: c of `content`; 0 if tokens are positions only.

    Examples:
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import ImageConvStem, ImagePixels, Reconstructible
        >>> position = Fourier(num_bands=4, resolution=(8, 8))
        >>> isinstance(ImagePixels(image_channels=3, position=position), Reconstructible)
        True
        >>> isinstance(ImageConvStem(image_channels=3, position=position), Reconstructible)
        False
    """

    channels: int
    position_channels: int
    content_channels: int

    def content(self, x: Any, mask: Tensor | None = None) -> Content:
        """Return the content of the tokens of a raw input and mask, as `forward` takes them."""
        ...
