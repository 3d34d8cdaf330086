"""Augmented collation: order of steps, masks, normalisation, transforms that do not fit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.data.loading.collation import PreparedCollate
from perceiver.data.loading.transforms import Transforms, by_modality
from perceiver.samples.batch import Sample

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


@pytest.mark.parametrize(
    ("mask", "fits"), [((2,), True), ((2, 5), True), ((2, 3), False), ((5,), False), ((2, 5, 3), False)]
)
def test_masks_of_transforms_lie_on_the_grid(mask: tuple[int, ...], fits: bool) -> None:
    """Channels last: the grid is all but the last axis."""
    transforms = Transforms(
        {"mine": lambda x, _: (x, torch.ones(mask, dtype=torch.bool))}, argument="data.augment", kind="points"
    )
    if fits:
        transforms.check(torch.zeros(2, 5, 3), None, channel_axis=-1)
    else:
        with pytest.raises(ValueError, match=r"data\.augment\.mine: returned a mask .* does not match \(2, 5, 3\)"):
            transforms.check(torch.zeros(2, 5, 3), None, channel_axis=-1)


@pytest.mark.parametrize("result", [(torch.zeros(2, 5, 3),), [torch.zeros(2, 5, 3), None], ("x", None), (None, None)])
def test_results_of_transforms_are_pairs(result: Any) -> None:
    transforms = Transforms({"mine": lambda x, mask: result}, argument="data.augment", kind="points")
    with pytest.raises(TypeError, match=r"data\.augment\.mine: expected a returned pair"):
        transforms.check(torch.zeros(2, 5, 3), None, channel_axis=-1)


def test_transforms_are_checked_in_sequence() -> None:
    """Each gets the result of the one before."""
    seen: list[Any] = []

    def longer(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        seen.append((tuple(x.shape), None if mask is None else tuple(mask.shape)))
        x = torch.cat([x, x], dim=1)
        return x, torch.ones(x.shape[:2], dtype=torch.bool)

    transforms = Transforms({"a": longer, "b": None, "c": longer}, argument="data.augment", kind="points")
    transforms.check(torch.zeros(2, 5, 3), None, channel_axis=-1)
    assert seen == [((2, 5, 3), None), ((2, 10, 3), (2, 10))]
    assert len(transforms) == 2
    assert transforms(torch.zeros(2, 5, 3), None)[0].shape == (2, 20, 3)


@pytest.mark.usefixtures("unchecked")
def test_settings_of_several_modalities() -> None:
    specs = {"a": {"kind": "points"}, "b": {"kind": "image"}}

    def of(given: Any, available: tuple[str, ...] = ("a", "b")) -> Any:
        return by_modality(given, specs=specs, available=available, argument="data.augment")

    assert of(None) == of({}) == of({"a": {}, "b": None}) == {}
    assert list(of({"a": {"x": double}, "b": None})) == ["a"]
    assert list(of({"x": double}, available=("a",))) == ["a"]
    assert list(of({"a": {"x": double}}, available=("a",))) == ["a"]
    assert of({"gone": {"x": double}}, available=("gone",)) == {}, "a modality that samples lack"
    assert list(of({"b": lambda image: image})["b"].transforms) == ["data.augment.b"]
    with pytest.raises(
        TypeError, match=r"data\.augment: expected a mapping from modalities \(a, b\) to transforms, got func"
    ):
        of(double)
    with pytest.raises(ValueError, match=r"data\.augment\.c: expected settings of a, b; got 'c'"):
        of({"a": {}, "c": {}})


def test_samples_that_are_normalised_stay_as_they_are() -> None:
    made = PreparedCollate(modalities=MODALITIES, normalised=["sound"])
    assert made(SAMPLES).inputs["sound"][1].tolist() == [[4.0] * 4]  # type: ignore[index]
    plain = PreparedCollate(modalities=MODALITIES)
    assert plain(SAMPLES).inputs["sound"][1].tolist() == [[2.0] * 4]  # type: ignore[index]
    assert plain(plain.collate(SAMPLES)).inputs["sound"][1].tolist() == [[2.0] * 4], "a batch that was read at once"  # type: ignore[index]


def test_several_tensors_of_a_modality_are_not_normalised_again() -> None:
    spec = {"series": {"kind": "timeseries", "num_values": 1, "mean": [5.0], "std": [2.0]}}
    sample = Sample(inputs={"series": {"values": torch.ones(2, 1), "times": torch.arange(2).double()}})
    batch = PreparedCollate(modalities=spec)([sample])
    assert batch.inputs["series"]["values"].tolist() == [[[1.0], [1.0]]]  # type: ignore[index, call-overload]


@pytest.mark.parametrize(("kind", "axis"), [("audio", 0), ("points", -1)])
def test_positions_that_corruption_masks_are_dropped_in_evaluation(kind: str, axis: int) -> None:
    def drop(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        length = x.shape[2 if axis == 0 else 1]
        return x, torch.arange(length).expand(len(x), -1) != 1

    x = torch.arange(8.0).reshape(2, 4)
    spec = {"it": {"kind": kind, "shape": [2, None]}}
    corruption = by_modality({"drop": drop}, specs=spec, available=("it",), argument="data.corruption")
    made = PreparedCollate(modalities=spec, corruption=corruption, seed=0)
    sample = Sample(inputs={"it": x if axis == 0 else x.T.contiguous()}, target=3, id="a")
    batch = made([sample])
    kept = batch.inputs["it"][0] if axis == 0 else batch.inputs["it"][0].T  # type: ignore[index]
    assert torch.equal(kept, x[:, [0, 2, 3]])
    assert (batch.masks, batch.ids, batch.target.tolist()) == ({}, ["a"], [3])  # type: ignore[union-attr]
