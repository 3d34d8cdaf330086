"""Rows of a manifest as samples, decoded when a batch needs them, and what becomes of rows that cannot be used."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perceiver.batch import Sample
from perceiver.data.manifest.cells import check_cell, read_cell
from perceiver.data.manifest.modalities import ManifestModality
from perceiver.data.manifest.table import ManifestTable
from perceiver.data.readers.progress import progress
from perceiver.modalities.table import plain_text
from perceiver.runtime.process_rank import process_rank

log = logging.getLogger(__name__)

_MOST_NAMED, _LONGEST = 100, 1600  # rows, characters


class BadRowError(ValueError):
    """A row cannot be used; the message names file, row, column and reason.

    A DataLoader reports its workers' errors with their tracebacks in the message; here the message stays what it was.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_clipped(message.rpartition(f"{type(self).__name__}: ")[2].strip()))


def _clipped(message: str) -> str:
    """Without the middle of a cell that is as long as a file."""
    return message if len(message) <= _LONGEST else f"{message[: _LONGEST // 2]} … {message[-_LONGEST // 4 :]}"


def reason(error: Exception) -> str:
    """What a message calls an error: its text, and what it is where the text alone would not tell."""
    if isinstance(error, OSError | ValueError | TypeError) and str(error):
        return str(error)
    return f"cannot be decoded: {type(error).__name__}: {error}".rstrip(": ")


class BadRows:
    """What to do with rows that cannot be used.

    Args:
        skip: leave them out and remember why; False: the first one is an error.
    """

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.skipped: dict[int, str] = {}
        self._reported = 0

    def report(self, row: int, message: str) -> None:
        """A row is bad.

        Raises:
            BadRowError: with this message, unless such rows are skipped.
        """
        if not self.skip:
            raise BadRowError(f"{message} Mend it, or leave such rows out with data.on_bad_row=skip.")
        self.skipped.setdefault(row, _clipped(message))

    def tell(self, *, total: int) -> None:
        """Names the rows that were skipped since the last call in the log of the first process; all skip the same."""
        new = list(self.skipped.values())[self._reported :]
        if not new or process_rank() != 0:
            return
        self._reported = len(self.skipped)
        log.warning("skipped %d of %d rows:", len(self.skipped), total)
        for message in new[:_MOST_NAMED]:
            log.warning("  %s", message)
        if len(new) > _MOST_NAMED:
            log.warning("  … and %d more; data.on_bad_row=error stops at the first.", len(new) - _MOST_NAMED)


class RowIds:
    """What identifies the rows of a manifest: the cells of a column, or numbers from 1.

    Args:
        table: the manifest.
        column: of the ids; None: rows are numbered.
    """

    def __init__(self, *, table: ManifestTable, column: str | None) -> None:
        self.table = table
        self.column = column

    def __call__(self, row: int) -> str:
        """The id of a row; where its cell is empty, its number."""
        value = None if self.column is None else self.table.cell(row, self.column)
        return str(row + 1) if value is None else plain_text(value)

    def check(self, rows: Sequence[int], bad: BadRows) -> list[int]:
        """The rows whose id no earlier one has; the others go to `bad`."""
        seen: dict[str, int] = {}
        unique = []
        for row in rows:
            first = seen.setdefault(self(row), row)
            if first == row:
                unique.append(row)
            else:
                bad.report(
                    row, f"{self.table.where(row, self.column)}: id {self(row)!r} is that of {self.table.where(first)} too."
                )
        return unique


