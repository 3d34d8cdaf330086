"""What holds for every kernel."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from perceiver.attention import CrossAttention
from perceiver.attention.forms.factored import factored_attention, factored_shares
from perceiver.attention.kernels import eager, native, triton
from perceiver.tokens.tokens import Tokens

# torch's own forward-mode formulas are built with it.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")

KERNELS = {"eager": eager.KERNEL, "native": native.KERNEL, "triton": triton.KERNEL}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("moved", ["query", "content", "table"])
def test_forward_mode_is_refused(kernel: str, moved: str) -> None:
    layer = CrossAttention(query_channels=4, token_channels=7)
    tensors = {"query": torch.randn(2, 1, 5, 7), "content": torch.randn(2, 3, 4, 3), "table": torch.randn(1, 3, 1, 4)}

    def attend(x: Tensor) -> Tensor:
        own = {**tensors, moved: x}
        blocks = [Tokens(parts=(own["content"], own["table"]))]
        return factored_attention(own["query"], blocks, layer.tokens, kernel=KERNELS[kernel])

    x = tensors[moved]
    with pytest.raises(NotImplementedError, match=r"no forward-mode derivative .* reverse mode"):
        torch.func.jvp(attend, (x,), (torch.ones_like(x),))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError):
        attend(forward_ad.make_dual(x, torch.ones_like(x)))
    with forward_ad.dual_level():
        assert torch.equal(attend(x), attend(x.clone())), "no tangent, nothing to refuse"


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_backward_pass_under_autocast_is_the_same(kernel: str) -> None:
    """Scores are recomputed there: in bfloat16 they would not fit the forward pass's log-sum-exps."""
    torch.manual_seed(0)
    queries, parts = torch.randn(1, 5, 7, requires_grad=True), [torch.randn(2, 3, 4, 3), torch.randn(1, 3, 1, 4)]
    sums, _ = KERNELS[kernel].read(queries, parts, torch.rand(2, 3, 4), None)
    (expected,) = torch.autograd.grad(sums.square().sum(), queries, retain_graph=True)
    loss = sums.square().sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (grad,) = torch.autograd.grad(loss, queries)
    assert torch.equal(grad, expected)


def test_forward_mode_of_shares_is_refused() -> None:
    layer = CrossAttention(query_channels=4, token_channels=7)
    x, blocks = torch.randn(2, 1, 5, 7), [Tokens(parts=(torch.randn(2, 3, 7),))]
    with pytest.raises(NotImplementedError):
        torch.func.jvp(lambda query: factored_shares(query, blocks, layer.tokens)[0], (x,), (x,))


def test_the_way_that_the_error_names() -> None:
    """The dense form in forward mode is the derivative along a direction."""
    layer = CrossAttention(query_channels=4, token_channels=7, attention="dense").double()
    latents, x, direction = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 5, 4), (2, 3, 7), (2, 3, 7)))

    def attend(x: Tensor) -> Tensor:
        out: Tensor = layer(latents, [Tokens(parts=(x,))])
        return out

    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        derivative = torch.func.jvp(attend, (x,), (direction,))[1]
        expected = (attend(x + 1e-5 * direction) - attend(x - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(derivative, expected, rtol=1e-4, atol=1e-7)
