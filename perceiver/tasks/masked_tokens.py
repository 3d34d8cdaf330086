"""Masked-token modelling: some tokens of every text are hidden, and told from the rest. It needs no labels.

Perceiver IO (arXiv:2107.14795, section 4.1), after BERT; for bytes and for the ids of any tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceiver.batch import Batch
from perceiver.inference.infilling import vocabulary_of
from perceiver.masking.text import MaskedTokens, TokenMasking
from perceiver.model import Perceiver
from perceiver.runtime.random_streams import stream_of
from perceiver.tasks.objective import Objective
from perceiver.tasks.training_steps import OptimizerFactory, SchedulerFactory, counted, require_modality
from perceiver.tasks.weighted_mean import WeightedMean


class MaskedTokensTask(Objective):
    """Train a model to tell tokens that it did not see.

    Only the chosen places are decoded. Validation and test choose the same tokens of a text every time, in batches of any
    size and in any number of processes, and hide all of them. Logs `train/loss`, `train/learning_rate` and, for val and test
    over all chosen tokens alike, `…/loss` (mean cross-entropy in nats), `…/accuracy` and `…/bits_per_token` (the
    cross-entropy in bits: bits per byte where tokens are bytes; the perplexity is 2 to the power of it).

    Args:
        model: its head gives logits for each token of a text: a `perceiver.decoders.QueryDecoder` with `LearnedQueries` (or
            others) of the text's modality, and `TiedLogits`, or as many output channels as ids. Its parameters are saved
            under `model.`.
        optimizer: makes the optimizer from parameter groups (see `parameter_groups`).
        scheduler: makes the schedule from the optimizer and the number of steps; None keeps the learning rate.
        masking: chooses tokens, and says what the model sees of them.
        modality: of the text; what else a batch has is seen as it is.
        seed: of what validation and test hide.
        checkpoint: plain values that go into checkpoints under the key "perceiver", so that the model can be rebuilt.

    Raises:
        ValueError: the model's head is another, or ids or words of `masking` are not those of its vocabulary.
    """

    model: Perceiver

    def __init__(
        self,
        *,
        model: Perceiver,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        masking: TokenMasking,
        modality: str = "text",
        seed: int = 0,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, scheduler=scheduler, checkpoint=checkpoint)
        self.vocabulary_size = vocabulary_of(model, modality, asker="task")
        masking.check(self.vocabulary_size)
        self.masking = masking
        self.modality = modality
        self.seed = seed
        names = ("loss", "accuracy", "bits_per_token")
        self.val_metrics = nn.ModuleDict({name: WeightedMean() for name in names})
        self.test_metrics = nn.ModuleDict({name: WeightedMean() for name in names})

    def hide(self, batch: Batch, *, generators: list[torch.Generator] | None = None) -> tuple[Batch, MaskedTokens]:
        """A batch -> the batch as the model sees it, and what it shall tell.

        Where the batch has no text it gets one of nothing but padding, which counts like none.

        Args:
            batch: labels are not looked at.
            generators: see `TokenMasking`.
        """
        name = self.modality
        ids, mask = batch.inputs.get(name), batch.masks.get(name)
        if ids is None:
            ids = torch.zeros(batch.size, 1, dtype=torch.int64, device=self.device)
            mask = torch.zeros(batch.size, dtype=torch.bool, device=self.device)
        if not isinstance(ids, Tensor):
            raise ValueError(f"task.modality: expected {name!r} to be ids (batch, length), got {sorted(ids)}.")
        masked = self.masking(ids, mask, vocabulary_size=self.vocabulary_size, generators=generators)
        inputs = {**batch.inputs, name: masked.ids}
        masks = batch.masks if mask is None else {**batch.masks, name: mask}
        return replace(batch, inputs=inputs, masks=masks), masked

    def logits(self, batch: Batch, masked: MaskedTokens) -> Tensor:
        """`(B, k, vocabulary_size)` for the chosen places, of what `hide` gave."""
        logits: Tensor = self.model(batch.inputs, batch.masks, index=masked.index)
        return logits

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """See `require_modality`."""
        require_modality(batch)
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean cross-entropy over the chosen tokens of all processes.

        Raises:
            FloatingPointError: as soon as it is not finite.
        """
        seen, masked = self.hide(batch)
        losses = cross_entropies(self.logits(seen, masked), masked)
        count = masked.real.sum()
        # Processes have different numbers of tokens, none perhaps, and their gradients are averaged.
        count = self.trainer.strategy.reduce(count.float(), reduce_op="mean") if self.trainer.world_size > 1 else count
        loss = losses.sum() / torch.where(count > 0, count, 1)
        return self.learned(loss, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Metrics of the validation data."""
        self._evaluate(batch, "val", batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Metrics of the test data."""
        self._evaluate(batch, "test", batch_idx)

    def _evaluate(self, batch: Batch, stage: str, batch_idx: int) -> None:
        seen, masked = self.hide(batch, generators=generators_of(batch, seed=self.seed, batch_idx=batch_idx))
        logits = self.logits(seen, masked)
        size = counted(self, stage, batch_idx, batch.size)
        real = masked.real & (torch.arange(batch.size, device=masked.real.device) < size)[:, None]
        losses = cross_entropies(logits, masked)
        right = (logits.argmax(dim=-1) == masked.target).float()
        metrics = self.val_metrics if stage == "val" else self.test_metrics
        for name, values in {"loss": losses, "accuracy": right, "bits_per_token": losses / math.log(2)}.items():
            metric = metrics[name]
            assert isinstance(metric, WeightedMean)
            metric.update(values, real)
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True, prog_bar=stage == "val" and name != "loss")


def cross_entropies(logits: Tensor, masked: MaskedTokens) -> Tensor:
    """`(B, k)` in nats, float32; 0 where nothing was chosen."""
    losses = F.cross_entropy(logits.flatten(0, 1).float(), masked.target.flatten().long(), reduction="none")
    return torch.where(masked.real, losses.view_as(masked.real), 0.0)


def generators_of(batch: Batch, *, seed: int, batch_idx: int = 0) -> list[torch.Generator]:
    """One for each sample, that follows from its id; from its place where it has none."""
    names = batch.ids or [f"{batch_idx}/{row}" for row in range(batch.size)]
    return [torch.Generator().manual_seed(stream_of(seed, name)) for name in names]
