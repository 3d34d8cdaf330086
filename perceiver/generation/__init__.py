"""Generation of sequences: greedy, by sampling, or by beam search, over any step function with a cache.

`perceiver.generation.flow` generates images and other modalities.
"""

from perceiver.decoders.decoding import Decoding
from perceiver.generation.continuation import Continuation, continue_sequences
from perceiver.generation.sequences import Generated, generate, generate_from_memory, generate_ids

__all__ = ["Continuation", "Decoding", "Generated", "continue_sequences", "generate", "generate_from_memory", "generate_ids"]
