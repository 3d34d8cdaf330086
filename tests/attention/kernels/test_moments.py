"""Moments of tokens in native code against LayerNorm's statistics in float64, and against plain PyTorch."""

import operator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceiver.attention.kernels import native, standard
from perceiver.attention.kernels.native.moments import moments

pytestmark = pytest.mark.skipif(native.availability().library is None, reason="no native code")
EPS = 1e-5


@dataclass(frozen=True)
class Case:
    """Parts in float64 whose values are exact in float32, the first of full size, and their mask."""

    parts: list[Tensor]
    mask: Tensor | None
    steady: int
    grid: tuple[int, int]
    offset: float


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any parts, lines longer than the kernel's buffers included, near zero or far from it."""
    batch, grid = draw(st.sampled_from([1, 3])), (draw(st.sampled_from([1, 2, 9])), draw(st.sampled_from([1, 7, 40, 1100])))
    widths = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 16, 21])
    shapes = [(batch, *grid, draw(widths))]
    for _ in range(draw(st.integers(0, 3))):
        shapes.append((*(draw(st.sampled_from([1, size])) for size in (batch, *grid)), draw(widths)))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    offset = draw(st.sampled_from([0.0, 0.5, 1e4]))
    parts = [torch.randn(shape).add(offset).double() for shape in shapes]
    mask = torch.rand(batch, *grid) < draw(st.sampled_from([0.1, 0.7])) if draw(st.booleans()) else None
    return Case(parts=parts, mask=mask, steady=draw(st.integers(0, len(parts) - 1)), grid=grid, offset=offset)


def deviations(parts: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """1 / sqrt(variance + eps) of the expanded tokens."""
    batch = max(part.shape[0] for part in parts)
    tokens = torch.cat([part.expand(batch, *grid, -1) for part in parts], dim=-1)
    return (tokens.var(dim=-1, correction=0) + EPS).rsqrt()


def single_values(offset: float) -> Case:
    """A part with a single value per sample, from which the offset is estimated, and one that samples share."""
    own, shared = torch.tensor([1.5, -0.25, -2.25]), torch.tensor([0.5])
    parts = [values.add(offset).double().reshape(-1, 1, 1, 1) for values in (own, shared)]
    return Case(parts=parts, mask=None, steady=0, grid=(1, 1), offset=offset)


@given(cases())
@example(single_values(0.0))
@example(single_values(1e4))
@settings(max_examples=120)
def test_equal_the_statistics_of_expanded_tokens(case: Case) -> None:
    exact = [part.clone().requires_grad_() for part in case.parts]
    own = [part.float().requires_grad_() for part in case.parts]
    expected = deviations(exact, case.grid)
    shifted, rstd = native.standardise(own, case.mask, case.steady, EPS, case.grid)
    if case.offset < 1 or own[case.steady].shape[0] == 1:  # else a shared part loses an offset of its own in each sample
        assert [part.shape for part in shifted] == [part.shape for part in own]
    if case.offset < 1 and len(own) > 1:
        assert all(map(operator.is_, shifted, own))
    if sum(part.shape[-1] for part in own) == 1:
        return  # the variance of a single channel is zero, and its gradient noise
    # What is left of an offset that is not removed (masked to a few values, say) costs digits.
    largest = max(float(part.detach().abs().max()) for part in shifted)
    digits = 1e-5 * max(1.0, largest / 10) ** 2
    torch.testing.assert_close(rstd.double(), expected, rtol=digits, atol=1e-6)
    weights = torch.linspace(-1, 1, rstd.numel()).reshape(rstd.shape)
    grads = torch.autograd.grad((rstd * weights).sum(), own)
    others = torch.autograd.grad((expected * weights.double()).sum(), exact)
    scale = max(float(other.abs().max()) for other in others)
    for grad, other in zip(grads, others, strict=True):
        torch.testing.assert_close(grad.double(), other, rtol=1e-3 * max(1.0, digits / 1e-5), atol=1e-4 * scale + 1e-6)


@given(cases())
@settings(max_examples=60)
def test_remove_the_same_offset_as_plain_pytorch(case: Case) -> None:
    own = [part.float() for part in case.parts]
    shifted, rstd = native.standardise(own, case.mask, case.steady, EPS, case.grid)
    others, other_rstd = standard.standardise(own, case.mask, case.steady, EPS, case.grid)
    if max(float(part.abs().max()) for part in others) < 100:
        torch.testing.assert_close(rstd, other_rstd.expand_as(rstd), rtol=1e-4, atol=1e-6)
    noise = 1e-2 if case.offset > 100 else 1e-5
    for part, other in zip(shifted, others, strict=True):
        torch.testing.assert_close(part.expand_as(other), other, rtol=1e-4, atol=noise)


def test_parts_without_an_offset_are_handed_on() -> None:
    parts = [torch.randn(2, 4, 5, 3), torch.randn(1, 4, 1, 6)]
    shifted, _ = native.standardise(parts, None, 1, EPS, (4, 5))
    assert shifted == tuple(parts)
    assert all(own is part for own, part in zip(shifted, parts, strict=True))
    moved, _ = native.standardise([part + 1e3 for part in parts], None, 1, EPS, (4, 5))
    torch.testing.assert_close(moved[1].mean(), torch.zeros(()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_repeat_to_the_bit_for_any_batch_and_number_of_threads(threads: int) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(5, 40, 300, 3), torch.randn(1, 40, 1, 30), torch.randn(1, 1, 300, 30)]
    (together,) = (native.standardise(parts, None, 2, EPS, (40, 300))[1],)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for sample in range(5):
            own = [parts[0][sample : sample + 1], *parts[1:]]
            assert torch.equal(native.standardise(own, None, 2, EPS, (40, 300))[1][0], together[sample])
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_operator_is_well_formed() -> None:
    parts = [torch.randn(2, 3, 4, 2, requires_grad=True), torch.randn(1, 3, 1, 3, requires_grad=True)]
    torch.library.opcheck(moments, (parts, None, 1, EPS, [3, 4]))
    torch.library.opcheck(moments, (parts, torch.rand(2, 3, 4) < 0.5, 0, EPS, [3, 4]))