class ManifestRows(Dataset[Sample]):
    """Some rows of a manifest as samples: what their cells hold or name, preprocessed as in `Perceiver.predict`.

    Args:
        table: the manifest.
        rows: which, by position.
        modalities: of the samples.
        specs: what is known of each modality, by name; normalised if mean and standard deviation are.
        folder: what paths in cells are relative to.
        ids: of the rows.
        targets: `(rows,)` classes, from 0, or `(rows, …)` labels or values; None for prediction.
        training: choose at random what is random in training.
    """

    def __init__(
        self,
        *,
        table: ManifestTable,
        rows: Sequence[int],
        modalities: Sequence[ManifestModality],
        specs: Mapping[str, Mapping[str, Any]],
        folder: Path,
        ids: RowIds,
        targets: Tensor | None = None,
        training: bool = False,
    ) -> None:
        self.table = table
        # Tensors, since lists of Python numbers would be copied to loader processes little by little.
        self.rows = torch.as_tensor(rows, dtype=torch.int64)
        self._targets = targets
        self.modalities = list(modalities)
        self.specs = {name: dict(facts) for name, facts in specs.items()}
        # Held, so that loader processes that are started anew import kinds of other packages with them.
        self._kinds = {modality.name: modality.behaviour for modality in modalities}
        self.folder = folder
        self.ids = ids
        self.training = training

    @property
    def targets(self) -> Tensor:
        """The target of each row.

        Raises:
            ValueError: they are not known.
        """
        if self._targets is None:
            raise ValueError("these rows have no targets.")
        return self._targets

    @property
    def labels(self) -> Tensor | None:
        """The class of each row; None where the target is not a class, or not known."""
        targets = self._targets
        return targets if targets is not None and targets.ndim == 1 and not targets.is_floating_point() else None

    def take(self, index: Tensor) -> "ManifestRows":
        """Some of the rows, by position."""
        chosen = copy(self)
        chosen.rows = self.rows[index]
        chosen._targets = None if self._targets is None else self._targets[index]
        return chosen

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            BadRowError: one of its cells cannot be decoded, or all are missing.
        """
        row = int(self.rows[index])
        inputs: dict[str, Tensor | dict[str, Tensor]] = {}
        for modality in self.modalities:
            x = self.read(row, modality)
            if x is not None:
                inputs[modality.name] = x
        if not inputs:
            raise BadRowError(f"{self.table.where(row)}: {nothing_in(self.modalities)}.")
        return Sample(inputs=inputs, target=None if self._targets is None else self._targets[index], id=self.ids(row))

    def read(self, row: int, modality: ManifestModality) -> Tensor | dict[str, Tensor] | None:
        """One modality of a row of the table; None if it is missing. Errors as in `__getitem__`."""
        facts = self.specs[modality.name]
        try:
            value = cell_of(self.table, row, modality)
            if value is None:
                return None
            raw = read_cell(value, facts=facts, folder=self.folder, training=self.training)
            x = self._kinds[modality.name].preprocess(raw, facts, modality.kind)
        except ImportError:
            raise
        except Exception as error:  # whatever a file can do to a decoder, it does to its row alone
            raise BadRowError(f"{_where(self.table, row, modality)}: {reason(error)}") from error
        if isinstance(x, dict) and "present" in x and not bool(x["present"].any()):
            return None
        if isinstance(x, Tensor) and x.is_floating_point() and not bool(x.isfinite().all()):
            raise BadRowError(f"{_where(self.table, row, modality)}: holds NaN or infinity.")
        return x


def cell_of(table: ManifestTable, row: int, modality: ManifestModality) -> Any:
    """What a row has of a modality: a value, of several columns a dict of those that are there; None if it is missing."""
    if modality.several_columns:
        values = {column: value for column in modality.columns if (value := table.cell(row, column)) is not None}
        return values or None
    return table.cell(row, modality.columns[0])


def nothing_in(modalities: Iterable[ManifestModality]) -> str:
    """What is wrong with a row whose cells are all empty."""
    columns = [column for modality in modalities for column in modality.columns]
    return f"has nothing in any of the columns of modalities, {', '.join(columns)}"


def usable_rows(
    rows: Sequence[int],
    *,
    table: ManifestTable,
    modalities: Sequence[ManifestModality],
    folder: Path,
    bad: BadRows,
    check_files: bool,
) -> list[int]:
    """The rows that have something, and whose files, as far as the heads of these say, are there and can be read.

    Raises:
        BadRowError: for the first that has not, unless `bad` skips it.
    """
    usable = []
    for row in progress(rows, total=len(rows), title=f"files of {table.path}"):
        if row in table.problems:
            bad.report(row, f"{table.where(row)}{table.problems[row]}.")
            continue
        if problem := _problem(table, row, modalities, folder, check_files=check_files):
            bad.report(row, problem)
            continue
        usable.append(row)
    return usable


def decodable_rows(dataset: ManifestRows, *, num_workers: int, bad: BadRows) -> list[int]:
    """The positions in `dataset` of the rows that can be decoded, all of which are; the others go to `bad`."""
    loader: DataLoader[Any] = DataLoader(_Attempts(dataset), batch_size=None, num_workers=num_workers)
    usable = []
    attempts = progress(loader, total=len(dataset), title=f"decoding rows of {dataset.table.path}")
    for index, message in enumerate(attempts):
        if message:
            bad.report(int(dataset.rows[index]), str(message))
        else:
            usable.append(index)
    return usable


class _Attempts(Dataset[str]):
    """Decodes samples; what is wrong with each, or an empty text."""

    def __init__(self, dataset: ManifestRows) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> str:
        try:
            self.dataset[index]
        except BadRowError as error:
            return str(error)
        return ""


def _problem(
    table: ManifestTable, row: int, modalities: Sequence[ManifestModality], folder: Path, *, check_files: bool
) -> str:
    """What is wrong with a row, or an empty text."""
    empty = True
    for modality in modalities:
        try:
            value = cell_of(table, row, modality)
            if value is None:
                continue
            empty = False
            if check_files:
                check_cell(value, facts=modality.facts, folder=folder)
        except ImportError:
            raise
        except Exception as error:
            return f"{_where(table, row, modality)}: {reason(error)}"
    return f"{table.where(row)}: {nothing_in(modalities)}." if empty else ""


def _where(table: ManifestTable, row: int, modality: ManifestModality) -> str:
    return table.where(row, None if modality.several_columns else modality.columns[0])
