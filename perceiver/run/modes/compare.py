"""mode=compare: several run directories in one table and one figure."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from perceiver import checkpoints
from perceiver.plots.rendering import png_of
from perceiver.plots.training.comparison import compared_curves
from perceiver.run.reporting.console import console
from perceiver.run.reporting.report.sections import curves_of
from perceiver.runtime.files import atomic_write, read_json

TABLE, FIGURE = "comparison.csv", "comparison.png"
_MOST_SETTINGS = 20
_SAME_FOR_NO_RUN = ("run_dir", "spec", "mode", "logger", "callbacks", "ckpt_path", "trainer.default_root_dir")
"""Parts of a configuration whose differences say nothing: paths, and facts that follow from the data."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Writes `comparison.csv` and `comparison.png` into the run directory of this command, and prints the table.

    A row holds a metric or a setting that differs, a column a run. Metrics come from `metrics.json`, settings from the
    checkpoint, curves from `csv/metrics.csv`.

    Args:
        compare: at least two run directories.

    Raises:
        ValueError: for fewer runs.
    """

    compare: Sequence[str] | None

    def __post_init__(self) -> None:
        if self.compare is None or isinstance(self.compare, str) or len(self.compare) < 2:
            raise ValueError(
                f"mode=compare: expected 'compare=[RUN1,RUN2]', two run directories or more, got {self.compare}."
            )

    def run(self, config: DictConfig) -> None:
        """Read the runs, print and write the comparison.

        Raises:
            FileNotFoundError: a directory has no metrics.json.
        """
        directories = [Path(name) for name in self.compare or ()]
        names = short_names(directories)
        metrics = [_metrics(directory) for directory in directories]
        settings = [_settings(directory) for directory in directories]
        rows = [(key, [_shown(one.get(key)) for one in metrics]) for key in _ordered(metrics)]
        different = [key for key in _keys(settings) if len({json.dumps(one.get(key)) for one in settings}) > 1]
        rows += [(key, [_shown(one.get(key)) for one in settings]) for key in different[:_MOST_SETTINGS]]
        target = Path(config.run_dir)
        _print(names, rows)
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([["", *names], *([key, *cells] for key, cells in rows)])
        with atomic_write(target / TABLE) as file:
            file.write(text.getvalue().encode())
        curves = {name: curves_of(one / "csv" / "metrics.csv") for name, one in zip(names, directories, strict=True)}
        figure = compared_curves(curves)
        if figure is not None:
            with atomic_write(target / FIGURE) as file:
                file.write(png_of(figure, dpi=110))
        more = f" ({len(different) - _MOST_SETTINGS} more differing settings)" if len(different) > _MOST_SETTINGS else ""
        sys.stdout.write(f"{target}: {TABLE}{', ' + FIGURE if figure is not None else ''}{more}\n")


def short_names(directories: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that differ from each other."""
    for depth in range(1, 1 + max(len(one.parts) for one in directories)):
        names = ["/".join(one.parts[-depth:]) for one in directories]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {one}" for number, one in enumerate(directories)]


def _metrics(directory: Path) -> dict[str, Any]:
    file = directory / "metrics.json"
    if not file.is_file():
        raise FileNotFoundError(f"{directory}: expected a run directory with metrics.json; did the run end?")
    numbers = {str(key): value for key, value in read_json(file).items() if type(value) in (int, float)}
    if "best_epoch" in numbers:
        numbers["best_epoch"] += 1  # counted from 1, as everywhere else that a run prints
    return numbers


def _settings(directory: Path) -> dict[str, Any]:
    """Return the leaves of a run's configuration by dotted key; empty without a checkpoint."""
    try:
        config = checkpoints.read(directory).config
    except (OSError, ValueError):
        return {}
    leaves: dict[str, Any] = {}
    stack: list[tuple[str, Any]] = list(config.items())
    while stack:
        key, value = stack.pop()
        if key in _SAME_FOR_NO_RUN:
            continue
        if isinstance(value, Mapping) and value:
            stack.extend((f"{key}.{name}", entry) for name, entry in value.items())
        else:
            leaves[key] = value
    return leaves


def _ordered(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """All metrics: test, validation, training, then the rest."""
    order = {"test": 0, "val": 1, "train": 2}
    return sorted(_keys(metrics), key=lambda key: (order.get(key.partition("/")[0], 3), key))


def _keys(dicts: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({key for one in dicts for key in one})


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _print(names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    table = Table(title="Comparison", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for key, cells in rows:
        table.add_row(key, *cells)
    console().print(table)
