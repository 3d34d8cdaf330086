"""Contrastive alignment: the modalities of a sample are embedded close together on one sphere.

InfoNCE in both directions (van den Oord et al. 2018, arXiv:1807.03748; CLIP, Radford et al. 2021, arXiv:2103.00020) or the
pairwise sigmoid loss (SigLIP, Zhai et al. 2023, arXiv:2303.15343), over every pair of modalities, with one encoder for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.decoders.embedding import EmbeddingHead
from perceiver.inference.alone import alone
from perceiver.model import Perceiver
from perceiver.objectives.gathering import gathered, rank
from perceiver.objectives.metrics.quality import WeightedMean, mean_over_processes
from perceiver.objectives.metrics.retrieval import Retrieval
from perceiver.objectives.objective import Metrics, Objective
from perceiver.samples.batch import Batch

LOSSES = ("infonce", "sigmoid")


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Embeddings of a batch, each modality separately.

    Args:
        embeddings: unit vectors `(B, E)` by modality; zeros where a sample lacks it.
        present: `(B,)` by modality.
    """

    embeddings: dict[str, Tensor]
    present: dict[str, Tensor]


class Contrastive(Objective):
    """Contrastive alignment of all modalities of a model whose head is a `perceiver.decoders.EmbeddingHead`.

    The model embeds each modality of a batch separately. For every pair of modalities, the embeddings of a sample should be
    more similar to each other than to those of other samples. A sample that lacks a modality is used for the pairs that it
    has, and as a negative for the others. Negatives come from all processes, which need batches of one size.

    Measures `loss`, and for each ordered pair of modalities `recall_at_1/A_to_B` (also 5 and 10), `median_rank/A_to_B`
    and, if samples have classes, `class_at_1/A_to_B`: see `perceiver.objectives.metrics.retrieval.Retrieval`.

    Args:
        loss: "infonce", a softmax over the candidates, or "sigmoid", independent of their number, for small batches.
        pairs: pairs of modalities to align, such as [[image, audio]]; None: all.
        weights: weight of each of the `pairs` in the mean over samples; None: all 1.

    Raises:
        ValueError: for an unknown loss, pairs that are not two modalities, or weights that do not fit the pairs.
    """

    def __init__(
        self, *, loss: str = "infonce", pairs: list[list[str]] | None = None, weights: list[float] | None = None
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"task.loss: expected one of {', '.join(LOSSES)}, got {loss!r}.")
        if pairs is not None and any(len(pair) != 2 or len(set(pair)) != 2 for pair in pairs):
            raise ValueError(f"task.pairs: expected pairs of modalities, such as [[image, audio]], got {pairs}.")
        if weights is not None and (len(weights) != len(pairs or []) or not all(0 <= one < inf for one in weights)):
            raise ValueError(
                f"task.weights: expected a weight of 0 or more for each of task.pairs, got {weights} for {pairs}."
            )
        self.loss_name = loss
        self.pairs = pairs
        self.weights = weights

    def check_model(self, model: nn.Module) -> None:
        """See `Objective.check_model`."""
        if not isinstance(model, Perceiver) or not isinstance(model.head, EmbeddingHead):
            head = model.head if isinstance(model, Perceiver) else model
            raise ValueError(
                f"task=contrastive: expected a model whose head is a perceiver.decoders.EmbeddingHead, got "
                f"{type(head).__name__}; set model/head=embedding."
            )
        names = sorted(model.adapters)
        if len(names) < 2:
            raise ValueError(f"task=contrastive: expected two modalities or more to align, got {names}.")
        if unknown := {name for pair in self.pairs or [] for name in pair} - set(names):
            raise ValueError(f"task.pairs: expected modalities among {names}, got {sorted(unknown)}.")

    def embed(self, model: nn.Module, batch: Batch) -> Embedded:
        """Embed each modality of a batch separately; samples without it are left out of the computation."""
        embeddings, present = {}, {}
        for name in sorted(batch.inputs):
            inputs, masks, has = alone(batch, name)
            if not bool(has.any()):
                # Parameters of a modality that no sample has need gradients, too.
                inputs, masks = {name: batch.inputs[name]}, {name: batch.masks[name]} if name in batch.masks else {}
            found: Tensor = model(inputs, masks)
            if len(found) < batch.size:
                found = found.new_zeros(batch.size, found.shape[1]).masked_scatter(has[:, None], found)
            embeddings[name] = torch.where(has[:, None], found, 0.0)
            present[name] = has
        return Embedded(embeddings=embeddings, present=present)

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the mean over the samples of all pairs, with negatives from all processes."""
        losses, counted = self._losses(model, self.embed(model, batch), across=True)
        if self.weights is None:
            return mean_over_processes(losses, counted)
        weights = self._weights_of(losses)
        return mean_over_processes(losses * weights, counted * weights)

    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return the mean loss, and retrieval over the split."""
        assert isinstance(model, Perceiver)
        assert isinstance(model.head, EmbeddingHead)
        channels = model.head.output_channels
        assert isinstance(channels, int)
        return {"loss": WeightedMean(), "retrieval": Retrieval(modalities=sorted(model.adapters), channels=channels)}

    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Metrics, *, count: int | None = None, number: int = 0
    ) -> None:
        """See `Objective.evaluate`. The loss has the batch's own samples as negatives."""
        found = self.embed(model, batch)
        losses, counted = self._losses(model, found, across=False)
        counted = counted & (torch.arange(batch.size, device=losses.device) < (batch.size if count is None else count))
        metrics["loss"].update(losses, counted * self._weights_of(losses))
        retrieval: Any = metrics["retrieval"]
        targets = None if batch.target is None else batch.target[:count]
        retrieval.update(
            {name: x[:count] for name, x in found.embeddings.items()},
            {name: x[:count] for name, x in found.present.items()},
            targets,
        )

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return `loss` and the results of retrieval."""
        return {"loss": metrics["loss"].compute(), **metrics["retrieval"].compute()}

    def result_names(self, metrics: Metrics) -> list[str]:
        """See `Objective.result_names`."""
        retrieval = metrics["retrieval"]
        assert isinstance(retrieval, Retrieval)
        return ["loss", *retrieval.names()]

    def _losses(self, model: nn.Module, found: Embedded, *, across: bool) -> tuple[Tensor, Tensor]:
        """Return losses and whether they count, `(directions, B)` each, for all pairs of modalities in both directions."""
        assert isinstance(model, Perceiver)
        head = model.head
        assert isinstance(head, EmbeddingHead)
        like = next(iter(found.embeddings.values()))
        absent = torch.zeros(len(like), dtype=torch.bool, device=like.device)
        own: dict[str, tuple[Tensor, Tensor]] = {}
        every: dict[str, tuple[Tensor, Tensor]] = {}
        # All modalities in every process, in one order: each has to take part in the exchange.
        for name in sorted(model.adapters):
            own[name] = (found.embeddings.get(name, torch.zeros_like(like)), found.present.get(name, absent))
            every[name] = (gathered(own[name][0]), gathered(own[name][1].float()) > 0) if across else own[name]
        first = rank() * len(like) if across else 0
        places = torch.arange(first, first + len(like), device=like.device)
        losses, counted = [], []
        for one, other in self.pairs or combinations(sorted(model.adapters), 2):
            for query, candidate in ((one, other), (other, one)):
                both = own[query][1] & own[candidate][1]
                logits = head.similarities(own[query][0], every[candidate][0])
                losses.append(torch.where(both, self._rows(logits, every[candidate][1], places), 0.0))
                counted.append(both)
        # Learned numbers that no pair of this batch used need a gradient, too.
        idle = 0.0 * (head.log_scale + head.offset)
        return torch.stack(losses) + idle, torch.stack(counted)

    def _weights_of(self, losses: Tensor) -> Tensor:
        """Return the weight of each direction, `(directions, 1)`."""
        weights = [1.0] * (len(losses) // 2) if self.weights is None else self.weights
        return torch.tensor(weights, device=losses.device).repeat_interleave(2)[:, None]

    def _rows(self, logits: Tensor, offered: Tensor, places: Tensor) -> Tensor:
        """Return the losses `(B,)` of queries whose partners are the candidates at `places`."""
        if self.loss_name == "infonce":
            # A partner that is absent counts nowhere; it is offered so that no row is empty.
            own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, places[:, None], True)
            return F.cross_entropy(logits.masked_fill(~(offered | own), -torch.inf), places, reduction="none")
        signs = torch.full_like(logits, -1.0).scatter_(1, places[:, None], 1.0)
        return -(F.logsigmoid(signs * logits) * offered).sum(dim=1)
