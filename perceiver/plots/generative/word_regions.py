"""Figure of the regions of a generated image that each word of its prompt changes, step by step."""

from __future__ import annotations

from matplotlib.figure import Figure

from perceiver.inspection.word_influence import WordInfluence
from perceiver.plots.drawings import HEAT, ImageDrawing
from perceiver.plots.rendering import literal_texts

_INCHES = 0.9


@literal_texts()
def word_regions(found: WordInfluence, *, num_steps: int = 6) -> Figure:
    """Return a figure with the estimates of an image in the first row, and below a row of maps for each word.

    All maps have one scale: bright is where the velocity changes most if the word is left out.

    Args:
        found: result of `perceiver.inspection.word_influence` for an image.
        num_steps: number of steps to show, evenly spaced.

    Raises:
        ValueError: if the maps are not those of images.
    """
    if found.maps.ndim != 4:
        raise ValueError(f"word_regions: expected maps (words, steps, height, width), got {tuple(found.maps.shape)}.")
    count = min(num_steps, len(found.times))
    steps = [round(place * (len(found.times) - 1) / max(count - 1, 1)) for place in range(count)]
    rows = len(found.words) + 1
    figure = Figure(figsize=(count * _INCHES + 1.0, rows * _INCHES + 0.3), layout="constrained")
    highest = max(float(found.maps.max()), 1e-6)
    for column, step in enumerate(steps):
        axes = figure.add_subplot(rows, count, column + 1)
        axes.set_title(f"t = {found.times[step]:.2f}", fontsize=7)
        ImageDrawing().sample(axes, found.samples[step], None)
        for row, word in enumerate(found.words, start=1):
            axes = figure.add_subplot(rows, count, row * count + column + 1)
            axes.imshow(found.maps[row - 1, step].numpy(), cmap=HEAT, vmin=0.0, vmax=highest)
            axes.set(xticks=[], yticks=[])
            if column == 0:
                axes.set_ylabel(f"{word:.14}", fontsize=7)
    return figure
