"""Tokens: the dense form against plain numpy, sampling, chunks, masked content, errors."""

import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver.tokens.tokens import Tokens


@dataclass
class Layout:
    """Where the parts of some tokens vary: for each part (batch, *axes) flags, and its channels."""

    batch: int
    grid: tuple[int, ...]
    parts: list[tuple[list[bool], int]]
    masked: bool

    def tokens(self, fill: float = float("nan")) -> Tokens:
        """Random parts, a random mask; what only masked elements see is filled."""
        generator = torch.Generator().manual_seed(hash((self.batch, self.grid)) % 1000)
        full = (self.batch, *self.grid)
        mask = torch.rand(full, generator=generator) > 0.4 if self.masked else None
        parts = []
        for flags, channels in self.parts:
            shape = [size if varies else 1 for size, varies in zip(full, flags, strict=True)]
            part = torch.randn(*shape, channels, generator=generator)
            if mask is not None:
                for place in np.ndindex(*shape):
                    readers = tuple(
                        slice(None) if size == 1 else slice(i, i + 1) for i, size in zip(place, shape, strict=True)
                    )
                    if not mask[readers].any():
                        part[place] = fill
            parts.append(part)
        return Tokens(parts=tuple(parts), mask=mask)

    def dense(self, tokens: Tokens) -> np.ndarray:
        """(B, M, C), element by element."""
        shape = (self.batch, *self.grid) if self.masked else np.broadcast_shapes(*(part.shape[:-1] for part in tokens.parts))
        rows = []
        for place in np.ndindex(*shape):
            pieces = [
                part.numpy()[tuple(0 if size == 1 else i for i, size in zip(place, part.shape[:-1], strict=True))]
                for part in tokens.parts
            ]
            valid = tokens.mask is None or bool(tokens.mask[place])
            rows.append(np.concatenate(pieces) if valid else np.zeros(tokens.channels, dtype=np.float32))
        return np.stack(rows).reshape(shape[0], -1, tokens.channels)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    grid = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    flags = st.lists(st.booleans(), min_size=len(grid) + 1, max_size=len(grid) + 1)
    parts = draw(st.lists(st.tuples(flags, st.integers(1, 3)), min_size=1, max_size=4))
    return Layout(batch=draw(st.integers(1, 3)), grid=grid, parts=parts, masked=draw(st.booleans()))


@settings(max_examples=100)
@given(layout=layouts())
def test_dense_is_the_parts_multiplied_out(layout: Layout) -> None:
    tokens = layout.tokens()
    expected = layout.dense(tokens)
    dense = tokens.dense()
    assert np.array_equal(dense.numpy(), expected)
    assert dense.shape == (tokens.batch, tokens.num_tokens, tokens.channels)
    assert np.prod(tokens.grid) == tokens.num_tokens
    mask = tokens.dense_mask()
    assert (mask is None) == (not layout.masked)
    if mask is not None:
        assert mask.shape == dense.shape[:2]


@settings(max_examples=60)
@given(layout=layouts(), fill=st.sampled_from([float("nan"), float("inf"), 1e30]))
def test_cleaning_keeps_shapes_and_all_that_is_valid(layout: Layout, fill: float) -> None:
    tokens = layout.tokens(fill)
    cleaned = tokens.cleaned()
    assert [part.shape for part in cleaned.parts] == [part.shape for part in tokens.parts]
    assert all(part.isfinite().all() and (part.abs() < 1e20).all() for part in cleaned.parts)
    assert torch.equal(cleaned.dense(), tokens.dense())


@settings(max_examples=100)
@given(layout=layouts(), data=st.data())
def test_take_is_a_gather_of_dense(layout: Layout, data: st.DataObject) -> None:
    tokens = layout.tokens()
    dense, dense_mask = tokens.dense(), tokens.dense_mask()
    count = data.draw(st.integers(1, 6))
    numbers = st.lists(st.integers(0, tokens.num_tokens - 1), min_size=count, max_size=count)
    index = torch.tensor(data.draw(numbers))
    taken = tokens.take(index)
    assert taken.grid == (count,)
    assert torch.equal(taken.dense(), dense[:, index])
    per_sample = torch.tensor([data.draw(numbers) for _ in range(tokens.batch)])
    own = tokens.take(per_sample)
    assert own.grid == (count,)
    rows = torch.arange(tokens.batch)[:, None]
    assert torch.equal(own.dense().expand(tokens.batch, -1, -1), dense[rows, per_sample])
    if dense_mask is not None:
        taken_mask, own_mask = taken.dense_mask(), own.dense_mask()
        assert taken_mask is not None
        assert own_mask is not None
        assert torch.equal(taken_mask, dense_mask[:, index])
        assert torch.equal(own_mask, dense_mask[rows, per_sample])


@settings(max_examples=40)
@given(layout=layouts(), size=st.integers(1, 20))
def test_chunks_hold_all_elements_in_order(layout: Layout, size: int) -> None:
    tokens = layout.tokens()
    chunks = list(tokens.chunks(size))
    assert all(chunk.num_tokens == size for chunk in chunks[:-1])
    assert torch.equal(torch.cat([chunk.dense() for chunk in chunks], dim=1), tokens.dense())


