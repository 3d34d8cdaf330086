"""Multimodal autoencoding: everything that came in comes out again, through the latents, and with it the class label.

Perceiver IO (Jaegle et al. 2021, arXiv:2107.14795), section 4.3 and its appendix: video, sound and label of Kinetics-700
from 784 latents. Their training loss is an L1 loss of video, weight 0.03, one of sound, weight 1, and the cross-entropy of
the label, weight 1e-4; the label is masked in half of the training samples; of each sample 512 outputs of video, 512 of
sound and the label are decoded, at random. `experiment=kinetics_autoencoding` has these numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from perceiver.adapters.content import Content
from perceiver.adapters.layout import OutputLayout, taken
from perceiver.batch import Batch
from perceiver.decoders import MultimodalDecoder
from perceiver.masking.random import chosen
from perceiver.masks import grid_mask
from perceiver.modalities.kinds import kind_of
from perceiver.model import Perceiver
from perceiver.tasks.objective import Objective
from perceiver.tasks.training_steps import (
    OptimizerFactory,
    SchedulerFactory,
    counted,
    require_classes,
    require_modality,
)
from perceiver.tasks.weighted_mean import WeightedMean


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses of the samples of a batch, each `(B,)` by output, and which samples have them.

    Args:
        values: 0 where a sample has none.
        there: True where it has one.
    """

    values: dict[str, Tensor]
    there: dict[str, Tensor]


