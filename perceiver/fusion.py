"""Fusion: bring the tokens of all modalities to one width, so that one cross-attention reads them together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from perceiver.runtime.initial_values import truncated_normal_
from perceiver.runtime.ranges import check_positive
from perceiver.tokens import Tokens


class Fusion(nn.Module):
    """Append a learned vector to the tokens of each modality, up to a common width (Perceiver IO, appendix A and F).

    The vector pads and tells the modalities apart at once, so even the widest modality gets `padding` channels of it. A
    single modality needs neither and passes unchanged. The vectors stay broadcast parts `(1, 1, …, 1, e)`.

    Args:
        channels: token channels of each modality.
        padding: channels that the widest modality gets.
        std: standard deviation of the initial values.
        mask_rates: modalities whose tokens are replaced by a learned mask token (Perceiver IO, section 4.3), and how often:
            in training each token with this probability, in evaluation none; 1 replaces all of them always, and 0 none.

    Raises:
        ValueError: if there is no modality, no padding, a name that a torch container cannot hold, or a rate for another
            modality or outside [0, 1].
    """

    def __init__(
        self,
        *,
        channels: Mapping[str, int],
        padding: int = 4,
        std: float = 0.02,
        mask_rates: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("Fusion.channels: expected at least one modality, got none.")
        if padding < 1:
            raise ValueError(f"Fusion.padding: expected at least 1 channel to tell modalities apart, got {padding}.")
        check_positive("Fusion", std=std)
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
                self.padding[name] = nn.Parameter(truncated_normal_(vector, std=std))
        self.mask_rates = {name: float(rate) for name, rate in sorted((mask_rates or {}).items())}
        if not set(self.mask_rates) <= set(names) or any(not 0 <= rate <= 1 for rate in self.mask_rates.values()):
            raise ValueError(
                f"Fusion.mask_rates: expected probabilities for any of the modalities {names}, got {self.mask_rates}."
            )
        self.mask = nn.ParameterDict()
        for name in self.mask_rates:
            vector = torch.empty(self.channels)
            self.mask[name] = nn.Parameter(truncated_normal_(vector, std=std))

    def forward(
        self, tokens: Mapping[str, Tokens], *, mask_rates: Mapping[str, float] | None = None
    ) -> dict[str, Tokens]:
        """Tokens of any non-empty subset of the modalities -> the same in sorted order, all with `channels` channels.

        Args:
            tokens: by modality.
            mask_rates: rates of this call, in place of those that the fusion was built with. A rate of 1 for a modality
                without tokens gives it a single token, the mask token.

        Raises:
            ValueError: a rate for a modality without a mask token.
        """
        rates = {**self.mask_rates, **(mask_rates or {})}
        if set(rates) - set(self.mask_rates):
            raise ValueError(f"mask_rates: expected any of {sorted(self.mask_rates)}, got {sorted(rates)}.")
        fused = {}
        for name in sorted({*tokens, *(name for name, rate in (mask_rates or {}).items() if rate == 1)}):
            if name not in tokens:
                batch = max(own.batch for own in tokens.values())
                fused[name] = Tokens(parts=(self.mask[name].expand(batch, 1, -1),))
                continue
            own = tokens[name]
            if name in self.padding:
                own = own.append(self.padding[name].reshape(*[1] * (own.parts[0].ndim - 1), -1))
            fused[name] = self._masked(name, own, rate=rates[name]) if name in rates else own
        return fused

    def _masked(self, name: str, tokens: Tokens, *, rate: float) -> Tokens:
        """The tokens of a modality, some or all of them replaced by the mask token, one after the other."""
        vector = self.mask[name]
        if rate < 1 and not (self.training and rate):
            # The sum of no numbers: the mask token has a gradient, zero, in every step.
            first = tokens.parts[0] + vector[:0].sum().to(tokens.parts[0].dtype)
            return Tokens(parts=(first, *tokens.parts[1:]), mask=tokens.mask)
        shape = (tokens.batch, *tokens.grid)
        replaced = torch.rand(shape, device=tokens.device) < rate
        dense = tokens.dense().reshape(*shape, -1)
        return Tokens(parts=(torch.where(replaced[..., None], vector.to(dtype=dense.dtype), dense),), mask=tokens.mask)
