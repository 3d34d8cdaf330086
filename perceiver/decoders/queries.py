"""Query providers: a decoder's queries as `Tokens`, so that queries on a grid stay factored until needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from perceiver.runtime.initial_values import truncated_normal_
from perceiver.runtime.ranges import check_positive
from perceiver.tokens.positions import PositionEncoding, grid_coordinates
from perceiver.tokens.tokens import Tokens


@runtime_checkable
class Queries(Protocol):
    """Interface of a query provider, an `nn.Module`.

    Examples:
        >>> from perceiver.decoders import LearnedQueries, Queries
        >>> isinstance(LearnedQueries(grid=[1], channels=32), Queries)
        True
    """

    channels: int | None
    """Query width E; None: the width of the encoder's tokens."""

    def __call__(self, tokens: Mapping[str, Tokens], device: torch.device | None = None) -> Tokens:
        """Return queries on the output grid, of batch 1 if all samples share them.

        Args:
            tokens: fused tokens of the present modalities.
            device: device for the queries.
        """
        ...


class LearnedQueries(nn.Module):
    """Learned queries: a vector for each output.

    Args:
        grid: output grid, e.g. `[1]` for a class or `[2048]` for a text.
        channels: query width E.
        modality: compute only as many outputs per axis, from its start, as this modality has tokens; None: all.
        std: standard deviation of the initial values, truncated at two.

    Examples:
        >>> from perceiver import LearnedQueries
        >>> LearnedQueries(grid=[10], channels=32)({}).parts[0].shape
        torch.Size([1, 10, 32])
    """

    def __init__(self, *, grid: Sequence[int], channels: int, modality: str | None = None, std: float = 0.02) -> None:
        super().__init__()
        if not grid or min(grid) < 1 or channels < 1:
            raise ValueError(f"LearnedQueries: expected positive grid sizes and channels, got {list(grid)}, {channels}.")
        check_positive("LearnedQueries", std=std)
        self.channels: int | None = channels
        self.modality = modality
        self.queries = nn.Parameter(torch.empty(*grid, channels))
        truncated_normal_(self.queries, std=std)

    def forward(self, tokens: Mapping[str, Tokens], device: torch.device | None = None) -> Tokens:
        """Return queries `(1, *grid, E)`; see `Queries`.

        Raises:
            ValueError: if the modality is absent, or its grid exceeds the grid of the queries.
        """
        if self.modality is None:
            return Tokens(parts=(self.queries[None],))
        grid = _tokens_of(self.modality, tokens, owner="LearnedQueries").grid
        own = tuple(self.queries.shape[:-1])
        if len(grid) != len(own) or any(wanted > size for wanted, size in zip(grid, own, strict=True)):
            raise ValueError(
                f"LearnedQueries: the tokens of {self.modality!r} have the grid {grid}, but the queries have the grid "
                f"{own}. Shorten the input, or build the decoder with a larger grid."
            )
        return Tokens(parts=(self.queries[tuple(slice(size) for size in grid)][None],))

    def extra_repr(self) -> str:
        """Return the description for `print(model)`."""
        return f"grid={tuple(self.queries.shape[:-1])}, channels={self.channels}"


