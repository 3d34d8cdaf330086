"""The inner function of factored cross-attention through `torch.compile`: any device that Inductor knows, float32 and 64.

Compiling costs seconds for each of the few kernels that a model needs, once per process, and most of that again only once
per machine, since Inductor keeps what it built; `implementations.py` says when that is worth it.
"""

from perceiver.attention.compiled.kernels import DTYPES, Availability, availability
from perceiver.attention.compiled.operator import read_tokens, read_tokens_backward

__all__ = ["DTYPES", "Availability", "availability", "read_tokens", "read_tokens_backward"]
