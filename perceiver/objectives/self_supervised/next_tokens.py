"""Next-token prediction: predict each id of a text from the ids before it.

Perceiver AR (Hawthorne et al. 2022, arXiv:2202.07765).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.decoders import NextTokenHead
from perceiver.encoders.autoregressive import AutoregressiveEncoder
from perceiver.modalities.texts.text_bytes import NUM_SPECIAL
from perceiver.model import Perceiver
from perceiver.objectives.checks import sample_name
from perceiver.objectives.metrics.quality import WeightedMean, mean_over_processes
from perceiver.objectives.objective import Metrics, Objective
from perceiver.samples.batch import Batch
from perceiver.tokens.masks import extents, grid_mask


class NextTokenPrediction(Objective):
    """Predict the id after each position of a text that has a latent, by cross-entropy.

    The target of a sample is `(L,)` like its text: the id after each of the text's ids. Its `target_mask` chooses the ids
    that count, among the last `num_latents`; data sets with windows choose them so that a split counts each id once.
    Measures, with equal weight for all chosen ids, `loss` (cross-entropy in nats), `accuracy` and `bits_per_byte`: the bits
    of all chosen ids, those that end texts included, divided by the number of bytes among them.

    Args:
        vocabulary_size: number of ids.
        modality: name of the text modality.
        read_prefix: False masks all ids before those with a latent in validation and test, which measures what the prefix is
            worth.
    """

    def __init__(self, *, vocabulary_size: int, modality: str = "text", read_prefix: bool = True) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.modality = modality
        self.read_prefix = read_prefix

    def check_model(self, model: nn.Module) -> None:
        """See `Objective.check_model`: the head must be a `NextTokenHead` with this vocabulary."""
        head = model.head if isinstance(model, Perceiver) else None
        if not isinstance(head, NextTokenHead):
            raise ValueError(
                f"task: next-token prediction needs a model whose head is a perceiver.decoders.NextTokenHead, got "
                f"{type(head).__name__}; set model=perceiver_ar."
            )
        assert isinstance(model, Perceiver)
        if not isinstance(model.encoder, AutoregressiveEncoder):
            raise ValueError(
                f"model.encoder: next-token prediction needs a perceiver.AutoregressiveEncoder, got "
                f"{type(model.encoder).__name__}; set model=perceiver_ar."
            )
        if head.output_channels != self.vocabulary_size or head.modality != self.modality:
            raise ValueError(
                f"model.head: expected vocabulary_size = {self.vocabulary_size} and modality = {self.modality}, got "
                f"{head.output_channels} and {head.modality}."
            )

    def check(self, model: nn.Module, batch: Batch) -> Batch:
        """See `Objective.check`: a target for each id of a text, no text beyond the model's context.

        Returns the batch with `target` and `target_mask` of the positions with a latent, `(B, N)`.
        """
        batch = super().check(model, batch)
        assert isinstance(model, Perceiver)
        assert isinstance(model.head, NextTokenHead)
        ids, target = batch.inputs.get(self.modality), batch.target
        if not isinstance(ids, Tensor) or target is None or target.shape != ids.shape or target.is_floating_point():
            got = "none" if target is None else f"{target.dtype} {tuple(target.shape)}"
            raise ValueError(
                f"batch.target: expected the id after each id of inputs[{self.modality!r}], of the same shape; got {got}."
            )
        length = ids.shape[1]
        mask = grid_mask(batch.masks.get(self.modality), batch=ids.shape[0], grid=(length,))
        lengths = torch.full_like(ids[:, 0], length) if mask is None else extents(mask)[0]
        if length > model.head.context:
            longest = int(lengths.argmax())
            raise ValueError(
                f"sample {sample_name(batch.ids, longest)!r}: its text has {int(lengths[longest])} ids, more than the "
                f"model's context of {model.head.context}. Lower data.context, or raise "
                f"model.adapters.{self.modality}.reference_length."
            )
        places = lengths[:, None] + torch.arange(-min(model.encoder.num_latents, length), 0)
        counted = places >= 0
        chosen = torch.ones_like(target, dtype=torch.bool) if batch.target_mask is None else batch.target_mask
        counted = counted & chosen.gather(1, places.clamp(min=0))
        if batch.target_mask is not None and bool((counted.sum(dim=1) < chosen.sum(dim=1)).any()):
            row = int((counted.sum(dim=1) < chosen.sum(dim=1)).nonzero()[0])
            raise ValueError(
                f"target of sample {sample_name(batch.ids, row)!r}: {int(chosen[row].sum())} ids to predict, but the model "
                f"predicts the last {model.encoder.num_latents}. Set data.predicted to model.encoder.num_latents."
            )
        target = torch.where(counted, target.gather(1, places.clamp(min=0)), 0)
        wrong = ((target < 0) | (target >= self.vocabulary_size)).any(dim=1)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"target of sample {sample_name(batch.ids, row)!r}: expected ids from 0 to {self.vocabulary_size - 1}, got "
                f"{int(target[row].min())} to {int(target[row].max())}."
            )
        return replace(batch, target=target, target_mask=counted)

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the mean cross-entropy over the chosen ids of all processes."""
        losses, right = self._losses(model, batch)
        assert batch.target_mask is not None
        if metrics is not None:
            metrics["accuracy"].update(right, batch.target_mask)
        return mean_over_processes(torch.where(batch.target_mask, losses, 0.0), batch.target_mask)

    def training_metrics(self) -> dict[str, Metric]:
        """Return the share of ids that are predicted right."""
        return {"accuracy": WeightedMean()}

    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return means over ids: loss, right predictions, and which of them are bytes."""
        return {name: WeightedMean() for name in ("loss", "accuracy", "bytes")}

    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Metrics, *, count: int | None = None, number: int = 0
    ) -> None:
        """See `Objective.evaluate`."""
        assert isinstance(model, Perceiver)
        assert batch.target is not None
        assert batch.target_mask is not None
        losses, right = self._losses(model, batch if self.read_prefix else self._without_prefix(model, batch))
        chosen = batch.target_mask[:count]
        bytes_ = (batch.target >= NUM_SPECIAL).float()
        for name, values in {"loss": losses, "accuracy": right, "bytes": bytes_}.items():
            metrics[name].update(values[:count], chosen)

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return loss, accuracy and `bits_per_byte`."""
        loss, share = metrics["loss"].compute(), metrics["bytes"].compute()
        return {"loss": loss, "accuracy": metrics["accuracy"].compute(), "bits_per_byte": loss / math.log(2) / share}

    def result_names(self, metrics: Metrics) -> list[str]:
        """See `Objective.result_names`."""
        return ["loss", "accuracy", "bits_per_byte"]

    def _losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return cross-entropies `(B, N)` in nats and whether each prediction is right."""
        target = batch.target
        assert target is not None
        logits: Tensor = model(batch.inputs, batch.masks)
        losses = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none").view_as(target)
        return losses, (logits.argmax(dim=-1) == target).float()

    def _without_prefix(self, model: Perceiver, batch: Batch) -> Batch:
        """Mask the ids before those with a latent."""
        ids = batch.inputs[self.modality]
        assert isinstance(ids, Tensor)
        mask = grid_mask(batch.masks.get(self.modality), batch=ids.shape[0], grid=ids.shape[1:])
        places = torch.arange(ids.shape[1], device=ids.device)
        lengths = torch.full_like(ids[:, :1], ids.shape[1]) if mask is None else extents(mask)[0][:, None]
        kept = (places >= lengths - model.encoder.num_latents) & (places < lengths)
        return replace(batch, masks={**batch.masks, self.modality: kept})
