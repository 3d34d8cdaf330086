"""Deletion curves: how fast a prediction fails when the tokens that an explanation ranks highest are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from perceiver.decoders.decoder import target_output
from perceiver.model import Perceiver
from perceiver.tokens.tokens import Tokens

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Shares of removed tokens."""


def deletion_curve(
    model: Perceiver,
    tokens: Mapping[str, Tokens],
    contributions: Mapping[str, Float[Tensor, "batch *grid"]],
    *,
    output: int,
    shares: Sequence[float] = SHARES,
) -> list[float]:
    """Return the probability of a class after removing the tokens with the largest contributions (Petsiuk et al. 2018).

    Removed tokens are masked, as if they were absent. A lower curve means a more faithful explanation.

    Args:
        model: a classifier in evaluation mode.
        tokens: tokens of one sample.
        contributions: contribution of each token, by modality.
        output: class number.
        shares: shares of all tokens to remove, each in [0, 1).
    """
    names = list(tokens)
    flat = torch.cat([contributions[name].reshape(-1) for name in names])
    order = flat.argsort(descending=True)
    curve = []
    for share in shares:
        kept = torch.ones_like(flat, dtype=torch.bool)
        kept[order[: int(share * len(flat))]] = False
        pieces = kept.split([tokens[name].num_tokens for name in names])
        masked = {}
        for name, piece in zip(names, pieces, strict=True):
            mask = piece.reshape(1, *tokens[name].grid)
            own = tokens[name].mask
            masked[name] = replace(tokens[name], mask=mask if own is None else mask & own)
        with torch.no_grad():
            logits = target_output(model.head, model.from_tokens(masked))
        curve.append(float(logits[0].softmax(dim=-1)[output]))
    return curve
