"""The general decoder against the dense formula: all queries at once, chosen ones, masked ones, many in chunks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceiver import (
    Encoder,
    Fourier,
    InputQueries,
    LearnedQueries,
    Perceiver,
    PositionalQueries,
    QueryDecoder,
    TiedLogits,
)
from perceiver.adapters import ImagePixels, TextTokens
from perceiver.checkpoints.build import build_model
from perceiver.tokens.tokens import Tokens

GRID = (3, 4)


def positional(**changes: Any) -> PositionalQueries:
    return PositionalQueries(**{"position": Fourier(num_bands=2, resolution=(4, 4)), "grid": GRID, **changes})


def decoder(**changes: Any) -> QueryDecoder:
    torch.manual_seed(0)
    own = QueryDecoder(**{"latent_channels": 8, "queries": positional(), "output_channels": 5, **changes})
    for parameter in own.parameters():
        nn.init.normal_(parameter, std=0.5)
    return own.eval()


def latents(batch: int = 2) -> Tensor:
    return torch.randn(batch, 6, 8, generator=torch.Generator().manual_seed(1))


def reference(own: QueryDecoder, queries: Tensor, latents: Tensor) -> Tensor:
    """The formula of Perceiver IO, appendix E.2, for one head, written out."""
    layer, attention = own.cross_attend, own.cross_attend.attention
    keys = attention.tokens.key(attention.tokens.norm(latents))
    values = attention.tokens.value(attention.tokens.norm(latents))
    scores = attention.query(attention.query_norm(queries)) @ keys.mT / keys.shape[-1] ** 0.5
    x = attention.output(scores.softmax(dim=-1) @ values)
    if layer.query_residual:
        x = x + queries
    out: Tensor = own.output(x + layer.feed_forward(x)) * own.scale
    return out


@pytest.mark.parametrize("changes", [{}, {"query_residual": True}, {"scale": 0.01}, {"qk_channels": 4, "v_channels": 6}])
def test_every_query_reads_the_latents(changes: dict[str, Any]) -> None:
    own = decoder(**changes)
    output = own(latents())
    assert output.shape == (2, *GRID, 5)
    queries = own.queries({}).dense()
    torch.testing.assert_close(output.flatten(1, 2), reference(own, queries, latents()))


def test_without_output_channels_what_was_read_comes_out() -> None:
    assert decoder(output_channels=None)(latents()).shape == (2, *GRID, 10)


@pytest.mark.parametrize("chunk_size", [1, 5, 11])
def test_chunks_change_neither_outputs_nor_gradients(chunk_size: int) -> None:
    own, x = decoder().double(), latents().double().requires_grad_()
    whole = own(x)
    whole.square().sum().backward()
    expected = [x.grad, *(parameter.grad for parameter in own.parameters())]
    own.zero_grad()
    x = latents().double().requires_grad_()
    own.chunk_size = chunk_size
    chunked = own(x)
    torch.testing.assert_close(chunked, whole)
    chunked.square().sum().backward()
    torch.testing.assert_close([x.grad, *(parameter.grad for parameter in own.parameters())], expected)


def test_chunks_keep_nothing_between_forward_and_backward() -> None:
    """What autograd saves does not grow with the number of queries beyond their outputs and places."""

    def saved(num: int) -> int:
        own = decoder(queries=positional(grid=(num, 16)), chunk_size=64, output_channels=1)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):  # type: ignore[func-returns-value]
            own(latents())
        return sum(sizes)

    few, many = saved(8), saved(64)
    assert many < few + 8 * (64 - 8) * 16


def test_index_chooses_outputs() -> None:
    own = decoder()
    whole = own(latents()).flatten(1, 2)
    shared = torch.tensor([7, 0, 0])
    torch.testing.assert_close(own(latents(), index=shared), whole[:, shared])
    each = torch.tensor([[7, 0, 3, 3], [1, 2, 11, 5]])
    torch.testing.assert_close(own(latents(), index=each), whole.gather(1, each[..., None].expand(-1, -1, 5)))
    own.chunk_size = 3
    torch.testing.assert_close(own(latents(), index=each), whole.gather(1, each[..., None].expand(-1, -1, 5)))


def test_index_of_a_single_output() -> None:
    own = decoder(queries=LearnedQueries(grid=[1], channels=10))
    torch.testing.assert_close(own(latents(), index=torch.tensor([0])), own(latents()))


@pytest.mark.parametrize("chunk_size", [5, 100])
def test_masked_queries_are_zeros(chunk_size: int) -> None:
    own = decoder(chunk_size=chunk_size)
    mask = torch.rand(2, *GRID, generator=torch.Generator().manual_seed(2)) < 0.5
    output = own(latents(), mask=mask)
    torch.testing.assert_close(output, own(latents()) * mask[..., None])
    index = torch.tensor([[7, 0], [1, 2]])
    valid = torch.tensor([[True, False], [True, True]])
    torch.testing.assert_close(own(latents(), index=index, mask=valid), own(latents(), index=index) * valid[..., None])


def test_samples_may_share_queries_or_have_their_own() -> None:
    own = decoder(queries=InputQueries(modality="image"), token_channels=7)
    parts = (torch.randn(2, 3, 4, 5), torch.randn(1, 3, 1, 1), torch.randn(1, 1, 4, 1))
    tokens = Tokens(parts=parts, mask=torch.rand(2, 3, 4) < 0.7)
    output = own(latents(), tokens={"image": tokens})
    torch.testing.assert_close(
        output.flatten(1, 2),
        reference(own, tokens.dense(), latents()) * tokens.dense_mask()[..., None],  # type: ignore[index]
    )


def test_masked_content_of_the_input_is_never_read() -> None:
    own = decoder(queries=InputQueries(modality="image"), token_channels=5)
    mask = torch.tensor([[True, False, True]])
    content = torch.randn(1, 3, 5)
    expected = own(latents(1), tokens={"image": Tokens(parts=(content,), mask=mask)})
    content[0, 1] = torch.nan
    torch.testing.assert_close(own(latents(1), tokens={"image": Tokens(parts=(content,), mask=mask)}), expected)


def image_model(head: dict[str, Any]) -> Perceiver:
    torch.manual_seed(0)
    position = {"_target_": "perceiver.Fourier", "num_bands": 2, "resolution": [4, 4]}
    return build_model(
        {
            "_target_": "perceiver.Perceiver",
            "adapters": {"image": {"_target_": "perceiver.adapters.ImagePixels", "image_channels": 2, "position": position}},
            "encoder": {
                "_target_": "perceiver.Encoder",
                "num_latents": 4,
                "latent_channels": 8,
                "num_layers_per_block": 1,
                "num_self_heads": 2,
            },
            "head": {"_target_": "perceiver.QueryDecoder", "output_channels": 3, **head},
        }
    ).eval()


def test_a_model_hands_on_tokens_and_choice() -> None:
    """The width of the tokens comes from the builder."""
    model = image_model({"queries": {"_target_": "perceiver.InputQueries", "modality": "image"}})
    inputs = {"image": torch.randn(2, 2, 5, 6)}
    output = model(inputs)
    assert output.shape == (2, 5, 6, 3)
    index = torch.tensor([3, 29])
    torch.testing.assert_close(model(inputs, index=index), output.flatten(1, 2)[:, index])
    mask = torch.ones(1, 2, dtype=torch.bool)
    mask[0, 1] = False
    assert model(inputs, index=index, query_mask=mask)[:, 1].count_nonzero() == 0


def test_outputs_of_a_padded_image_are_those_of_the_image() -> None:
    """Positional queries on the grid of an input lie within each sample's own size."""
    position = {"_target_": "perceiver.Fourier", "num_bands": 2, "resolution": [4, 4]}
    model = image_model({"queries": {"_target_": "perceiver.PositionalQueries", "modality": "image", "position": position}})
    image = torch.randn(1, 2, 4, 3)
    padded, mask = torch.full((1, 2, 5, 6), torch.nan), torch.zeros(1, 5, 6, dtype=torch.bool)
    padded[:, :, :4, :3], mask[:, :4, :3] = image, True
    output = model({"image": padded}, {"image": mask})
    torch.testing.assert_close(output[:, :4, :3], model({"image": image}))
    assert output[~mask].count_nonzero() == 0


