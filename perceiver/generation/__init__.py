"""Generation of sequences: greedy, by sampling, or by beam search, over any step function with a cache."""

from perceiver.decoders.decoding import Decoding
from perceiver.generation.sequences import Generated, generate, generate_from_memory, generate_ids

__all__ = ["Decoding", "Generated", "generate", "generate_from_memory", "generate_ids"]
