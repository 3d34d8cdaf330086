"""Judging of generated images in evaluation: right by their prompts, like real images, and not copies of training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from perceiver.generation.flow import generate
from perceiver.modalities.preprocess import unnormalised
from perceiver.modalities.text_bytes import decode_bytes
from perceiver.model import Perceiver
from perceiver.objectives.judges.judgement import ImageJudge, Judgement, PromptGroups
from perceiver.objectives.metrics.frechet import FrechetDistance
from perceiver.objectives.metrics.nearest import NearestTraining
from perceiver.objectives.metrics.quality import WeightedMean
from perceiver.runtime.random_streams import stream_seed
from perceiver.samples.batch import Batch

GUIDED, UNGUIDED = "", "/unguided"


class JudgedSamples:
    """Generates an image for the conditions of each sample of a split, and lets a judge measure it.

    Results, with guidance and, ending in `/unguided`, without:

    - each measure of the judge, such as `prompt_accuracy`: the share of images that are right. Held-out prompts do not
      count in it. `judge_accuracy` is the first measure of the real images: what the judge can tell.
    - `prompt_accuracy/GROUP`: the same by groups of prompts, `held_out` among them.
    - `frechet_distance`: to the real images of the split, in the features of the judge; see `FrechetDistance`.
    - `nearest_training`, `nearest_training_of_test`, `nearest_training_ratio`: see `NearestTraining`.

    Args:
        judge: the judge.
        num_samples: number of images to generate, for the first samples of a split; in each process.
        guidance: see `perceiver.generation.flow.generate`.
        unguided: also measure without guidance.
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
        batch = batch.rows(slice(0, count))
        real = self._shown(model, batch.inputs[modality], modality)
        judged = self.judge(real, batch)
        first = self.judge.measures[0]
        seen: Any = metrics["judge_accuracy"]
        left = self.num_samples - int(seen.weight)
        seen.update(judged.right[first].float(), torch.ones_like(judged.right[first]))
        generated = batch.rows(slice(0, max(0, left)))
        for suffix, guidance in self.guidances.items():
            frechet: Any = metrics[f"frechet_distance{suffix}"]
            frechet.update(judged.features, real=True)
            if left <= 0:
                continue
            nearest: Any = metrics[f"nearest{suffix}"]
            nearest.update(real[:left], real=True)
            images = self._generated(model, generated, modality=modality, guidance=guidance, number=number)
            nearest.update(images, real=False)
            self._count(self.judge(images, generated), generated, metrics, suffix=suffix)

    def results(self, metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
        """Return the results by name; those of groups without prompts are left out."""
        found: dict[str, Tensor] = {}
        for name, metric in metrics.items():
            if isinstance(metric, NearestTraining):
                suffix = name.removeprefix("nearest")
                found |= {f"{key}{suffix}": value for key, value in metric.compute().items()}
            elif not bool((value := metric.compute()).isnan()):
                found[name] = value
        return found

    def result_names(self, metrics: Mapping[str, Metric]) -> list[str]:
        """Return the names that `results` can have."""
        names: list[str] = []
        for name, metric in metrics.items():
            suffix = name.removeprefix("nearest")
            nearest = isinstance(metric, NearestTraining)
            names += [f"{key}{suffix}" for key in NearestTraining.NAMES] if nearest else [name]
        return names

    def _generated(self, model: Perceiver, batch: Batch, *, modality: str, guidance: float, number: int) -> Tensor:
        real = batch.inputs[modality]
        assert isinstance(real, Tensor)
        conditions = {
            name: (x, batch.masks[name]) if name in batch.masks else x
            for name, x in batch.inputs.items()
            if name != modality
        }
        # The noise of a sample depends on its place in the split alone, and is the same for all guidances.
        generator = torch.Generator().manual_seed(stream_seed(self.seed, number))
        images = generate(
            model,
            conditions,
            num_samples=batch.size,
            shape_of=real,
            steps=self.steps,
            guidance=guidance,
            solver=self.solver,
            generator=generator,
        )
        return self._shown(model, images, modality)

    def _count(self, judged: Judgement, batch: Batch, metrics: Mapping[str, Metric], *, suffix: str) -> None:
        groups = self._groups_of(batch)
        held_out = None if self.groups is None else self.groups.held_out
        counted = torch.tensor([group != held_out or group is None for group in groups], device=judged.features.device)
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
