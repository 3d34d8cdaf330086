"""Which parameters feel weight decay: the matrices of linear maps and convolutions, and nothing else."""

from __future__ import annotations

from typing import Any

from torch import nn

# Their `weight` is a table or a norm, not a map: decay would pull symbols together and scales to zero.
_UNDECAYED_MODULES: tuple[type[nn.Module], ...] = (nn.Embedding, nn.EmbeddingBag)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters of `model` in two groups for an optimizer: with its weight decay, and without any.

    Decayed are parameters of two or more dimensions with "weight" in their own name: the weights of linear maps,
    convolutions and recurrent layers. Not decayed are biases, norms, embeddings, and everything learned that is no map:
    latents, output queries, position tables, modality paddings (Perceiver IO, appendix H; LAMB papers do the same).
    A plug-in gets the same treatment by the names of its parameters.

    Returns:
        `[{"params": [...]}, {"params": [...], "weight_decay": 0.0}]`; a group without parameters is left out. A parameter
        that is used in several places counts once.

    Raises:
        ValueError: if nothing in the model can be trained.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            is_map = parameter.ndim >= 2 and "weight" in name and not isinstance(module, _UNDECAYED_MODULES)
            (decayed if is_map else undecayed).append(parameter)
    groups: list[dict[str, Any]] = []
    if decayed:
        groups.append({"params": decayed})
    if undecayed:
        groups.append({"params": undecayed, "weight_decay": 0.0})
    if not groups:
        raise ValueError("model: expected at least one parameter with requires_grad, found none; nothing can be trained.")
    return groups
