"""`torch.compile` of the model, in place: parameter names and checkpoints stay those of a plain model."""

from __future__ import annotations

import torch

from perceiver.attention import SelfAttend
from perceiver.attention.layers import CausalSelfAttend
from perceiver.model import Perceiver

COMPILED = (None, "layers", "model")


def compile_model(model: Perceiver, what: str | None) -> None:
    """Let torch compile parts of a model on their first call.

    Args:
        model: the model to train or evaluate.
        what: "layers": the self-attention layers of the latents. They share their code and always see the same shapes, so
            that they compile once for training and once for evaluation, for any inputs. "model": adapters, encoder and
            head. Torch recompiles them for every subset of modalities, and once more when a size starts to vary; suited to
            inputs of few kinds. None: nothing.

    Raises:
        ValueError: `what` has any other value.
    """
    if what not in COMPILED:
        raise ValueError(f"compile: expected layers, model or null, got {what!r}.")
    if what == "layers":
        for layer in model.encoder.modules():
            if isinstance(layer, SelfAttend | CausalSelfAttend):
                layer.compile()
    if what == "model":
        # Torch stops compiling after eight variants of a function, as many as three modalities have subsets, and reports
        # that only in a log that few people read.
        torch.compiler.config.recompile_limit = max(torch.compiler.config.recompile_limit, 64)
        for part in [*model.adapters.values(), model.encoder, model.head]:
            part.compile()
