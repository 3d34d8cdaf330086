"""Native CPU code for factored cross-attention: the inner function and tokens' moments. Built at first use, optional."""

from perceiver.attention.kernels.contract import Kernel
from perceiver.attention.kernels.native.loader import availability
from perceiver.attention.kernels.native.moments import standardise
from perceiver.attention.kernels.native.operator import DTYPES, read_tokens, read_tokens_backward

KERNEL = Kernel(read=read_tokens, standardise=standardise)

__all__ = ["DTYPES", "KERNEL", "availability", "read_tokens", "read_tokens_backward", "standardise"]