def test_tied_logits() -> None:
    adapter = TextTokens(vocabulary_size=11, embedding_channels=6, position=Fourier(num_bands=1, resolution=(8,)))
    encoder = Encoder(token_channels=9, num_latents=4, latent_channels=8, num_layers_per_block=1, num_self_heads=2)
    head = QueryDecoder(
        latent_channels=8,
        queries=LearnedQueries(grid=[10], channels=6, modality="text"),
        tied_logits=TiedLogits(modality="text", vocabulary_size=11),
    )
    model = Perceiver(adapters={"text": adapter}, encoder=encoder, head=head)
    nn.init.normal_(head.tied_logits.bias)  # type: ignore[union-attr]
    inputs = {"text": torch.randint(0, 11, (2, 7))}
    logits = model(inputs)
    assert logits.shape == (2, 7, 11)
    tied, head.tied_logits = head.tied_logits, None
    assert tied is not None
    torch.testing.assert_close(logits, model(inputs) @ adapter.embedding.weight.t() + tied.bias)
    assert sum(name.endswith("embedding.weight") for name in model.state_dict()) == 1


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (torch.tensor([0.5]), TypeError, "index: expected positions in the output grid as int64, got torch.float32"),
        (torch.zeros(3, 1, dtype=torch.long), ValueError, r"\(k,\) or \(2, k\), k at least 1, got \(3, 1\)"),
        (torch.tensor([0, 12]), ValueError, r"grid \(3, 4\), 0 to 11; got 0 to 12"),
        (torch.tensor([-1]), ValueError, "got -1 to -1"),
    ],
)
def test_bad_index(index: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        decoder()(latents(), index=index)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"query mask: expected \(2, 3, 4\), got \(2, 12\)"):
        decoder()(latents(), mask=torch.ones(2, 12, dtype=torch.bool))
    with pytest.raises(TypeError, match="query mask: expected dtype bool"):
        decoder()(latents(), mask=torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match=r"QueryDecoder\.chunk_size: .* got 0"):
        decoder(chunk_size=0)
    with pytest.raises(ValueError, match=r"QueryDecoder\.output_channels: .* got 0"):
        decoder(output_channels=0)
    with pytest.raises(ValueError, match="Linear has no attribute channels; expected a query provider"):
        decoder(queries=nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"QueryDecoder\.token_channels: InputQueries needs the width"):
        decoder(queries=InputQueries(modality="image"))
    own = decoder(queries=InputQueries(modality="image"), token_channels=4)
    with pytest.raises(ValueError, match="expected queries of 4 channels, got 5"):
        own(latents(), tokens={"image": Tokens(parts=(torch.randn(2, 3, 5),))})
    with pytest.raises(
        ValueError, match="the outputs follow the tokens of 'image', which is not among the inputs; got no tokens"
    ):
        own(latents())
    tied = decoder(tied_logits=TiedLogits(modality="text", vocabulary_size=3))
    with pytest.raises(ValueError, match=r"an adapter 'text' with an attribute embedding.* got no such adapter"):
        tied(latents())
    with pytest.raises(ValueError, match="got ImagePixels"):
        tied(latents(), adapters={"text": ImagePixels(image_channels=1, position=Fourier(num_bands=1, resolution=(1, 1)))})
    text = TextTokens(vocabulary_size=4, embedding_channels=5, position=Fourier(num_bands=1, resolution=(1,)))
    with pytest.raises(ValueError, match=r"expected an embedding of \(3, 5\) .* has \(4, 5\)"):
        tied(latents(), adapters={"text": text})
    with pytest.raises(ValueError, match=r"TiedLogits\.vocabulary_size: .* got 0"):
        TiedLogits(modality="text", vocabulary_size=0)
