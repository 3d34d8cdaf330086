"""The interface between a network and `Backbone`: features, strides and masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.runtime.ranges import check_at_least_one
from perceiver.tokens.masks import patch_mask


class FeatureNetwork(nn.Module, ABC):
    """A network whose output is a feature map or a sequence. Samples must not influence each other in evaluation mode.

    Args:
        channels: width C of a feature.
        strides: raw elements per token along each axis of the grid of features, e.g. (32, 32) for the last map of a ResNet.
        channels_last: output is `(B, *grid, C)`; otherwise `(B, C, *grid)`.
        reads_masks: `forward` ignores masked elements itself, as text encoders do. Otherwise `Backbone` calls it with
            samples of one valid size at a time.
        pads: the network pads its input to a fixed size, so that features may be invalid without any mask.
    """

    def __init__(
        self,
        *,
        channels: int,
        strides: Sequence[int],
        channels_last: bool = False,
        reads_masks: bool = False,
        pads: bool = False,
    ) -> None:
        super().__init__()
        check_at_least_one(type(self).__name__, channels=channels)
        if not strides or any(type(stride) is not int or stride < 1 for stride in strides):
            raise ValueError(
                f"{type(self).__name__}.strides: expected a whole number, 1 or more, for each axis of the grid of features, "
                f"got {list(strides)}."
            )
        self.channels = channels
        self.strides = tuple(strides)
        self.channels_last = channels_last
        self.reads_masks = reads_masks
        self.pads = pads

    @abstractmethod
    def forward(self, x: Tensor, mask: Bool[Tensor, "batch *raw"] | None = None) -> Any:
        """Return the features of raw inputs; masked elements are zeros. `mask` is None unless the network reads masks."""

    def valid_tokens(self, mask: Bool[Tensor, "batch *raw"]) -> Bool[Tensor, "batch *grid"]:
        """Return which features are valid: by default those with a valid element among the `strides` that they cover."""
        return patch_mask(mask, self.strides)

    def identity(self) -> str:
        """Return text that distinguishes networks with equal weights and different outputs, for keys of cached features."""
        return f"{type(self).__module__}.{type(self).__qualname__} {self!r}"


@final
class DescribedNetwork(FeatureNetwork):
    """Any module with tensors as input and output, described by the arguments.

    Args:
        module: `(B, …)` -> `(B, C, *grid)`, or `(B, *grid, C)`.
        channels, strides, channels_last: see `FeatureNetwork`.

    Examples:
        >>> import torch
        >>> from perceiver.adapters.backbones.network import DescribedNetwork
        >>> network = DescribedNetwork(module=torch.nn.Conv2d(3, 8, kernel_size=4, stride=4), channels=8, strides=(4, 4))
        >>> network(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 8, 8, 8])
    """

    def __init__(self, *, module: nn.Module, channels: int, strides: Sequence[int], channels_last: bool = False) -> None:
        super().__init__(channels=channels, strides=strides, channels_last=channels_last)
        self.module = module

    def forward(self, x: Float[Tensor, "batch *raw"], mask: Bool[Tensor, "batch *raw"] | None = None) -> Any:
        """Call the module."""
        return self.module(x)