def test_batch_shared_parts_take_one_index_per_sample() -> None:
    tokens = Tokens(parts=(torch.randn(1, 4, 1, 2), torch.randn(1, 1, 3, 1)))
    index = torch.randint(12, (5, 7))
    assert torch.equal(tokens.take(index).dense(), tokens.dense()[0][index])


def test_take_keeps_what_is_constant_constant() -> None:
    tokens = Tokens(parts=(torch.randn(2, 3, 4, 1), torch.randn(1, 3, 1, 2), torch.randn(1, 1, 1, 5)))
    assert [tuple(part.shape) for part in tokens.take(torch.tensor([3, 11])).parts] == [(2, 2, 1), (1, 2, 2), (1, 1, 5)]


def test_mask_may_be_shared_by_the_batch() -> None:
    tokens = Tokens(parts=(torch.randn(3, 2, 2, 1),), mask=torch.tensor([[[True, False], [True, True]]]))
    mask = tokens.dense_mask()
    assert mask is not None
    assert mask.tolist() == [[True, False, True, True]] * 3
    assert (tokens.dense()[:, 1] == 0).all()


def test_parts_of_several_precisions_join_in_the_widest() -> None:
    assert Tokens(parts=(torch.randn(2, 3, 1).bfloat16(), torch.randn(1, 3, 1))).dense().dtype == torch.float32


def test_gradients_reach_valid_content_only() -> None:
    part = torch.tensor([[[1.0], [float("nan")], [3.0]]], requires_grad=True)
    tokens = Tokens(parts=(part,), mask=torch.tensor([[True, False, True]]))
    (gradient,) = torch.autograd.grad(tokens.dense().square().sum() + tokens.cleaned().parts[0].square().sum(), part)
    assert gradient.flatten().tolist() == [4.0, 0.0, 12.0]


def test_append_adds_channels_at_the_end() -> None:
    tokens = Tokens(parts=(torch.randn(2, 3, 4),), mask=torch.rand(2, 3) > 0.5)
    longer = tokens.append(torch.full((1, 1, 2), 7.0))
    assert longer.channels == 6
    assert longer.mask is tokens.mask
    assert torch.equal(longer.dense()[..., :4], tokens.dense())


def test_copies_and_pickles() -> None:
    tokens = Tokens(parts=(torch.randn(2, 3, 4),), mask=torch.rand(2, 3) > 0.5)
    for copied in (copy.deepcopy(tokens), pickle.loads(pickle.dumps(tokens))):
        assert torch.equal(copied.dense(), tokens.dense())


def test_is_immutable() -> None:
    with pytest.raises(AttributeError):
        Tokens(parts=(torch.randn(1, 2, 3),)).mask = None  # type: ignore[misc]


@pytest.mark.parametrize(
    ("parts", "mask", "error", "text"),
    [
        ((), None, ValueError, "at least one"),
        ((torch.zeros(2, 3),), None, ValueError, r"same rank, at least 3.*\(2, 3\)"),
        ((torch.zeros(2, 3, 1), torch.zeros(2, 3, 1, 1)), None, ValueError, "same rank"),
        ((torch.zeros(2, 3, 1), torch.zeros(2, 4, 1)), None, ValueError, "do not broadcast"),
        ((torch.zeros(2, 3, 1), torch.zeros(4, 3, 1)), None, ValueError, "do not broadcast"),
        ((torch.zeros(2, 3, 1),), torch.ones(2, 4, dtype=torch.bool), ValueError, r"do not broadcast.*mask \(2, 4\)"),
        ((torch.zeros(2, 3, 1),), torch.ones(2, dtype=torch.bool), ValueError, r"Tokens\.mask: .*rank 2.*\(2,\)"),
        ((torch.zeros(2, 3, 1),), torch.ones(2, 3), TypeError, "True = valid.*float32"),
        ((torch.zeros(2, 3, 1, dtype=torch.uint8),), None, TypeError, "floating point.*uint8"),
    ],
)
def test_errors_of_construction(
    parts: tuple[torch.Tensor, ...], mask: torch.Tensor | None, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Tokens(parts=parts, mask=mask)


def test_errors_of_sampling() -> None:
    tokens = Tokens(parts=(torch.randn(3, 4, 1),))
    with pytest.raises(ValueError, match=r"\(3, k\), got \(2, 5\)"):
        tokens.take(torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        list(tokens.chunks(0))


def test_values_that_only_masked_elements_see_are_zeroed_at_the_part_s_own_shape() -> None:
    """A value shared along axes is seen if any element along them is valid; NaN elsewhere never spreads."""
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[0, 1, 2] = mask[1, 2, 2] = mask[1, 0, 3] = True
    for shape in ((2, 3, 4, 1), (1, 3, 1, 1), (1, 1, 4, 1), (2, 1, 4, 1), (1, 1, 1, 1), (2, 1, 1, 1)):
        part = torch.full(shape, torch.nan)
        axes = [axis for axis in range(3) if shape[axis] == 1]
        seen = mask.numpy().any(axis=tuple(axes), keepdims=True) if axes else mask.numpy()
        [cleaned] = Tokens(parts=(part, torch.ones(2, 3, 4, 1)), mask=mask).cleaned().parts[:1]
        assert np.array_equal(cleaned[..., 0].isnan().numpy(), seen), shape
        assert float(cleaned.nan_to_num(0.0).abs().sum()) == 0.0
