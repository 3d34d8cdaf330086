"""Masked autoencoding: part of every input is hidden, and reconstructed from the rest. It needs no labels.

He et al. 2021, arXiv:2111.06377, for any modality whose adapter says what its tokens hold: is a
`perceiver.adapters.Reconstructible`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from perceiver.adapters.content import Reconstructible
from perceiver.adapters.layout import taken
from perceiver.batch import Batch
from perceiver.decoders import ReconstructionDecoder
from perceiver.masking.random import RandomMasking, chosen
from perceiver.model import Perceiver
from perceiver.tasks.objective import Objective
from perceiver.tasks.training_steps import OptimizerFactory, SchedulerFactory, counted, require_modality
from perceiver.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """Tokens of a batch of which some are hidden, by modality.

    Args:
        tokens: what the encoder sees: hidden tokens are masked.
        index: places of hidden tokens in the flattened grids, `(B, k)`, for those that are to be reconstructed.
        real: `(B, k)`, False where a sample has fewer hidden tokens than others.
    """

    tokens: dict[str, Tokens]
    index: dict[str, Tensor]
    real: dict[str, Tensor]


class MaskedAutoencodingTask(Objective):
    """Train a model to reconstruct tokens that it did not see.

    Tokens are hidden after the adapter, by their mask: position and size of what is there stay as they are. Logs
    `train/loss`, `train/learning_rate`, `val/loss` and `test/loss`, and for each of several modalities `…/loss/NAME`, one
    value per epoch.
    Validation and test hide the same tokens every time. A loss is the mean squared error over the values of hidden tokens,
    that of the batch the weighted sum over modalities. 1 is what the mean of normalised values reaches.

    Args:
        model: its head is a `perceiver.decoders.ReconstructionDecoder`; its parameters are saved under `model.`.
        optimizer: makes the optimizer from parameter groups (see `parameter_groups`).
        scheduler: makes the schedule from the optimizer and the number of steps; None keeps the learning rate.
        masking: chooses what is hidden, for all modalities.
        masking_of: the same for single modalities, by name, in place of `masking`.
        weights: of the modalities' losses, 1 where none is given.
        normalise_targets: reconstruct the values of each token in units of their own mean and standard deviation (He et al.,
            table 1d); for tokens of many values, such as patches.
        max_queries: reconstruct at most so many hidden tokens per sample and modality in training, at random, which is
            cheaper; None: all. Validation and test take all.
        seed: of what validation and test hide.
        checkpoint: plain values that go into checkpoints under the key "perceiver", so that the model can be rebuilt.

    Raises:
        ValueError: the model's head is another, or settings name modalities that it does not reconstruct.
    """

    model: Perceiver

    def __init__(
        self,
        *,
        model: Perceiver,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        masking: RandomMasking,
        masking_of: Mapping[str, RandomMasking] | None = None,
        weights: Mapping[str, float] | None = None,
        normalise_targets: bool = False,
        max_queries: int | None = None,
        seed: int = 0,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, scheduler=scheduler, checkpoint=checkpoint)
        if not isinstance(model.head, ReconstructionDecoder):
            raise ValueError(
                f"task: masked autoencoding needs a model whose head is a perceiver.decoders.ReconstructionDecoder, got "
                f"{type(model.head).__name__}; task=masked_autoencoding sets it."
            )
        if max_queries is not None and max_queries < 1:
            raise ValueError(f"task.max_queries: expected at least 1, or null for all, got {max_queries}.")
        self.modalities = tuple(model.head.output_channels)
        for name, given in {"masking_of": masking_of, "weights": weights}.items():
            if set(given or {}) - set(self.modalities):
                raise ValueError(
                    f"task.{name}: expected any of the reconstructed modalities {list(self.modalities)}, got "
                    f"{sorted(given or {})}."
                )
        self.masking = {name: (masking_of or {}).get(name, masking) for name in self.modalities}
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in self.modalities}
        self.normalise_targets = normalise_targets
        self.max_queries = max_queries
        self.seed = seed

    def hide(self, batch: Batch, *, generator: torch.Generator | None = None, max_queries: int | None = None) -> Hidden:
        """A batch -> its tokens, of which some are hidden.

        Args:
            batch: labels are not looked at.
            generator: where to draw from, on the CPU; None: torch's global one.
            max_queries: how many hidden tokens of a sample to reconstruct at most.

        Raises:
            ValueError: none of the batch's modalities is reconstructed.
        """
        tokens = self.model.tokens(batch.inputs, batch.masks)
        if not set(tokens) & set(self.modalities):
            raise ValueError(f"batch: has {sorted(tokens)}, but only {list(self.modalities)} are reconstructed.")
        index: dict[str, Tensor] = {}
        real: dict[str, Tensor] = {}
        for name in self.modalities:
            if name not in tokens:
                continue
            block = tokens[name]
            hidden = self.masking[name](block, batch=batch.size, generator=generator)
            index[name], real[name] = chosen(hidden, at_most=max_queries, generator=generator)
            tokens[name] = replace(block, mask=~hidden if block.mask is None else block.mask & ~hidden)
        return Hidden(tokens=tokens, index=index, real=real)

    def losses(self, batch: Batch, hidden: Hidden, *, count: int | None = None) -> dict[str, Tensor]:
        """The mean squared error over the hidden values of each modality; 0 where nothing is hidden.

        Args:
            batch: the samples.
            hidden: what `hide` makes of it.
            count: only of so many samples, the first ones; None: all.
        """
        outputs = self.model.from_tokens(hidden.tokens, index=hidden.index)
        losses = {}
        for name, output in outputs.items():
            target, valid = self.targets(batch, name, hidden.index[name])
            valid = valid & hidden.real[name][..., None]
            output, target, valid = output[:count], target[:count], valid[:count]
            errors = torch.where(valid, output.float() - target, 0.0).square()
            losses[name] = errors.sum() / valid.sum().clamp(min=1)
        return losses

    def targets(self, batch: Batch, name: str, index: Tensor) -> tuple[Tensor, Tensor]:
        """What tokens of a modality hold, `(B, k, c)` in float32, and which values of it there are."""
        adapter = self.model.adapters[name]
        assert isinstance(adapter, Reconstructible)
        content = adapter.content(batch.inputs[name], batch.masks.get(name))
        values = taken(content.values.float(), index)
        valid = torch.ones_like(values, dtype=torch.bool)
        if content.valid is not None:
            valid = taken(content.valid.expand(content.values.shape), index)
        values = torch.where(valid, values, 0.0)
        return (normalised_targets(values, valid) if self.normalise_targets else values), valid

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """See `require_modality`."""
        require_modality(batch)
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the modalities' losses.

        Raises:
            FloatingPointError: as soon as it is not finite.
        """
        losses = self.losses(batch, self.hide(batch, max_queries=self.max_queries))
        loss = self._sum(losses)
        return self.learned(loss, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The losses of the validation data."""
        self._evaluate(batch, "val", batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The losses of the test data."""
        self._evaluate(batch, "test", batch_idx)

    def _evaluate(self, batch: Batch, stage: str, batch_idx: int) -> None:
        generator = torch.Generator().manual_seed(self.seed + batch_idx)
        count = counted(self, stage, batch_idx, batch.size)
        losses = self.losses(batch, self.hide(batch, generator=generator), count=count)
        self.log(
            f"{stage}/loss", self._sum(losses), on_epoch=True, batch_size=count, prog_bar=stage == "val", sync_dist=True
        )
        if len(self.modalities) > 1:
            for name in self.modalities:
                # All of them in every process, whatever its batch holds.
                one = losses.get(name, torch.zeros((), device=self.device))
                self.log(f"{stage}/loss/{name}", one, on_epoch=True, batch_size=count, sync_dist=True)

    def _sum(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()


def normalised_targets(values: Tensor, valid: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """Values `(B, k, c)` in units of each token's own mean and standard deviation, of what is valid; zeros elsewhere."""
    count = valid.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = values.sum(dim=-1, keepdim=True) / count
    centred = torch.where(valid, values - mean, 0.0)
    return centred / (centred.square().sum(dim=-1, keepdim=True) / count + epsilon).sqrt()
