"""Figure that compares runs: the curve of each in a panel per metric."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from perceiver.plots.rendering import literal_texts
from perceiver.plots.training.learning_curves import Curve

_MOST = 6


@literal_texts()
def compared_curves(runs: Mapping[str, Mapping[str, Curve]]) -> Figure | None:
    """Draw the validation curves of several runs; None if no two of them share a metric.

    Args:
        runs: curves by name, `val/loss`, …, for each run by its name.
    """
    names = sorted({name for curves in runs.values() for name in curves if name.startswith("val/") and name.count("/") == 1})
    shared = [name for name in names if sum(name in curves for curves in runs.values()) > 1][:_MOST]
    if not shared:
        return None
    columns = min(3, len(shared))
    rows = (len(shared) + columns - 1) // columns
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows), layout="constrained")
    for number, name in enumerate(shared):
        axes = figure.add_subplot(rows, columns, number + 1)
        for run, curves in runs.items():
            if curves.get(name):
                epochs, values = zip(*curves[name], strict=True)
                axes.plot(epochs, values, label=run, marker="o" if len(epochs) < 20 else "", markersize=3)
        axes.set(title=name, xlabel="epoch")
        axes.grid(alpha=0.25)
        if number == 0:
            axes.legend(fontsize=7)
    return figure
