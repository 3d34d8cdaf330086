"""Backbone: the features of a network, pretrained or not, as tokens on their own grid."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perceiver.adapters.backbones.axes import Axes
from perceiver.adapters.backbones.feature_cache import FeatureCache, content_key
from perceiver.adapters.backbones.network import FeatureNetwork
from perceiver.runtime.ranges import check_at_least_one
from perceiver.tokens.masks import extents, grid_mask, zero_masked
from perceiver.tokens.positions import PositionEncoding
from perceiver.tokens.tokens import Tokens
from perceiver.tokens.zero_gradients import with_zero_gradients


@final
class Backbone(nn.Module):
    """One token per feature of a network: the feature, optionally embedded, and its position.

    A token is valid if its feature depends on valid elements, see `FeatureNetwork.valid_tokens`. A sample has the same valid
    tokens alone and in a batch: networks that cannot ignore padding get samples of one valid size at a time, which on an
    accelerator waits for the sizes; masks of presence `(B,)` and batches without a mask do not. Batch norms use the running
    statistics of the pretraining, in training too.

    A frozen network stays in evaluation mode and gets no gradients. On CPUs it gets samples one at a time: its features then
    do not depend on the batch in any digit, and `use_cache` can replace it by stored features without changing a loss.

    Args:
        network: the network.
        axes: coordinates of its features.
        position: encoding of as many coordinates as the grid has axes.
        frozen: keep the weights of the network unchanged.
        lr_multiplier: the network trains at this multiple of the optimizer's learning rate.
        embed_channels: width of a learned linear map of the features; None: features as they are.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import Backbone
        >>> from perceiver.adapters.backbones.axes import RowsAndColumns
        >>> from perceiver.adapters.backbones.network import DescribedNetwork
        >>> network = DescribedNetwork(module=torch.nn.Conv2d(3, 8, kernel_size=4, stride=4), channels=8, strides=(4, 4))
        >>> position = Fourier(num_bands=4, resolution=(8, 8))
        >>> adapter = Backbone(network=network, axes=RowsAndColumns(), position=position)
        >>> tokens = adapter(torch.rand(2, 3, 32, 32))
        >>> tokens.grid, tokens.channels
        ((8, 8), 26)
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        axes: Axes,
        position: PositionEncoding,
        frozen: bool = True,
        lr_multiplier: float = 1.0,
        embed_channels: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(network, FeatureNetwork):
            raise ValueError(
                f"Backbone.network: expected a FeatureNetwork, got {type(network).__name__}; describe any other module by "
                "perceiver.adapters.backbones.network.DescribedNetwork(module=…, channels=…, strides=…)."
            )
        if not 0 < lr_multiplier < float("inf"):
            raise ValueError(f"Backbone.lr_multiplier: expected a finite number above 0, got {lr_multiplier}.")
        if embed_channels is not None:
            check_at_least_one("Backbone", embed_channels=embed_channels)
        self.network = network
        self.axes = axes
        self.position = position
        self.frozen = frozen
        self.lr_multiplier = lr_multiplier
        width = network.channels
        self.embed = nn.Identity() if embed_channels is None else nn.Linear(width, embed_channels)
        self.channels = (width if embed_channels is None else embed_channels) + position.channels
        self._cache: FeatureCache | None = None
        self._cache_in_training = True
        if frozen:
            network.requires_grad_(False)
        self.train()

    def learning_rate_multipliers(self) -> dict[nn.Module, float]:
        """Return the multiple of the learning rate by module, see `perceiver.training.optimizer.parameter_groups`."""
        return {self.network: self.lr_multiplier}

    def use_cache(self, cache: FeatureCache | None, *, in_training: bool = True) -> None:
        """Store features in a cache and read them from it.

        Args:
            cache: the cache; None: compute them in every step.
            in_training: False for augmented training samples: only features of evaluation are kept.

        Raises:
            ValueError: if the network is not frozen.
        """
        if cache is not None and not self.frozen:
            raise ValueError("Backbone.use_cache: expected a frozen network; the features of a learning network change.")
        self._cache, self._cache_in_training = cache, in_training

    @property
    def cache(self) -> FeatureCache | None:
        """The cache in use."""
        return self._cache

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; frozen networks and batch norms stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, x: Tensor, mask: Bool[Tensor, "batch *raw"] | None = None) -> Tokens:
        """Convert raw inputs to Tokens on the grid of the features.

        Args:
            x: input of the network, `(B, C, *raw)`, or ids `(B, L)`.
            mask: True where valid: `(B,)` presence, `(B, *raw)`, or None.

        Raises:
            ValueError: for a shape that the network rejects, or output that is neither a feature map nor a sequence.
            TypeError: for a mask that is not boolean.
        """
        raw = self._raw_grid(x)
        ragged = mask is not None and mask.ndim > 1
        full = grid_mask(mask, batch=x.shape[0], grid=raw, name="Backbone mask")
        if full is not None:
            x = zero_masked(x, full.reshape(x.shape[0], *[1] * (x.ndim - 1 - len(raw)), *raw))
        if self._one_at_a_time(x):
            features, valid = self._of_groups(x, full, _groups(full, x=x, raw=raw, at_most=1))
        elif ragged and not self.network.reads_masks:
            features, valid = self._of_groups(x, full, _groups(full, x=x, raw=raw, at_most=None))
        else:
            features, valid = self._of_batch(x, full, raw)
        if isinstance(self.embed, nn.Linear):
            features = features.to(self.embed.weight.dtype)
        grid = features.shape[1:-1]
        coordinates = self.axes(grid, mask=valid if ragged else None, device=x.device)
        if valid is not None:
            features = zero_masked(features, valid[..., None])
        return Tokens(parts=(self.embed(features), *self.position(coordinates)), mask=valid)

    def _raw_grid(self, x: Tensor) -> tuple[int, ...]:
        """Return the raw grid: all axes of ids `(B, L)`, and those behind the channels of anything else."""
        if x.ndim < 2 or 0 in x.shape[1:]:
            raise ValueError(f"Backbone: expected (batch, channels, *grid), or ids (batch, length), got {tuple(x.shape)}.")
        return tuple(x.shape[1:] if x.ndim == 2 else x.shape[2:])

    def _one_at_a_time(self, x: Tensor) -> bool:
        if not self.frozen or x.requires_grad:
            return False
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return False
        return self._caches() or x.device.type == "cpu"

    def _caches(self) -> bool:
        return self._cache is not None and (self._cache_in_training or not self.training)

    def _of_batch(
        self, x: Tensor, mask: Tensor | None, raw: Sequence[int]
    ) -> tuple[Float[Tensor, "batch *grid c"], Bool[Tensor, "batch *grid"] | None]:
        features = self._run(x, mask, shape=x.shape)
        if not self.frozen:
            # Some networks have parameters that these features do not depend on.
            features = with_zero_gradients(features, self.network.parameters())
        if mask is None and not self.network.pads:
            return features, None
        whole = x.new_ones(x.shape[0], *raw, dtype=torch.bool) if mask is None else mask
        return features, _fitted(self.network.valid_tokens(whole), features.shape[1:-1])

    def _of_groups(
        self, x: Tensor, mask: Tensor | None, groups: Sequence[_Group]
    ) -> tuple[Float[Tensor, "batch *grid c"], Bool[Tensor, "batch *grid"] | None]:
        """Compute features of samples of one valid size at a time, cut to this size."""
        done = []
        for group in groups:
            box = (slice(None), *(slice(length) for length in group.size))
            own_mask = None if mask is None else mask[group.rows][box]
            if own_mask is not None and bool(own_mask.all()):
                own_mask = None
            own = x[group.rows][(slice(None), *[slice(None)] * (x.ndim - 1 - len(group.size)), *box[1:])]
            if len(group.rows) == 1:
                features = self._of_sample(own, own_mask, shape=x.shape)
            else:
                features = self._run(own, own_mask, shape=x.shape)
            valid = None
            if own_mask is not None or self.network.pads:
                whole = own.new_ones(len(group.rows), *group.size, dtype=torch.bool) if own_mask is None else own_mask
                valid = _fitted(self.network.valid_tokens(whole), features.shape[1:-1])
            done.append((features, valid))
        return self._joined(x, [row for group in groups for row in group.rows], done)

    def _of_sample(self, x: Tensor, mask: Tensor | None, *, shape: Sequence[int]) -> Float[Tensor, "1 *grid c"]:
        """Return the features of one sample, from the cache if it holds them."""
        if self._cache is None or not self._caches():
            return self._run(x, mask, shape=shape)
        autocast = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None
        store, key = self._cache.of(self.network, device=x.device.type, autocast=autocast), content_key(x, mask)
        found = store.read(key)
        if found is None:
            with self._cache.computing():
                found = self._run(x, mask, shape=shape)[0]
            store.add(key, found)
        return found[None].to(x.device)

    def _joined(
        self, x: Tensor, rows: list[int], done: Sequence[tuple[Tensor, Tensor | None]]
    ) -> tuple[Tensor, Tensor | None]:
        """Pad features to one grid and put them into the order of the batch; samples that are not in `rows` are absent."""
        absent = sorted({*range(x.shape[0])} - {*rows})
        sizes = [tuple(features.shape[1:-1]) for features, _ in done] or [(1,) * len(self.network.strides)]
        grid = [max(lengths) for lengths in zip(*sizes, strict=True)]
        dtype = done[0][0].dtype if done else torch.float32
        zeros = torch.zeros(len(absent), *grid, self.network.channels, dtype=dtype, device=x.device)
        order = torch.tensor([*rows, *absent], device=x.device).argsort()
        joined = torch.cat([*(_padded(features, grid, axis=1) for features, _ in done), zeros])[order]
        if not self.frozen:
            joined = with_zero_gradients(joined, self.network.parameters())
        if not absent and all(valid is None and list(size) == grid for (_, valid), size in zip(done, sizes, strict=True)):
            return joined, None
        valids = [
            features.new_ones(features.shape[:-1], dtype=torch.bool) if valid is None else valid for features, valid in done
        ]
        nothing = zeros.new_zeros(zeros.shape[:-1], dtype=torch.bool)
        return joined, torch.cat([*(_padded(valid, grid, axis=1) for valid in valids), nothing])[order]

    def _run(self, x: Tensor, mask: Tensor | None, *, shape: Sequence[int]) -> Float[Tensor, "batch *grid c"]:
        """Call the network and check its output; `shape` is that of the whole input, for messages."""
        if x.is_floating_point() and not torch.is_autocast_enabled(x.device.type):
            x = x.to(next(self.network.parameters(), x).dtype)
        kind = type(self.network).__name__
        try:
            with torch.no_grad() if self.frozen and not x.requires_grad else nullcontext():
                features = self.network(x, mask if self.network.reads_masks else None)
        except (AssertionError, RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "alloc" in str(error):
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"Backbone: {kind} rejects an input of shape {tuple(shape)}: {reason}") from error
        axes = len(self.network.strides)
        expected = f"(batch, {'*grid, ' if self.network.channels_last else ''}{self.network.channels}"
        expected += ")" if self.network.channels_last else ", *grid)"
        if not isinstance(features, Tensor) or features.ndim != axes + 2 or features.shape[0] != x.shape[0]:
            got = f"a tensor of shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"Backbone: expected a feature map or a sequence {expected}, with {axes} axes of the grid, as the output of "
                f"{kind}, got {got}. Cut the network before its pooling and its classifier."
            )
        channel_axis = -1 if self.network.channels_last else 1
        if features.shape[channel_axis] != self.network.channels:
            raise ValueError(
                f"Backbone: expected {self.network.channels} channels, {expected}, as the output of {kind}, got shape "
                f"{tuple(features.shape)}. Set channels, or channels_last."
            )
        return features if self.network.channels_last else features.movedim(1, -1)

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return "frozen" if self.frozen else f"lr_multiplier={self.lr_multiplier:g}"


