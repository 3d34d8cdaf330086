"""Fusion: bring the tokens of all modalities to a common width, so that one cross-attention reads them together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from perceiver.runtime.initial_values import truncated_normal_
from perceiver.runtime.ranges import check_positive
from perceiver.tokens.tokens import Tokens


class Fusion(nn.Module):
    """Append a learned vector to the tokens of each modality, up to a common width (Perceiver IO, appendix A and F).

    The vector serves both as padding and as modality embedding, so even the widest modality gets `padding` channels of it.
    A single modality needs neither and passes unchanged. The vectors stay broadcast parts `(1, 1, …, 1, e)`.

    Args:
        channels: token channels of each modality.
        padding: channels appended to the widest modality.
        std: standard deviation of the initial values.
        mask_rates: probability, by modality, of replacing a token with a learned mask token (Perceiver IO, section 4.3).
            Tokens are replaced in training only, except that rate 1 always replaces all of them.

    Raises:
        ValueError: if there is no modality, no padding, a name that a torch container cannot hold, or a rate that is
            outside [0, 1] or belongs to an unknown modality.

    Examples:
        >>> import torch
        >>> from perceiver import Fusion, Tokens
        >>> fusion = Fusion(channels={"image": 12, "sound": 40})
        >>> fusion.channels
        44
        >>> fused = fusion({"image": Tokens((torch.rand(2, 8, 8, 12),)), "sound": Tokens((torch.rand(2, 100, 40),))})
        >>> {name: (tokens.num_tokens, tokens.channels) for name, tokens in fused.items()}
        {'image': (64, 44), 'sound': (100, 44)}
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
            raise ValueError("Fusion.channels: expected at least one modality, got an empty mapping.")
        if padding < 1:
            raise ValueError(f"Fusion.padding: expected at least 1 channel to distinguish modalities, got {padding}.")
        check_positive("Fusion", std=std)
        names = sorted(channels)
        self.modalities = tuple(names)
        widest = max(channels.values())
        self.channels = widest if len(names) == 1 else widest + padding
        self.padding = nn.ParameterDict()
        for name in names:
            if not name or "." in name or hasattr(self.padding, name):
                raise ValueError(
                    f"Fusion.channels: {name!r} cannot name a modality. Torch modules require names without dots, and "
                    "reserve some names, such as `values`, `keys` and `type`. Choose another name."
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

    def forward(self, tokens: Mapping[str, Tokens], *, mask_rates: Mapping[str, float] | None = None) -> dict[str, Tokens]:
        """Bring the tokens of any non-empty subset of the modalities to `channels` channels, in sorted order.

        Args:
            tokens: tokens by modality.
            mask_rates: rates for this call instead of those that the fusion was built with. With rate 1, a modality without
                tokens gets a single token, the mask token.

        Raises:
            ValueError: for a rate for a modality without a mask token.
        """
        rates = {**self.mask_rates, **(mask_rates or {})}
        if set(rates) - set(self.mask_rates):
            raise ValueError(
                f"Fusion.forward: mask_rates: expected modalities among {sorted(self.mask_rates)}, got {sorted(rates)}."
            )
        fused = {}
        for name in sorted({*tokens, *(name for name, rate in (mask_rates or {}).items() if rate == 1)}):
            if name not in tokens:
                batch = max(block.batch for block in tokens.values())
                fused[name] = Tokens(parts=(self.mask[name].expand(batch, 1, -1),))
                continue
            block = tokens[name]
            if name in self.padding:
                block = block.append(self.padding[name].reshape(*[1] * (block.parts[0].ndim - 1), -1))
            fused[name] = self._masked(name, block, rate=rates[name]) if name in rates else block
        return fused

    def _masked(self, name: str, tokens: Tokens, *, rate: float) -> Tokens:
        """Replace some or all tokens of a modality by the mask token, each independently."""
        vector = self.mask[name]
        if rate < 1 and not (self.training and rate):
            # The empty sum gives the mask token a zero gradient in every step.
            first = tokens.parts[0] + vector[:0].sum().to(tokens.parts[0].dtype)
            return Tokens(parts=(first, *tokens.parts[1:]), mask=tokens.mask)
        shape = (tokens.batch, *tokens.grid)
        replaced = torch.rand(shape, device=tokens.device) < rate
        dense = tokens.dense().reshape(*shape, -1)
        return Tokens(parts=(torch.where(replaced[..., None], vector.to(dtype=dense.dtype), dense),), mask=tokens.mask)
