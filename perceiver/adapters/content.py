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
class Invertible(Protocol):
    """An adapter whose tokens hold the whole raw input, so that new content gives a new input: a modality to generate.

    Attributes:
        channels: width of the tokens.
        content_channels: c of `content`.
        holds_everything: True. Adapters whose tokens lack a part of the input, such as its coordinates, have no such
            attribute.

    Examples:
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import ImageConvStem, ImagePatches, Invertible
        >>> position = Fourier(num_bands=4, resolution=(8, 8))
        >>> isinstance(ImagePatches(image_channels=3, patch=4, position=position), Invertible)
        True
        >>> isinstance(ImageConvStem(image_channels=3, position=position), Invertible)
        False
    """

    channels: int
    content_channels: int
    holds_everything: bool

    def content(self, x: Any, mask: Tensor | None = None) -> Content:
        """Return the content of the tokens of a raw input and mask, as `forward` takes them."""
        ...

    def with_content(self, x: Any, values: Tensor) -> Any:
        """Return a raw input like `x` with this content."""
        ...


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
