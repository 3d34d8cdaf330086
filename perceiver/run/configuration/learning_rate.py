"""Scaling of the learning rate to a larger or smaller global batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer

RULES = {"linear": lambda ratio: ratio, "sqrt": math.sqrt}


@dataclass(frozen=True, kw_only=True)
class ScaledOptimizer:
    """The optimizer's configuration with a scaled learning rate, and a short explanation for the report."""

    optimizer: dict[str, Any]
    explanation: str


@dataclass(frozen=True, kw_only=True)
class LearningRateScaling:
    """Scales the learning rate to the global batch: samples per device x processes x batches accumulated into a step.

    Args:
        rule: linear (Goyal et al. 2017: the rate is proportional to the batch), sqrt, or None, which keeps the rate.
        base_batch: the global batch that `optimizer.lr` was chosen for.

    Raises:
        ValueError: unknown rule or invalid base_batch.
    """

    rule: str | None = None
    base_batch: int = 256

    def __post_init__(self) -> None:
        if self.rule is not None and (self.rule not in RULES or not isinstance(self.base_batch, int) or self.base_batch < 1):
            raise ValueError(
                f"lr_scaling: expected rule=linear, sqrt or null and base_batch=1 or more, got rule={self.rule}, "
                f"base_batch={self.base_batch}."
            )

    def __call__(self, optimizer: Mapping[str, Any], *, batch_size: int | None, trainer: Trainer) -> ScaledOptimizer:
        """Scale the learning rate to the global batch.

        Args:
            optimizer: the optimizer's configuration.
            batch_size: samples per device; None if the data has no such setting.
            trainer: knows the processes and the accumulated batches.

        Raises:
            ValueError: the batch size or the learning rate is not in the configuration.
        """
        settings = dict(optimizer)
        accumulated = trainer.accumulate_grad_batches
        if batch_size is None:
            if self.rule is None:
                return ScaledOptimizer(optimizer=settings, explanation="")
            raise ValueError(
                f"lr_scaling.rule={self.rule}: expected data.batch_size, the samples per device; this data module has "
                "no such setting."
            )
        batch = int(batch_size) * trainer.world_size * accumulated
        parts = [f"{trainer.world_size} processes × {batch_size} samples"] if trainer.world_size > 1 else []
        parts += [f"{accumulated} batches accumulated"] if accumulated > 1 else []
        explanation = f"global batch {batch} ({', '.join(parts)})" if parts else ""
        if self.rule is None:
            return ScaledOptimizer(optimizer=settings, explanation=explanation)
        if not isinstance(settings.get("lr"), int | float):
            raise ValueError(f"lr_scaling.rule={self.rule}: expected a number as optimizer.lr, got {settings.get('lr')!r}.")
        scaled = settings["lr"] * RULES[self.rule](batch / self.base_batch)
        change = f"learning rate {settings['lr']:.4g} of batch {self.base_batch} becomes {scaled:.4g} ({self.rule})"
        settings["lr"] = scaled
        return ScaledOptimizer(optimizer=settings, explanation=f"{explanation or f'global batch {batch}'}; {change}")
