"""`torch.compile` of the model, in place: parameters keep their names, checkpoints stay those of a plain model."""

from __future__ import annotations

import torch

from perceiver.attention import SelfAttend
from perceiver.model import Perceiver

COMPILED = (None, "layers", "model")


def compile_model(model: Perceiver, what: str | None) -> None:
    """Have torch compile a model's parts when they are first called.

    Args:
        model: to be trained or evaluated.
        what: "layers": the self-attention layers of the latents, which share their code and always see the same shapes: one
            compilation for training and one for evaluation, whatever comes in. "model": adapters, encoder and head, which
            torch compiles anew for every subset of modalities, and once more where a size begins to vary; for inputs of
            few kinds. None: nothing.

    Raises:
        ValueError: for anything else.
    """
    if what not in COMPILED:
        raise ValueError(f"compile: expected layers, model or null, got {what!r}.")
    if what == "layers":
        for layer in model.encoder.blocks.modules():
            if isinstance(layer, SelfAttend):
                layer.compile()
    if what == "model":
        # Torch stops compiling after eight forms of a function, which are three modalities' subsets, and says so in a log
        # that few see.
        torch.compiler.config.recompile_limit = max(torch.compiler.config.recompile_limit, 64)
        for part in [*model.adapters.values(), model.encoder, model.head]:
            part.compile()
