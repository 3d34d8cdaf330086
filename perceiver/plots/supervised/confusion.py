"""Figure of the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Shaped
from matplotlib.figure import Figure
from torch import Tensor

from perceiver.plots.rendering import literal_texts

# With more classes, names and numbers would be unreadable.
_MOST_LABELS = 30


@literal_texts()
def confusion_figure(confusion: Shaped[Tensor, "classes classes"], names: Sequence[str], *, title: str) -> Figure:
    """Draw a confusion matrix, rows true classes, coloured by the share of the row.

    Args:
        confusion: numbers of samples.
        names: class names; class numbers are shown if the number of names differs.
        title: title of the figure.
    """
    count = confusion.shape[0]
    side = min(2.5 + 0.45 * count, 14.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    if count <= _MOST_LABELS:
        labels = list(names) if len(names) == count else [str(number) for number in range(count)]
        rotation = 90 if max(map(len, labels)) > 3 else 0
        axes.set_xticks(range(count), labels, rotation=rotation)
        axes.set_yticks(range(count), labels)
        for row, column in confusion.nonzero().tolist():
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(confusion[row, column])), ha="center", va="center", color=colour, fontsize=8)
    return figure
