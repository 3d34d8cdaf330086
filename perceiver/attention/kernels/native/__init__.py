"""Native CPU code for the inner function of factored cross-attention: built at first use, optional."""

from perceiver.attention.kernels.native.loader import availability
from perceiver.attention.kernels.native.operator import DTYPES, read_tokens, read_tokens_backward

__all__ = ["DTYPES", "availability", "read_tokens", "read_tokens_backward"]
