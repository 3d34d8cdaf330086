"""The inner function of factored cross-attention in Triton, for NVIDIA GPUs."""

from perceiver.attention.kernels.contract import Kernel
from perceiver.attention.kernels.standard import standardise
from perceiver.attention.kernels.triton.availability import DTYPES, Availability, availability
from perceiver.attention.kernels.triton.operator import read_tokens, read_tokens_backward

KERNEL = Kernel(read=read_tokens, standardise=standardise)

__all__ = ["DTYPES", "KERNEL", "Availability", "availability", "read_tokens", "read_tokens_backward"]
