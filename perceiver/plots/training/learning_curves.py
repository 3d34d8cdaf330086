"""Figure of learning curves: every metric of training and validation over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from perceiver.plots.rendering import literal_texts

Curve = Sequence[tuple[float, float]]
"""Points (epoch, value)."""

_COLOURS = {"train": "#7f7f7f", "val": "#1f77b4", "test": "#d62728"}
_MOST = 8


@literal_texts()
def learning_curves(curves: Mapping[str, Curve], *, best_epoch: float | None = None) -> Figure | None:
    """Draw a panel per metric, with training and validation in it; None without a metric of at least one epoch.

    Args:
        curves: points by name, `train/loss`, `val/loss`, …; names of groups, such as `val/attention/image`, are left out.
        best_epoch: epoch of the best checkpoint, marked by a line.
    """
    named = [name.split("/") for name, points in curves.items() if points and name.count("/") == 1]
    metrics = list(dict.fromkeys(metric for _, metric in sorted(named, key=lambda pair: (pair[1] != "loss", pair[1]))))
    shown = metrics[:_MOST]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = (len(shown) + columns - 1) // columns
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    for number, metric in enumerate(shown):
        axes = figure.add_subplot(rows, columns, number + 1)
        for stage, colour in _COLOURS.items():
            points = curves.get(f"{stage}/{metric}") or []
            if points:
                epochs, values = zip(*points, strict=True)
                axes.plot(epochs, values, color=colour, label=stage, marker="o" if len(points) < 20 else "", markersize=3)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="#2ca02c", linewidth=1, linestyle=":", label="best")
        axes.set(title=metric.replace("_", " "), xlabel="epoch")
        axes.grid(alpha=0.25)
        if len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend(fontsize=8)
    return figure
