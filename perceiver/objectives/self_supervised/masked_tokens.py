"""Masked-token modelling: hide some tokens of every text and predict them from the rest, without labels.

Perceiver IO (arXiv:2107.14795, section 4.1), after BERT; for bytes and for the ids of any tokenizer.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.inference.infilling import vocabulary_of
from perceiver.masking.text import MaskedTokens, TokenMasking
from perceiver.model import Perceiver
from perceiver.objectives.metrics.quality import WeightedMean, mean_over_processes
from perceiver.objectives.objective import Metrics, Objective
from perceiver.samples.batch import Batch
from perceiver.samples.generators import generators_of


class MaskedTokenModelling(Objective):
    """Masked-token modelling: predict hidden tokens of a text.

    The model's head outputs logits for each token of a text: a `perceiver.decoders.QueryDecoder` with `LearnedQueries` (or
    others) of the text's modality, and `TiedLogits`, or as many output channels as ids. Only the chosen tokens are decoded.
    Evaluation always chooses the same tokens of a text, for any batch size and number of processes, and hides all of them.
    Measures, with equal weight for all chosen tokens, `loss` (mean cross-entropy in nats), `accuracy` and
    `bits_per_token` (the cross-entropy in bits: bits per byte if tokens are bytes; the perplexity is 2 to this power).

    Args:
        masking: chooses tokens and replaces them in the model's input.
        modality: name of the text modality; other modalities are not changed.
        seed: seed for the tokens hidden in validation and test.
    """

    def __init__(self, *, masking: TokenMasking, modality: str = "text", seed: int = 0) -> None:
        super().__init__()
        self.masking = masking
        self.modality = modality
        self.seed = seed

    def check_model(self, model: nn.Module) -> None:
        """See `Objective.check_model`: the masking's ids must fit the model's vocabulary."""
        assert isinstance(model, Perceiver)
        self.masking.check(vocabulary_of(model, self.modality, asker="task"))

    def hide(
        self, model: Perceiver, batch: Batch, *, generators: list[torch.Generator] | None = None
    ) -> tuple[Batch, MaskedTokens]:
        """Hide tokens of a batch; return the model's input and the tokens to predict.

        A batch without text gets a text of padding only, which is equivalent to an absent text.

        Args:
            model: model with the vocabulary of the ids.
            batch: samples; labels are ignored.
            generators: see `TokenMasking`.
        """
        name = self.modality
        ids, mask = batch.inputs.get(name), batch.masks.get(name)
        if ids is None:
            device = next(model.parameters()).device
            ids = torch.zeros(batch.size, 1, dtype=torch.int64, device=device)
            mask = torch.zeros(batch.size, dtype=torch.bool, device=device)
        if not isinstance(ids, Tensor):
            raise ValueError(f"task.modality: expected {name!r} to be ids (batch, length), got {sorted(ids)}.")
        size = vocabulary_of(model, name, asker="task")
        masked = self.masking(ids, mask, vocabulary_size=size, generators=generators)
        inputs = {**batch.inputs, name: masked.ids}
        masks = batch.masks if mask is None else {**batch.masks, name: mask}
        return replace(batch, inputs=inputs, masks=masks), masked

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the mean cross-entropy over the chosen tokens of all processes."""
        assert isinstance(model, Perceiver)
        seen, masked = self.hide(model, batch)
        losses = cross_entropies(logits_of(model, seen, masked), masked)
        return mean_over_processes(losses, masked.real)

    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return means over tokens."""
        return {name: WeightedMean() for name in ("loss", "accuracy", "bits_per_token")}

    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Metrics, *, count: int | None = None, number: int = 0
    ) -> None:
        """See `Objective.evaluate`."""
        assert isinstance(model, Perceiver)
        seen, masked = self.hide(model, batch, generators=generators_of(batch, seed=self.seed, number=number))
        logits = logits_of(model, seen, masked)
        losses = cross_entropies(logits, masked)
        right = (logits.argmax(dim=-1) == masked.target).float()
        for name, values in {"loss": losses, "accuracy": right, "bits_per_token": losses / math.log(2)}.items():
            metrics[name].update(values[:count], masked.real[:count])


def logits_of(model: Perceiver, batch: Batch, masked: MaskedTokens) -> Tensor:
    """Return logits `(B, k, vocabulary_size)` of the chosen tokens, for the results of `MaskedTokenModelling.hide`."""
    logits: Tensor = model(batch.inputs, batch.masks, index=masked.index)
    return logits


def cross_entropies(logits: Tensor, masked: MaskedTokens) -> Tensor:
    """Return cross-entropies `(B, k)` in nats, float32; 0 where no token was chosen."""
    losses = F.cross_entropy(logits.flatten(0, 1).float(), masked.target.flatten().long(), reduction="none")
    return torch.where(masked.real, losses.view_as(masked.real), 0.0)
