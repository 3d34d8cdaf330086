"""Self-attention and feed-forward against torch's own layers."""

import pytest
import torch

from perceiver.attention import FeedForward, SelfAttend, SelfAttention


@pytest.mark.parametrize("heads", [1, 4])
def test_self_attention_is_textbook_attention(heads: int) -> None:
    attention = SelfAttention(channels=16, num_heads=heads)
    torch.nn.init.normal_(attention.qkv.bias)
    reference = torch.nn.MultiheadAttention(16, heads, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(attention.qkv.weight)
        reference.in_proj_bias.copy_(attention.qkv.bias)
        reference.out_proj.weight.copy_(attention.output.weight)
        reference.out_proj.bias.copy_(attention.output.bias)
    x = torch.randn(3, 5, 16)
    normed = attention.norm(x)
    torch.testing.assert_close(attention(x), reference(normed, normed, normed)[0], rtol=1e-4, atol=1e-5)


def test_widths_of_keys_and_values_are_free() -> None:
    attention = SelfAttention(channels=16, num_heads=2, qk_channels=6, v_channels=10)
    assert attention(torch.randn(2, 5, 16)).shape == (2, 5, 16)


def test_layer_is_pre_norm_with_residuals() -> None:
    layer = SelfAttend(channels=8, num_heads=2).eval()
    x = torch.randn(2, 3, 8)
    attended = x + layer.attention(x)
    torch.testing.assert_close(layer(x), attended + layer.feed_forward(attended))


@pytest.mark.parametrize("approximate", [False, True])
def test_feed_forward_uses_the_gelu_asked_for(approximate: bool) -> None:
    layer = FeedForward(channels=8, widening=2, approximate_gelu=approximate)
    x = torch.randn(2, 3, 8)
    hidden = torch.nn.functional.gelu(layer.expand(layer.norm(x)), approximate="tanh" if approximate else "none")
    torch.testing.assert_close(layer(x), layer.contract(hidden))
    assert layer.expand.out_features == 16


def test_dropout_is_off_in_evaluation() -> None:
    layer = SelfAttend(channels=8, num_heads=2, dropout=0.5, attention_dropout=0.5)
    x = torch.randn(2, 3, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
