"""The token side of cross-attention: normalisation, key and value projections. All forms use these weights."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention.kernels.linear import Linear
from perceiver.runtime.initial_values import truncated_normal_
from perceiver.tokens.tokens import Tokens


class TokenProjection(nn.Module):
    """LayerNorm over all channels of a token, then linear keys and values (Perceiver IO, appendix E.2).

    Args:
        token_channels: C.
        qk_channels: width of the keys, all heads together.
        v_channels: width of the values, all heads together.
    """

    def __init__(self, *, token_channels: int, qk_channels: int, v_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(token_channels)
        self.key = lecun_linear(token_channels, qk_channels)
        self.value = lecun_linear(token_channels, v_channels)


def lecun_linear(inputs: int, outputs: int) -> Linear:
    """Return a linear layer initialised as in the JAX original: truncated normal of variance 1 / inputs, zero biases."""
    layer = Linear(inputs, outputs)
    # Truncation at two standard deviations reduces the standard deviation to 0.8796 of its value.
    std = 1 / (0.87962566103423978 * math.sqrt(inputs))
    truncated_normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def linear_of_tokens(linear: nn.Linear, tokens: Tokens) -> Float[Tensor, "batch *grid outputs"]:
    """Apply a linear layer to tokens without multiplying their parts out first: each part is mapped at its own shape."""
    weights = linear.weight.split([part.shape[-1] for part in tokens.parts], dim=1)
    mapped = [part.to(weight.dtype) @ weight.t() for part, weight in zip(tokens.parts, weights, strict=True)]
    # Small parts first: sums of rows, columns and time stay small.
    mapped.sort(key=lambda part: part.numel())
    total: Tensor = sum(mapped[1:], start=mapped[0] + linear.bias)
    return total.expand(tokens.batch, *tokens.grid, -1)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Split channels into heads: `(B, L, h * d)` -> `(B, h, L, d)`."""
    batch, length, width = x.shape
    return x.reshape(batch, length, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Concatenate heads along the channels: `(B, h, L, d)` -> `(B, L, h * d)`."""
    return x.transpose(1, 2).flatten(2)


def check_heads(owner: str, num_heads: int, **widths: int) -> None:
    """Raise ValueError unless every width is a positive multiple of the number of heads."""
    for name, width in widths.items():
        if num_heads < 1 or width < 1 or width % num_heads:
            raise ValueError(f"{owner}: {name} = {width} must be a positive multiple of num_heads = {num_heads}.")
