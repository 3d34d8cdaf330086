"""Judging of generated images in evaluation: right by their prompts, like real images, and not copies of training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from perceiver.generation.flow import generate
from perceiver.modalities.preprocess import unnormalised
from perceiver.modalities.texts.text_bytes import decode_bytes
from perceiver.model import Perceiver
from perceiver.objectives.judges.judgement import ImageJudge, Judgement, PromptGroups
from perceiver.objectives.metrics.frechet import FrechetDistance
from perceiver.objectives.metrics.nearest import NearestTraining
from perceiver.objectives.metrics.quality import WeightedMean
from perceiver.runtime.full_precision import full_precision
from perceiver.samples.batch import Batch
from perceiver.samples.generators import generators_of
from perceiver.tokens.masks import presence

GUIDED, UNGUIDED = "", "/unguided"


class JudgedSamples:
    """Generates an image for the conditions of each sample of a split, and lets a judge measure it.

    Samples without an image are left out. The noise of a sample depends on its id alone, and is the same with and without
    guidance. Images that are not finite are wrong.

    Results, with guidance and, ending in `/unguided`, without:

    - each measure of the judge, such as `prompt_accuracy`: the share of images that are right. Held-out prompts do not
      count in it. `judge_accuracy` is the first measure of the real images: what the judge can tell.
    - `prompt_accuracy/GROUP`: the same by groups of prompts, `held_out` among them.
    - `frechet_distance`: to the real images of the split, in the features of the judge; see `FrechetDistance`. Those of
      held-out prompts do not count in it.
    - `nearest_training`, `nearest_training_of_test`, `nearest_training_ratio`: see `NearestTraining`.

    Args:
        judge: the judge.
        num_samples: number of images to generate, for the first samples of a split; in each process.
        guidance: see `perceiver.generation.flow.generate`.
        unguided: also measure without guidance.
        guidance_until: see `perceiver.generation.flow.generate`.
        steps: steps of the solver.
        solver: euler or heun.
        seed: seed of the noise; not the training seed.
        groups: groups of prompts; None: none.
        prompt: name of the modality with the prompts, UTF-8 bytes.

    Raises:
        ValueError: for numbers out of range.
    """

    def __init__(
        self,
        *,
        judge: ImageJudge,
        num_samples: int = 2000,
        guidance: float = 3.0,
        unguided: bool = True,
        guidance_until: float = 1.0,
        steps: int = 12,
        solver: str = "euler",
        seed: int = 0,
        groups: PromptGroups | None = None,
        prompt: str = "text",
    ) -> None:
        if num_samples < 2:
            raise ValueError(f"task.judged.num_samples: expected 2 or more, got {num_samples}.")
        self.judge = judge
        self.num_samples = num_samples
        self.guidances = {GUIDED: guidance, **({UNGUIDED: 1.0} if unguided and guidance != 1 else {})}
        self.guidance_until = guidance_until
        self.steps = steps
        self.solver = solver
        self.seed = seed
        self.groups = groups
        self.prompt = prompt

    def metrics(self) -> dict[str, Metric]:
        """Return new metrics, by name."""
        found: dict[str, Metric] = {"judge_accuracy": WeightedMean()}
        for suffix in self.guidances:
            found |= {f"{name}{suffix}": WeightedMean() for name in (*self.judge.measures, *self._grouped())}
            found[f"frechet_distance{suffix}"] = FrechetDistance(channels=self.judge.channels)
            found[f"nearest{suffix}"] = NearestTraining(training=self.judge.training_images)
        return found

    def update(
        self, model: Perceiver, batch: Batch, metrics: Mapping[str, Metric], *, modality: str, count: int, number: int
    ) -> None:
        """Generate and judge images for a batch.

        Args:
            model: a model that generates, with a spec.
            batch: batch with real images.
            metrics: result of `metrics`.
            modality: name of the images.
            count: number of leading samples that count.
            number: number of the batch in the split.
        """
        if count < 1:
            return
        # Before samples are left out: without ids, their numbers depend on their places.
        generators = generators_of(batch, seed=self.seed, number=number)
        batch, rows = _with_image(batch.rows(slice(0, count)), modality)
        if not rows:
            return
        generators = [generators[row] for row in rows]
        real = self._shown(model, batch.inputs[modality], modality)
        judged = self._judged(real, batch)
        first = self.judge.measures[0]
        seen: Any = metrics["judge_accuracy"]
        left = self.num_samples - int(seen.weight)
        seen.update(judged.right[first].float(), torch.ones_like(judged.right[first]))
        generated = batch.rows(slice(0, max(0, left)))
        counted = self._counted(self._groups_of(batch), real.device)
        for suffix, guidance in self.guidances.items():
            frechet: Any = metrics[f"frechet_distance{suffix}"]
            frechet.update(judged.features[counted], real=True)
            if left <= 0:
                continue
            nearest: Any = metrics[f"nearest{suffix}"]
            nearest.update(real[:left], real=True)
            images = self._generated(model, generated, generators[:left], modality=modality, guidance=guidance)
            nearest.update(images, real=False)
            self._count(self._judged(images, generated), generated, metrics, suffix=suffix)

    def results(self, metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
        """Return the results by name; undefined ones, such as those of groups without prompts, are left out."""
        found: dict[str, Tensor] = {}
        for name, metric in metrics.items():
            if isinstance(metric, NearestTraining):
                suffix = name.removeprefix("nearest")
                found |= {f"{key}{suffix}": value for key, value in metric.compute().items()}
            else:
                found[name] = metric.compute()
        return {name: value for name, value in found.items() if not bool(value.isnan())}

    def result_names(self, metrics: Mapping[str, Metric]) -> list[str]:
        """Return the names that `results` can have."""
        names: list[str] = []
        for name, metric in metrics.items():
            suffix = name.removeprefix("nearest")
            nearest = isinstance(metric, NearestTraining)
            names += [f"{key}{suffix}" for key in NearestTraining.NAMES] if nearest else [name]
        return names

    def _judged(self, images: Tensor, batch: Batch) -> Judgement:
        """Judge images in float32, whatever the precision of the model; those that are not finite are wrong."""
        with full_precision(images.device.type):
            judged = self.judge(images.float(), batch)
        finite = images.isfinite().flatten(1).all(dim=1)
        return replace(judged, right={name: right & finite for name, right in judged.right.items()})

    def _generated(
        self, model: Perceiver, batch: Batch, generators: Sequence[torch.Generator], *, modality: str, guidance: float
    ) -> Tensor:
        real = batch.inputs[modality]
        assert isinstance(real, Tensor)
        conditions = {
            name: (x, batch.masks[name]) if name in batch.masks else x
            for name, x in batch.inputs.items()
            if name != modality
        }
        # Copies, which leave the same noise to the other guidances.
        own = [one.clone_state() for one in generators]
        images = generate(
            model,
            conditions,
            num_samples=batch.size,
            shape_of=real,
            steps=self.steps,
            guidance=guidance,
            guidance_until=self.guidance_until,
            solver=self.solver,
            generator=own,
        )
        return self._shown(model, images, modality)

    def _count(self, judged: Judgement, batch: Batch, metrics: Mapping[str, Metric], *, suffix: str) -> None:
        groups = self._groups_of(batch)
        counted = self._counted(groups, judged.features.device)
        frechet: Any = metrics[f"frechet_distance{suffix}"]
        frechet.update(judged.features[counted], real=False)
        for name, right in judged.right.items():
            asked = judged.asked.get(name, torch.ones_like(right))
            metrics[f"{name}{suffix}"].update(right.float(), asked & counted)
        first = judged.right[self.judge.measures[0]].float()
        for group in () if self.groups is None else self.groups.names:
            own = torch.tensor([one == group for one in groups], device=first.device)
            # Groups without prompts, too, so that all processes have updated all metrics.
            metrics[f"{self.judge.measures[0]}/{group}{suffix}"].update(first, own)

    def _counted(self, groups: Sequence[str | None], device: torch.device) -> Tensor:
        """Return which samples have no held-out prompt."""
        held_out = None if self.groups is None else self.groups.held_out
        return torch.tensor([group != held_out or group is None for group in groups], device=device)

    def _groups_of(self, batch: Batch) -> Sequence[str | None]:
        ids = batch.inputs.get(self.prompt)
        if self.groups is None or not isinstance(ids, Tensor):
            return [None] * batch.size
        mask = batch.masks.get(self.prompt)
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.reshape(len(ids), -1).expand_as(ids)
        return [self.groups(decode_bytes(row[own].cpu())) for row, own in zip(ids, valid, strict=True)]

    def _grouped(self) -> list[str]:
        return [] if self.groups is None else [f"{self.judge.measures[0]}/{name}" for name in self.groups.names]

    def _shown(self, model: Perceiver, images: Any, modality: str) -> Tensor:
        """Return images in [0, 1]."""
        return unnormalised(images, (model.spec or {})["modalities"][modality]).clamp(0, 1)


def _with_image(batch: Batch, modality: str) -> tuple[Batch, list[int]]:
    """Return the samples that have an image, and their numbers.

    Raises:
        ValueError: for an image that is smaller than others of its batch.
    """
    mask = batch.masks.get(modality)
    present = presence(batch.inputs[modality], mask)
    if mask is None or present is None or bool(mask.all()):
        return batch, list(range(batch.size))
    if bool((present != mask.reshape(batch.size, -1).all(dim=1)).any()):
        raise ValueError(
            f"task.judged: expected images {modality!r} of one size, which a judge takes, got a batch of several sizes or "
            "with masked pixels. Resize them, or set task.judged=null."
        )
    rows = present.nonzero()[:, 0].tolist()
    return batch.rows(rows), rows
