"""The table csv/metrics.csv of a resumed run: a single table, without the rows of repeated steps."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from perceiver.runtime.files import atomic_write

Rows = list[dict[str, str]]


class EarlierTable:
    """The table of an earlier run, kept while Lightning's logger starts, which deletes it.

    Args:
        path: path of the table, which need not exist.
        steps: number of steps at which the run resumes; rows of later steps move to `metrics.1.csv` beside the table, or
            the next free number. None: all rows move there.
        last_row: metrics that the run would have logged next; added if missing.
    """

    def __init__(self, path: Path, *, steps: int | None, last_row: Mapping[str, float] | None = None) -> None:
        self.path = path
        self.header, rows = _read(path) if path.is_file() else ([], [])
        # The step of a row counts from 0.
        kept = [steps is not None and _step(row) < steps for row in rows]
        self.rows = [row for row, keep in zip(rows, kept, strict=True) if keep]
        later = [row for row, keep in zip(rows, kept, strict=True) if not keep]
        if later:
            numbered = (path.with_name(f"{path.stem}.{number}.csv") for number in range(1, 10**6))
            _write(next(file for file in numbered if not file.exists()), self.header, later)
        if self.rows and last_row is not None and not any(_holds(row, last_row) for row in self.rows):
            self.header = sorted({*self.header, *last_row})
            self.rows.append({name: _shown(value) for name, value in last_row.items()})

    def continue_in(self, trainer: Trainer) -> None:
        """Put the rows back, so that the logger writes below them."""
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and self.rows and Path(logger.log_dir).resolve() == self.path.parent.resolve():
                writer = logger.experiment  # deletes the file when it is made
                _write(self.path, self.header, self.rows)
                writer.metrics_keys = list(self.header)


def _holds(row: Mapping[str, str], wanted: Mapping[str, float]) -> bool:
    return row.get("step") == _shown(wanted["step"]) and all(row.get(name) for name in wanted)


def _shown(value: float) -> str:
    return str(value)


def _step(row: Mapping[str, str]) -> int:
    try:
        return int(row.get("step") or 0)
    except ValueError:
        return 0


def _read(path: Path) -> tuple[list[str], Rows]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        # A row cut off by a kill is left out.
        rows = [row for row in reader if None not in row.values() and None not in row]
        return list(reader.fieldnames or []), rows


def _write(path: Path, header: Sequence[str], rows: Rows) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=header)
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
