"""The feed-forward layer that follows every attention."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from perceiver.attention.projection import lecun_linear
from perceiver.runtime.ranges import check_at_least_one


class FeedForward(nn.Module):
    """Pre-LayerNorm, linear, GELU, linear (Perceiver IO, appendix E.2; widening 1 in all published models).

    Args:
        channels: D.
        widening: hidden channels per channel.
        approximate_gelu: the tanh form of GELU, JAX's default, instead of the exact one.
    """

    def __init__(self, *, channels: int, widening: int = 1, approximate_gelu: bool = False) -> None:
        super().__init__()
        check_at_least_one("FeedForward", channels=channels, widening=widening)
        self.norm = nn.LayerNorm(channels)
        self.expand = lecun_linear(channels, widening * channels)
        self.activation = nn.GELU(approximate="tanh" if approximate_gelu else "none")
        self.contract = lecun_linear(widening * channels, channels)

    def forward(self, x: Float[Tensor, "batch length channels"]) -> Float[Tensor, "batch length channels"]:
        """Map `(B, L, D)` to `(B, L, D)`, without the residual."""
        out: Tensor = self.contract(self.activation(self.expand(self.norm(x))))
        return out
