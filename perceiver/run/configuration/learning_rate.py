"""The learning rate of a larger or smaller global batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer

RULES = {"linear": lambda ratio: ratio, "sqrt": math.sqrt}


@dataclass(frozen=True, kw_only=True)
class ScaledOptimizer:
    """The optimizer's configuration with its learning rate scaled, and a few words on it for the report."""

    optimizer: dict[str, Any]
    explanation: str


def scale_learning_rate(config: Mapping[str, Any], trainer: Trainer) -> ScaledOptimizer:
    """`optimizer.lr` for the global batch: samples per device x processes x batches accumulated into a step.

    Args:
        config: resolved; `lr_scaling.rule` is linear (Goyal et al. 2017: the rate grows as the batch does), sqrt or null;
            `lr_scaling.base_batch` is the global batch that `optimizer.lr` was chosen for.
        trainer: knows the processes.

    Raises:
        ValueError: for an unknown rule, or where the batch size or the learning rate are not in the configuration.
    """
    optimizer = dict(config["optimizer"])
    own = config["data"].get("batch_size")
    scaling = config.get("lr_scaling") or {}
    rule = scaling.get("rule")
    accumulated = trainer.accumulate_grad_batches
    if own is None:
        if rule is None:
            return ScaledOptimizer(optimizer=optimizer, explanation="")
        raise ValueError(f"lr_scaling.rule={rule}: expected data.batch_size, samples per device; these data have none.")
    batch = int(own) * trainer.world_size * accumulated
    parts = [f"{trainer.world_size} processes of {own} samples"] if trainer.world_size > 1 else []
    parts += [f"{accumulated} batches accumulated"] if accumulated > 1 else []
    explanation = f"global batch {batch} ({', '.join(parts)})" if parts else ""
    if rule is None:
        return ScaledOptimizer(optimizer=optimizer, explanation=explanation)
    base = scaling.get("base_batch")
    if rule not in RULES or not isinstance(base, int) or base < 1:
        raise ValueError(
            f"lr_scaling: expected rule=linear, sqrt or null and base_batch=1 or more, got rule={rule}, base_batch={base}."
        )
    if not isinstance(optimizer.get("lr"), int | float):
        raise ValueError(f"lr_scaling.rule={rule}: expected a number as optimizer.lr, got {optimizer.get('lr')!r}.")
    scaled = optimizer["lr"] * RULES[rule](batch / base)
    told = f"learning rate {optimizer['lr']:.4g} of batch {base} becomes {scaled:.4g} ({rule})"
    optimizer["lr"] = scaled
    return ScaledOptimizer(optimizer=optimizer, explanation=f"{explanation or f'global batch {batch}'}; {told}")
