"""Multimodal autoencoding: reconstruct every input and the class label through the latents.

Perceiver IO (Jaegle et al. 2021, arXiv:2107.14795), section 4.3 and its appendix: video, sound and label of Kinetics-700
from 784 latents. The training loss is an L1 loss of the video (weight 0.03), an L1 loss of the sound (weight 1) and the
cross-entropy of the label (weight 1e-4). The label is masked in half of the training samples. Per sample, 512 random
outputs of the video, 512 of the sound, and the label are decoded. See `experiment=kinetics_autoencoding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.adapters.content import Content
from perceiver.adapters.layout import OutputLayout, taken
from perceiver.decoders import MultimodalDecoder
from perceiver.masking.random import chosen
from perceiver.modalities.kinds import kind_of
from perceiver.model import Perceiver
from perceiver.objectives.checks import check_classes
from perceiver.objectives.metrics.quality import WeightedMean, confusion_matrix, correct_share
from perceiver.objectives.objective import CONFUSION, Metrics, Objective, weighted_sum
from perceiver.samples.batch import Batch
from perceiver.tokens.masks import grid_mask


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses `(B,)` of the samples of a batch, by output, and their validity.

    Args:
        values: losses, 0 where invalid.
        valid: True where a sample has a loss.
    """

    values: dict[str, Tensor]
    valid: dict[str, Tensor]


