"""Figure of generated samples: a row for each condition."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from perceiver.decoders.velocity import VelocityHead
from perceiver.generation.flow import generate
from perceiver.inference.sampling import GeneratedSamples, generate_samples
from perceiver.modalities.preprocess import unnormalised
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE, decode_bytes
from perceiver.model import Perceiver
from perceiver.plots.drawings import Drawing, drawing_of
from perceiver.plots.evaluation import modalities_of, on_device
from perceiver.plots.inputs import Single, singles
from perceiver.plots.rendering import literal_texts
from perceiver.samples.batch import Batch

_INCHES = 0.8
_LABEL = 26  # characters of a line of a prompt
_MOST_ROWS, _MOST_COLUMNS, _MOST_SAMPLES = 32, 32, 512
"""Size of a figure: matplotlib takes about 30 ms for a sample, and more for each of many."""


class GeneratedSheet:
    """Figure of samples for some conditions, with the same noise in each figure, so that epochs can be compared.

    Args:
        conditions: raw conditions, as `perceiver.generate_samples` takes them, e.g. `{"text": ["a 7", "a 3"]}`; None: those
            of the first validation samples, whose true images are shown first.
        num_conditions: number of validation samples if `conditions` is None.
        num_samples: number of samples of each condition.
        guidance, steps: see `perceiver.generation.flow.generate`. Guidance is 1 for models that were trained without dropped
            conditions.
        seed: seed of the noise.
    """

    def __init__(
        self,
        *,
        conditions: Mapping[str, Any] | None = None,
        num_conditions: int = 8,
        num_samples: int = 8,
        guidance: float = 3.0,
        steps: int = 12,
        seed: int = 0,
    ) -> None:
        if min(num_conditions, num_samples) < 1:
            raise ValueError(
                f"GeneratedSheet: expected num_conditions and num_samples of 1 or more, got {num_conditions}, {num_samples}."
            )
        self.conditions = None if conditions is None else dict(conditions)
        self.num_conditions = num_conditions
        self.num_samples = num_samples
        self.guidance = guidance
        self.steps = steps
        self.seed = seed

    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
        """Return `{"generated": figure}`; an empty dict for a model that generates no samples.

        Args:
            model: model with a spec.
            batches: batches of evaluation data, read only as far as needed.
        """
        if not isinstance(model.head, VelocityHead) or model.head.modality not in modalities_of(model):
            return {}
        guidance = self.guidance if model.head.condition_dropout else 1.0
        if self.conditions is not None:
            made = generate_samples(
                model,
                self.conditions,
                num_samples=self.num_samples,
                guidance=guidance,
                steps=self.steps,
                seed=self.seed,
            )
            return {"generated": sheet_of(made)}
        rows = []
        for single in singles(on_device(model, batches), modalities_of(model)):
            rows.append(self._row(model, single, guidance))
            if len(rows) == self.num_conditions:
                break
        return {"generated": sheet(rows, drawing=_drawing(model))} if rows else {}

    def _row(self, model: Perceiver, single: Single, guidance: float) -> tuple[str, list[Tensor]]:
        assert isinstance(model.head, VelocityHead)
        name = model.head.modality
        spec = modalities_of(model)[name]
        conditions = {
            key: (x, single.masks[key]) if key in single.masks else x for key, x in single.inputs.items() if key != name
        }
        made = generate(
            model,
            conditions,
            num_samples=self.num_samples,
            shape_of=single.inputs.get(name),
            steps=self.steps,
            guidance=guidance if conditions else 1.0,
            generator=torch.Generator().manual_seed(self.seed),
        )
        true = [] if name not in single.inputs else [single.shown(name, spec)[0]]
        return _title(single, name, modalities_of(model)), [*true, *unnormalised(made.cpu(), spec)]


def sheet_of(made: GeneratedSamples) -> Figure:
    """Return the figure of samples, a row for each condition."""
    rows = []
    for number, condition in enumerate(made.conditions):
        title = ", ".join(f"{one:.80}" if isinstance(one, str) else name for name, one in condition.items())
        first = number * made.num_samples
        rows.append((title, list(made.values[first : first + made.num_samples])))
    return sheet(rows, drawing=drawing_of(made.spec, None))


@literal_texts()
def sheet(rows: Sequence[tuple[str, Sequence[Tensor]]], *, drawing: Drawing) -> Figure:
    """Return a figure with a row for each condition; of many, the first ones, and a line that says so.

    Args:
        rows: title of each row and its samples, unnormalised, as many in each row.
        drawing: draws a sample.
    """
    most = max(len(samples) for _, samples in rows)
    columns = min(most, _MOST_COLUMNS)
    shown_rows = rows[: min(_MOST_ROWS, _MOST_SAMPLES // columns)]
    scale = _INCHES / drawing.size[1]
    width, height = columns * drawing.size[0] * scale, len(shown_rows) * _INCHES
    # Room for the titles at the left.
    figure = Figure(figsize=(width + 2.0, height), layout="constrained")
    if len(shown_rows) < len(rows) or columns < most:
        note = f"the first {len(shown_rows)} of {len(rows)} rows and {columns} of {most} samples"
        figure.supxlabel(note, fontsize=7)
    grid = figure.add_gridspec(len(shown_rows), columns + 1, width_ratios=[2.0 * columns / width, *[1.0] * columns])
    for row, (title, samples) in enumerate(shown_rows):
        label = figure.add_subplot(grid[row, 0])
        label.set_axis_off()
        shown = "\n".join(textwrap.wrap(title, _LABEL)[:4])
        label.text(1.0, 0.5, shown, ha="right", va="center", transform=label.transAxes, fontsize=7)
        for column, sample in enumerate(samples[:columns]):
            axes = figure.add_subplot(grid[row, column + 1], projection=drawing.projection)
            drawing.sample(axes, sample, None)
    return figure


def _drawing(model: Perceiver) -> Drawing:
    assert isinstance(model.head, VelocityHead)
    name = model.head.modality
    return drawing_of(modalities_of(model)[name], model.adapters[name])


def _title(single: Single, generated: str, specs: Mapping[str, Any]) -> str:
    """Return the prompts of a sample, or the id of a sample without."""
    texts = [
        decode_bytes(x[0].cpu())
        for name, x in single.inputs.items()
        if name != generated and isinstance(x, Tensor) and specs[name].get("vocabulary_size") == VOCABULARY_SIZE
    ]
    return ", ".join(texts) or single.id
