"""The inner function of factored cross-attention through `torch.compile`: any device that Inductor knows, float32 and 64.

What compiling costs, on one AVX-512 core: 14 s for the first kernel and 5 s for its backward, 2.6 and 0.9 s from Inductor's
cache. An image of 224 x 224 tokens read by 128 latents then takes 14 ms instead of the eager form's 31, with the backward 30
instead of 83: paid back after some 350 training steps, or 70 from the cache. `kernels/dispatch.py` draws the line.
"""

from perceiver.attention.kernels.compiled.kernels import DTYPES, Availability, availability
from perceiver.attention.kernels.compiled.operator import read_tokens, read_tokens_backward

__all__ = ["DTYPES", "Availability", "availability", "read_tokens", "read_tokens_backward"]