class MultimodalAutoencoding(Objective):
    """Multimodal autoencoding: reconstruct all inputs of a model, and a label that only some training samples show.

    The model's head is a `perceiver.decoders.MultimodalDecoder`. The loss of a modality is the mean over the values of a
    sample, then over the samples that have the modality; the loss of the label is the cross-entropy. The loss of a batch is
    their weighted sum, or its unbiased estimate where `max_queries` samples outputs. A modality missing from a sample is
    ignored; a modality removed by modality dropout is reconstructed from the rest.

    The label is the output that the head names as its `target`, if any. If the model has an adapter of that name, the label
    is also an input: one-hot, made from the batch's targets, in training only, and absent from a share of the samples. It is
    not a modality of the data and is never an input in evaluation, so `accuracy` measures classification through the
    bottleneck. If the fusion has a mask token for the label (`fusion.mask_rates`, as in the published model), that token
    replaces an absent label.

    Measures `loss`, `loss/NAME` of each output, `psnr/NAME` of each modality that has a peak, and `accuracy` and confusion
    matrix of the label. PSNR, in decibels, is `10 log10(peak² / mean squared error)` per sample, with the error in the units
    before normalisation, averaged over samples. Errors are at least 1e-10 `peak²`, so PSNR is at most 100 dB.

    Args:
        loss: elementwise loss `(outputs, targets) -> losses`, all of one shape, on normalised values: MSELoss, HuberLoss;
            None: `torch.nn.L1Loss(reduction="none")`.
        loss_of: losses of individual modalities, by name, overriding `loss`.
        weights: weights of the outputs' losses; default 1.
        label_mask_rate: share of the training samples from which the label is absent.
        max_queries: by output, the maximum number of positions to decode per sample in training, drawn at random; default
            all. Validation and test decode all, in chunks of the head's `chunk_size`.
        peaks: peaks for PSNR by modality, overriding the peak of the kind; null: no PSNR.

    Raises:
        ValueError: for settings out of range, or losses that are reduced to a sum.
    """

    def __init__(
        self,
        *,
        loss: nn.Module | None = None,
        loss_of: Mapping[str, nn.Module] | None = None,
        weights: Mapping[str, float] | None = None,
        label_mask_rate: float = 0.5,
        max_queries: Mapping[str, int] | None = None,
        peaks: Mapping[str, float | None] | None = None,
    ) -> None:
        super().__init__()
        self.weights = {name: float(weight) for name, weight in (weights or {}).items()}
        self.max_queries = {name: int(count) for name, count in (max_queries or {}).items()}
        if any(not 0 <= weight < float("inf") for weight in self.weights.values()):
            raise ValueError(f"task.weights: expected numbers of at least 0, got {self.weights}.")
        if any(count < 1 for count in self.max_queries.values()):
            raise ValueError(f"task.max_queries: expected at least 1 for each output named, got {self.max_queries}.")
        if not 0.0 <= label_mask_rate <= 1.0:
            raise ValueError(f"task.label_mask_rate: expected a share from 0 to 1, got {label_mask_rate}.")
        self.label_mask_rate = label_mask_rate
        self.loss_function = nn.L1Loss(reduction="none") if loss is None else loss
        self.loss_of = dict(loss_of or {})
        for name, one in {"all": self.loss_function, **self.loss_of}.items():
            _check_loss(one, name)
        self.given_peaks = dict(peaks or {})

    def check_model(self, model: nn.Module) -> None:
        """See `Objective.check_model`: settings must name the head's outputs; the label's adapter must fit its channels."""
        outputs = Reconstruction.of(model)
        label, names = outputs.label, (*outputs.layouts, *outputs.labels)
        adapter = None if label is None else dict(outputs.model.adapters.items()).get(label)
        if adapter is not None and adapter.channels != outputs.num_classes:
            raise ValueError(
                f"model.adapters.{label}: the label has {outputs.num_classes} classes; expected an adapter with as "
                f"many channels, such as perceiver.adapters.Vector, got {adapter}."
            )
        _check_names("weights", self.weights, names)
        _check_names("max_queries", self.max_queries, names)
        _check_names("loss_of", self.loss_of, outputs.layouts)
        _check_names("peaks", self.given_peaks, outputs.layouts)
        wrong = {
            name: peak
            for name, peak in self.given_peaks.items()
            if peak is not None and not (peak > 0 and outputs.layouts[name].has_raw)
        }
        if wrong:
            raise ValueError(
                "task.peaks: expected numbers above 0, or null, for modalities whose adapter has the method "
                f"with_content, got {wrong}."
            )

    def peaks(self, model: nn.Module) -> dict[str, float]:
        """Return the PSNR peak of each modality; modalities without a peak have no PSNR."""
        outputs = Reconstruction.of(model)
        specs = (outputs.model.spec or {}).get("modalities", {})
        peaks = {
            name: self.given_peaks.get(name, kind_of(specs.get(name, {})).peak)
            for name, layout in outputs.layouts.items()
            if layout.has_raw
        }
        return {name: float(peak) for name, peak in peaks.items() if peak is not None}

    def check(self, model: nn.Module, batch: Batch) -> Batch:
        """See `Objective.check`; also rejects a label among the inputs."""
        batch = super().check(model, batch)
        outputs = Reconstruction.of(model)
        if outputs.label is not None:
            if outputs.label in batch.inputs:
                raise ValueError(
                    f"batch.inputs: has {outputs.label!r}, which the task derives from the targets itself and hides "
                    "in evaluation. Remove it from the data's modalities, or rename it in the model."
                )
            check_classes(batch, num_classes=outputs.num_classes)
        return batch

    def shown(self, model: Perceiver, batch: Batch) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the model's inputs and masks; in training with the label of randomly drawn samples."""
        inputs, masks = dict(batch.inputs), dict(batch.masks)
        outputs = Reconstruction.of(model)
        label = outputs.label
        if label is None or label not in model.adapters:
            return inputs, masks
        if not model.training:
            hidden = model.without_target(inputs, masks)
            return hidden["inputs"], hidden["masks"]
        assert batch.target is not None, "checked"
        inputs[label] = F.one_hot(batch.target, outputs.num_classes).float()
        if label not in model.fusion.mask_rates:
            masks[label] = torch.rand(batch.size, device=batch.target.device) >= self.label_mask_rate
        return inputs, masks

    def outputs(self, model: Perceiver, batch: Batch, *, index: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the model's outputs for a batch: by name `(B, *grid, c)`, or `(B, k, c)` at the positions of `index`."""
        inputs, masks = self.shown(model, batch)
        label = Reconstruction.of(model).label
        rates = None
        if label is not None and label in model.adapters and label in model.fusion.mask_rates:
            rates = {label: self.label_mask_rate if model.training else 1.0}
        outputs: dict[str, Tensor] = model(inputs, masks, index=index, mask_rates=rates)
        return outputs

    def losses(
        self, model: Perceiver, batch: Batch, *, index: Mapping[str, Tensor] | None = None
    ) -> tuple[Losses, dict[str, Tensor]]:
        """Return the losses of each sample, and the model's outputs.

        Args:
            model: model that reconstructs.
            batch: samples, with targets if the head has a label.
            index: by output, positions `(B, k)` as drawn by `sampled`; other outputs are decoded completely.

        Raises:
            ValueError: if grid or channels of an output differ from those of its modality.
        """
        of_model = Reconstruction.of(model)
        contents = of_model.contents(batch)
        label = of_model.label
        if not contents and label is None:
            raise ValueError(
                f"batch: has the modalities {sorted(batch.inputs)}, but only {sorted(of_model.layouts)} are reconstructed."
            )
        places = dict(index or {})
        nothing = torch.zeros(0, dtype=torch.int64, device=next(model.parameters()).device)
        absent = {name: nothing for name in of_model.layouts if name not in contents}
        outputs = self.outputs(model, batch, index={**places, **absent})
        values: dict[str, Tensor] = {}
        valid: dict[str, Tensor] = {}
        for name, content in contents.items():
            values[name], valid[name] = self._sample_losses(name, outputs[name], content, places.get(name))
        if label is not None:
            assert batch.target is not None, "checked"
            logits = outputs[label].float().reshape(batch.size, of_model.num_classes)
            values[label] = F.cross_entropy(logits, batch.target, reduction="none")
            valid[label] = torch.ones_like(values[label], dtype=torch.bool)
        return Losses(values=values, valid=valid), outputs

    def sampled(self, model: Perceiver, batch: Batch, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw positions `(B, k)` to decode, without repetition, for each output with more than its `max_queries`.

        They are positions with content; if a sample has too few, the rest are other positions, which are ignored.
        """
        index = {}
        for name, content in Reconstruction.of(model).contents(batch).items():
            at_most = self.max_queries.get(name)
            if at_most is not None and at_most < content.values[0, ..., 0].numel():
                index[name], _ = chosen(_valid_places(content), at_most=at_most, generator=generator)
        return index

    def _sample_losses(self, name: str, output: Tensor, content: Content, index: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the mean loss per sample `(B,)`, or its estimate from some positions, and which samples have content."""
        if index is None and output.shape[:-1] != content.values.shape[:-1]:
            raise ValueError(
                f"output {name!r}: got the grid {tuple(output.shape[1:-1])}, expected "
                f"{tuple(content.values.shape[1:-1])}, the grid of the input to reconstruct."
            )
        places = _valid_places(content).flatten(1)
        values, valid = content.values, content.valid
        valid = torch.ones_like(values, dtype=torch.bool) if valid is None else valid
        count = valid.flatten(1).sum(dim=1)
        real = places
        if index is not None:
            values, valid, real = taken(values, index), taken(valid, index), places.gather(1, index)
        values, valid, output = (x.flatten(1, -2) for x in (values, valid, output.float()))
        # Masked content is arbitrary: replace it before computing with it.
        errors = self.loss_of.get(name, self.loss_function)(output, torch.where(valid, values, 0.0))
        total = torch.where(valid, errors, 0.0).sum(dim=(1, 2))
        # The expected value over the draws is the mean over all positions of a sample.
        share = places.sum(dim=1) / real.sum(dim=1).clamp(min=1)
        return total * share / count.clamp(min=1), count > 0

    def psnr(self, model: Perceiver, name: str, output: Tensor, batch: Batch) -> Tensor:
        """Return the peak signal-to-noise ratio `(B,)` of outputs `(B, *grid, c)` in decibels, as defined at the class."""
        x = batch.inputs[name]
        assert isinstance(x, Tensor)
        mask = grid_mask(batch.masks.get(name), batch=x.shape[0], grid=x.shape[2:])
        valid = torch.ones_like(x, dtype=torch.bool) if mask is None else mask[:, None].expand(x.shape)
        distance = torch.where(valid, Reconstruction.of(model).layouts[name].raw(x, output.float()) - x.float(), 0.0)
        std = ((model.spec or {}).get("modalities", {}).get(name) or {}).get("std")
        if std is not None:
            distance = distance * torch.tensor(std, device=x.device).reshape(1, -1, *[1] * (x.ndim - 2))
        error = distance.square().flatten(1).sum(dim=1) / valid.flatten(1).sum(dim=1).clamp(min=1)
        return -10 * (error / self.peaks(model)[name] ** 2).clamp(min=1e-10).log10()

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the weighted sum of the outputs' losses, at the positions that `max_queries` selects."""
        assert isinstance(model, Perceiver)
        losses, _ = self.losses(model, batch, index=self.sampled(model, batch))
        means = {name: values.sum() / losses.valid[name].sum().clamp(min=1) for name, values in losses.values.items()}
        return weighted_sum(means, self.weights)

    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return means over samples, and the confusion matrix of the label."""
        outputs = Reconstruction.of(model)
        means = [f"loss/{name}" for name in (*outputs.layouts, *outputs.labels)]
        means += [f"psnr/{name}" for name in self.peaks(model)]
        label = {CONFUSION: confusion_matrix(outputs.num_classes)} if outputs.labels else {}
        return {**{name: WeightedMean() for name in means}, **label}

    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Metrics, *, count: int | None = None, number: int = 0
    ) -> None:
        """See `Objective.evaluate`."""
        assert isinstance(model, Perceiver)
        losses, outputs = self.losses(model, batch)
        for name, values in losses.values.items():
            valid = losses.valid[name][:count]
            metrics[f"loss/{name}"].update(values[:count], valid)
            if f"psnr/{name}" in metrics:
                metrics[f"psnr/{name}"].update(self.psnr(model, name, outputs[name], batch)[:count], valid)
        for label in Reconstruction.of(model).labels:
            assert batch.target is not None
            metrics[CONFUSION].update(outputs[label].reshape(batch.size, -1)[:count], batch.target[:count])

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return `loss`, `loss/NAME` and `psnr/NAME` of the outputs in the split, and `accuracy` of the label."""
        found = super().results(metrics)
        # An output without any sample does not contribute to the loss; outputs that are NaN do.
        losses = {
            name: mean if metrics[name].defined else torch.zeros_like(mean)
            for name, mean in found.items()
            if name.startswith("loss/")
        }
        ratios = {name: mean for name, mean in found.items() if name not in losses and not bool(mean.isnan())}
        label = {"accuracy": correct_share(metrics[CONFUSION].compute().cpu().double())} if CONFUSION in metrics else {}
        return {"loss": weighted_sum(losses, self.weights), **losses, **ratios, **label}

    def result_names(self, metrics: Metrics) -> list[str]:
        """Return the names of `results`."""
        return ["loss", *super().result_names(metrics), *(["accuracy"] if CONFUSION in metrics else [])]


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The outputs that a model reconstructs.

    Args:
        model: the model.
        label: name of the label output; None: no label.
        num_classes: number of classes of the label; 0: no label.
        layouts: output layouts by reconstructed modality.
    """

    model: Perceiver
    label: str | None
    num_classes: int
    layouts: dict[str, OutputLayout]

    @classmethod
    def of(cls, model: nn.Module) -> Reconstruction:
        """Describe a model; ValueError for another kind of model."""
        head = getattr(model, "head", None)
        if not isinstance(model, Perceiver) or not isinstance(head, MultimodalDecoder):
            raise ValueError(
                "task: multimodal autoencoding needs a model whose head is a perceiver.decoders.MultimodalDecoder, got "
                f"{type(head).__name__}; task=multimodal_autoencoding sets it."
            )
        label = head.target
        num_classes = 0 if label is None else head.output_channels[label]
        return cls(model=model, label=label, num_classes=num_classes, layouts=_layouts(model, head))

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the name of the label, if any."""
        return () if self.label is None else (self.label,)

    def contents(self, batch: Batch) -> dict[str, Content]:
        """Return the reconstruction targets of a batch by modality, in the layout of outputs."""
        contents = {}
        for name, layout in self.layouts.items():
            if name in batch.inputs:
                contents[name] = layout.content(batch.inputs[name], batch.masks.get(name))
                grid = tuple(contents[name].values.shape[1:-1])
                queries = getattr(self.model.head.queries[name], "grid", None)  # type: ignore[index]
                if queries is not None and tuple(queries) != grid:
                    raise ValueError(
                        f"output {name!r}: the head has queries for a grid of {tuple(queries)}, but the batch has "
                        f"{grid} to reconstruct. Correct the grid, or take it from the input: "
                        "perceiver.decoders.PositionalQueries with modality instead of grid."
                    )
        return contents


def _layouts(model: Perceiver, head: MultimodalDecoder) -> dict[str, OutputLayout]:
    """Return layouts by reconstructed modality; ValueError if there are none, or an output has no modality."""
    names = [name for name in head.output_channels if name != head.target]
    if not names or set(names) - set(model.adapters):
        raise ValueError(
            "task: expected a head with outputs for some of "
            f"{[name for name in model.adapters if name != head.target]} besides its target {head.target!r}, got "
            f"outputs {sorted(head.output_channels)}. Add queries with these names to the head: "
            "+queries@model.head.queries.NAME=tokens."
        )
    return {
        name: OutputLayout(modality=name, adapter=model.adapters[name], channels=head.output_channels[name])
        for name in names
    }


def _check_names(argument: str, given: Mapping[str, Any] | None, known: Any) -> None:
    if set(given or {}) - set(known):
        raise ValueError(f"task.{argument}: expected any of the outputs {sorted(known)}, got {sorted(given or {})}.")


def _check_loss(loss: nn.Module, name: str) -> None:
    """Raise ValueError unless the loss is elementwise."""
    made = loss(torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
    if not isinstance(made, Tensor) or made.shape != (1, 2, 3):
        raise ValueError(
            f"task.loss of {name!r}: expected a loss for each value, got {loss}, which reduces them. Set its "
            "reduction to none."
        )


def _valid_places(content: Content) -> Tensor:
    """Return `(B, *grid)`: positions with a valid value."""
    if content.valid is None:
        return torch.ones(content.values.shape[:-1], dtype=torch.bool, device=content.values.device)
    return content.valid.any(dim=-1)
