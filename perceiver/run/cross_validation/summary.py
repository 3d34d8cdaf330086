"""Summary of the folds of a cross-validation: mean and standard deviation of each metric, and a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from rich.table import Table

from perceiver.run.cross_validation.directory import FoldResult
from perceiver.run.reporting.console import console
from perceiver.runtime.process_rank import first_process_only

_STAGES = ("test/", "val/", "train/")


def summarised(results: Sequence[FoldResult]) -> dict[str, float | int]:
    """Return the mean of each metric under its own name, and its standard deviation over the folds as `NAME_std`.

    The mean is that of the folds, whatever their sizes; the standard deviation is that of a sample (n - 1). Metrics that a
    fold lacks are left out. `seconds` is the sum, `folds` the number of folds.

    >>> folds = [FoldResult(fold=0, metrics={"test/accuracy": 0.5}, score=None)]
    >>> folds.append(FoldResult(fold=1, metrics={"test/accuracy": 1.0}, score=None))
    >>> summarised(folds)
    {'test/accuracy': 0.75, 'test/accuracy_std': 0.3535533905932738, 'folds': 2}
    """
    found: dict[str, float | int] = {}
    for name in _common(results):
        values = [one.metrics[name] for one in results]
        found[name] = statistics.fmean(values)
        # statistics.stdev raises for NaN and infinity.
        found[f"{name}_std"] = statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
    if all("parameters" in one.metrics for one in results):
        found["parameters"] = int(results[0].metrics["parameters"])
    if all("seconds" in one.metrics for one in results):
        found["seconds"] = round(sum(one.metrics["seconds"] for one in results), 2)
    return {**found, "folds": len(results)}


@first_process_only
def print_folds(results: Sequence[FoldResult]) -> None:
    """Print a row per fold with its test metrics, or validation metrics without a test, then mean and deviation."""
    names = _common(results)
    stage = next((one for one in _STAGES if any(name.startswith(one) for name in names)), "")
    names = [name for name in names if name.startswith(stage)]
    names.sort(key=lambda name: name.endswith("/loss"))
    summary = summarised(results)
    table = Table(title=f"Cross-validation, {len(results)} folds", title_justify="left")
    for name in ("fold", *names):
        table.add_column(name, justify="right")
    for one in results:
        table.add_row(str(one.fold), *(f"{one.metrics[name]:.4f}" for name in names))
    table.add_section()
    table.add_row("mean", *(f"{summary[name]:.4f}" for name in names))
    table.add_row("std", *(f"{summary[f'{name}_std']:.4f}" for name in names))
    console().print(table)


def _common(results: Sequence[FoldResult]) -> list[str]:
    """Return the metrics of training, validation and test that all folds have."""
    names = set.intersection(*(set(one.metrics) for one in results))
    return sorted((name for name in names if name.startswith(_STAGES)), key=lambda name: (_stage(name), name))


def _stage(name: str) -> int:
    return next(number for number, stage in enumerate(_STAGES) if name.startswith(stage))
