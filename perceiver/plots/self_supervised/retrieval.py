"""Figures of retrieval across modalities: queries, and what each finds."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from torch import Tensor

from perceiver.decoders.embedding import EmbeddingHead
from perceiver.modalities.spec import ModalitySpec
from perceiver.modalities.texts.text_bytes import decode_bytes
from perceiver.modalities.texts.tokenizers import tokenizer_of
from perceiver.model import Perceiver
from perceiver.objectives.self_supervised.contrastive import Contrastive
from perceiver.plots.drawings import Drawing, drawing_of
from perceiver.plots.evaluation import modalities_of, on_device
from perceiver.plots.inputs import Single, singles
from perceiver.plots.rendering import literal_texts
from perceiver.runtime.evaluating import evaluating
from perceiver.samples.batch import Batch

RIGHT = "tab:green"
"""Colour of the frame of a right result."""


class RetrievedSamples:
    """Figures of queries and what they find, one for each ordered pair of modalities: a row is a query and its results.

    Queries are spread evenly over the samples that have both modalities. A result is right, and has a green frame, if it is
    of the same sample as the query. If samples have classes, one of the same class is right as well. Above a result is its
    cosine; above a query is the rank of its partner.

    Args:
        num_queries: number of queries in a figure.
        k: number of results for each.
        num_compared: number of samples to search, from the start of the data.
        drawings: drawings by modality, overriding the drawing for its kind.

    Raises:
        ValueError: for numbers below 1.
    """

    def __init__(
        self,
        *,
        num_queries: int = 6,
        k: int = 6,
        num_compared: int = 2048,
        drawings: Mapping[str, Drawing] | None = None,
    ) -> None:
        if min(num_queries, k, num_compared) < 1:
            raise ValueError(
                f"RetrievedSamples: expected num_queries, k and num_compared >= 1, got {num_queries}, {k}, {num_compared}."
            )
        self.num_queries = num_queries
        self.k = k
        self.num_compared = num_compared
        self.drawings = dict(drawings or {})

    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
        """Return `{"retrieval_A_to_B": …}` for the pairs that samples have; an empty dict without an `EmbeddingHead`.

        Args:
            model: model with a spec.
            batches: batches as in training, read only as far as needed.
        """
        if not isinstance(model.head, EmbeddingHead):
            return {}
        gallery = self._gallery(model, batches)
        figures = {}
        for one, other in permutations(sorted(gallery.embeddings), 2):
            both = (gallery.present[one] & gallery.present[other]).nonzero()[:, 0]
            if len(both):
                spread = torch.linspace(0, len(both) - 1, min(self.num_queries, len(both))).round().long()
                asked = both[spread].tolist()
                figures[f"retrieval_{one}_to_{other}"] = self._figure(model, gallery, one, other, asked)
        return figures

    def _gallery(self, model: Perceiver, batches: Iterable[Batch]) -> _Gallery:
        embedded, kept, compared = [], [], 0
        objective = Contrastive()
        with evaluating(model):
            for batch in on_device(model, batches):
                embedded.append(objective.embed(model, batch))
                kept.append(batch.to("cpu"))
                compared += batch.size
                if compared >= self.num_compared:
                    break
        channels = next((x.shape[1] for found in embedded for x in found.embeddings.values()), 1)
        sizes = [batch.size for batch in kept]
        names = {name for found in embedded for name in found.embeddings}
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
        for found, size in zip(embedded, sizes, strict=True):
            absent = (torch.zeros(size, channels), torch.zeros(size, dtype=torch.bool))
            for name in names:
                has = name in found.embeddings
                parts[name].append((found.embeddings[name].cpu(), found.present[name].cpu()) if has else absent)
        targets = [batch.target for batch in kept]
        classes = all(one is not None and one.ndim == 1 and not one.is_floating_point() for one in targets)
        return _Gallery(
            embeddings={name: torch.cat([x for x, _ in own]).float() for name, own in parts.items()},
            present={name: torch.cat([x for _, x in own]) for name, own in parts.items()},
            batches=kept,
            targets=torch.cat([one for one in targets if one is not None]) if classes and targets else None,
        )

    @literal_texts()
    def _figure(self, model: Perceiver, gallery: _Gallery, one: str, other: str, asked: list[int]) -> Figure:
        specs = modalities_of(model)
        drawn = {name: self.drawings.get(name) or _drawing(specs[name], model.adapters[name]) for name in (one, other)}
        cosines = gallery.embeddings[one][asked] @ gallery.embeddings[other].t()
        cosines = cosines.masked_fill(~gallery.present[other], -torch.inf)
        k = min(self.k, int(gallery.present[other].sum()))
        best = cosines.topk(k, dim=1).indices.tolist()
        width, height = (max(drawn[name].size[axis] for name in (one, other)) for axis in (0, 1))
        figure = Figure(figsize=(max((k + 1) * (width + 0.1), 4.0), len(asked) * (height + 0.3) + 0.5), layout="constrained")
        figure.suptitle(f"{one} finds {other}: each query, then its results; right ones have a green frame", fontsize=9)
        for row, (query, results) in enumerate(zip(asked, best, strict=True)):
            rank = int((cosines[row] > cosines[row, query]).sum()) + 1
            shown = [(one, query, f"rank {rank}")]
            shown += [(other, number, f"{float(cosines[row, number]):.2f}") for number in results]
            for place, (name, number, title) in enumerate(shown):
                axes = figure.add_subplot(len(asked), k + 1, row * (k + 1) + place + 1, projection=drawn[name].projection)
                drawn[name].sample(axes, *gallery.single(number, specs).shown(name, specs[name]))
                axes.set_title(title, fontsize=7, pad=3)
                if place and gallery.right(query, number):
                    _frame(axes)
        return figure


@dataclass(frozen=True, kw_only=True)
class _Gallery:
    """Embedded samples: embeddings `(S, E)` and presence `(S,)` by modality, their batches, and classes `(S,)` or None."""

    embeddings: dict[str, Tensor]
    present: dict[str, Tensor]
    batches: list[Batch]
    targets: Tensor | None

    def single(self, number: int, specs: Mapping[str, ModalitySpec]) -> Single:
        """Return a sample by its number."""
        for batch in self.batches:
            if number < batch.size:
                return next(singles([batch.rows(slice(number, number + 1))], specs))
            number -= batch.size
        raise IndexError(number)

    def right(self, query: int, number: int) -> bool:
        """Return whether a result is right for a query."""
        return query == number or (self.targets is not None and bool(self.targets[query] == self.targets[number]))


class _TextDrawing:
    """Texts as they read."""

    projection: str | None = None
    size = (1.7, 1.0)

    def __init__(self, spec: ModalitySpec) -> None:
        self.tokenizer = tokenizer_of(spec["tokenizer"]) if "tokenizer" in spec else None

    def sample(self, axes: Axes, x: Any, mask: Tensor | None) -> None:
        """Write the first words; characters that the font lacks are boxes."""
        ids = (x if mask is None else x[mask]).long()
        text = decode_bytes(ids) if self.tokenizer is None else self.tokenizer.decode(ids.tolist())
        known = get_font(findfont(FontProperties())).get_charmap()
        text = "".join(character if ord(character) in known else "□" for character in textwrap.shorten(text, 60))
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, textwrap.fill(text, 16), ha="center", va="center", fontsize=8, transform=axes.transAxes)

    def attention(self, axes: Axes, x: Any, mask: Tensor | None, weights: Tensor) -> None:
        """Write the text alone."""
        self.sample(axes, x, mask)


def _drawing(spec: ModalitySpec, adapter: Any) -> Drawing:
    return _TextDrawing(spec) if spec.get("kind") == "text" else drawing_of(spec, adapter)


def _frame(axes: Axes) -> None:
    axes.patch.set(edgecolor=RIGHT, linewidth=3)
    for spine in axes.spines.values():
        spine.set(color=RIGHT, linewidth=3, visible=True)
