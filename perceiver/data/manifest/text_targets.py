"""Texts as targets in a manifest: a column whose texts a model learns to generate."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor

from perceiver.data.manifest.table import ManifestTable
from perceiver.modalities.cells.values import plain_text
from perceiver.modalities.texts.tokenizers import learn_tokenizer
from perceiver.runtime.process_rank import process_rank
from perceiver.targets.text import TextTarget, text_target

log = logging.getLogger(__name__)


class TextTargets:
    """Texts of rows and their ids, of different lengths. Compact, and shared with loader processes.

    Args:
        texts: text of each row.
        ids: ids of each row, start and end included.
    """

    def __init__(self, *, texts: Sequence[str], ids: Sequence[Tensor]) -> None:
        self._texts = pa.array(texts, pa.large_string())
        self._ids = torch.cat(list(ids)) if ids else torch.zeros(0, dtype=torch.int64)
        self._ends = torch.tensor([0, *(len(own) for own in ids)]).cumsum(dim=0)
        self._rows = torch.arange(len(ids))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Tensor:
        """Return the ids `(L,)` of a row."""
        row = int(self._rows[index])
        return self._ids[int(self._ends[row]) : int(self._ends[row + 1])]

    def text(self, index: int) -> str:
        """Return the text of a row, as it is in the table."""
        return str(self._texts[int(self._rows[index])].as_py())

    def take(self, index: Tensor) -> TextTargets:
        """Return the texts of the rows at these positions."""
        chosen = TextTargets(texts=[], ids=[])
        chosen._texts, chosen._ids, chosen._ends = self._texts, self._ids, self._ends
        chosen._rows = self._rows[index]
        return chosen

    @property
    def lengths(self) -> list[int]:
        """The number of ids of each row."""
        lengths: list[int] = self._ends.diff()[self._rows].tolist()
        return lengths


class TextColumn:
    """A text per row, to be generated. See `TargetColumns`.

    Args:
        columns: the single column of texts.
        tokenizer: bytes: UTF-8 bytes; pairs: byte pairs learned from the training rows by the package tokenizers.
        vocabulary_size: number of ids of `pairs`.
        max_length: most ids of a text, start and end included.
        truncate: cut longer texts instead of refusing them.

    Raises:
        ValueError: for several columns, an unknown tokenizer, or a maximum below 3.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        tokenizer: Literal["pairs", "bytes"] | str = "bytes",
        vocabulary_size: int = 4000,
        max_length: int = 256,
        truncate: bool = False,
    ) -> None:
        if len(columns) != 1:
            raise ValueError(f"data.target: expected one column for target_kind=text, got {list(columns)}.")
        if tokenizer not in ("pairs", "bytes"):
            raise ValueError(f"data.target_tokenizer: expected pairs or bytes, got {tokenizer!r}.")
        if max_length < 3:
            raise ValueError(f"data.target_max_length: expected 3 or more, got {max_length}.")
        self.columns = (columns[0],)
        self.tokenizer = tokenizer
        self.vocabulary_size = vocabulary_size
        self.max_length = max_length
        self.truncate = truncate

    def problem(self, table: ManifestTable, row: int) -> str:
        """Report an empty cell."""
        return "" if self._text(table, row) else f"{table.where(row, self.columns[0])}: has no target."

    def strata(self, table: ManifestTable, rows: Sequence[int]) -> list[str]:
        """Return the same stratum for all rows."""
        return [""] * len(rows)

    def learned(self, table: ManifestTable, rows: Sequence[int]) -> dict[str, Any]:
        """Return the tokenizer of the training texts, and the maximum length."""
        tokenizer = learn_tokenizer(
            self.tokenizer, (self._text(table, row) for row in rows), vocabulary_size=self.vocabulary_size
        )
        target = text_target(tokenizer=tokenizer, max_length=self.max_length, truncate=self.truncate)
        return {"target": {**target, "columns": list(self.columns)}}

    def unknown(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> dict[int, str]:
        """Report texts without a known character, and texts beyond the maximum length unless they may be cut."""
        reader, found = self._reader(target), {}
        for row in rows:
            try:
                reader.ids(self._text(table, row), where=table.where(row, self.columns[0]))
            except ValueError as error:
                found[row] = str(error)
        return found

    def values(self, table: ManifestTable, rows: Sequence[int], target: Mapping[str, Any]) -> TextTargets:
        """Return the texts of rows and their ids."""
        reader = self._reader(target)
        texts = [self._text(table, row) for row in rows]
        places = (table.where(row, self.columns[0]) for row in rows)
        encoded = [reader.encoded(text, where=where) for text, where in zip(texts, places, strict=True)]
        cut = sum(was_cut for _, was_cut in encoded)
        if cut and process_rank() == 0:
            log.warning(
                "%s, column %r: %d of %d texts are cut to data.target_max_length = %d ids.",
                *(table.path, self.columns[0], cut, len(texts), reader.max_length),
            )
        return TextTargets(texts=texts, ids=[ids for ids, _ in encoded])

    def _reader(self, target: Mapping[str, Any]) -> TextTarget:
        return TextTarget.of(target, setting="data.target_max_length", cutting="data.target_truncate")

    def _text(self, table: ManifestTable, row: int) -> str:
        value = table.cell(row, self.columns[0])
        return "" if value is None else plain_text(value)
