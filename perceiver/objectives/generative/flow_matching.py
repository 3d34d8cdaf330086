"""Flow matching: predict the velocity from noise to data, given any subset of the other modalities.

Rectified flow (Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747). Conditions are modalities, and
their absence in some training samples is what guidance needs (Ho and Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torchmetrics import Metric

from perceiver.decoders.velocity import VelocityHead, shifted
from perceiver.model import Perceiver
from perceiver.objectives.checks import check_classes
from perceiver.objectives.gathering import processes
from perceiver.objectives.generative.judged_samples import JudgedSamples
from perceiver.objectives.metrics.quality import WeightedMean, mean_over_processes
from perceiver.objectives.objective import Metrics, Objective
from perceiver.runtime.ranges import check_positive
from perceiver.samples.batch import Batch
from perceiver.samples.generators import generators_of
from perceiver.tokens.masks import extents

TIMES = ("uniform", "logit_normal")


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """Samples on their way from noise to data.

    Args:
        noise: `(B, …)`, as the adapter of the generated modality takes it.
        time: `(B,)` in [0, 1].
    """

    noise: Tensor
    time: Tensor


class FlowMatching(Objective):
    """Flow matching of one modality, with all others as conditions.

    The model's encoder is a `perceiver.Interface`, its head a `perceiver.decoders.VelocityHead`. At a random time t the
    model sees `x_t = (1 - t) noise + t x` and predicts `x - noise`; the loss is the mean squared error over valid elements.
    Measures `loss`; evaluation gives each sample the same noise and time in every epoch, by its id.

    Args:
        modality: modality that is generated; that of the head.
        condition_dropout: share of the training samples from which all conditions are absent; that of the head, which
            records it for guidance. To drop conditions one by one, use `Perceiver.modality_dropout`.
        label: adapter that gets the class of each sample as a condition, one-hot; None: the class is not a condition.
        times: distribution of t in training: "uniform", or "logit_normal", the logistic function of a normal variable, which
            prefers the middle (Esser et al. 2024, arXiv:2403.03206, section 3.1).
        time_shift: moves these times towards the noise if above 1, see `perceiver.decoders.velocity.shifted`; that of the
            head, which records it for generation. Validation and test keep uniform times.
        self_condition_rate: share of the training steps that start from the latents of a first call, for a model with latent
            self-conditioning (Jabri et al. 2022, section 3).
        seed: seed for noise and times in validation and test.
        judged: judges samples that the model generates in the test; None: no samples are generated.

    Raises:
        ValueError: for shares out of range, or an unknown distribution.
    """

    def __init__(
        self,
        *,
        modality: str = "image",
        condition_dropout: float = 0.1,
        label: str | None = None,
        times: str = "uniform",
        time_shift: float = 1.0,
        self_condition_rate: float = 0.9,
        seed: int = 0,
        judged: JudgedSamples | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"task.condition_dropout: expected a share of at least 0 and below 1, got {condition_dropout}.")
        if not 0 <= self_condition_rate <= 1:
            raise ValueError(f"task.self_condition_rate: expected a share from 0 to 1, got {self_condition_rate}.")
        if times not in TIMES:
            raise ValueError(f"task.times: expected one of {', '.join(TIMES)}; got {times!r}.")
        check_positive("task", time_shift=time_shift)
        self.modality = modality
        self.condition_dropout = condition_dropout
        self.label = label
        self.times = times
        self.time_shift = time_shift
        self.self_condition_rate = self_condition_rate
        self.seed = seed
        self.judged = judged

    def check_model(self, model: nn.Module) -> None:
        """See `Objective.check_model`: the model must generate the modality, and record the same dropout of conditions."""
        head = getattr(model, "head", None)
        if not isinstance(model, Perceiver) or not isinstance(head, VelocityHead):
            raise ValueError(
                "task=flow_matching: expected a model with an Interface and a VelocityHead, got the head "
                f"{type(head).__name__}; set model=interface."
            )
        if head.modality != self.modality:
            raise ValueError(
                f"task.modality: expected {head.modality!r}, the modality that the model generates, got {self.modality!r}."
            )
        if head.condition_dropout != self.condition_dropout:
            raise ValueError(
                f"task.condition_dropout: expected {head.condition_dropout}, which the model's head records for guidance, "
                f"got {self.condition_dropout}. Give both the same."
            )
        if head.time_shift != self.time_shift:
            raise ValueError(
                f"task.time_shift: expected {head.time_shift}, which the model's head records for generation, got "
                f"{self.time_shift}. Give both the same."
            )
        if model.modality_dropout is not None and self.modality in model.modality_dropout.rates:
            raise ValueError(
                f"model.modality_dropout.rates: expected conditions only, got {self.modality!r}, which is generated."
            )
        if self.label is not None and self.label not in model.adapters:
            raise ValueError(
                f"task.label: expected the name of one of the adapters {sorted(model.adapters)}, got {self.label!r}. Add it "
                f"with +adapter@model.adapters.{self.label}=label."
            )

    def check(self, model: nn.Module, batch: Batch) -> Batch:
        """See `Objective.check`: the generated modality must be in the batch, and a class in each sample if it is used."""
        batch = super().check(model, batch)
        if self.modality not in batch.inputs or not isinstance(batch.inputs[self.modality], Tensor):
            raise ValueError(
                f"batch.inputs: expected {self.modality!r}, one tensor, which is to be generated, got "
                f"{sorted(batch.inputs)}."
            )
        if self.label is not None:
            assert isinstance(model, Perceiver)
            if self.label in batch.inputs:
                raise ValueError(
                    f"batch.inputs: has {self.label!r}, which the task makes of the targets. Set task.label=null to use the "
                    "modality of the data, or rename it."
                )
            check_classes(batch, num_classes=int(model.adapters[self.label].channels))  # type: ignore[arg-type]
        return batch

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the mean squared error over the valid elements of the batch."""
        assert isinstance(model, Perceiver)
        x = self._samples(batch)
        noisy = Noisy(noise=torch.randn_like(x), time=self._drawn_times(batch.size, x.device))
        inputs, masks = self._conditions(model, batch)
        if self.condition_dropout:
            kept = torch.rand(batch.size, device=x.device) >= self.condition_dropout
            masks = {name: _dropped(masks.get(name), kept) for name in inputs} | _own(masks, self.modality)
        again = _self_conditions(model) and self._calls_twice(x.device)
        errors, valid = self._errors(model, batch, noisy, inputs, masks, again=again)
        return mean_over_processes(errors, valid)

    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return the mean loss."""
        return {"loss": WeightedMean()}

    def test_metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return the mean loss, and the metrics of judged samples."""
        return {**self.metrics(model), **({} if self.judged is None else self.judged.metrics())}

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return the mean loss and, in the test, what the judge found."""
        return {
            "loss": metrics["loss"].compute(),
            **({} if self.judged is None else self.judged.results(_judging(metrics))),
        }

    def result_names(self, metrics: Metrics) -> list[str]:
        """See `Objective.result_names`."""
        return ["loss", *([] if self.judged is None else self.judged.result_names(_judging(metrics)))]

    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Metrics, *, count: int | None = None, number: int = 0
    ) -> None:
        """See `Objective.evaluate`."""
        assert isinstance(model, Perceiver)
        count = batch.size if count is None else count
        noisy = self.fixed(batch, number=number)
        inputs, masks = self._conditions(model, batch)
        errors, valid = self._errors(model, batch, noisy, inputs, masks, again=_self_conditions(model))
        metrics["loss"].update(errors[:count], valid[:count].float())
        if self.judged is not None and len(metrics) > 1:
            given = replace(batch, inputs={**inputs, self.modality: batch.inputs[self.modality]})
            self.judged.update(model, given, metrics, modality=self.modality, count=count, number=number)

    def fixed(self, batch: Batch, *, number: int = 0) -> Noisy:
        """Return the noise and times of evaluation: the same for a sample in every epoch and batch, by its id.

        Padding after the last valid element of a sample gets no noise, so that it changes none.

        Args:
            batch: samples; without ids, noise and times depend on their place in the split.
            number: number of the batch in the split.
        """
        x = self._samples(batch)
        noise, times = torch.zeros(x.shape), torch.zeros(batch.size)
        generators = generators_of(batch, seed=self.seed, number=number)
        for row, (own, generator) in enumerate(zip(_corners(x, batch.masks.get(self.modality)), generators, strict=True)):
            times[row] = torch.rand((), generator=generator)
            noise[row][own] = torch.randn(noise[row][own].shape, generator=generator)
        return Noisy(noise=noise.to(x), time=times.to(x.device))

    def _samples(self, batch: Batch) -> Tensor:
        x = batch.inputs[self.modality]
        assert isinstance(x, Tensor), "checked"
        return x

    def _drawn_times(self, count: int, device: torch.device) -> Tensor:
        if self.times == "logit_normal":
            return shifted(torch.randn(count, device=device).sigmoid(), self.time_shift)
        # One time in each of `count` equal intervals, in random order: less variance than independent times.
        return shifted((torch.randperm(count, device=device) + torch.rand(count, device=device)) / count, self.time_shift)

    def _calls_twice(self, device: torch.device) -> bool:
        """Draw whether a training step starts from the latents of a first call, the same for all processes.

        Processes that share the parameters of one model have to call it equally often.
        """
        drawn = torch.rand((), device=device)
        if processes() > 1:
            distributed.broadcast(drawn, src=0)
        return bool(drawn < self.self_condition_rate)

    def _conditions(self, model: Perceiver, batch: Batch) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return inputs and masks of everything but the generated modality, whose mask stays."""
        inputs = {name: x for name, x in batch.inputs.items() if name != self.modality}
        if self.label is not None:
            assert batch.target is not None, "checked"
            inputs[self.label] = F.one_hot(batch.target, int(model.adapters[self.label].channels)).float()  # type: ignore[arg-type]
        return inputs, dict(batch.masks)

    def _errors(
        self,
        model: Perceiver,
        batch: Batch,
        noisy: Noisy,
        conditions: dict[str, Any],
        masks: dict[str, Tensor],
        *,
        again: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return squared errors `(B, *grid, c)`, 0 where invalid, and their validity; `again`: call the model twice."""
        x = self._samples(batch)
        time = noisy.time.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        inputs = {self.modality: (1 - time) * noisy.noise + time * x, **conditions}
        velocity = model.velocity(inputs, masks, time=noisy.time, self_condition=again).values.float()
        assert isinstance(model.head, VelocityHead)
        wanted = model.head.by_token(model.adapters, x - noisy.noise, masks.get(self.modality))
        valid = torch.ones_like(velocity, dtype=torch.bool) if wanted.valid is None else wanted.valid
        return torch.where(valid, velocity - wanted.values, 0.0).square(), valid


def _judging(metrics: Metrics) -> dict[str, Metric]:
    """Return the metrics of judged samples, which validation does not have."""
    return {name: metric for name, metric in metrics.items() if name != "loss"}


def _self_conditions(model: Perceiver) -> bool:
    return bool(getattr(model.encoder, "self_conditions", False))


def _corners(x: Tensor, mask: Tensor | None) -> list[tuple[slice, ...]]:
    """Return for each sample the part of its tensor up to its last valid element."""
    if mask is None or mask.ndim == 1:
        return [()] * len(x)
    # Channels first, as images have them, or channels last, as points have them.
    first = (slice(None),) if x.shape[2:] == mask.shape[1:] else ()
    sizes = torch.stack(extents(mask), dim=1).tolist()
    return [(*first, *(slice(length) for length in size)) for size in sizes]


def _own(masks: dict[str, Tensor], modality: str) -> dict[str, Tensor]:
    return {modality: masks[modality]} if modality in masks else {}


def _dropped(mask: Tensor | None, kept: Tensor) -> Tensor:
    """Return a mask in which only the kept samples are valid."""
    return kept if mask is None else mask & kept.reshape(-1, *[1] * (mask.ndim - 1))
