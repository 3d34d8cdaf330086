"""Causal self-attention, whole or in steps: each position attends to itself and to earlier positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from perceiver.attention.projection import check_heads, lecun_linear, merge_heads, split_heads
from perceiver.runtime.ranges import check_dropout


@dataclass(frozen=True, kw_only=True)
class PastKeys:
    """Keys and values of the positions that a layer has processed.

    Args:
        key: `(B, h, S, d)`.
        value: `(B, h, S, d)`.
    """

    key: Tensor
    value: Tensor

    def reorder(self, index: Int[Tensor, "rows"]) -> PastKeys:
        """Return the rows `index`, in this order."""
        return PastKeys(key=self.key[index], value=self.value[index])

    def cut(self, length: int) -> PastKeys:
        """Return the first `length` positions."""
        return PastKeys(key=self.key[:, :, :length], value=self.value[:, :, :length])


class CausalSelfAttention(nn.Module):
    """Pre-LayerNorm multi-head causal self-attention.

    Args:
        channels: width E.
        num_heads: attention heads.
        dropout: probability of dropping an attention weight in training.
        rotary: rotate queries and keys by their positions (RoFormer, Su et al. 2021, arXiv:2104.09864, section 3.2.2), so
            that scores depend on distances between positions; the width of a head must be even.

    Examples:
        >>> import torch
        >>> from perceiver.attention.causal import CausalSelfAttention
        >>> attend = CausalSelfAttention(channels=32, num_heads=4).eval()
        >>> x = torch.rand(2, 7, 32)
        >>> whole, _ = attend(x)
        >>> first, past = attend(x[:, :4])
        >>> rest, _ = attend(x[:, 4:], past)
        >>> torch.allclose(whole, torch.cat([first, rest], dim=1), atol=1e-5)
        True
    """

    def __init__(self, *, channels: int, num_heads: int, dropout: float = 0.0, rotary: bool = False) -> None:
        super().__init__()
        check_heads("CausalSelfAttention", num_heads, channels=channels)
        check_dropout("CausalSelfAttention", dropout=dropout)
        if rotary and channels // num_heads % 2:
            raise ValueError(
                f"CausalSelfAttention.rotary: expected heads of an even width, got channels / num_heads = {channels} / "
                f"{num_heads}."
            )
        self.rotary = rotary
        self.num_heads = num_heads
        self.dropout = dropout
        self.norm = nn.LayerNorm(channels)
        self.qkv = lecun_linear(channels, 3 * channels)
        self.output = lecun_linear(channels, channels)

    def forward(
        self,
        x: Float[Tensor, "batch length channels"],
        past: PastKeys | None = None,
        mask: Bool[Tensor, "batch all"] | None = None,
    ) -> tuple[Float[Tensor, "batch length channels"], PastKeys]:
        """Map `(B, L, E)` to `(B, L, E)`, without the residual.

        Args:
            x: the positions after those in `past`.
            past: what an earlier call returned for the same rows; None: `x` begins the sequence.
            mask: `(B, S + L)`, True where a position is valid, those in `past` included; None: all are. A position without
                a valid one before it reads zeros.

        Returns:
            The output, and keys and values of all S + L positions.
        """
        query, key, value = (split_heads(part, self.num_heads) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        if self.rotary:
            start = 0 if past is None else past.key.shape[2]
            query, key = _rotated(query, start=start), _rotated(key, start=start)
        if past is not None:
            key, value = torch.cat([past.key, key], dim=2), torch.cat([past.value, value], dim=2)
        length, total = query.shape[2], key.shape[2]
        visible = _visible(length, total, mask, device=x.device)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, dropout_p=dropout, is_causal=visible is None and length > 1
        )
        if mask is not None and visible is not None:
            attended = torch.where(visible.any(dim=-1, keepdim=True), attended, attended.new_zeros(()))
        out: Tensor = self.output(merge_heads(attended))
        return out, PastKeys(key=key, value=value)


def _rotated(x: Float[Tensor, "batch heads length width"], *, start: int) -> Float[Tensor, "batch heads length width"]:
    """Rotate pairs of channels by angles that grow with the position; the first of `x` has the position `start`.

    Frequencies fall geometrically from 1 to 1 / 10,000 radians per position. Angles are float32 at least.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    pairs = torch.arange(x.shape[-1] // 2, dtype=dtype, device=x.device)
    places = torch.arange(start, start + x.shape[2], dtype=dtype, device=x.device)
    angles = places[:, None] * 10_000 ** (-pairs / len(pairs))
    cosines, sines = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def _visible(length: int, total: int, mask: Tensor | None, *, device: torch.device) -> Tensor | None:
    """Return which positions each new position sees, `(B or 1, 1, L, S + L)`; None where SDPA's own causal mask serves."""
    if mask is None and (length == 1 or length == total):
        return None
    if length == 1:
        assert mask is not None
        return mask[:, None, None, :]
    earlier = torch.ones(length, total, dtype=torch.bool, device=device).tril(total - length)[None, None]
    return earlier if mask is None else earlier & mask[:, None, None, :]
