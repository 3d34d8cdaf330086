"""Calls of the inner function with their gradients, for the tests of every kernel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perceiver.attention.kernels import eager


@dataclass(frozen=True)
class Call:
    """Arguments of the inner function, and gradients that come back to it."""

    queries: Tensor
    parts: list[Tensor]
    rstd: Tensor
    mask: Tensor | None
    grad_sums: Tensor
    grad_lse: Tensor


def results(
    read: Callable[..., tuple[Tensor, Tensor]],
    call: Call,
    dtype: torch.dtype = torch.float32,
    needs: Sequence[bool] | None = None,
) -> list[Tensor]:
    """Sums, log-sum-exps of rows that found a token, and gradients to those inputs that need one."""
    leaves = [x.to(dtype) for x in (call.queries, *call.parts, call.rstd)]
    leaves = [x.requires_grad_(need) for x, need in zip(leaves, needs or [True] * len(leaves), strict=True)]
    sums, lse = read(leaves[0], leaves[1:-1], leaves[-1], call.mask)
    found = torch.where(lse.isneginf(), lse.new_zeros(()), lse)
    batch = sums.shape[0]
    functional = (sums * call.grad_sums[:batch].to(dtype)).sum() + (found * call.grad_lse[:batch].to(lse.dtype)).sum()
    asked = [x for x in leaves if x.requires_grad]
    grads = torch.autograd.grad(functional, asked) if asked else ()
    return [sums.detach(), found.detach(), *grads]


def assert_as_accurate(read: Callable[..., tuple[Tensor, Tensor]], call: Call) -> None:
    """A kernel's errors are at most twice the eager form's in float32, and 2e-6 of the largest value."""
    exact = results(eager.read_tokens, call, torch.float64)
    single = results(eager.read_tokens, call)
    own = results(read, call)
    # Gradients that cancel to zero come out as rounding noise in every form: measure against the largest of their kind.
    largest = max(1.0, *(float(grad.abs().max()) for grad in exact[2:]))
    for index, (found, other, truth) in enumerate(zip(own, single, exact, strict=True)):
        scale = largest if index >= 2 else max(1.0, float(truth.abs().max()))
        error, others = (float((x - truth).abs().max()) / scale for x in (found, other))
        assert error <= 2 * others + 2e-6, (index, error, others)


def example(batch: int = 3, rows: int = 40, seed: int = 0, grid: tuple[int, int] = (6, 70)) -> Call:
    """An image with learned rows and columns, a condition per sample and a wide part, masked."""
    torch.manual_seed(seed)
    outer, inner = grid
    shapes = [(batch, outer, inner, 3), (1, outer, 1, 5), (1, 1, inner, 4), (batch, 1, 1, 2), (batch, outer, inner, 11)]
    return Call(
        queries=torch.randn(1, rows, 25) * 0.2,
        parts=[torch.randn(shape) for shape in shapes],
        rstd=torch.rand(batch, outer, inner) + 0.5,
        mask=torch.rand(batch, outer, inner) < 0.8,
        grad_sums=torch.randn(batch, rows, 25),
        grad_lse=torch.randn(batch, rows),
    )
