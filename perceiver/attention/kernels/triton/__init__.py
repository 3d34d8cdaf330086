"""The inner function of factored cross-attention in Triton, for NVIDIA GPUs."""

from perceiver.attention.kernels.triton.availability import DTYPES, Availability, availability
from perceiver.attention.kernels.triton.operator import read_tokens, read_tokens_backward

__all__ = ["DTYPES", "Availability", "availability", "read_tokens", "read_tokens_backward"]
