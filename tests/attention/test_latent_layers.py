"""Self-attention and feed-forward against torch's own layers."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perceiver.attention import FeedForward, SelfAttend, SelfAttention
from perceiver.attention.kernels import linear


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


class Operators(TorchDispatchMode):
    """Names of the operators that ran inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("qk_channels", "v_channels"), [(6, 10), (10, 6), (10, 10)])
def test_any_widths_of_keys_and_values_in_the_fused_kernel(qk_channels: int, v_channels: int) -> None:
    attention = SelfAttention(channels=16, num_heads=2, qk_channels=qk_channels, v_channels=v_channels)
    torch.nn.init.normal_(attention.qkv.bias)
    x = torch.randn(3, 5, 16)
    query, key, value = (
        part.unflatten(-1, (2, -1)).transpose(1, 2)
        for part in attention.qkv(attention.norm(x)).split((qk_channels, qk_channels, v_channels), dim=-1)
    )
    weights = (query @ key.mT / (qk_channels / 2) ** 0.5).softmax(dim=-1)
    expected = attention.output((weights @ value).transpose(1, 2).flatten(2))
    with Operators() as operators:
        found = attention(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert "_scaled_dot_product_flash_attention_for_cpu" in operators.names


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


@pytest.mark.parametrize(("latents", "products"), [(64, True), (65, False)])
@pytest.mark.parametrize("v_channels", [16, 32])
def test_bfloat16_attention_and_its_gradients(latents: int, products: bool, v_channels: int) -> None:
    """Up to 8 latents per channel of a head plain products, above SDPA: both within bfloat16's precision of float32."""
    torch.manual_seed(0)
    attention = SelfAttention(channels=16, num_heads=2, v_channels=v_channels)
    torch.nn.init.normal_(attention.qkv.bias)
    x = torch.randn(2, latents, 16)
    direction = torch.randn(2, latents, 16)
    results = []
    for enabled in (False, True):
        attention.zero_grad()
        with Operators() as operators, torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = attention(x)
        assert ("baddbmm" in operators.names) == (enabled and products)
        (out.float() * direction).sum().backward()
        results.append([out.float().detach(), *(p.grad.clone() for p in attention.parameters() if p.grad is not None)])
    for exact, rounded in zip(*results, strict=True):
        assert rounded.isfinite().all()
        assert (rounded - exact).norm() <= 0.02 * exact.norm()


@pytest.mark.parametrize("widening", [1, 2])
def test_layer_on_products_of_onednn(widening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four linear layers of a layer through oneDNN, forward and backward, are what they are through F.linear."""
    try:
        linear._try_operator()
    except Exception as error:
        pytest.skip(f"oneDNN's matrix product does not work in this torch: {error}")
    layer = SelfAttend(channels=48, num_heads=4, widening=widening)
    x = torch.randn(3, 20, 48, requires_grad=True)
    direction = torch.randn(3, 20, 48)
    monkeypatch.setattr(linear, "WORTH_ONEDNN", 0)
    monkeypatch.setattr(linear, "NARROWEST", 0)
    results = []
    for usable in (False, True):
        monkeypatch.setattr(linear, "onednn", lambda usable=usable: (usable, ""))
        with Operators() as operators:
            out = layer(x)
            gradients = torch.autograd.grad(out, [x, *layer.parameters()], direction)
        assert ("_linear_pointwise" in operators.names) == usable
        assert ("addmm" in operators.names) == (not usable)
        results.append([out, *gradients])
    for plain, product in zip(*results, strict=True):
        torch.testing.assert_close(product, plain, rtol=1e-5, atol=1e-5)
