"""Figures of generated texts: which part of the inputs each word depends on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from itertools import islice

import torch
from matplotlib.figure import Figure
from torch import Tensor

from perceiver.decoders import CausalDecoder
from perceiver.modalities.spec import ModalitySpec
from perceiver.model import Perceiver
from perceiver.plots.drawings import Drawing, drawing_of
from perceiver.plots.evaluation import modalities_of, on_device
from perceiver.plots.inputs import Single, singles
from perceiver.plots.rendering import literal_texts
from perceiver.runtime.evaluating import evaluating
from perceiver.samples.batch import Batch
from perceiver.targets.alignment import Alignment
from perceiver.targets.kinds import Target, target_of
from perceiver.targets.text import with_alignments


class WordMaps:
    """Figures of the attention of a model that generates texts, at each word: one per modality.

    Of a text, the matrix of weights from generated words to source words. Of other modalities, a map over the sample for
    every word, such as an image or a spectrogram. With several modalities, a percentage gives the modality's share.

    Args:
        num_samples: number of samples, from the start of the data.
        max_words: most words of a sample whose maps are drawn.
        drawings: drawings by modality, overriding the drawing for its kind.
    """

    def __init__(self, *, num_samples: int = 4, max_words: int = 9, drawings: Mapping[str, Drawing] | None = None) -> None:
        if num_samples < 1 or max_words < 1:
            raise ValueError(f"WordMaps: expected num_samples and max_words >= 1, got {num_samples}, {max_words}.")
        self.num_samples = num_samples
        self.max_words = max_words
        self.drawings = dict(drawings or {})

    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
        """Return `{"words_<modality>": …}` for each modality of the samples; an empty dict if the model generates no text.

        Args:
            model: model with a spec.
            batches: batches as in training, read only as far as needed.
        """
        target, specs = target_of(model.spec), modalities_of(model)
        if target is None or not isinstance(model.head, CausalDecoder):
            return {}
        found: dict[str, list[tuple[Single, Alignment]]] = {name: [] for name in specs}
        with evaluating(model):
            for single in islice(singles(on_device(model, batches), specs), self.num_samples):
                alignment = _aligned(model, single, target, specs)
                for name in alignment.maps if alignment.words else ():
                    found[name].append((single, alignment))
        return {f"words_{name}": self._figure(model, name, rows, specs[name]) for name, rows in found.items() if rows}

    def _figure(self, model: Perceiver, name: str, rows: list[tuple[Single, Alignment]], spec: ModalitySpec) -> Figure:
        if all(name in alignment.sources for _, alignment in rows):
            return _matrices(name, [alignment for _, alignment in rows])
        drawing = self.drawings.get(name) or drawing_of(spec, model.adapters[name])
        return _maps(name, drawing, rows, spec, max_words=self.max_words)


def _aligned(model: Perceiver, single: Single, target: Target, specs: Mapping[str, ModalitySpec]) -> Alignment:
    outputs = model.target_outputs(single.inputs, single.masks, alignments=True)
    batch = Batch(inputs=single.inputs, masks=single.masks)
    [prediction] = with_alignments(target.predict(outputs), outputs, target=target, batch=batch, modalities=specs)
    alignment: Alignment = prediction.alignment
    return alignment


@literal_texts()
def _matrices(name: str, alignments: list[Alignment]) -> Figure:
    """Draw a matrix per sample: generated words down, source words across."""
    columns = min(2, len(alignments))
    rows = -(-len(alignments) // columns)
    widest = max(len(one.sources[name]) for one in alignments)
    tallest = max(len(one.words) for one in alignments)
    size = (columns * (0.28 * widest + 1.6), rows * (0.24 * tallest + 1.4))
    figure = Figure(figsize=(max(size[0], 4.0), max(size[1], 2.5)), layout="constrained")
    figure.suptitle(f"attention to {name} at each generated word", fontsize=9)
    for place, one in enumerate(alignments):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(one.matrix(name), cmap="magma", vmin=0.0, aspect="auto")
        across, down = ([_label(word.text) for word in words] for words in (one.sources[name], one.words))
        axes.set_xticks(range(len(across)), across, rotation=60, ha="right")
        axes.set_yticks(range(len(down)), down)
        axes.tick_params(labelsize=7)
        if len(one.maps) > 1:
            axes.set_title(f"{float(one.modalities[name].mean()):.0%}", fontsize=8)
    return figure


def _label(word: str) -> str:
    """Shorten a word: a model that has learned little joins ids into words as wide as a figure."""
    return word if len(word) <= 16 else word[:15] + "…"


@literal_texts()
def _maps(
    name: str, drawing: Drawing, rows: list[tuple[Single, Alignment]], spec: ModalitySpec, *, max_words: int
) -> Figure:
    """Draw a row per sample: the sample, and a map for each of its first words."""
    columns = 1 + min(max_words, max(len(alignment.words) for _, alignment in rows))
    width, height = drawing.size
    size = (max(columns * (width + 0.15), 4.0), len(rows) * (height + 0.5) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"attention to {name} at each generated word", fontsize=9)
    for row, (single, alignment) in enumerate(rows):
        x, mask = single.shown(name, spec)
        first = figure.add_subplot(len(rows), columns, row * columns + 1, projection=drawing.projection)
        drawing.sample(first, x, mask)
        first.set_title(textwrap.shorten(single.id, 24), fontsize=8)
        for place, word in enumerate(alignment.words[:max_words]):
            axes = figure.add_subplot(len(rows), columns, row * columns + place + 2, projection=drawing.projection)
            weights: Tensor = torch.from_numpy(alignment.maps[name][place])
            share = f" {float(weights.sum()):.0%}" if len(alignment.maps) > 1 else ""
            axes.set_title(f"{textwrap.shorten(word.text, 20)}{share}", fontsize=8)
            drawing.attention(axes, x, mask, weights)
    return figure
