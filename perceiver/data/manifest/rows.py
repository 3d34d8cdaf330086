"""Rows of a manifest as samples, decoded per batch, and the handling of unusable rows."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perceiver.data.manifest.cells import cell_content, check_cell, read_cell
from perceiver.data.manifest.modalities import ManifestModality
from perceiver.data.manifest.paths import Folder
from perceiver.data.manifest.table import ManifestTable
from perceiver.data.manifest.text_targets import TextTargets
from perceiver.modalities.cells.values import plain_text
from perceiver.runtime.process_rank import process_rank
from perceiver.runtime.progress import progress
from perceiver.samples.batch import Sample

log = logging.getLogger(__name__)

_MOST_NAMED, _LONGEST = 100, 1600  # rows, characters


class BadRowError(ValueError):
    """A row cannot be used; the message names file, row, column and reason.

    A DataLoader adds tracebacks to the messages of its workers' errors; this class keeps the original message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_clipped(message.rpartition(f"{type(self).__name__}: ")[2].strip()))


def _clipped(message: str) -> str:
    """Shorten a message by cutting out the middle, since a cell may be as long as a file."""
    return message if len(message) <= _LONGEST else f"{message[: _LONGEST // 2]} … {message[-_LONGEST // 4 :]}"


def reason(error: Exception) -> str:
    """Describe an error for a message: its text, with its type if the text alone is unclear."""
    if isinstance(error, OSError | ValueError | TypeError) and str(error):
        return str(error)
    return f"cannot be decoded: {type(error).__name__}: {error}".rstrip(": ")


class BadRows:
    """Handling of unusable rows.

    Args:
        skip: leave unusable rows out and record the reasons; False: raise at the first unusable row.
    """

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.skipped: dict[int, str] = {}
        self._reported = 0

    def report(self, row: int, message: str) -> None:
        """Report an unusable row.

        Raises:
            BadRowError: unusable rows are not skipped; the error has this message.
        """
        if not self.skip:
            raise BadRowError(f"{message} Correct it, or skip such rows with data.on_bad_row=skip.")
        self.skipped.setdefault(row, _clipped(message))

    def tell(self, *, total: int) -> None:
        """Log the rows skipped since the last call, in the first process only: all processes skip the same rows."""
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
    """Ids of the rows of a manifest: the cells of a column, or numbers from 1.

    Args:
        table: the manifest.
        column: column of ids; None: rows are numbered.
    """

    def __init__(self, *, table: ManifestTable, column: str | None) -> None:
        self.table = table
        self.column = column

    def __call__(self, row: int) -> str:
        """Return the id of a row; its number if the cell is empty."""
        value = None if self.column is None else self.table.cell(row, self.column)
        return str(row + 1) if value is None else plain_text(value)

    def check(self, rows: Sequence[int], bad: BadRows) -> list[int]:
        """Return the rows with unique ids; rows that repeat an earlier id are reported to `bad`."""
        seen: dict[str, int] = {}
        unique = []
        for row in rows:
            first = seen.setdefault(self(row), row)
            if first == row:
                unique.append(row)
            else:
                bad.report(
                    row,
                    f"{self.table.where(row, self.column)}: id {self(row)!r} also occurs at {self.table.where(first)}. "
                    "data.id=null numbers the rows instead.",
                )
        return unique


