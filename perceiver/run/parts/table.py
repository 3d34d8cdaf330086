"""Writes the parts of a table while their rows are computed; a part appears once it is complete."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perceiver.run.parts.folder import PartFolder
from perceiver.run.parts.loader import Place
from perceiver.runtime.files import atomic_write

ROW_GROUP_BYTES = 8 * 2**20
"""Rows are kept until they fill a row group of about this size: readers are slow with small ones."""


class PartWriter:
    """Writes parts one after another; memory holds a row group at most. A context: a part that breaks off leaves nothing.

    Args:
        folder: the table.
    """

    def __init__(self, folder: PartFolder) -> None:
        self.folder = folder
        self.rows = 0
        self._stack = ExitStack()
        self._writer: Any = None
        self._kept: list[pa.Table] = []
        self._in_part = 0

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        failure = error or RuntimeError(f"a part of {self.folder.path} has {self._in_part} rows only")
        with suppress(Exception):  # otherwise it would write its footer when it is collected
            self._writer.close()
        self._writer = None
        self._stack.__exit__(type(failure), failure, traceback)
        if error is None:
            raise failure

    def write(self, place: Place, rows: pa.Table) -> None:
        """Append the rows of a batch, which follow those written before unless they begin a part."""
        span = self.folder.span(place.part)
        assert place.first == span.start + self._in_part, "batches of a part arrive in order"
        if self._writer is None:
            self._stack = ExitStack()
            file = self._stack.enter_context(atomic_write(self.folder.file(place.part)))
            dictionaries = [field.name for field in rows.schema if field.type == pa.string() and field.name != "id"]
            self._writer = pq.ParquetWriter(file, rows.schema, use_dictionary=dictionaries)
        self._kept.append(rows)
        self._in_part += len(rows)
        self.rows += len(rows)
        ends = self._in_part == len(span)
        if ends or sum(table.nbytes for table in self._kept) >= ROW_GROUP_BYTES:
            self._writer.write_table(pa.concat_tables(self._kept).combine_chunks())
            self._kept = []
        if ends:
            self._writer.close()
            self._writer, self._in_part = None, 0
            self._stack.close()
