"""Figure of samples with prediction and truth, the worst mistakes first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from perceiver.generation import Generated
from perceiver.model import Perceiver
from perceiver.plots.drawings import Drawing, drawing_of
from perceiver.plots.evaluation import modalities_of, on_device, target_outputs
from perceiver.plots.inputs import Single, singles
from perceiver.plots.rendering import literal_texts
from perceiver.runtime.evaluating import evaluating
from perceiver.samples.batch import Batch
from perceiver.targets.comparison import Comparison
from perceiver.targets.kinds import Target, target_of

_COLOURS = {True: "black", False: "firebrick", None: "black"}


class SampleGrid:
    """Figure of samples with predicted and true target: mistakes first, then the least certain predictions.

    Args:
        num_samples: number of samples in the figure.
        num_compared: number of samples to choose from, from the start of the data.
        drawings: drawings by modality, overriding the drawing for its kind.
    """

    def __init__(
        self, *, num_samples: int = 24, num_compared: int = 1024, drawings: Mapping[str, Drawing] | None = None
    ) -> None:
        if not 1 <= num_samples <= num_compared:
            raise ValueError(f"SampleGrid: expected 1 <= num_samples <= num_compared, got {num_samples} and {num_compared}.")
        self.num_samples = num_samples
        self.num_compared = num_compared
        self.drawings = dict(drawings or {})

    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
        """Return `{"samples": figure}`; an empty dict if the spec declares no target, or targets are unknown.

        Args:
            model: model with a spec.
            batches: batches as in training, with targets, read only as far as needed.
        """
        target = target_of(model.spec)
        chosen = [] if target is None else self._worst(model, target, on_device(model, batches))
        return {"samples": self._figure(model, chosen)} if chosen else {}

    def _worst(self, model: Perceiver, target: Target, batches: Iterable[Batch]) -> list[tuple[Comparison, Single]]:
        chosen: list[tuple[Comparison, Single]] = []
        compared = 0
        with evaluating(model):
            for batch in batches:
                if batch.target is None:
                    break
                outputs = target_outputs(model, batch.inputs, batch.masks)
                if not isinstance(outputs, Generated) and (not isinstance(outputs, Tensor) or outputs.ndim != 2):
                    break  # these are not outputs for the target
                comparisons = target.compare(outputs, batch.target)
                rows = list(singles([batch], modalities_of(model)))
                chosen += zip(comparisons, rows, strict=True)
                chosen.sort(key=lambda pair: (pair[0].correct is not False, -pair[0].loss))
                del chosen[self.num_samples :]
                compared += batch.size
                if compared >= self.num_compared:
                    break
        return chosen

    @literal_texts()
    def _figure(self, model: Perceiver, chosen: list[tuple[Comparison, Single]]) -> Figure:
        specs = modalities_of(model)
        drawings = {name: self.drawings.get(name) or drawing_of(specs[name], model.adapters[name]) for name in specs}
        present = [name for name in drawings if any(name in single.inputs for _, single in chosen)]
        width, height = (max(drawings[name].size[axis] for name in present) for axis in (0, 1))
        # As many columns as fit into 12 inches, with the modalities of a sample side by side.
        per_row = min(len(chosen), max(1, int(12 / (width * len(present)))))
        rows = -(-len(chosen) // per_row)
        columns = per_row * len(present)
        figure = Figure(figsize=(max(columns * width, 4.0), rows * (height + 0.45) + 0.4), layout="constrained")
        for number, (comparison, single) in enumerate(chosen):
            for place, name in enumerate(present):
                position = number * len(present) + place + 1
                there = name in single.inputs
                axes = figure.add_subplot(rows, columns, position, projection=drawings[name].projection if there else None)
                if place == 0:
                    title_sample(axes, comparison)
                if there:
                    drawings[name].sample(axes, *single.shown(name, specs[name]))
                else:
                    axes.set_axis_off()
                    axes.text(0.5, 0.5, f"no {name}", ha="center", va="center", transform=axes.transAxes, fontsize=7)
        wrong = sum(comparison.correct is False for comparison, _ in chosen)
        judged = any(comparison.correct is not None for comparison, _ in chosen)
        order = f"mistakes first ({wrong} shown)" if judged else "largest error first"
        figure.suptitle(f"prediction, truth below; {order}", fontsize=10)
        return figure


def title_sample(axes: Axes, comparison: Comparison) -> None:
    """Set the title, red if prediction and truth differ; before drawing, so that the axes leave room."""
    texts = [textwrap.shorten(text, 22, placeholder="…") for text in (comparison.predicted, comparison.true)]
    axes.set_title("\n".join(texts), fontsize=8, color=_COLOURS[comparison.correct])
