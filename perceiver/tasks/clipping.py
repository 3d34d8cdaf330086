"""Clipping of gradients, where Lightning refuses what is right."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer


def clip_gradients(task: LightningModule, optimizer: Optimizer, value: float | None, algorithm: str | None) -> None:
    """Clip as `trainer.gradient_clip_val` and `trainer.gradient_clip_algorithm` say.

    A fused optimizer unscales the gradients of float16 training itself, too late for clipping; Lightning refuses it for
    bfloat16 as well, where nothing is scaled.

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
