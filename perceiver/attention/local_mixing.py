"""Local mixing: each token and its neighbours on the grid, by a depthwise convolution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.attention.projection import lecun_linear
from perceiver.runtime.ranges import check_at_least_one
from perceiver.tokens.masks import zero_masked

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class LocalMixing(nn.Module):
    """Pre-LayerNorm, depthwise convolution over the grid, GELU, linear, with a residual.

    Masked tokens contribute nothing, as tokens beyond the edges of the grid do: a sample alone and the same sample padded
    among larger ones give the same valid tokens.

    Args:
        channels: width d of the tokens.
        kernel: size of the neighbourhood along each axis of the grid, odd.

    Raises:
        ValueError: for an empty kernel, or an even size.

    Examples:
        >>> import torch
        >>> from perceiver.attention.local_mixing import LocalMixing
        >>> LocalMixing(channels=16, kernel=[3, 3])(torch.rand(2, 7, 5, 16)).shape
        torch.Size([2, 7, 5, 16])
    """

    def __init__(self, *, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        check_at_least_one("LocalMixing", channels=channels)
        if not kernel or any(size < 1 or size % 2 == 0 for size in kernel):
            raise ValueError(f"LocalMixing.kernel: expected an odd size for each axis of the grid, got {list(kernel)}.")
        self.kernel = tuple(kernel)
        self.norm = nn.LayerNorm(channels)
        self.weight = nn.Parameter(torch.empty(channels, 1, *self.kernel))
        bound = 1 / math.sqrt(math.prod(self.kernel))
        nn.init.uniform_(self.weight, -bound, bound)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.output = lecun_linear(channels, channels)

    def forward(
        self, x: Float[Tensor, "batch *grid channels"], mask: Bool[Tensor, "batch_or_1 *grid"] | None = None
    ) -> Float[Tensor, "batch *grid channels"]:
        """Mix tokens `(B, *grid, d)` with their neighbours; `mask` is True where a token is valid.

        Raises:
            ValueError: if the grid has another number of axes than the kernel.
        """
        if x.ndim - 2 != len(self.kernel):
            raise ValueError(
                f"LocalMixing.kernel: {list(self.kernel)} is for a grid of {len(self.kernel)} axes, but the tokens are on "
                f"the grid {tuple(x.shape[1:-1])}. Give a size for each axis, or none for tokens without neighbours: "
                "local_kernel=null."
            )
        normed = zero_masked(self.norm(x), None if mask is None else mask[..., None])
        out: Tensor = x + self.output(F.gelu(self._convolved(normed)))
        return out

    def _convolved(self, x: Tensor) -> Tensor:
        convolve = _CONVOLUTIONS.get(len(self.kernel))
        if convolve is None:
            return self._shifted(x)
        padding = tuple(size // 2 for size in self.kernel)
        mixed: Tensor = convolve(x.movedim(-1, 1), self.weight, self.bias, padding=padding, groups=x.shape[-1])
        return mixed.movedim(1, -1)

    def _shifted(self, x: Tensor) -> Tensor:
        """Add up shifted grids: torch has convolutions of up to three axes."""
        around = [side for size in reversed(self.kernel) for side in (size // 2, size // 2)]
        padded = F.pad(x, (0, 0, *around))
        total = self.bias.to(x.dtype)
        weights = self.weight.flatten(1).unbind(1)
        for weight, offsets in zip(weights, itertools.product(*map(range, self.kernel)), strict=True):
            window = tuple(slice(start, start + length) for start, length in zip(offsets, x.shape[1:-1], strict=True))
            total = total + padded[(slice(None), *window)] * weight
        return total

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"kernel={list(self.kernel)}"
