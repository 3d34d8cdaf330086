"""Collation of several modalities: order of steps, absent ones, corruption drawn anew or following from the sample."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.data.augmentation.audio import RandomNoise
from perceiver.data.augmentation.corruption import RandomOcclusion, RandomPixelNoise
from perceiver.data.augmentation.points import RandomJitter, RandomPointDropout
from perceiver.data.loading.collation import PreparedCollate
from perceiver.data.loading.transforms import by_modality
from perceiver.samples.batch import Sample

MODALITIES: dict[str, Any] = {
    "image": {"kind": "image", "shape": [1, 8, 8], "range": [0, 255], "mean": [0.5], "std": [0.25]},
    "audio": {"kind": "audio", "shape": [1, None], "mean": [0.0], "std": [2.0]},
    "points": {"kind": "points", "shape": [None, 3]},
}
CORRUPTION: dict[str, dict[str, Any]] = {
    "image": {"noise": RandomPixelNoise(std=[0.1, 0.2]), "occlusion": RandomOcclusion(side=[0.5, 0.5])},
    "audio": {"noise": RandomNoise(snr_decibels=[0, 0])},
    "points": {"dropout": RandomPointDropout(rate=[0.5, 0.5]), "jitter": RandomJitter(std=0.1)},
}


def made(*, seed: int | None = None, **given: Any) -> PreparedCollate:
    transforms = {
        name: by_modality(one, specs=MODALITIES, available=tuple(MODALITIES), argument=f"data.{name}")
        for name, one in given.items()
    }
    return PreparedCollate(modalities=MODALITIES, seed=seed, **transforms)


def samples(*left_out: str) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(5):
        inputs = {
            "image": torch.rand(1, 8, 8, generator=generator),
            "audio": torch.randn(1, 500 + 100 * number, generator=generator),
            "points": torch.rand(40 + number, 3, generator=generator),
        }
        kept = {name: x for name, x in inputs.items() if name not in left_out}
        found.append(Sample(inputs=kept, target=number, id=f"s{number}"))  # type: ignore[arg-type]
    return found


def own(batch: Any, name: str, row: int) -> Tensor:
    """One sample of a batch without its padding."""
    x, mask = batch.inputs[name][row], batch.masks.get(name)
    if mask is None:
        return x
    return x[mask[row]] if name == "points" else x[:, mask[row]]


def test_normalised_with_each_modalitys_own_statistics() -> None:
    raw = samples()
    for seed in (None, 0):
        batch = made(seed=seed)(raw)
        for row, sample in enumerate(raw):
            torch.testing.assert_close(own(batch, "image", row), (sample.inputs["image"] - 0.5) / 0.25)  # type: ignore[operator]
            torch.testing.assert_close(own(batch, "audio", row), sample.inputs["audio"] / 2)  # type: ignore[operator]
            assert torch.equal(own(batch, "points", row), sample.inputs["points"])  # type: ignore[arg-type]
        assert batch.ids == [f"s{number}" for number in range(5)]


def test_augmentation_then_corruption_then_normalisation() -> None:
    collate = made(
        augment={"audio": {"first": lambda x, mask: (x + 1, mask)}, "image": {"first": lambda image: image * 0 + 0.5}},
        corruption={"audio": {"second": lambda x, mask: (x * 10, mask)}, "image": {"second": lambda image: image + 0.25}},
    )
    sample = Sample(inputs={"image": torch.rand(1, 8, 8), "audio": torch.ones(1, 3)}, target=0, id="s")
    batch = collate([sample])
    assert batch.inputs["audio"].tolist() == [[[10.0] * 3]]  # type: ignore[union-attr]
    assert batch.inputs["image"].eq(1).all()  # type: ignore[union-attr]


def test_evaluation_is_not_augmented() -> None:
    augment = {"audio": {"first": lambda x, mask: (x * 0, mask)}}
    batch = made(augment=augment, seed=0)(samples())
    assert batch.inputs["audio"].abs().sum() > 0  # type: ignore[union-attr]


def test_image_transforms_get_the_batch_or_image_by_image() -> None:
    shapes = []

    def look(image: Tensor) -> Tensor:
        shapes.append(tuple(image.shape))
        return image

    made(augment={"image": {"look": look}})(samples())
    assert shapes == [(1, 8, 8)] * 5
    look.draws_per_image = True  # type: ignore[attr-defined]
    made(augment={"image": {"look": look}})(samples())
    assert shapes[5:] == [(5, 1, 8, 8)]


def test_evaluation_corruption_follows_from_seed_and_sample_alone() -> None:
    whole = made(corruption=CORRUPTION, seed=0)(samples())
    torch.manual_seed(99)
    alone = made(corruption=CORRUPTION, seed=0)(samples()[3:4])
    without = made(corruption=CORRUPTION, seed=0)(samples("image"))
    other = made(corruption=CORRUPTION, seed=1)(samples())
    for name in CORRUPTION:
        assert torch.equal(own(whole, name, 3), own(alone, name, 0))
        assert not _equal(own(whole, name, 3), own(other, name, 3))
        if name != "image":
            assert torch.equal(own(whole, name, 3), own(without, name, 3))
        assert not _equal(own(whole, name, 3), own(made()(samples()), name, 3))


def test_samples_of_equal_content_are_corrupted_differently() -> None:
    sound = torch.randn(1, 400)
    pair = [Sample(inputs={"audio": sound}, target=0, id=name) for name in ("a", "b")]
    batch = made(corruption=CORRUPTION, seed=0)(pair)
    assert not torch.equal(*batch.inputs["audio"])  # type: ignore[misc]


def test_evaluation_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    made(corruption=CORRUPTION, seed=0)(samples())
    assert torch.equal(before, torch.get_rng_state())


def test_training_corruption_is_drawn_anew() -> None:
    collate = made(corruption=CORRUPTION)
    first, second = collate(samples()), collate(samples())
    for name in CORRUPTION:
        assert not _equal(own(first, name, 0), own(second, name, 0))


def test_corruption_has_the_same_strength_in_training_and_evaluation() -> None:
    raw = [Sample(inputs={"audio": torch.randn(1, 4000)}, target=0, id=str(number)) for number in range(60)]
    clean = torch.stack([sample.inputs["audio"] for sample in raw]) / 2  # type: ignore[arg-type]
    for seed in (None, 0):
        noisy = made(corruption={"audio": {"noise": RandomNoise(snr_decibels=[3, 3])}}, seed=seed)(raw)
        ratio = clean.square().mean() / (noisy.inputs["audio"] - clean).square().mean()  # type: ignore[operator]
        assert 10 * ratio.log10().item() == pytest.approx(3, abs=0.1)


def test_dropped_points_leave_no_padding_behind_in_evaluation() -> None:
    batch = made(corruption={"points": CORRUPTION["points"]}, seed=0)(samples())
    sizes = batch.masks["points"].sum(dim=1)
    assert batch.inputs["points"].shape[1] == sizes.max() < 36  # type: ignore[union-attr]
    assert sizes.min() > 5


def test_absent_modalities() -> None:
    mixed = [*samples("image")[:2], *samples("audio")[2:4], samples()[4]]
    for seed in (None, 0):
        batch = made(corruption=CORRUPTION, seed=seed)(mixed)
        assert batch.masks["image"].tolist() == [False, False, True, True, True]
        assert batch.masks["audio"].any(dim=1).tolist() == [True, True, False, False, True]
        assert all(x.isfinite().all() for x in batch.inputs.values())  # type: ignore[union-attr]
    nobody = made(corruption=CORRUPTION)(samples("audio"))
    assert "audio" not in nobody.inputs


def test_transforms_that_do_not_fit() -> None:
    for argument in ("augment", "corruption"):
        collate = made(**{argument: {"audio": {"mine": lambda x, mask: x}}})
        with pytest.raises(
            TypeError, match=rf"data\.{argument}\.audio\.mine: expected a returned pair \(float tensor, mask or None\)"
        ):
            collate.check(samples()[:1] * 2)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_called() -> None:
    with pytest.raises(TypeError, match=r"data\.augment\.image\.mine: expected a callable transform or null, got str"):
        made(augment={"image": {"mine": "noise"}})


def test_settings_of_unknown_modalities() -> None:
    specs = {name: MODALITIES[name] for name in ("image", "audio")}
    assert by_modality({"image": {}}, specs=specs, available=("image", "audio"), argument="data.augment") == {}
    with pytest.raises(ValueError, match=r"data\.augment\.video: expected settings of image, audio; got 'video'"):
        by_modality({"video": {}}, specs=specs, available=("image", "audio"), argument="data.augment")
    with pytest.raises(TypeError, match=r"data\.augment: expected a mapping from modalities \(image, audio\) .* got f"):
        by_modality(lambda image: image, specs=specs, available=("image", "audio"), argument="data.augment")


def test_transforms_of_one_modality_need_not_name_it() -> None:
    specs = {"image": MODALITIES["image"]}

    def places(given: Any) -> list[str]:
        return list(by_modality(given, specs=specs, available=("image",), argument="data.augment")["image"].transforms)

    assert places(torch.neg) == ["data.augment"]
    assert places({"mine": torch.neg, "gone": None}) == ["data.augment.mine"]
    assert places({"image": {"mine": torch.neg}}) == ["data.augment.image.mine"]


def _equal(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.equal(x, y)
