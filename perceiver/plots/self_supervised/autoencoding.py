"""Figure of a multimodal autoencoder: originals, reconstructions, and the label decoded without seeing it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from perceiver.adapters.layout import OutputLayout
from perceiver.decoders import MultimodalDecoder
from perceiver.decoders.decoder import target_name
from perceiver.modalities.preprocess import unnormalised
from perceiver.modalities.spec import ModalitySpec
from perceiver.model import Perceiver
from perceiver.plots.drawings import drawing_of
from perceiver.plots.evaluation import modalities_of, on_device
from perceiver.plots.inputs import Single, singles
from perceiver.plots.rendering import literal_texts
from perceiver.runtime.evaluating import evaluating
from perceiver.samples.batch import Batch
from perceiver.targets.comparison import Comparison
from perceiver.targets.kinds import target_of

Pair = Callable[[Axes, Tensor, Tensor, ModalitySpec], None]
"""Draws an original and its reconstruction, unnormalised and without the batch axis; also gets the spec."""


class Autoencodings:
    """Figure with a row per sample: every modality with its reconstruction, and the label.

    Args:
        num_samples: number of samples, from the start of the data.
        pairs: functions that draw pairs, by modality, overriding the drawing for its kind.
    """

    def __init__(self, *, num_samples: int = 6, pairs: Mapping[str, Pair] | None = None) -> None:
        if num_samples < 1:
            raise ValueError(f"Autoencodings.num_samples: expected at least 1, got {num_samples}.")
        self.num_samples = num_samples
        self.pairs = dict(pairs or {})

    @literal_texts()
    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
        """Return `{"autoencoding": figure}`; an empty dict for other models, or if nothing can be drawn.

        Args:
            model: model with a spec and a `MultimodalDecoder` as its head.
            batches: batches as in training, read only as far as needed.
        """
        if not isinstance(model.head, MultimodalDecoder):
            return {}
        specs = modalities_of(model)
        layouts = {
            name: OutputLayout(modality=name, adapter=model.adapters[name], channels=channels)
            for name, channels in model.head.output_channels.items()
            if name != model.head.target and name in model.adapters
        }
        names = [name for name, layout in layouts.items() if layout.has_raw]
        with evaluating(model):
            shown = list(islice(singles(on_device(model, batches), specs), self.num_samples))
            outputs = [_outputs(model, single, list(layouts)) for single in shown]
        if not names or not shown:
            return {}
        figure = Figure(figsize=(4.6 * len(names), 1.3 * len(shown) + 0.6), layout="constrained")
        for row, (single, made) in enumerate(zip(shown, outputs, strict=True)):
            for column, name in enumerate(names):
                axes = figure.add_subplot(len(shown), len(names), row * len(names) + column + 1)
                x = single.inputs.get(name)
                if column == 0:
                    _title(axes, model, single, made)
                if isinstance(x, Tensor):
                    reconstructed = layouts[name].raw(x, made[name].float())
                    first, second = (unnormalised(one[0].detach().cpu(), specs[name]) for one in (x, reconstructed))
                    if name in self.pairs:
                        self.pairs[name](axes, first, second, specs[name])
                    else:
                        drawing = drawing_of(specs[name], model.adapters[name])
                        getattr(drawing, "pair", _lines)(axes, first, second)
                else:
                    axes.set_axis_off()
                    axes.text(0.5, 0.5, f"no {name}", ha="center", va="center", transform=axes.transAxes, fontsize=7)
        figure.suptitle("originals above or in blue, reconstructions below or in orange; the decoded label", fontsize=9)
        return {"autoencoding": figure}


def _outputs(model: Perceiver, single: Single, reconstructed: list[str]) -> dict[str, Tensor]:
    """Return the outputs for a sample, computed without its label; missing modalities are not decoded."""
    none = torch.zeros(0, dtype=torch.int64, device=next(model.parameters()).device)
    absent = {name: none for name in reconstructed if name not in single.inputs}
    outputs: dict[str, Tensor] = model(**model.without_target(single.inputs, single.masks), index=absent)
    return outputs


def _title(axes: Axes, model: Perceiver, single: Single, made: Mapping[str, Tensor]) -> None:
    target, name = target_of(model.spec), target_name(model.head)
    if target is None or name is None or single.target is None:
        return
    comparison: Comparison
    [comparison] = target.compare(made[name].flatten(1).cpu(), single.target.cpu())
    predicted, true = (textwrap.shorten(text, 30, placeholder="…") for text in (comparison.predicted, comparison.true))
    axes.set_title(
        f"{predicted}; true: {true}", fontsize=8, loc="left", color="firebrick" if comparison.correct is False else "black"
    )


def _lines(axes: Axes, original: Tensor, reconstruction: Tensor) -> None:
    """Draw all values as a line."""
    for values, colour, width in ((reconstruction, "tab:orange", 1.0), (original, "tab:blue", 0.5)):
        axes.plot(values.flatten().numpy(), color=colour, linewidth=width)
    axes.set(xticks=[], yticks=[])
