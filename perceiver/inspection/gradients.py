"""Integrated gradients of an output with respect to the content of the tokens (Sundararajan et al. 2017), with captum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from perceiver.decoders.decoder import target_output
from perceiver.model import Perceiver
from perceiver.tokens.tokens import Tokens


def integrated_gradients(
    model: Perceiver, tokens: Mapping[str, Tokens], *, output: int, steps: int = 32
) -> dict[str, Float[Tensor, "batch *grid"]]:
    """Return, for each modality, the contribution of each token to an output, `(1, *grid)`.

    The content of the tokens (their first part: pixels, samples, embeddings) goes from zero, the mean of the training data,
    to the sample's, while positions stay. Contributions sum to the difference of the output between both.

    Args:
        model: a model in evaluation mode.
        tokens: tokens of one sample, from `Perceiver.tokens`.
        output: index of the output, a class number.
        steps: steps of the integral.

    Raises:
        ModuleNotFoundError: without captum, the extra `explain`.
    """
    try:
        from captum.attr import IntegratedGradients
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "explain: captum is not installed; it comes with the extra 'explain': "
            "pip install 'perceiver-multimodal[explain]' (in a clone: pip install -e '.[explain]').",
            name="captum",
        ) from error
    names = list(tokens)
    contents = tuple(tokens[name].cleaned().parts[0].detach() for name in names)

    def logits(*given: Tensor) -> Any:
        changed = {
            name: replace(tokens[name], parts=(content, *tokens[name].parts[1:]))
            for name, content in zip(names, given, strict=True)
        }
        return target_output(model.head, model.from_tokens(changed))

    found = IntegratedGradients(logits).attribute(contents, target=output, n_steps=steps, internal_batch_size=steps)
    return {
        name: contribution.detach().sum(dim=-1).expand(1, *tokens[name].grid)
        for name, contribution in zip(names, found, strict=True)
    }


def require_vector(outputs: Any) -> Tensor:
    """Return outputs `(B, c)`; ValueError for other outputs, of which no single one is explained."""
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
        raise ValueError("explain: expected a model with outputs (batch, classes); use attention_rollout for other heads.")
    return outputs
