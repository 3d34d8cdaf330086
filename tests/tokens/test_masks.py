"""Masks: presence and elements in one form, patches, valid sizes, replacement."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perceiver.tokens.masks import (
    extents,
    grid_mask,
    patch_mask,
    presence,
    zero_masked,
)

masks = hnp.arrays(bool, st.lists(st.integers(1, 7), min_size=2, max_size=4).map(tuple))


def test_presence_becomes_a_mask_of_elements() -> None:
    mask = grid_mask(torch.tensor([True, False]), batch=2, grid=(3, 4))
    assert mask is not None
    assert mask.shape == (2, 3, 4)
    assert mask[0].all()
    assert not mask[1].any()


def test_masks_of_elements_pass() -> None:
    mask = torch.rand(2, 3, 4) > 0.5
    assert grid_mask(mask, batch=2, grid=(3, 4)) is mask
    assert grid_mask(None, batch=2, grid=(3, 4)) is None


@pytest.mark.parametrize("shape", [(3,), (2, 4, 3), (2, 3), (1, 3, 4), (2, 1, 3, 4)])
def test_other_shapes_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image mask: expected \(2,\) .* or \(2, 3, 4\)"):
        grid_mask(torch.ones(shape, dtype=torch.bool), batch=2, grid=(3, 4), name="image mask")


@pytest.mark.usefixtures("unchecked")
def test_other_types_are_errors() -> None:
    with pytest.raises(TypeError, match="True = valid"):
        grid_mask(torch.ones(2, 3), batch=2, grid=(3,))


@settings(max_examples=60)
@given(mask=masks, data=st.data())
def test_a_patch_is_valid_where_any_element_is(mask: np.ndarray, data: st.DataObject) -> None:
    rank = mask.ndim - 1
    patch = data.draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    patched = patch_mask(torch.from_numpy(mask), patch).numpy()
    assert patched.shape == (mask.shape[0], *(-(-n // p) for n, p in zip(mask.shape[1:], patch, strict=True)))
    for place in np.ndindex(*patched.shape):
        inside = tuple(slice(i * p, (i + 1) * p) for i, p in zip(place[1:], patch, strict=True))
        assert patched[place] == mask[(place[0], *inside)].any()


@settings(max_examples=60)
@given(mask=masks)
def test_extents_reach_the_last_valid_element(mask: np.ndarray) -> None:
    sizes = extents(torch.from_numpy(mask))
    assert len(sizes) == mask.ndim - 1
    for sample in range(mask.shape[0]):
        places = np.argwhere(mask[sample])
        expected = places.max(axis=0) + 1 if len(places) else np.zeros(mask.ndim - 1)
        assert [int(size[sample]) for size in sizes] == expected.tolist()


def test_masked_values_are_replaced_not_multiplied() -> None:
    x = torch.tensor([1.0, float("nan"), float("inf"), -2.0])
    assert zero_masked(x, torch.tensor([True, False, False, True])).tolist() == [1.0, 0.0, 0.0, -2.0]
    assert zero_masked(x, None) is x


def test_presence_of_samples() -> None:
    x = torch.zeros(3, 1, 4)
    mask = torch.tensor([[True, False], [False, False], [False, True]])
    assert presence(x, None) is None
    given = torch.tensor([True, False, True])
    assert presence(x, given) is given
    assert presence(x, mask).tolist() == [True, False, True]  # type: ignore[union-attr]
    assert presence({"values": x}, None) is None
    assert presence({"values": x}, mask).tolist() == [True, False, True]  # type: ignore[union-attr]


def test_presence_where_single_values_are_missing() -> None:
    """Steps of a series that are padding do not count, whatever is said of their values."""
    present = torch.tensor([[[True, True], [False, False]], [[False, False], [True, False]], [[False, True], [True, True]]])
    series = {"values": torch.zeros(3, 2, 2), "present": present}
    assert presence(series, None).tolist() == [True, True, True]  # type: ignore[union-attr]
    steps = torch.tensor([[True, True], [True, False], [False, True]])
    assert presence(series, steps).tolist() == [True, False, True]  # type: ignore[union-attr]
    cells = {"numbers": torch.zeros(3, 2), "present": torch.tensor([[True, False], [False, False], [True, True]])}
    assert presence(cells, None).tolist() == [True, False, True]  # type: ignore[union-attr]
    assert presence(cells, torch.tensor([True, True, False])).tolist() == [True, False, False]  # type: ignore[union-attr]
