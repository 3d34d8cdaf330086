"""Fusion: bring the tokens of all modalities to one width, so that one cross-attention reads them together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from perceiver.tokens import Tokens


class Fusion(nn.Module):
    """Append a learned vector to the tokens of each modality, up to a common width (Perceiver IO, appendix A and F).

    The vector pads and tells the modalities apart at once, so even the widest modality gets `padding` channels of it. A
    single modality needs neither and passes unchanged. The vectors stay broadcast parts `(1, 1, …, 1, e)`.

    Args:
        channels: token channels of each modality.
        padding: channels that the widest modality gets.
        std: standard deviation of the initial values.

    Raises:
        ValueError: if there is no modality, no padding, or a name that a torch container cannot hold.
    """

    def __init__(self, *, channels: Mapping[str, int], padding: int = 4, std: float = 0.02) -> None:
        super().__init__()
        if not channels:
            raise ValueError("Fusion.channels: expected at least one modality, got none.")
        if padding < 1:
            raise ValueError(f"Fusion.padding: expected at least 1 channel to tell modalities apart, got {padding}.")
        names = sorted(channels)
        self.modalities = tuple(names)
        widest = max(channels.values())
        self.channels = widest if len(names) == 1 else widest + padding
        self.padding = nn.ParameterDict()
        for name in names:
            if not name or "." in name or hasattr(self.padding, name):
                raise ValueError(
                    f"Fusion.channels: {name!r} cannot name a modality: torch's modules need names without dots that they "
                    "do not use themselves, as they do `values`, `keys` and `type`. Choose another."
                )
        if len(names) > 1:
            for name in names:
                vector = torch.empty(self.channels - channels[name])
                self.padding[name] = nn.Parameter(nn.init.trunc_normal_(vector, std=std, a=-2 * std, b=2 * std))

    def forward(self, tokens: Mapping[str, Tokens]) -> dict[str, Tokens]:
        """Tokens of any non-empty subset of the modalities -> the same in sorted order, all with `channels` channels."""
        if len(self.padding) == 0:
            return dict(tokens)
        fused = {}
        for name in sorted(tokens):
            vector = self.padding[name]
            rank = tokens[name].parts[0].ndim
            fused[name] = tokens[name].append(vector.reshape(*[1] * (rank - 1), -1))
        return fused
