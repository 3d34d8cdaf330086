"""Augmented collation: order of steps, masks, normalisation, transforms that do not fit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.batch import Sample
from perceiver.data.loading.collation import PreparedCollate
from perceiver.data.loading.transforms import by_modality

MODALITIES = {"sound": {"kind": "audio", "shape": [1, None], "mean": [0.0], "std": [2.0]}}
SAMPLES = [Sample(inputs={"sound": torch.full((1, size), float(size))}, target=size, id=f"s{size}") for size in (2, 4)]


def transforms(given: Any) -> Any:
    return by_modality(given, specs=MODALITIES, available=("sound",), argument="data.augment")


def collate(**augment: Any) -> PreparedCollate:
    return PreparedCollate(modalities=MODALITIES, augment=transforms(augment))


def double(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return 2 * x, mask


def lengthen(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    valid = torch.ones(x.shape[0], x.shape[2], dtype=torch.bool) if mask is None else mask
    ones = torch.ones_like(x[..., :1])
    return torch.cat([ones, x], dim=-1), torch.cat([ones[:, 0] > 0, valid], dim=-1)


def test_normalised_without_augmentation() -> None:
    batch = collate()(SAMPLES)
    assert torch.equal(batch.inputs["sound"], torch.tensor([[[1.0, 1, 0, 0]], [[2.0, 2, 2, 2]]]))  # type: ignore[arg-type]
    assert batch.masks["sound"].tolist() == [[True, True, False, False], [True] * 4]
    assert batch.ids == ["s2", "s4"]
    assert batch.target is not None
    assert batch.target.tolist() == [2, 4]


def test_transforms_in_order_then_normalisation() -> None:
    batch = collate(first=lengthen, gone=None, second=double)(SAMPLES)
    assert torch.equal(batch.inputs["sound"], torch.tensor([[[1.0, 2, 2, 0, 0]], [[1.0, 4, 4, 4, 4]]]))  # type: ignore[arg-type]
    assert batch.masks["sound"].tolist() == [[True, True, True, False, False], [True] * 5]
    batch = collate(second=double, first=lengthen)(SAMPLES)
    assert batch.inputs["sound"][:, 0, 0].tolist() == [0.5, 0.5]  # type: ignore[index]


def test_a_mask_that_a_transform_makes_is_kept() -> None:
    batch = collate(first=lengthen)(SAMPLES[:1] * 2)
    assert batch.masks["sound"].tolist() == [[True] * 3] * 2


def test_trying_transforms_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    collate(noise=lambda x, mask: (x + torch.rand_like(x), mask)).check([SAMPLES[0]] * 2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("augment", "error", "message"),
    [
        (
            lambda x, mask: x,
            TypeError,
            r"expected a returned pair \(float tensor, mask or None\), got a tensor of torch.float32",
        ),
        (lambda x, mask: (x > 0, mask), TypeError, r"got \(a tensor of torch.bool, NoneType\)"),
        (lambda x, mask: (x, x), TypeError, r"expected a boolean mask or None, got a tensor of torch.float32"),
        (lambda x, mask: (x[:1], mask), ValueError, r"turned a batch of shape \(2, 1, 2\) into \(1, 1, 2\)"),
        (lambda x, mask: (x[:, 0], mask), ValueError, r"into \(2, 2\)"),
        (lambda x, mask: (x, x[:, 0, :1] > 0), ValueError, r"returned a mask \(2, 1\) that does not match \(2, 1, 2\)"),
    ],
)
def test_transforms_that_do_not_fit(augment: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"data\.augment\.mine: .*{message}"):
        collate(mine=augment).check([SAMPLES[0]] * 2)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_called() -> None:
    with pytest.raises(TypeError, match=r"data\.augment\.mine: expected a callable transform or null, got str"):
        collate(mine="noise")
    with pytest.raises(TypeError, match=r"data\.augment: expected a mapping from names of your choice .* got function"):
        transforms(double)
