"""Cross-attention: the choice of form, the weights on demand, and what it says of wrong input."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from perceiver import Fourier, Tokens
from perceiver.attention import CrossAttend, CrossAttention
from perceiver.tokens.positions import grid_coordinates


def image_tokens(batch: int, size: int, bands: int) -> Tokens:
    position = Fourier(num_bands=bands, resolution=(size, size))
    return Tokens(parts=(torch.randn(batch, size, size, 3), *position(grid_coordinates((size, size)))))


@pytest.mark.parametrize("heads", [1, 2])
def test_is_textbook_attention(heads: int) -> None:
    """Against torch's own multi-head attention, given the same weights."""
    attention = CrossAttention(
        query_channels=6, token_channels=8, num_heads=heads, qk_channels=8, v_channels=8, attention="dense"
    )
    reference = torch.nn.MultiheadAttention(8, heads, batch_first=True)
    with torch.no_grad():
        for layer in (attention.query_norm, attention.tokens.norm):
            torch.nn.init.normal_(layer.weight)
            torch.nn.init.normal_(layer.bias)
        torch.nn.init.normal_(attention.output.bias)
        reference.in_proj_weight.copy_(torch.cat([torch.eye(8)] * 3))
        reference.in_proj_bias.zero_()
        reference.out_proj.weight.copy_(torch.eye(8))
        reference.out_proj.bias.zero_()
    queries, content = torch.randn(2, 5, 6), torch.randn(2, 7, 8)
    mask = torch.rand(2, 7) < 0.7
    mask[:, 0] = True
    query = attention.query(attention.query_norm(queries))
    normed = F.layer_norm(content, (8,), attention.tokens.norm.weight, attention.tokens.norm.bias)
    expected, expected_weights = reference(
        query,
        attention.tokens.key(normed),
        attention.tokens.value(normed),
        key_padding_mask=~mask,
        average_attn_weights=False,
    )
    tokens = [Tokens(parts=(content,), mask=mask)]
    torch.testing.assert_close(attention(queries, tokens), attention.output(expected))
    torch.testing.assert_close(attention.weights(queries, tokens)[0], expected_weights)


def test_weights_sum_to_one_over_all_blocks_and_keep_the_grid() -> None:
    attention = CrossAttention(query_channels=4, token_channels=6, num_heads=2)
    mask = torch.tensor([[True] * 5, [False] * 5])
    blocks = [Tokens(parts=(torch.randn(2, 3, 4, 6),)), Tokens(parts=(torch.randn(2, 5, 6),), mask=mask)]
    grid, line = attention.weights(torch.randn(1, 7, 4), blocks)
    assert grid.shape == (2, 2, 7, 3, 4)
    assert line.shape == (2, 2, 7, 5)
    torch.testing.assert_close(grid.sum(dim=(-1, -2)) + line.sum(dim=-1), torch.ones(2, 2, 7))
    assert not line[1].any()


def test_forms_agree_and_auto_picks_one_of_them() -> None:
    tokens = [image_tokens(2, 12, 8)]
    forms = {}
    for name in ("dense", "factored", "auto"):
        torch.manual_seed(0)
        attention = CrossAttention(query_channels=16, token_channels=tokens[0].channels, attention=name)
        forms[name] = attention(torch.linspace(-1, 1, 64).reshape(1, 4, 16), tokens)
    torch.testing.assert_close(forms["factored"], forms["dense"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forms["auto"], forms["dense"], rtol=1e-4, atol=1e-5)


def test_attention_dropout_drops_in_training_only_in_every_form() -> None:
    tokens = [image_tokens(2, 6, 2)]
    queries = torch.randn(1, 3, 4)
    for form in ("auto", "dense", "factored"):
        attention = CrossAttention(query_channels=4, token_channels=tokens[0].channels, dropout=0.5, attention=form)
        assert attention.form(tokens, num_queries=3) in ("dense", "factored")
        assert not torch.equal(attention(queries, tokens), attention(queries, tokens))
        attention.eval()
        assert torch.equal(attention(queries, tokens), attention(queries, tokens))


def test_errors_name_the_argument() -> None:
    attention = CrossAttention(query_channels=4, token_channels=6)
    with pytest.raises(ValueError, match="expected tokens of 6 channels, got 5"):
        attention(torch.randn(1, 3, 4), [Tokens(parts=(torch.randn(2, 7, 5),))])
    with pytest.raises(ValueError, match="at least one block"):
        attention(torch.randn(1, 3, 4), [])
    with pytest.raises(ValueError, match="qk_channels = 6 must be a positive multiple of num_heads = 4"):
        CrossAttention(query_channels=4, token_channels=6, num_heads=4)


def test_residual_can_be_left_out() -> None:
    layer = CrossAttend(query_channels=4, token_channels=6, query_residual=False).eval()
    mask = torch.zeros(1, 5, dtype=torch.bool)
    dead = layer(torch.randn(1, 3, 4), [Tokens(parts=(torch.randn(1, 5, 6),), mask=mask)])
    # Nothing read, nothing added: every query comes out alike.
    torch.testing.assert_close(dead[:, 0], dead[:, 1])


def test_choice_is_explained_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [image_tokens(1, 12, 8)]
    auto = CrossAttention(query_channels=16, token_channels=tokens[0].channels)
    assert "the cheapest form" in auto.explain(tokens, num_queries=4)
    dense = CrossAttention(query_channels=16, token_channels=tokens[0].channels, attention="dense")
    assert dense.explain(tokens, num_queries=4) == "dense, as configured; scaled_dot_product_attention"
    factored = CrossAttention(query_channels=16, token_channels=tokens[0].channels, attention="factored").double()
    assert factored.explain(tokens, num_queries=4) == ("factored, as configured; eager code (no native code for float64)")


def test_flops_of_the_factored_form_are_counted() -> None:
    tokens = [image_tokens(2, 12, 8)]
    attention = CrossAttention(query_channels=16, token_channels=37, attention="factored")
    with FlopCounterMode(display=False) as counter:
        attention(torch.randn(2, 4, 16), tokens)
    # Scores and weighted sums: 2 samples x 4 rows, over 144 pixels of 3 channels, 12 rows and 12 columns of 17.
    inner = 2 * 2 * 2 * 4 * (144 * 3 + 12 * 17 + 12 * 17)
    # Queries (16 to 37), absorption and values (37 to 37), output (37 to 16), for 2 x 4 rows.
    assert counter.get_total_flops() == inner + 2 * 2 * 4 * (16 * 37 + 37 * 37 + 37 * 37 + 37 * 16)
