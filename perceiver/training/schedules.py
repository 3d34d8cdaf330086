"""Learning-rate schedules, in optimizer steps: linear warm-up then cosine, flat then cosine, and flat with drops.

Each is a factory `(optimizer, total_steps) -> LRScheduler`; the other arguments are fixed in the configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, *, warmup_fraction: float = 0.05, final_fraction: float = 0.0
) -> LambdaLR:
    """Rise linearly to the optimizer's rate over the first steps, then fall along half a cosine.

    Args:
        optimizer: optimizer with the peak learning rates.
        total_steps: optimizer steps of the whole training.
        warmup_fraction: share of the steps spent rising; 0 starts at the peak.
        final_fraction: final learning rate as a share of the peak.

    Raises:
        ValueError: for fractions outside [0, 1] or fewer than one step.
    """
    _check(total_steps, warmup_fraction=warmup_fraction, final_fraction=final_fraction)
    rising = round(warmup_fraction * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return _cosine(step - rising, total_steps - rising, final_fraction)

    return _per_step(optimizer, factor)


def flat_cosine(
    optimizer: Optimizer, total_steps: int, *, flat_fraction: float = 0.5, final_fraction: float = 0.0
) -> LambdaLR:
    """Hold the optimizer's rate for a share of the steps, then fall along half a cosine (Perceiver IO, appendix H).

    Perceiver IO trained ImageNet this way with LAMB, without warm-up, which had often failed.

    Args:
        optimizer: optimizer with the learning rates of the flat part.
        total_steps: optimizer steps of the whole training.
        flat_fraction: share of the steps at the flat level.
        final_fraction: final learning rate as a share of the flat level.

    Raises:
        ValueError: for fractions outside [0, 1] or fewer than one step.
    """
    _check(total_steps, flat_fraction=flat_fraction, final_fraction=final_fraction)
    flat = round(flat_fraction * total_steps)

    def factor(step: int) -> float:
        return 1.0 if step < flat else _cosine(step - flat, total_steps - flat, final_fraction)

    return _per_step(optimizer, factor)


def step_decay(
    optimizer: Optimizer, total_steps: int, *, drops: Sequence[float] = (0.7, 0.85, 0.95), drop_factor: float = 0.1
) -> LambdaLR:
    """Hold the optimizer's rate, and multiply it by a factor after given shares of the steps.

    The defaults follow the first Perceiver on ImageNet: a factor of 0.1 at epochs 84, 102 and 114 of 120 (Jaegle et al.
    2021).

    Args:
        optimizer: optimizer with the initial learning rates.
        total_steps: optimizer steps of the whole training.
        drops: shares of the steps after which the rate drops, in increasing order.
        drop_factor: factor of the rate at each drop.

    Raises:
        ValueError: for shares outside [0, 1] or not increasing, a factor outside [0, 1], or fewer than one step.
    """
    _check(total_steps, drop_factor=drop_factor, **{f"drops[{number}]": drop for number, drop in enumerate(drops)})
    if list(drops) != sorted(drops):
        raise ValueError(f"scheduler.drops: expected shares of the steps in increasing order, got {list(drops)}.")
    ends = [round(drop * total_steps) for drop in drops]

    def factor(step: int) -> float:
        return float(drop_factor ** sum(step >= end for end in ends))

    return _per_step(optimizer, factor)


def _cosine(step: int, steps: int, final: float) -> float:
    """Fall from 1 at step 0 to `final` at `steps`, then stay there, in case training is continued beyond its plan."""
    progress = min(step / max(steps, 1), 1.0)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _per_step(optimizer: Optimizer, factor: Callable[[int], float]) -> LambdaLR:
    # A closure, not an object: schedulers save the state of objects in checkpoints.
    return LambdaLR(optimizer, factor)


def _check(total_steps: int, **fractions: float) -> None:
    if not math.isfinite(total_steps) or total_steps < 1:
        raise ValueError(
            f"total_steps: expected the number of training steps, got {total_steps}. A schedule needs a last step: "
            "set trainer.max_epochs or trainer.max_steps, or use scheduler=none."
        )
    for name, value in fractions.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"scheduler.{name}: expected a fraction between 0 and 1, got {value}.")
