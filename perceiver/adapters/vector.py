"""One vector per sample `(B, c)` as a single token: a one-hot label, or an embedding from another model."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.tokens.masks import grid_mask, zero_masked
from perceiver.tokens.tokens import Tokens


class Vector(nn.Module):
    """One token: the vector itself, without a position (the label of the multimodal autoencoder, Perceiver IO, section 4.3).

    Args:
        vector_channels: c.

    Examples:
        >>> import torch
        >>> from perceiver.adapters import Vector
        >>> Vector(vector_channels=10)(torch.eye(10)).parts[0].shape
        torch.Size([10, 1, 10])
    """

    def __init__(self, *, vector_channels: int) -> None:
        super().__init__()
        if vector_channels < 1:
            raise ValueError(f"Vector.vector_channels: expected at least 1, got {vector_channels}.")
        self.channels = vector_channels

    def forward(self, x: Float[Tensor, "batch channels"], mask: Bool[Tensor, "batch"] | None = None) -> Tokens:
        """Convert `(B, c)` and a mask `(B,)` (presence) or None to Tokens on the grid `(1,)`.

        Raises:
            ValueError: for another shape.
            TypeError: for integer values or a mask that is not boolean.
        """
        if x.ndim != 2 or x.shape[1] != self.channels:
            hint = " For class ids use torch.nn.functional.one_hot(ids, classes).float()." if x.ndim == 1 else ""
            raise ValueError(f"Vector: expected (batch, {self.channels}), got shape {tuple(x.shape)}.{hint}")
        if not x.is_floating_point():
            raise TypeError(f"Vector: expected floating point, got {x.dtype}; use `x.float()`.")
        mask = grid_mask(mask, batch=x.shape[0], grid=(), name="Vector mask")
        if mask is not None:
            x, mask = zero_masked(x, mask[:, None]), mask[:, None]
        return Tokens(parts=(x[:, None],), mask=mask)

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"vector_channels={self.channels}"
