"""Rows of a table: numeric and categorical columns, any cell of which may be missing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from perceiver.adapters.content import Content
from perceiver.runtime.data_checks import is_any
from perceiver.tokens.masks import zero_masked
from perceiver.tokens.tokens import Tokens


class Table(nn.Module):
    """One token per column, after the feature tokenizer of FT-Transformer (Gorishniy et al. 2021, section 3.1).

    There, a number becomes `value * weight_c + bias_c` and a category `embedding_c[id] + bias_c`. Here the bias, which
    depends on the column only, is a separate part instead of a summand. Attention applies a linear map to both parts, and
    the sum is such a map. So the bias stays `(1, n + k, e)`, shared by all rows. Missing cells are masked tokens.

    Args:
        num_numbers: n, numeric columns; they come first.
        category_sizes: number of ids of each of the k categorical columns, including id 0 for "unknown".
        embedding_channels: e, width of each of the two parts.

    Examples:
        >>> import torch
        >>> from perceiver.adapters import Table
        >>> adapter = Table(num_numbers=2, category_sizes=[3], embedding_channels=8)
        >>> tokens = adapter({"numbers": torch.rand(4, 2), "categories": torch.tensor([[1], [2], [0], [1]])})
        >>> tokens.grid, tokens.channels
        ((3,), 16)
    """

    _first: Tensor
    _sizes: Tensor

    def __init__(self, *, num_numbers: int, category_sizes: Sequence[int], embedding_channels: int) -> None:
        super().__init__()
        if num_numbers < 0 or num_numbers + len(category_sizes) == 0:
            raise ValueError(
                "Table: expected at least one column, numeric (num_numbers) or categorical (category_sizes), got "
                f"num_numbers={num_numbers}, category_sizes={list(category_sizes)}."
            )
        if any(size < 1 for size in category_sizes):
            raise ValueError(
                f'Table.category_sizes: expected at least 1 for each column (id 0 is "unknown"), got {list(category_sizes)}.'
            )
        if embedding_channels < 1:
            raise ValueError(f"Table.embedding_channels: expected at least 1, got {embedding_channels}.")
        self.num_numbers = num_numbers
        self.category_sizes = tuple(int(size) for size in category_sizes)
        self.num_columns = num_numbers + len(self.category_sizes)
        self.weight = nn.Parameter(torch.empty(num_numbers, embedding_channels)) if num_numbers else None
        self.embedding = nn.Embedding(sum(self.category_sizes), embedding_channels) if self.category_sizes else None
        self.bias = nn.Parameter(torch.empty(self.num_columns, embedding_channels))
        bound = embedding_channels**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)  # as its authors' code does
        self.channels = 2 * embedding_channels
        self.position_channels = embedding_channels
        # Buffers, because copying numbers to a GPU in each call would wait for it.
        first = list(itertools.accumulate((0, *self.category_sizes)))[: len(self.category_sizes)]
        self.register_buffer("_first", torch.tensor(first, dtype=torch.int64), persistent=False)
        self.register_buffer("_sizes", torch.tensor(self.category_sizes, dtype=torch.int64), persistent=False)
        self.content_channels = 1 + max(self.category_sizes, default=0)

    def forward(self, x: Mapping[str, Tensor], mask: Bool[Tensor, "batch"] | None = None) -> Tokens:
        """Convert rows to Tokens on the grid `(n + k,)`, numbers first.

        Args:
            x: a dict of
                `numbers` `(B, n)`; optional if n is 0;
                `categories` `(B, k)`, int64 or int32, each id below the size of its column; optional if k is 0;
                `present` `(B, n + k)` boolean, True for present cells; optional if all are present.
                Numbers and ids of missing cells are arbitrary.
            mask: `(B,)` presence of rows, or None.

        Raises:
            ValueError: for missing or unknown keys, other shapes, or ids outside their column's range, naming sample and
                column (unchecked in compiled code).
            TypeError: for other types.
        """
        batch = self._check(x, mask)
        valid = x.get("present")
        if mask is not None:
            rows = mask[:, None].expand(batch, self.num_columns)
            valid = rows if valid is None else valid & rows
        content = []
        if self.weight is not None:
            numbers = zero_masked(x["numbers"], None if valid is None else valid[:, : self.num_numbers])
            content.append(numbers[..., None].to(self.weight.dtype) * self.weight)
        if self.embedding is not None:
            ids = zero_masked(x["categories"], None if valid is None else valid[:, self.num_numbers :])
            self._check_range(ids)
            # All columns share one table of embeddings, in which each has its own rows.
            content.append(self.embedding(ids + self._first))
        return Tokens(parts=(torch.cat(content, dim=1), self.bias[None]), mask=valid)

    def content(self, x: Mapping[str, Tensor], mask: Bool[Tensor, "batch"] | None = None) -> Content:
        """Return numbers in channel 0 and, for categorical columns, one-hot ids in the channels after it."""
        some = next(part for name, part in x.items() if name != "present")
        values = torch.zeros(len(some), self.num_columns, self.content_channels, device=some.device)
        valid = torch.zeros_like(values, dtype=torch.bool)
        if self.num_numbers:
            values[:, : self.num_numbers, 0] = x["numbers"].to(values.dtype)
            valid[:, : self.num_numbers, 0] = True
        for column, size in enumerate(self.category_sizes):
            place = self.num_numbers + column
            ids = x["categories"][:, column].long().clamp(0, size - 1)
            values[:, place, 1 : 1 + size] = torch.nn.functional.one_hot(ids, size).to(values.dtype)
            valid[:, place, 1 : 1 + size] = True
        if "present" in x:
            valid &= x["present"][..., None]
        return Content(values=values, valid=valid)

    def _check(self, x: Mapping[str, Tensor], mask: Tensor | None) -> int:
        """Check keys, shapes and types of the input; return B."""
        if not isinstance(x, Mapping):
            raise TypeError(f"Table: expected a dict of numbers, categories and present, got {type(x).__name__}.")
        columns = {"numbers": self.num_numbers, "categories": len(self.category_sizes), "present": self.num_columns}
        needed = [name for name in ("numbers", "categories") if columns[name]]
        if set(needed) - set(x) or set(x) - set(columns):
            raise ValueError(
                f"Table: expected the keys {' and '.join(needed)}, and present where cells are missing; got {sorted(x)}."
            )
        shapes = {name: tuple(part.shape) for name, part in x.items()}
        batch = next(iter(shapes[needed[0]]), 0)
        if any(shape != (batch, columns[name]) for name, shape in shapes.items()):
            expected = ", ".join(f"{name} (batch, {columns[name]})" for name in columns if name in shapes)
            raise ValueError(f"Table: expected {expected}, got shapes {shapes}.")
        if "numbers" in x and not x["numbers"].is_floating_point():
            raise TypeError(f"Table: expected numbers in floating point, got {x['numbers'].dtype}; use `numbers.float()`.")
        if "categories" in x and x["categories"].dtype not in (torch.int64, torch.int32):
            raise TypeError(f"Table: expected categories as ids of type int64, got {x['categories'].dtype}.")
        if "present" in x and x["present"].dtype != torch.bool:
            raise TypeError(f"Table: expected present of type bool (True = present), got {x['present'].dtype}.")
        if mask is not None and mask.dtype != torch.bool:
            raise TypeError(
                f"Table mask: expected dtype bool (True = valid), got {mask.dtype}; convert it, e.g. `mask != 0`."
            )
        if mask is not None and tuple(mask.shape) != (batch,):
            raise ValueError(
                f"Table mask: expected {(batch,)} (presence per row), got {tuple(mask.shape)}. Mark present cells "
                "with the input `present`."
            )
        return batch

    def _check_range(self, ids: Tensor) -> None:
        """Raise for an id outside the range of its column, which would read embeddings of another column."""
        outside = (ids < 0) | (ids >= self._sizes)
        if is_any(outside, message="Table: the id of a category is outside the range of its column."):
            sample, column = outside.nonzero()[0].tolist()
            raise ValueError(
                f"Table: sample {sample}, categorical column {column}: id {int(ids[sample, column])} is not in [0, "
                f"{self.category_sizes[column]}). Categories unseen in training have id 0."
            )

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"num_numbers={self.num_numbers}, category_sizes={self.category_sizes}"
