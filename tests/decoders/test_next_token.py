"""The head of next-token prediction: products with the embedding, all ids alike at first, and what it refuses."""

import pytest
import torch

from perceiver import Fourier, NextTokenHead
from perceiver.adapters import TextTokens


def head(**settings: object) -> NextTokenHead:
    return NextTokenHead(**{"latent_channels": 6, "channels": 4, "vocabulary_size": 9, "context": 8, **settings})  # type: ignore[arg-type]


def test_logits_are_products_with_the_embedding() -> None:
    text = TextTokens(vocabulary_size=9, embedding_channels=4, position=Fourier(num_bands=1, resolution=(8,)))
    one, latents = head(), torch.rand(2, 3, 6)
    assert one(latents, adapters={"text": text}).unique().tolist() == [0.0]  # all ids start equally probable
    for parameter in one.parameters():
        torch.nn.init.normal_(parameter)
    wanted = one.output(one.norm(latents)) @ text.embedding.weight.T + one.tied_logits.bias
    torch.testing.assert_close(one(latents, adapters={"text": text}), wanted)
    assert one.output_channels == 9
    assert not any("embedding" in name for name in one.state_dict())


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="expected no index and no mask"):
        head()(torch.rand(2, 3, 6), index=torch.tensor([0]))
    with pytest.raises(ValueError, match="expected an adapter 'text' with an attribute embedding"):
        head()(torch.rand(2, 3, 6), adapters={})
    with pytest.raises(ValueError, match=r"expected ids in \[0, vocabulary_size = 9\), got {'end_id': 9"):
        head(end_id=9)
    with pytest.raises(ValueError, match=r"NextTokenHead.generation: expected some of .* got \['beams'\]"):
        head(generation={"beams": 3})
    with pytest.raises(ValueError, match=r"NextTokenHead.context: expected at least 1, got 0"):
        head(context=0)
