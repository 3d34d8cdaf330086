"""Figure of a learning rate range test: the training loss over the learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure


def range_test(rates: Sequence[float], losses: Sequence[float], *, suggested: int) -> Figure:
    """Draw the smoothed loss over the learning rate, on a logarithmic scale.

    Args:
        rates: learning rates, ascending.
        losses: smoothed training loss of each.
        suggested: position of the suggested rate.
    """
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="#1f77b4")
    axes.plot([rates[suggested]], [losses[suggested]], "o", color="#d62728")
    axes.annotate(f"{rates[suggested]:.2g}", (rates[suggested], losses[suggested]), (6, 6), textcoords="offset points")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    return figure
