"""Optimizer: parameter groups for weight decay, schedule, and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler]

MULTIPLIER = "lr_multiplier"

# Their `weight` is a table or a norm, not a linear map: decay would pull symbols together and scales to zero.
_UNDECAYED_MODULES: tuple[type[nn.Module], ...] = (nn.Embedding, nn.EmbeddingBag)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters of `model` into two optimizer groups: with and without weight decay.

    Weight decay applies to parameters of two or more dimensions with "weight" in their own name: the weights of linear maps,
    convolutions and recurrent layers. It does not apply to biases, norms, embeddings, and other learned tensors: latents,
    output queries, position tables, modality paddings (Perceiver IO, appendix H; LAMB papers do the same). The parameters
    of plug-ins are grouped by the same rule.

    Modules whose method `learning_rate_multipliers()` returns multiples of the learning rate by module, as that of
    `perceiver.adapters.Backbone` does, get groups of their own, with the entry `lr_multiplier`; see `with_rates`.

    Returns:
        `[{"params": [...]}, {"params": [...], "weight_decay": 0.0}]`, then groups with other rates; a group without
        parameters is left out. A shared parameter occurs once.

    Raises:
        ValueError: if the model has no trainable parameters.
    """
    multipliers = _multipliers(model)
    split: dict[tuple[float, bool], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            is_map = parameter.ndim >= 2 and "weight" in name and not isinstance(module, _UNDECAYED_MODULES)
            split.setdefault((multipliers.get(parameter, 1.0), is_map), []).append(parameter)
    groups: list[dict[str, Any]] = []
    # The optimizer's own rate comes first: it is the one that is logged.
    for multiplier, decayed in sorted(split, key=lambda key: (key[0] != 1, key[0], not key[1])):
        group: dict[str, Any] = {"params": split[multiplier, decayed]}
        groups.append(group if decayed else {**group, "weight_decay": 0.0})
        if multiplier != 1:
            groups[-1][MULTIPLIER] = multiplier
    if not groups:
        raise ValueError("model: expected at least one parameter with requires_grad, found none.")
    return groups


def _multipliers(model: nn.Module) -> dict[nn.Parameter, float]:
    """Return the multiples of the learning rate that modules of the model declare, by parameter."""
    found: dict[nn.Parameter, float] = {}
    for module in model.modules():
        declare: Any = getattr(module, "learning_rate_multipliers", None)
        for part, factor in ({} if declare is None else declare()).items():
            found |= dict.fromkeys(part.parameters(), float(factor))
    return found


def with_rates(optimizer: Optimizer) -> Optimizer:
    """Multiply the learning rates of the groups that have the entry `lr_multiplier`, and remove it."""
    for group in optimizer.param_groups:
        group["lr"] *= group.pop(MULTIPLIER, 1)
    return optimizer


def rated(factory: OptimizerFactory) -> OptimizerFactory:
    """Return the factory with the rates of `with_rates`, for factories around it that note or scale them."""
    return lambda groups: with_rates(factory(groups))


def optimization(
    model: nn.Module, *, optimizer: OptimizerFactory, scheduler: SchedulerFactory | None, trainer: Trainer
) -> OptimizerLRScheduler:
    """Return the optimizer over the parameter groups, and the schedule, if any, which advances with every step."""
    made = with_rates(optimizer(parameter_groups(model)))
    if scheduler is None:
        return made
    steps = trainer.estimated_stepping_batches
    # Unlimited training has infinitely many steps, which no integer can represent: the schedule reports that.
    total = int(steps) if steps != float("inf") else -1
    return {"optimizer": made, "lr_scheduler": {"scheduler": scheduler(made, total), "interval": "step"}}


def clip_gradients(task: LightningModule, optimizer: Optimizer, value: float | None, algorithm: str | None) -> None:
    """Clip gradients according to `trainer.gradient_clip_val` and `trainer.gradient_clip_algorithm`.

    With float16, a fused optimizer unscales gradients itself, too late for clipping. Lightning also rejects bfloat16, where
    gradients are not scaled.

    Raises:
        ValueError: for float16 and a fused optimizer.
    """
    precision = task.trainer.precision_plugin
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    if not value or not fused or not isinstance(precision, MixedPrecision):
        task.clip_gradients(optimizer, gradient_clip_val=value, gradient_clip_algorithm=algorithm)
    elif precision.scaler is not None:
        raise ValueError(
            f"trainer.gradient_clip_val={value}: expected an optimizer that is not fused with trainer.precision=16-mixed, "
            f"got {type(optimizer).__name__}, which unscales gradients after clipping. Set optimizer.fused=false, or "
            "trainer.precision=bf16-mixed."
        )
    else:
        clip = clip_grad_value_ if algorithm == "value" else clip_grad_norm_
        clip(precision.main_params(optimizer), value)
