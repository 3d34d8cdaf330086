"""Query decoders: output queries cross-attend to the latents (Perceiver IO, section 3.2).

A decoder has a query provider (`queries.py`), one cross-attend from the queries to the latents (`decode.py`), and a map
from the result to outputs.
"""

from perceiver.decoders.causal import CausalDecoder
from perceiver.decoders.classification import ClassificationDecoder, PerClassDecoder
from perceiver.decoders.decoder import Decoder, Head, SequenceDecoder, StateHead
from perceiver.decoders.embedding import EmbeddingHead
from perceiver.decoders.memory import LatentMemory, Memory, WrittenMemory
from perceiver.decoders.multimodal import MultimodalDecoder
from perceiver.decoders.next_token import NextTokenHead
from perceiver.decoders.queries import InputQueries, LearnedQueries, PositionalQueries, Queries
from perceiver.decoders.query import QueryDecoder
from perceiver.decoders.reconstruction import ReconstructionDecoder, TokenPositions
from perceiver.decoders.sources import Sources
from perceiver.decoders.tied_logits import TiedLogits
from perceiver.decoders.velocity import Velocity, VelocityHead

__all__ = [
    "CausalDecoder",
    "ClassificationDecoder",
    "Decoder",
    "EmbeddingHead",
    "Head",
    "InputQueries",
    "LatentMemory",
    "LearnedQueries",
    "Memory",
    "MultimodalDecoder",
    "NextTokenHead",
    "PerClassDecoder",
    "PositionalQueries",
    "Queries",
    "QueryDecoder",
    "ReconstructionDecoder",
    "SequenceDecoder",
    "Sources",
    "StateHead",
    "TiedLogits",
    "TokenPositions",
    "Velocity",
    "VelocityHead",
    "WrittenMemory",
]