class PositionalQueries(nn.Module):
    """Encoded positions of the outputs (Perceiver IO, section 3.2).

    Args:
        position: position encoding from `perceiver.tokens.positions`, with a coordinate per axis of the output grid.
        grid: fixed output grid; give either this or `modality`.
        modality: outputs lie on the grid of this modality's tokens, with positions relative to the valid size of each
            sample; outputs beyond it are masked.
        endpoint: with `grid`: coordinates are `linspace(-1, 1, n)`, as for inputs. False: `-1 + 2 * i / n`, as in the
            released multimodal autoencoder.

    Examples:
        >>> from perceiver import Fourier, PositionalQueries
        >>> queries = PositionalQueries(position=Fourier(num_bands=4, resolution=(14, 24)), grid=[14, 24])
        >>> [tuple(part.shape) for part in queries({}).parts]
        [(1, 14, 1, 9), (1, 1, 24, 9)]
    """

    def __init__(
        self,
        *,
        position: PositionEncoding,
        grid: Sequence[int] | None = None,
        modality: str | None = None,
        endpoint: bool = True,
    ) -> None:
        super().__init__()
        if (grid is None) == (modality is None):
            raise ValueError(
                "PositionalQueries: expected either grid, the grid of the outputs, or modality, to use the grid of "
                f"its tokens; got grid={None if grid is None else list(grid)}, modality={modality!r}."
            )
        if grid is not None and (not grid or any(size is None or size < 1 for size in grid)):
            raise ValueError(
                f"PositionalQueries.grid: expected positive sizes, got {list(grid)}. If sizes differ between samples, "
                "use the grid of a modality."
            )
        if modality is not None and not endpoint:
            raise ValueError("PositionalQueries.endpoint: False needs a fixed grid.")
        self.channels: int | None = int(position.channels)
        self.position = position
        self.grid = None if grid is None else tuple(int(size) for size in grid)
        self.modality = modality
        self.endpoint = endpoint

    def forward(self, tokens: Mapping[str, Tokens], device: torch.device | None = None) -> Tokens:
        """Return queries with parts `(B or 1, n1 or 1, …, e)`; see `Queries`.

        Raises:
            ValueError: if the modality is absent.
        """
        mask = None
        if self.grid is None:
            assert self.modality is not None
            block = _tokens_of(self.modality, tokens, owner="PositionalQueries")
            mask = block.mask
            coordinates = grid_coordinates(block.grid, mask=mask, device=block.device)
        elif self.endpoint:
            coordinates = grid_coordinates(self.grid, device=device)
        else:
            coordinates = _half_open_coordinates(self.grid, device=device)
        return Tokens(parts=tuple(self.position(coordinates)), mask=mask)

    def extra_repr(self) -> str:
        """Return the description for `print(model)`."""
        return f"grid={self.grid}, modality={self.modality!r}"


class InputQueries(nn.Module):
    """Tokens of a modality, as the encoder got them: an output per token, as for optical flow (Perceiver IO, section 4.2).

    Args:
        modality: modality of the tokens.

    Examples:
        >>> import torch
        >>> from perceiver import InputQueries, Tokens
        >>> InputQueries(modality="image")({"image": Tokens(parts=(torch.rand(2, 8, 8, 12),))}).grid
        (8, 8)
    """

    def __init__(self, *, modality: str) -> None:
        super().__init__()
        self.channels: int | None = None
        self.modality = modality

    def forward(self, tokens: Mapping[str, Tokens], device: torch.device | None = None) -> Tokens:
        """Return the tokens and their mask; see `Queries`.

        Raises:
            ValueError: if the modality is absent.
        """
        return _tokens_of(self.modality, tokens, owner="InputQueries")

    def extra_repr(self) -> str:
        """Return the description for `print(model)`."""
        return f"modality={self.modality!r}"


def query_channels(queries: nn.Module, token_channels: int | None, *, owner: str) -> int:
    """Return the width E of a query provider; ValueError without a width, or if the required token width is missing."""
    channels: Any = getattr(queries, "channels", 0)
    if channels is not None and (not isinstance(channels, int) or channels < 1):
        raise ValueError(
            f"{owner}: {type(queries).__name__} has no attribute channels; expected a query provider such as LearnedQueries."
        )
    if isinstance(channels, int):
        return channels
    if token_channels is None:
        raise ValueError(
            f"{owner}.token_channels: {type(queries).__name__} needs the width of the encoder's tokens, got None. "
            "Give token_channels = encoder.token_channels."
        )
    return token_channels


def _half_open_coordinates(grid: Sequence[int], *, device: torch.device | None) -> tuple[Tensor, ...]:
    """Return `-1 + 2 * i / n` along every axis, in the form of `grid_coordinates`."""
    coordinates = []
    for axis, length in enumerate(grid):
        values = -1 + 2 * torch.arange(length, dtype=torch.float32, device=device) / length
        shape = [1] * (len(grid) + 2)
        shape[axis + 1] = length
        coordinates.append(values.reshape(shape))
    return tuple(coordinates)


def _tokens_of(modality: str, tokens: Mapping[str, Tokens], *, owner: str) -> Tokens:
    if modality not in tokens:
        raise ValueError(
            f"{owner}: the outputs follow the tokens of {modality!r}, which is not among the inputs; got "
            f"{sorted(tokens) or 'no tokens'}. Pass that modality, or decode from queries on a fixed grid."
        )
    return tokens[modality]
