"""Attention of a model: of single latents, of all latents, and of the output query through the latents."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor, nn

from perceiver.attention.layers import CrossAttend
from perceiver.decoders import SequenceDecoder
from perceiver.modalities.spec import ModalitySpec
from perceiver.model import Perceiver
from perceiver.plots.drawings import Drawing, drawing_of
from perceiver.plots.evaluation import modalities_of, on_device, target_outputs
from perceiver.plots.inputs import Single, singles
from perceiver.plots.rendering import literal_texts
from perceiver.plots.supervised.samples import title_sample
from perceiver.runtime.evaluating import evaluating
from perceiver.samples.batch import Batch
from perceiver.targets.kinds import target_of
from perceiver.tokens.tokens import Tokens

# Number of attention weights at a time: 64 MB.
_MOST_WEIGHTS = 2**24
_MOST_STEPS = 3
_MOST_LOOKED_THROUGH = 512


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Attention weights of one sample by modality, averaged over heads. They sum to 1 over the tokens of all modalities.

    Weights are zero for modalities that a cross-attend does not read.

    Args:
        steps: for each cross-attend of the encoder, the mean over all latents, `(*grid)`.
        chosen: numbers of the latents in `latents`.
        latents: weights of single latents in the last cross-attend, `(len(chosen), *grid)`.
        query: mean weights of the head's queries, through the latents: the weights of the last cross-attend, averaged with
            the queries' attention to each latent. Self-attention in between is ignored. None: the head has no queries.
    """

    steps: list[dict[str, Tensor]]
    chosen: list[int]
    latents: dict[str, Tensor]
    query: dict[str, Tensor] | None


