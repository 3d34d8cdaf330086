"""Facts of a modality that its kind learns from the cells and samples of the training rows."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from perceiver.data.manifest.cells import cells_of
from perceiver.data.manifest.modalities import ManifestModality
from perceiver.data.manifest.paths import Folder
from perceiver.data.manifest.rows import (
    BadRowError,
    BadRows,
    ManifestRows,
    RowIds,
    cell_of,
    reason,
)
from perceiver.data.manifest.table import ManifestTable
from perceiver.runtime.progress import progress


def learned_spec(
    modality: ManifestModality,
    *,
    table: ManifestTable,
    rows: Sequence[int],
    folder: Folder,
    bad: BadRows,
    at_most: int = 1024,
) -> dict[str, Any]:
    """Return the complete spec of a modality.

    Args:
        modality: the modality with its spec so far.
        table: the manifest.
        rows: rows of the training split.
        folder: base of relative paths in cells.
        bad: handles cells that cannot be decoded.
        at_most: maximum number of samples, evenly spaced, to decode for mean and standard deviation.

    Raises:
        BadRowError: a cell cannot be decoded, unless `bad` skips its row.
        ValueError: the modality is missing in all rows, or never varies.
    """
    present = [row for row in rows if cell_of(table, row, modality) is not None]
    if not present:
        raise ValueError(
            f"{table.path}: column {', '.join(modality.columns)} is empty in all {len(rows)} training rows; leave "
            f"{modality.name} out of data.modalities."
        )

    def report(row: int, column: str | None, problem: object) -> None:
        text = reason(problem) if isinstance(problem, Exception) else problem
        bad.report(row, f"{table.where(row, column)}: {text}")

    spec = dict(modality.spec)
    kind = cells_of(spec)
    if kind.survey is not None:
        apart = 1 if kind.surveyed is None else math.ceil(len(present) / kind.surveyed)
        chosen = present[::apart]
        surveyed = progress(chosen, total=len(chosen), title=f"columns of {modality.name}", unit="rows")
        cells = ((row, cell_of(table, row, modality)) for row in surveyed)
        spec = kind.survey(cells, spec=spec, folder=folder, report=report)
    step = math.ceil(len(present) / at_most)
    dataset = ManifestRows(
        table=table,
        rows=present[::step],
        modalities=[modality],
        specs={modality.name: spec},
        folder=folder,
        ids=RowIds(table=table, column=None),
    )
    try:
        return {**spec, **modality.behaviour.statistics(_readable(dataset, modality, bad), spec)}
    except BadRowError:
        raise
    except ValueError as error:
        raise ValueError(f"{table.path}, column {modality.columns[0]!r}: {error}") from error


def _readable(dataset: ManifestRows, modality: ManifestModality, bad: BadRows) -> Iterator[Any]:
    rows = dataset.rows.tolist()
    for row in progress(rows, total=len(rows), title=f"statistics of {modality.name}", unit="samples"):
        try:
            x = dataset.read(row, modality)
        except BadRowError as error:
            bad.report(row, str(error))
            continue
        if x is not None:
            yield x
