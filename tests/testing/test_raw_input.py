"""Raw inputs of one or several tensors: cut, padded and spoilt along the axes that are their grid."""

from typing import Any

import pytest
import torch

from perceiver.testing.raw_input import RawInput, box


def test_images_have_a_grid_of_two_axes() -> None:
    raw = RawInput.of(torch.rand(2, 3, 4, 5), (2, 3))
    assert (raw.batch, raw.grid) == (2, (4, 5))
    longer, mask = raw.padded(2)
    assert longer.value.shape == (2, 3, 6, 7)
    assert mask.shape == (2, 6, 7)
    assert mask.sum() == 2 * 4 * 5
    assert torch.equal(longer.value[:, :, :4, :5], raw.value)
    assert longer.value.isnan().sum() == 2 * 3 * (6 * 7 - 4 * 5)
    assert torch.equal(longer.cut((4, 5)).value, raw.value)
    assert torch.equal(raw.rows([1]).value, raw.value[1:])


def test_spoiling_hits_what_the_mask_hides() -> None:
    raw = RawInput.of(torch.rand(2, 3, 4, 5), (2, 3))
    mask = torch.ones(2, 4, 5, dtype=torch.bool)
    mask[1, 2, 3] = False
    assert raw.spoilt(mask).value.isnan().nonzero().tolist() == [[1, channel, 2, 3] for channel in range(3)]
    assert raw.spoilt(torch.tensor([True, False])).value.isnan().flatten(1).all(dim=1).tolist() == [False, True]


def test_tensors_of_a_dict_share_the_grid_and_what_has_none_goes_with_the_sample() -> None:
    tensors = {"values": torch.rand(2, 4, 3), "ids": torch.ones(2, 4, dtype=torch.int64), "sex": torch.ones(2, 1).bool()}
    raw = RawInput.of(tensors, {"values": (1,), "ids": (1,)})
    spoilt = raw.spoilt(torch.tensor([[True, True, False, True], [False] * 4])).value
    assert isinstance(spoilt, dict)
    assert spoilt["values"].isnan().any(dim=2).tolist() == [[False, False, True, False], [True] * 4]
    assert spoilt["ids"].tolist() == [[1, 1, -1, 1], [-1] * 4]
    assert spoilt["sex"].dtype == torch.bool
    longer, mask = raw.padded(1)
    assert {name: tuple(one.shape) for name, one in longer.tensors.items()} == {
        "values": (2, 5, 3),
        "ids": (2, 5),
        "sex": (2, 1),
    }
    assert torch.equal(mask, box(2, (5,), (4,)))


@pytest.mark.parametrize(
    ("raw", "grid_axes", "words"),
    [
        (torch.rand(1, 3), (1,), r"at least two samples.*\[1\]"),
        (torch.rand(2, 3), (0,), r"ascending axes from 1 to 1.*\(0,\)"),
        (torch.rand(2, 3, 4), (2, 1), "ascending"),
        (torch.rand(2, 3), {"x": (1,)}, "axes for a tensor, or"),
        ({"x": torch.rand(2, 3)}, (1,), "a dict of axes"),
        ({"x": torch.rand(2, 3)}, {"y": (1,)}, r"names among \['x'\].*\['y'\]"),
        ({"x": torch.rand(2, 3), "y": torch.rand(2, 4)}, {"x": (1,), "y": (1,)}, r"the same raw grid.*\(3,\), \(4,\)"),
    ],
)
def test_what_a_user_says_wrong(raw: Any, grid_axes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RawInput.of(raw, grid_axes)