class ManifestRows(Dataset[Sample]):
    """Rows of a manifest as samples: the content that their cells hold or name, preprocessed as in `Perceiver.predict`.

    Args:
        table: the manifest.
        rows: positions of the rows.
        modalities: modalities of the samples.
        specs: known spec of each modality, by name; samples are normalised if it has mean and standard deviation.
        folder: base of relative paths in cells.
        ids: ids of the rows.
        targets: `(rows,)` classes, from 0, or `(rows, …)` labels or values, or texts; None for prediction.
        training: make the random choices of training.
    """

    def __init__(
        self,
        *,
        table: ManifestTable,
        rows: Sequence[int],
        modalities: Sequence[ManifestModality],
        specs: Mapping[str, Mapping[str, Any]],
        folder: Folder,
        ids: RowIds,
        targets: Tensor | TextTargets | None = None,
        training: bool = False,
    ) -> None:
        self.table = table
        # Tensors, because lists of Python numbers would gradually be copied to loader processes.
        self.rows = torch.as_tensor(rows, dtype=torch.int64)
        self._targets = targets
        self.modalities = list(modalities)
        self.specs = {name: dict(spec) for name, spec in specs.items()}
        # Kept so that spawned loader processes import kinds of other packages when they unpickle this object.
        self._kinds = {modality.name: modality.behaviour for modality in modalities}
        self.folder = folder
        self.ids = ids
        self.training = training

    @property
    def targets(self) -> Tensor | TextTargets:
        """Target of each row.

        Raises:
            ValueError: the targets are unknown.
        """
        if self._targets is None:
            raise ValueError("these rows have no targets.")
        return self._targets

    @property
    def labels(self) -> Tensor | None:
        """Class of each row; None if the target is unknown or not a class."""
        targets = self._targets
        if not isinstance(targets, Tensor):
            return None
        return targets if targets.ndim == 1 and not targets.is_floating_point() else None

    @property
    def lengths(self) -> list[int]:
        """The number of ids of each row's target text.

        Raises:
            AttributeError: the targets are no texts, so that rows have no lengths.
        """
        if not isinstance(self._targets, TextTargets):
            raise AttributeError("these rows have no lengths: their targets are no texts.")
        return self._targets.lengths

    def take(self, index: Tensor) -> "ManifestRows":
        """Return the rows at these positions."""
        chosen = copy(self)
        chosen.rows = self.rows[index]
        targets = self._targets
        chosen._targets = (
            targets.take(index) if isinstance(targets, TextTargets) else None if targets is None else targets[index]
        )
        return chosen

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample.

        Raises:
            BadRowError: a cell cannot be decoded, or all cells are missing.
        """
        row = int(self.rows[index])
        inputs: dict[str, Tensor | dict[str, Tensor]] = {}
        for modality in self.modalities:
            x = self.read(row, modality)
            if x is not None:
                inputs[modality.name] = x
        if not inputs:
            raise BadRowError(f"{self.table.where(row)}: {nothing_in(self.modalities)}.")
        target = None if self._targets is None else self._targets[index]
        whole = torch.ones(len(self._targets[index]), dtype=torch.bool) if isinstance(self._targets, TextTargets) else None
        return Sample(inputs=inputs, target=target, id=self.ids(row), target_mask=whole)

    def read(self, row: int, modality: ManifestModality) -> Tensor | dict[str, Tensor] | None:
        """Read a modality of a row of the table; None if it is missing. Errors as in `__getitem__`."""
        spec = self.specs[modality.name]
        try:
            value = cell_of(self.table, row, modality)
            if value is None:
                return None
            raw = read_cell(value, spec=spec, folder=self.folder, training=self.training)
            x = self._kinds[modality.name].preprocess(raw, spec, modality.kind)
        except ImportError:
            raise
        except Exception as error:  # any decoder failure must affect only its row
            raise BadRowError(f"{_where(self.table, row, modality)}: {reason(error)}") from error
        if isinstance(x, dict) and "present" in x and not bool(x["present"].any()):
            return None
        if isinstance(x, Tensor) and x.is_floating_point() and not bool(x.isfinite().all()):
            raise BadRowError(f"{_where(self.table, row, modality)}: contains NaN or infinity.")
        return x


def cell_of(table: ManifestTable, row: int, modality: ManifestModality) -> Any:
    """Return the content of a row's cell, see `perceiver.data.manifest.cells.cell_content`; None if it is missing.

    Returns a dict of the non-empty columns for a table, and the filled path for a pattern.

    Raises:
        ValueError: the cell holds an invalid struct, or leads out of the folder of the pattern.
    """
    if modality.several_columns:
        values = {column: value for column in modality.columns if (value := table.cell(row, column)) is not None}
        return values or None
    if modality.pattern is not None:
        cells = {column: table.cell(row, column) for column in modality.columns}
        return None if any(value is None for value in cells.values()) else modality.pattern.filled(cells)
    return cell_content(table.cell(row, modality.columns[0]), spec=modality.spec)


def nothing_in(modalities: Iterable[ManifestModality]) -> str:
    """Return the message for a row whose cells are all empty."""
    columns = [column for modality in modalities for column in modality.columns]
    return f"all columns of its modalities are empty: {', '.join(columns)}"


def usable_rows(
    rows: Sequence[int],
    *,
    table: ManifestTable,
    modalities: Sequence[ManifestModality],
    folder: Folder,
    bad: BadRows,
    check_files: bool,
) -> list[int]:
    """Return the rows that have content and whose files exist and, judging by their heads, can be read.

    Raises:
        BadRowError: a row cannot be used, unless `bad` skips it.
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
    """Decode all rows and return the positions in `dataset` of those without errors; report the others to `bad`."""
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
    """Decodes samples; each entry is the problem of a sample, or an empty string."""

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
    table: ManifestTable, row: int, modalities: Sequence[ManifestModality], folder: Folder, *, check_files: bool
) -> str:
    """Return the problem of a row, or an empty string."""
    empty = True
    for modality in modalities:
        try:
            value = cell_of(table, row, modality)
            if value is None:
                continue
            empty = False
            if check_files:
                check_cell(value, spec=modality.spec, folder=folder)
        except ImportError:
            raise
        except Exception as error:
            return f"{_where(table, row, modality)}: {reason(error)}"
    return f"{table.where(row)}: {nothing_in(modalities)}." if empty else ""


def _where(table: ManifestTable, row: int, modality: ManifestModality) -> str:
    return table.where(row, None if modality.several_columns else modality.columns[0])
