"""The loss without logits in memory, against cross-entropy on all logits in float64, with its gradients."""

import pytest
import torch
import torch.nn.functional as F

from perceiver.decoders import sequence_loss
from perceiver.decoders.sequence_loss import SequenceLoss


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("most", [1, 40, 10**6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_loss_and_gradients(smoothing: float, most: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_loss, "_MOST_ON_CPU", most)
    x, weight, bias = (torch.randn(shape).to(dtype).requires_grad_() for shape in ((3, 5, 4), (11, 4), (11,)))
    labels, valid = torch.randint(0, 11, (3, 5)), torch.rand(3, 5) < 0.7
    found = SequenceLoss(labels=labels, valid=valid, label_smoothing=smoothing)(x, weight, bias)
    grads = torch.autograd.grad(found.total * 0.5, (x, weight, bias))
    exact = [one.detach().double().requires_grad_() for one in (x, weight, bias)]
    logits = F.linear(exact[0], exact[1], exact[2])[valid]
    wanted = F.cross_entropy(logits, labels[valid], label_smoothing=smoothing, reduction="sum")
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(found.total.double(), wanted, **tolerance)
    for grad, other in zip(grads, torch.autograd.grad(wanted * 0.5, exact), strict=True):
        assert grad.dtype == dtype
        torch.testing.assert_close(grad.double(), other, **tolerance)
    if dtype == torch.float64:
        assert found.correct.tolist() == (logits.argmax(dim=1) == labels[valid]).tolist()


def test_nothing_valid_and_no_gradient() -> None:
    x, weight = torch.randn(2, 3, 4), torch.randn(7, 4, requires_grad=True)
    nothing = SequenceLoss(labels=torch.zeros(2, 3, dtype=torch.int64), valid=torch.zeros(2, 3, dtype=torch.bool))
    found = nothing(x, weight, torch.zeros(7))
    found.total.backward()
    assert (float(found.total.detach()), found.correct.shape) == (0.0, (0,))
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) == 0.0
    with torch.no_grad():
        assert not nothing(x, weight, torch.zeros(7)).total.requires_grad


@pytest.mark.parametrize("x", [torch.zeros(1, 3, 4), torch.full((1, 3, 4), torch.nan)])
def test_logits_that_prefer_no_id_are_wrong(x: torch.Tensor) -> None:
    loss = SequenceLoss(labels=torch.arange(3)[None], valid=torch.ones(1, 3, dtype=torch.bool))
    assert loss(x, torch.rand(7, 4), torch.zeros(7)).correct.tolist() == [False] * 3