@dataclass(frozen=True)
class _Group:
    """Samples of one valid size: their rows in the batch, and the size along each axis of the raw grid."""

    rows: list[int]
    size: tuple[int, ...]


def _groups(mask: Bool[Tensor, "batch *raw"] | None, *, x: Tensor, raw: Sequence[int], at_most: int | None) -> list[_Group]:
    """Group present samples by their valid size, `at_most` to a group."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    if mask is None:
        sizes[tuple(raw)] = list(range(x.shape[0]))
    else:
        for row, size in enumerate(zip(*(lengths.tolist() for lengths in extents(mask)), strict=True)):
            if all(size):
                sizes.setdefault(size, []).append(row)
    step = at_most or x.shape[0]
    return [_Group(rows[start : start + step], size) for size, rows in sizes.items() for start in range(0, len(rows), step)]


def _fitted(mask: Bool[Tensor, "batch *some"], grid: Sequence[int]) -> Bool[Tensor, "batch *grid"]:
    """Cut a mask to the grid of the features, or repeat its last element: strides may not divide the size of the input."""
    for axis, length in enumerate(grid, start=1):
        mask = mask.narrow(axis, 0, min(length, mask.shape[axis]))
        if mask.shape[axis] < length:
            last = mask.narrow(axis, mask.shape[axis] - 1, 1)
            repeated = list(mask.shape)
            repeated[axis] = length - mask.shape[axis]
            mask = torch.cat([mask, last.expand(repeated)], dim=axis)
    return mask


def _padded(x: Tensor, grid: Sequence[int], *, axis: int) -> Tensor:
    """Pad the axes of a grid, from `axis` on, at their ends with zeros."""
    trailing = x.ndim - axis - len(grid)
    padding = [0, 0] * trailing
    for length, own in zip(reversed(grid), reversed(x.shape[axis : axis + len(grid)]), strict=True):
        padding += [0, length - own]
    return F.pad(x, padding)
