"""Figures of a masked autoencoder: the original, the masked input, and the filled-in input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from perceiver.adapters.content import Reconstructible
from perceiver.decoders import ReconstructionDecoder
from perceiver.masking.random import RandomMasking, chosen
from perceiver.modalities.preprocess import unnormalised
from perceiver.modalities.spec import ModalitySpec
from perceiver.model import Perceiver
from perceiver.plots.drawings import Drawing, GridDrawing, drawing_of
from perceiver.plots.evaluation import modalities_of, on_device
from perceiver.plots.inputs import Single, singles
from perceiver.plots.rendering import literal_texts
from perceiver.runtime.evaluating import evaluating
from perceiver.samples.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """One sample's modality in the layout of its tokens, `(1, *grid, c)` each.

    Args:
        original: content of the tokens.
        hidden: `(1, *grid)`, True for hidden tokens.
        filled: the original, with the model's output for hidden tokens.
    """

    original: Tensor
    hidden: Tensor
    filled: Tensor


def reconstruct(
    model: Perceiver,
    single: Single,
    *,
    masking: Mapping[str, RandomMasking],
    normalised: bool = False,
    generator: torch.Generator | None = None,
) -> dict[str, Reconstruction]:
    """Hide tokens of all reconstructed modalities of one sample and fill them in.

    Args:
        model: model with a `ReconstructionDecoder`, in evaluation mode.
        single: the sample.
        masking: masking by modality.
        normalised: the model's outputs are normalised by each token's mean and standard deviation; these are taken from the
            original, as He et al. do for their figures.
        generator: random generator on the CPU.
    """
    tokens = model.tokens(single.inputs, single.masks)
    hidden, index, real = {}, {}, {}
    for name in [name for name in masking if name in tokens]:
        block = tokens[name]
        hidden[name] = masking[name](block, batch=1, generator=generator)
        index[name], real[name] = chosen(hidden[name], at_most=None)
        tokens[name] = replace(block, mask=~hidden[name] if block.mask is None else block.mask & ~hidden[name])
    outputs = model.from_tokens(tokens, index=index)
    made = {}
    for name, output in outputs.items():
        adapter = model.adapters[name]
        assert isinstance(adapter, Reconstructible)
        values = adapter.content(single.inputs[name], single.masks.get(name)).values.float()
        flat = values.flatten(1, -2)
        if normalised:
            own = flat.gather(1, index[name][..., None].expand(-1, -1, flat.shape[-1]))
            output = output * own.std(dim=-1, keepdim=True, correction=0) + own.mean(dim=-1, keepdim=True)
        filled = flat.clone()
        filled[:, index[name][0][real[name][0]]] = output[:, real[name][0]].to(filled.dtype)
        made[name] = Reconstruction(original=values, hidden=hidden[name], filled=filled.reshape(values.shape))
    return made


class Reconstructions:
    """Figure per modality: several samples, their masked inputs, and the filled-in inputs.

    Args:
        masking: chooses the hidden tokens.
        masking_of: masking of individual modalities, by name.
        normalised: see `reconstruct`.
        num_samples: number of samples, from the start of the data.
        drawings: drawings by modality, overriding the drawing for its kind.
        seed: seed for the hidden tokens.
    """

    def __init__(
        self,
        *,
        masking: RandomMasking,
        masking_of: Mapping[str, RandomMasking] | None = None,
        normalised: bool = False,
        num_samples: int = 8,
        drawings: Mapping[str, Drawing] | None = None,
        seed: int = 0,
    ) -> None:
        if num_samples < 1:
            raise ValueError(f"Reconstructions.num_samples: expected at least 1, got {num_samples}.")
        self.masking = masking
        self.masking_of = dict(masking_of or {})
        self.normalised = normalised
        self.num_samples = num_samples
        self.drawings = dict(drawings or {})
        self.seed = seed

    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
        """Return `{"reconstruction": figure}`, or `reconstruction_NAME` per modality; an empty dict for other models.

        Args:
            model: model with a spec and a `ReconstructionDecoder` as its head.
            batches: batches as in training, read only as far as needed.
        """
        if not isinstance(model.head, ReconstructionDecoder):
            return {}
        specs = modalities_of(model)
        generator = torch.Generator().manual_seed(self.seed)
        masking = {name: self.masking_of.get(name, self.masking) for name in model.head.output_channels}
        with evaluating(model):
            shown = [
                (single, reconstruct(model, single, masking=masking, normalised=self.normalised, generator=generator))
                for single in islice(singles(on_device(model, batches), specs), self.num_samples)
            ]
        figures = {}
        for name in masking:
            own = specs[name]
            columns = [self._pictures(model, single, made[name], name, own) for single, made in shown if name in made]
            title = f"reconstruction_{name}" if len(masking) > 1 else "reconstruction"
            if columns:
                figures[title] = self._figure(model, columns, name, own)
        return figures

    @literal_texts()
    def _figure(self, model: Perceiver, columns: list[tuple[Any, Any, Any]], name: str, spec: ModalitySpec) -> Figure:
        adapter = model.adapters[name]
        own = drawing_of(spec, adapter) if hasattr(adapter, "with_content") else GridDrawing()
        drawing = self.drawings.get(name) or own
        width, height = drawing.size
        figure = Figure(figsize=(max(len(columns) * width, 4.0), 3 * height + 0.5), layout="constrained")
        for column, pictures in enumerate(columns):
            for row, (picture, title) in enumerate(zip(pictures, ("original", "seen", "filled in"), strict=True)):
                axes = figure.add_subplot(3, len(columns), row * len(columns) + column + 1, projection=drawing.projection)
                if column == 0:
                    axes.set_title(title, fontsize=8, loc="left")
                drawing.sample(axes, picture, None)
        return figure

    def _pictures(
        self, model: Perceiver, single: Single, made: Reconstruction, name: str, spec: ModalitySpec
    ) -> tuple[Any, Any, Any]:
        """Return original, masked input (blank where hidden) and filled-in input, as the drawing takes them."""
        adapter, x = model.adapters[name], single.inputs[name]
        veil = made.hidden[..., None].expand(made.original.shape)
        if not hasattr(adapter, "with_content"):
            # Channels first; the first axis of the grid runs along the picture.
            pictures = (made.original, made.original.masked_fill(veil, 0.0), made.filled)
            first, seen, last = (picture[0].flatten(1).t().cpu() for picture in pictures)
            return first, seen, last
        if not isinstance(x, Tensor):
            parts = (made.original, made.original.masked_fill(veil, torch.nan), made.filled)
            series = [{"values": adapter.with_content(x, part)["values"][0].cpu()} for part in parts]  # type: ignore[operator]
            return series[0], series[1], series[2]

        def raw(values: Tensor) -> Tensor:
            layout: Tensor = adapter.with_content(x, values)[0].detach().cpu()  # type: ignore[operator]
            return layout

        original, filled = (unnormalised(raw(values), spec) for values in (made.original, made.filled))
        blank = float(getattr(drawing_of(spec, adapter), "blank", 0.0))
        return original, torch.where(raw(veil.float()) > 0.5, blank, original), filled