def look(
    model: Perceiver,
    inputs: Mapping[str, Any],
    masks: Mapping[str, Tensor] | None = None,
    *,
    num_latents: int = 16,
) -> Looks | None:
    """Compute the attention weights of one sample, as in `Perceiver.attention_weights`, but chunk by chunk.

    At most about 64 MB of weights are in memory at a time, whatever the number of latents and tokens.

    Args:
        model: any model; None is returned if its encoder has no cross-attends of this package.
        inputs, masks: a batch of one, see `Perceiver.tokens`.
        num_latents: number of single latents, evenly spaced.
    """
    steps: list[dict[str, Tensor]] = []
    last: list[tuple[CrossAttend, Tensor, dict[str, Tokens]]] = []
    queries: list[Tensor] = []

    def observe(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(layer, CrossAttend)
        latents, blocks = arguments
        read = [name for name in sorted(inputs) if model.reads is None or name in model.reads[len(steps)]]
        # If nothing is read, use a placeholder block without a modality.
        tokens = dict(zip(read, blocks, strict=True)) if read else {}
        last[:] = [(layer, latents, tokens)]
        even = latents.new_full((latents.shape[1],), 1 / latents.shape[1])
        steps.append(_weighted(layer, latents, tokens, even))

    def observe_query(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(layer, CrossAttend)
        [weights] = layer.attention.weights(*arguments)
        queries.append(weights.mean(dim=(0, 1, 2)))

    with evaluating(model), ExitStack() as hooks:
        for part, hook in ((model.encoder, observe), (model.head, observe_query)):
            for layer in part.modules():
                if isinstance(layer, CrossAttend):
                    hooks.callback(layer.register_forward_pre_hook(hook).remove)
        if isinstance(model.head, SequenceDecoder):
            model.encode(inputs, masks)  # a causal decoder reads at every step
        else:
            model(inputs, masks)
        if not last:
            return None
        layer, latents, tokens = last[0]
        unread = {name: latents.new_zeros(block.grid) for name, block in model.tokens(inputs, masks).items()}
        total = latents.shape[1]
        chosen = torch.linspace(0, total - 1, min(num_latents, total)).round().long().unique().tolist()
        single = layer.attention.weights(latents[:, chosen], list(tokens.values())) if tokens else ()
        query = None
        if queries and queries[-1].shape == (total,):
            query = unread | _weighted(layer, latents, tokens, queries[-1])
    alike = {name: zeros.expand(len(chosen), *zeros.shape) for name, zeros in unread.items()}
    return Looks(
        steps=[unread | step for step in steps],
        chosen=chosen,
        latents=alike | {name: weights[0].mean(dim=0) for name, weights in zip(tokens, single, strict=True)},
        query=query,
    )


def _weighted(
    layer: CrossAttend,
    latents: Float[Tensor, "1 latents channels"],
    tokens: Mapping[str, Tokens],
    by: Float[Tensor, "latents"],
) -> dict[str, Tensor]:
    """Return attention weights averaged over heads and summed with weights over latents, `(*grid)` by modality."""
    if not tokens:
        return {}
    blocks = list(tokens.values())
    per_latent = layer.attention.num_heads * sum(block.num_tokens for block in blocks)
    rows = max(1, _MOST_WEIGHTS // per_latent)
    sums = [torch.zeros((), device=by.device)] * len(blocks)
    for start in range(0, latents.shape[1], rows):
        weights = layer.attention.weights(latents[:, start : start + rows], blocks)
        shares = by[start : start + rows]
        sums = [total + torch.tensordot(shares, one[0].mean(dim=0), 1) for total, one in zip(sums, weights, strict=True)]
    return dict(zip(tokens, sums, strict=True))


class AttentionMaps:
    """Figures of a model's attention: per modality, one of several samples and one of single latents.

    The brightness of each map is relative to its maximum. With several modalities, a percentage gives the modality's share
    of the attention.

    Args:
        num_samples: rows of the first figure: samples of different classes, as far as they occur among the first 512
            samples.
        num_latents: latents in the second figure, evenly spaced, for the first of these samples.
        drawings: drawings by modality, overriding the drawing for its kind.
    """

    def __init__(
        self, *, num_samples: int = 4, num_latents: int = 15, drawings: Mapping[str, Drawing] | None = None
    ) -> None:
        if num_samples < 1 or num_latents < 1:
            raise ValueError(f"AttentionMaps: expected num_samples and num_latents >= 1, got {num_samples}, {num_latents}.")
        self.num_samples = num_samples
        self.num_latents = num_latents
        self.drawings = dict(drawings or {})

    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
        """Return `{"attention_<modality>": …, "latents_<modality>": …}` for each modality of the samples.

        Args:
            model: any model.
            batches: batches as in training, read only as far as needed.
        """
        specs = modalities_of(model)
        looked: dict[str, list[tuple[Single, Looks]]] = {name: [] for name in specs}
        for single in self._chosen(singles(on_device(model, batches), specs)):
            looks = look(model, single.inputs, single.masks, num_latents=self.num_latents)
            if looks is not None:
                for name in single.inputs:
                    looked[name].append((single, looks))
        figures: dict[str, Figure] = {}
        for name, pairs in looked.items():
            if pairs:
                drawing = self.drawings.get(name) or drawing_of(specs[name], model.adapters[name])
                figures[f"attention_{name}"] = _overview(model, name, drawing, pairs, specs[name])
                figures[f"latents_{name}"] = _single_latents(name, drawing, *pairs[0], specs[name])
        return figures

    def _chosen(self, samples: Iterator[Single]) -> list[Single]:
        """Return the first sample of each class that occurs, then the first of the other samples."""
        new, others, classes = [], [], set()
        for single in islice(samples, _MOST_LOOKED_THROUGH):
            if not single.inputs:
                continue
            kind = _class_of(single)
            if kind is None or kind in classes:
                others.append(single)
            else:
                new.append(single)
                classes.add(kind)
            if len(new) == self.num_samples or (kind is None and len(others) == self.num_samples):
                break
            del others[self.num_samples :]
        return [*new, *others][: self.num_samples]


def _class_of(single: Single) -> int | None:
    """Return the class of a sample; None if targets are not class numbers."""
    target = single.target
    return None if target is None or target.is_floating_point() or target.numel() != 1 else int(target)


@literal_texts()
def _overview(
    model: Perceiver, name: str, drawing: Drawing, pairs: list[tuple[Single, Looks]], spec: ModalitySpec
) -> Figure:
    """Draw a row per sample: the sample, the mean over latents in some cross-attends, the query."""
    steps = sorted({round(step) for step in torch.linspace(0, len(pairs[0][1].steps) - 1, _MOST_STEPS).tolist()})
    columns = 1 + len(steps) + (pairs[0][1].query is not None)
    width, height = drawing.size
    size = (max(columns * (width + 0.2), 4.0), len(pairs) * (height + 0.5) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    target = target_of(model.spec)
    legend = "" if target is None else "\nfirst column: prediction, true class below"
    figure.suptitle(f"attention of the model: {name}{legend}", fontsize=9)
    for row, (single, looks) in enumerate(pairs):
        panels = [figure.add_subplot(len(pairs), columns, row * columns + place + 1, projection=drawing.projection)
                  for place in range(columns)]  # fmt: skip
        if target is not None and single.target is not None:
            with evaluating(model):
                outputs = target_outputs(model, single.inputs, single.masks)
            if isinstance(outputs, Tensor) and outputs.ndim == 2:  # otherwise they are not outputs for the target
                [comparison] = target.compare(outputs, single.target)
                title_sample(panels[0], comparison)
        x, mask = single.shown(name, spec)
        drawing.sample(panels[0], x, mask)
        maps = [(f"cross-attend {step + 1}\nall latents", looks.steps[step]) for step in steps]
        if looks.query is not None:
            maps.append(("output query,\nthrough the latents", looks.query))
        for axes, (title, weights) in zip(panels[1:], maps, strict=True):
            axes.set_title(_titled(title if row == 0 else "", weights[name], weights), fontsize=8)
            drawing.attention(axes, x, mask, weights[name].cpu())
    return figure


@literal_texts()
def _single_latents(name: str, drawing: Drawing, single: Single, looks: Looks, spec: ModalitySpec) -> Figure:
    """Draw one sample, and an attention map for each chosen latent."""
    width, height = drawing.size
    count = 1 + len(looks.chosen)
    columns = min(count, max(1, int(12 / width)), math.ceil(math.sqrt(2 * count * height / width)))
    rows = math.ceil(count / columns)
    size = (max(columns * (width + 0.1), 4.0), rows * (height + 0.35) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"attention of single latents: {name} of {single.id}", fontsize=10)
    x, mask = single.shown(name, spec)
    drawing.sample(figure.add_subplot(rows, columns, 1, projection=drawing.projection), x, mask)
    for place, latent in enumerate(looks.chosen):
        axes = figure.add_subplot(rows, columns, place + 2, projection=drawing.projection)
        own = {modality: weights[place] for modality, weights in looks.latents.items()}
        axes.set_title(_titled(f"latent {latent}", own[name], own), fontsize=8)
        drawing.attention(axes, x, mask, own[name].cpu())
    return figure


def _titled(title: str, own: Tensor, all_modalities: Mapping[str, Tensor]) -> str:
    """Return the title, with the share of this modality if there are others."""
    return title if len(all_modalities) == 1 else f"{title} {float(own.sum()):.0%}".strip()
