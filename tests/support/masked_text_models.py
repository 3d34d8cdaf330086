"""Small models of masked tokens with random weights: of bytes, and imported."""

import torch
from torch import nn
from transformers_models import BY_NAME, their_model

from perceiver.adapters import TextTokens
from perceiver.decoders import LearnedQueries, QueryDecoder, TiedLogits
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.encoder import Encoder
from perceiver.interop.huggingface import from_transformers
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE
from perceiver.model import Perceiver
from perceiver.tokens.positions import LearnedTable


def byte_model(*, head: str = "tokens", length: int = 64) -> Perceiver:
    """Return a model of texts of at most that many bytes, in evaluation mode."""
    torch.manual_seed(0)
    table = LearnedTable(grid=[length], channels=16, std=1.0)
    text = TextTokens(
        vocabulary_size=VOCABULARY_SIZE, embedding_channels=16, position=table, reference_length=length, std=1.0,
        add_position=True,
    )  # fmt: skip
    encoder = Encoder(token_channels=16, num_latents=8, latent_channels=16, num_layers_per_block=1, num_self_heads=2)
    decoder = QueryDecoder(
        latent_channels=16,
        queries=LearnedQueries(grid=[length], channels=16, modality="text", std=1.0),
        tied_logits=TiedLogits(modality="text", vocabulary_size=VOCABULARY_SIZE),
    )
    heads = {"tokens": decoder, "pooled": PooledHead(latent_channels=16, num_classes=3)}
    spec = {"kind": "text", "shape": [None], "vocabulary_size": VOCABULARY_SIZE, "max_length": length}
    spec = {"modalities": {"text": spec}}
    return Perceiver(adapters={"text": text}, encoder=encoder, head=heads[head], spec=spec).eval()


def transformers_pair() -> tuple[nn.Module, Perceiver]:
    """Theirs and the same as ours: eleven ids, texts of nine."""
    theirs = their_model(BY_NAME["PerceiverForMaskedLM"])
    return theirs, from_transformers(theirs)