class MultimodalAutoencodingTask(Objective):
    """Train a model to say all of its inputs again, and the label that only some training samples show it.

    The loss of a modality is the mean over the values of a sample, then over the samples that have the modality; that of the
    label is the cross-entropy. The loss of a batch is their weighted sum. Where `max_queries` samples outputs, it is an
    unbiased estimate of the same. A modality that a sample lacks counts in nothing; one that modality dropout took away is
    to be reconstructed from the rest.

    The label is the output that the head calls its `target`; a head without one has none. Where the model has an adapter of
    that name, the label is an input, too: one-hot, made of the batch's targets, in training only, and absent from a share of
    the samples. It is no modality of the data, and no evaluation shows it to the model, so `val/accuracy` is that of a
    classifier through the bottleneck. A model whose fusion has a mask token for the label (`fusion.mask_rates`, as the
    published one) sees that token in place of an absent label.

    Logs `train/loss`, `train/learning_rate` and, one value per epoch, `val/` and `test/` loss, `loss/NAME` of each output,
    `psnr/NAME` of each modality that has a peak, and `accuracy` of the label. PSNR, in decibels, is
    `10 log10(peak² / mean squared error)` of each sample, the error in the input's own units, before normalisation, and then
    the mean over samples; errors below 1e-10 of `peak²` count as that, 100 dB. `val_confusion` and `test_confusion` hold
    the confusion matrix of the last pass, rows the true classes.

    Args:
        model: its head is a `perceiver.decoders.MultimodalDecoder`; its parameters are saved under `model.`.
        optimizer: makes the optimizer from parameter groups (see `parameter_groups`).
        scheduler: makes the schedule from the optimizer and the number of steps; None keeps the learning rate.
        loss: of single values, `(outputs, targets) -> losses` of one shape: `torch.nn.L1Loss(reduction="none")`, which None
            is, or MSELoss, HuberLoss. Values are normalised as the model's inputs are.
        loss_of: the same for single modalities, by name, in place of `loss`.
        weights: of the outputs' losses, 1 where none is given.
        label_mask_rate: share of the training samples from which the label is absent.
        max_queries: by output, how many places of it are decoded of a sample in training at most, at random; all where none
            is given. Validation and test decode all, at most `chunk_size` of the head at a time.
        peaks: of PSNR, by modality, in place of the peak of its kind; null for none.
        checkpoint: plain values that go into checkpoints under the key "perceiver", so that the model can be rebuilt.

    Raises:
        ValueError: the model's head is another, it reconstructs nothing or what is no input, or settings name outputs that
            it does not have or are out of range.
    """

    model: Perceiver

    def __init__(
        self,
        *,
        model: Perceiver,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        loss: nn.Module | None = None,
        loss_of: Mapping[str, nn.Module] | None = None,
        weights: Mapping[str, float] | None = None,
        label_mask_rate: float = 0.5,
        max_queries: Mapping[str, int] | None = None,
        peaks: Mapping[str, float | None] | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, scheduler=scheduler, checkpoint=checkpoint)
        head = model.head
        if not isinstance(head, MultimodalDecoder):
            raise ValueError(
                "task: multimodal autoencoding needs a model whose head is a perceiver.decoders.MultimodalDecoder, got "
                f"{type(head).__name__}; task=multimodal_autoencoding sets it."
            )
        self.label = label = head.target
        self.layouts = _layouts(model, head)
        self.num_classes = 0 if label is None else head.output_channels[label]
        self._shows_label = label is not None and label in model.adapters
        if label is not None and label in model.adapters and model.adapters[label].channels != self.num_classes:
            raise ValueError(
                f"model.adapters.{label}: the label has {self.num_classes} classes; expected an adapter of as many "
                f"channels, perceiver.adapters.Vector, got {model.adapters[label]}."
            )
        outputs = (*self.layouts, *([] if self.label is None else [self.label]))
        _check_names("weights", weights, outputs)
        _check_names("max_queries", max_queries, outputs)
        _check_names("loss_of", loss_of, self.layouts)
        _check_names("peaks", peaks, self.layouts)
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in outputs}
        self.max_queries = {name: int(count) for name, count in (max_queries or {}).items()}
        if any(not 0 <= weight < float("inf") for weight in self.weights.values()):
            raise ValueError(f"task.weights: expected numbers of at least 0, got {dict(weights or {})}.")
        if any(count < 1 for count in self.max_queries.values()):
            raise ValueError(f"task.max_queries: expected at least 1 for each output named, got {self.max_queries}.")
        if not 0.0 <= label_mask_rate <= 1.0:
            raise ValueError(f"task.label_mask_rate: expected a share from 0 to 1, got {label_mask_rate}.")
        self.label_mask_rate = label_mask_rate
        self.losses_of = {
            name: _checked_loss((loss_of or {}).get(name) or loss or nn.L1Loss(reduction="none"), name)
            for name in self.layouts
        }
        self.peaks = self._peaks(peaks or {})
        self._means = nn.ModuleDict(
            {
                stage: nn.ModuleDict({key: WeightedMean() for key in (*(f"loss/{n}" for n in outputs), *self._psnr_keys())})
                for stage in ("val", "test")
            }
        )
        if self.label is not None:
            self.val_accuracy, self.test_accuracy = (
                MulticlassAccuracy(num_classes=self.num_classes, average="micro", validate_args=False) for _ in range(2)
            )
            self.val_confusion, self.test_confusion = (
                MulticlassConfusionMatrix(num_classes=self.num_classes, validate_args=False) for _ in range(2)
            )

    def _peaks(self, given: Mapping[str, float | None]) -> dict[str, float]:
        facts = (self.model.spec or {}).get("modalities", {})
        peaks = {name: given.get(name, kind_of(facts.get(name, {})).peak) for name in self.layouts}
        wrong = [name for name, peak in peaks.items() if peak is not None and not (peak > 0 and self.layouts[name].has_raw)]
        if wrong:
            wanted = {name: peak for name, peak in given.items() if name in wrong}
            if wanted:
                raise ValueError(
                    "task.peaks: expected numbers above 0, or null, for modalities whose adapter has with_content, got "
                    f"{wanted}."
                )
        return {name: float(peak) for name, peak in peaks.items() if peak is not None and name not in wrong}

    def _psnr_keys(self) -> list[str]:
        return [f"psnr/{name}" for name in self.peaks]

    def shown(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Inputs and masks that the model gets; in training with the label of some samples, drawn from torch's generator."""
        inputs, masks = dict(batch.inputs), dict(batch.masks)
        if not self._shows_label:
            return inputs, masks
        assert self.label is not None
        if not self.training:
            hidden = self.model.without_target(inputs, masks)
            return hidden["inputs"], hidden["masks"]
        assert batch.target is not None, "checked in on_before_batch_transfer"
        inputs[self.label] = F.one_hot(batch.target, self.num_classes).float()
        if self.label not in self.model.fusion.mask_rates:
            masks[self.label] = torch.rand(batch.size, device=batch.target.device) >= self.label_mask_rate
        return inputs, masks

    def outputs(self, batch: Batch, *, index: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What the model makes of a batch: by output `(B, *grid, c)`, or `(B, k, c)` at the places of `index`."""
        inputs, masks = self.shown(batch)
        rates = None
        if self._shows_label and self.label in self.model.fusion.mask_rates:
            rates = {self.label: self.label_mask_rate if self.training else 1.0}
        outputs: dict[str, Tensor] = self.model(inputs, masks, index=index, mask_rates=rates)
        return outputs

    def losses(self, batch: Batch, *, index: Mapping[str, Tensor] | None = None) -> tuple[Losses, dict[str, Tensor]]:
        """The losses of each sample, and the outputs that they are of.

        Args:
            batch: with targets, where there is a label.
            index: by output, places `(B, k)`, drawn as `sampled` does; outputs without are decoded whole.

        Raises:
            ValueError: an output does not have the grid, or channels, of what it is to reconstruct.
        """
        contents = self.contents(batch)
        if not contents and self.label is None:
            raise ValueError(f"batch: has {sorted(batch.inputs)}, but only {sorted(self.layouts)} are reconstructed.")
        places = dict(index or {})
        nothing = torch.zeros(0, dtype=torch.int64, device=self.device)
        absent = {name: nothing for name in self.layouts if name not in contents}
        outputs = self.outputs(batch, index={**places, **absent})
        values: dict[str, Tensor] = {}
        there: dict[str, Tensor] = {}
        for name, content in contents.items():
            values[name], there[name] = self._sample_losses(name, outputs[name], content, places.get(name))
        if self.label is not None:
            assert batch.target is not None, "checked in on_before_batch_transfer"
            logits = outputs[self.label].float().reshape(batch.size, self.num_classes)
            values[self.label] = F.cross_entropy(logits, batch.target, reduction="none")
            there[self.label] = torch.ones_like(values[self.label], dtype=torch.bool)
        return Losses(values=values, there=there), outputs

    def contents(self, batch: Batch) -> dict[str, Content]:
        """What is to be reconstructed of the modalities that a batch has, in the layout of outputs."""
        contents = {}
        for name, layout in self.layouts.items():
            if name in batch.inputs:
                contents[name] = layout.content(batch.inputs[name], batch.masks.get(name))
                grid = tuple(contents[name].values.shape[1:-1])
                own = getattr(self.model.head.queries[name], "grid", None)  # type: ignore[index]
                if own is not None and tuple(own) != grid:
                    raise ValueError(
                        f"output {name!r}: the head has queries for a grid of {tuple(own)}, but the batch has {grid} to "
                        "reconstruct. Correct its grid, or let it follow the input: perceiver.decoders.PositionalQueries "
                        "with modality in place of grid."
                    )
        return contents

    def sampled(self, batch: Batch, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Places `(B, k)` to decode, for each output with `max_queries` that has more: at random, without repetition.

        They are among those that a sample has something at; where it has fewer, the rest are others and count in nothing.
        """
        index = {}
        for name, content in self.contents(batch).items():
            at_most = self.max_queries.get(name)
            if at_most is not None and at_most < content.values[0, ..., 0].numel():
                index[name], _ = chosen(_valid_places(content), at_most=at_most, generator=generator)
        return index

    def _sample_losses(
        self, name: str, output: Tensor, content: Content, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The mean loss of each sample's values, or its estimate from some places, `(B,)`, and which samples have any."""
        if index is None and output.shape[:-1] != content.values.shape[:-1]:
            raise ValueError(
                f"output {name!r}: has the grid {tuple(output.shape[1:-1])}, expected {tuple(content.values.shape[1:-1])}, "
                "that of what it is to reconstruct."
            )
        places = _valid_places(content).flatten(1)
        values, valid = content.values, content.valid
        valid = torch.ones_like(values, dtype=torch.bool) if valid is None else valid
        count = valid.flatten(1).sum(dim=1)
        real = places
        if index is not None:
            values, valid, real = taken(values, index), taken(valid, index), places.gather(1, index)
        values, valid, output = (x.flatten(1, -2) for x in (values, valid, output.float()))
        # Masked content may be anything: replaced before it is computed with.
        errors = self.losses_of[name](output, torch.where(valid, values, 0.0))
        total = torch.where(valid, errors, 0.0).sum(dim=(1, 2))
        # All places of a sample, in the mean over what may be drawn.
        share = places.sum(dim=1) / real.sum(dim=1).clamp(min=1)
        return total * share / count.clamp(min=1), count > 0

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check the batch while it is still in main memory.

        Raises:
            ValueError: for a sample without any modality, and, where there is a label, a missing target or one outside
                [0, classes); names the sample. Also where the label is among the inputs.
        """
        require_modality(batch)
        if self.label is not None:
            if self.label in batch.inputs:
                raise ValueError(
                    f"batch.inputs: has {self.label!r}, which the task makes of the targets itself, so that no evaluation "
                    "shows it. Leave it out of the data's modalities, or call it something else in the model."
                )
            require_classes(batch, num_classes=self.num_classes)
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the outputs' losses, over what `max_queries` decodes.

        Raises:
            FloatingPointError: as soon as it is not finite.
        """
        losses, _ = self.losses(batch, index=self.sampled(batch))
        means = [
            self.weights[name] * losses.values[name].sum() / losses.there[name].sum().clamp(min=1) for name in losses.values
        ]
        loss = torch.stack(means).sum()
        return self.learned(loss, batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Losses, PSNR and the label's accuracy of the validation data."""
        self._evaluate(batch, "val", batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same of the test data."""
        self._evaluate(batch, "test", batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Start a new confusion matrix; the old one stays readable until here."""
        if self.label is not None:
            self.val_confusion.reset()

    def on_test_epoch_start(self) -> None:
        """Start a new confusion matrix; the old one stays readable until here."""
        if self.label is not None:
            self.test_confusion.reset()

    def on_validation_epoch_end(self) -> None:
        """Means over the whole pass."""
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        """Means over the whole pass."""
        self._log_means("test")

    def _evaluate(self, batch: Batch, stage: str, batch_idx: int) -> None:
        count = counted(self, stage, batch_idx, batch.size)
        losses, outputs = self.losses(batch)
        for name, values in losses.values.items():
            self._mean(stage, f"loss/{name}").update(values[:count], losses.there[name][:count])
        for name in self.peaks:
            if name in batch.inputs:
                self._mean(stage, f"psnr/{name}").update(
                    self.psnr(name, outputs[name], batch)[:count], losses.there[name][:count]
                )
        if self.label is not None:
            assert batch.target is not None
            logits, target = outputs[self.label].reshape(batch.size, -1)[:count], batch.target[:count]
            accuracy = getattr(self, f"{stage}_accuracy")
            if count:  # torchmetrics stumbles over no samples
                accuracy.update(logits, target)
                getattr(self, f"{stage}_confusion").update(logits, target)
            self.log(f"{stage}/accuracy", accuracy, on_epoch=True, batch_size=count, prog_bar=stage == "val")

    def psnr(self, name: str, output: Tensor, batch: Batch) -> Tensor:
        """Peak signal-to-noise ratio of whole outputs `(B, *grid, c)` in decibels, `(B,)`; see the class for what it is."""
        x = batch.inputs[name]
        assert isinstance(x, Tensor)
        mask = grid_mask(batch.masks.get(name), batch=x.shape[0], grid=x.shape[2:])
        valid = torch.ones_like(x, dtype=torch.bool) if mask is None else mask[:, None].expand(x.shape)
        distance = torch.where(valid, self.layouts[name].raw(x, output.float()) - x.float(), 0.0)
        std = ((self.model.spec or {}).get("modalities", {}).get(name) or {}).get("std")
        if std is not None:
            distance = distance * torch.tensor(std, device=x.device).reshape(1, -1, *[1] * (x.ndim - 2))
        error = distance.square().flatten(1).sum(dim=1) / valid.flatten(1).sum(dim=1).clamp(min=1)
        return -10 * (error / self.peaks[name] ** 2).clamp(min=1e-10).log10()

    def _log_means(self, stage: str) -> None:
        total = torch.zeros((), device=self.device)
        logged = {}
        for key, metric in self._means[stage].items():  # type: ignore[operator]
            mean = metric.compute()
            metric.reset()
            kind, _, name = key.partition("/")
            # Every process sees the samples of all, so all log the same; without samples there is no PSNR.
            if kind == "loss":
                mean = mean.nan_to_num()  # of no sample
                total = total + self.weights[name] * mean
            if not bool(mean.isnan()):
                logged[f"{stage}/{key}"] = mean
        self.log(f"{stage}/loss", total, prog_bar=stage == "val", sync_dist=True)
        self.log_dict(logged, sync_dist=True)

    def _mean(self, stage: str, key: str) -> WeightedMean:
        metric = self._means[stage][key]  # type: ignore[index]
        assert isinstance(metric, WeightedMean)
        return metric


def _layouts(model: Perceiver, head: MultimodalDecoder) -> dict[str, OutputLayout]:
    """By modality that is reconstructed; ValueError where there is none, or an output is of no modality."""
    names = [name for name in head.output_channels if name != head.target]
    if not names or set(names) - set(model.adapters):
        raise ValueError(
            f"task: expected a head with outputs for some of {[name for name in model.adapters if name != head.target]} "
            f"besides its target {head.target!r}, got outputs {sorted(head.output_channels)}. Give the head queries of "
            "these names: +queries@model.head.queries.NAME=tokens."
        )
    return {
        name: OutputLayout(modality=name, adapter=model.adapters[name], channels=head.output_channels[name])
        for name in names
    }


def _check_names(argument: str, given: Mapping[str, Any] | None, known: Any) -> None:
    if set(given or {}) - set(known):
        raise ValueError(f"task.{argument}: expected any of the outputs {sorted(known)}, got {sorted(given or {})}.")


def _checked_loss(loss: nn.Module, name: str) -> nn.Module:
    """It says a loss for each value."""
    made = loss(torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
    if not isinstance(made, Tensor) or made.shape != (1, 2, 3):
        raise ValueError(
            f"task.loss of {name!r}: expected a loss for each value, got {loss}, which sums up; set its reduction to none."
        )
    return loss


def _valid_places(content: Content) -> Tensor:
    """`(B, *grid)`: where there is any value."""
    if content.valid is None:
        return torch.ones(content.values.shape[:-1], dtype=torch.bool, device=content.values.device)
    return content.valid.any(dim=-1)
