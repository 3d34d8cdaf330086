"""scikit-learn's digits: the real data, its splits and its spec."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from perceiver.data import DataModule, Digits
from perceiver.modalities.preprocess import preprocess


@pytest.fixture(scope="module")
def digits() -> DataModule:
    module = DataModule.of(Digits, batch_size=100)
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    return module


def ids(loader: object) -> list[str]:
    return [name for batch in loader for name in batch.ids]  # type: ignore[attr-defined]


def test_splits_are_disjoint_complete_and_stratified(digits: DataModule) -> None:
    loaders = (digits.train_dataloader(), digits.val_dataloader(), digits.test_dataloader())
    names = [ids(loader) for loader in loaders]
    assert [len(split) for split in names] == [1257, 180, 360]
    assert {name for split in names for name in split} == {f"digits/{index}" for index in range(1797)}
    for loader, size in zip(loaders, (1257, 180, 360), strict=True):
        counts = torch.bincount(torch.cat([batch.target for batch in loader]), minlength=10)
        assert ((counts / size - 0.1).abs() < 0.02).all()


def test_batches_hold_the_real_images(digits: DataModule) -> None:
    batch = next(iter(digits.test_dataloader()))
    assert batch.inputs["image"].shape == (100, 1, 8, 8)
    assert batch.inputs["image"].dtype == torch.float32
    raw = load_digits()
    index = int(batch.ids[7].removeprefix("digits/"))
    assert int(batch.target[7]) == raw.target[index]
    modality = digits.spec["modalities"]["image"]
    expected = preprocess(raw.images[index].astype("uint8"), spec=modality, name="image")
    torch.testing.assert_close(batch.inputs["image"][7], expected)


def test_training_split_is_normalised(digits: DataModule) -> None:
    pixels: Tensor = torch.cat([batch.inputs["image"] for batch in digits.train_dataloader()])
    assert pixels.mean().item() == pytest.approx(0, abs=1e-5)
    assert pixels.std().item() == pytest.approx(1, abs=1e-4)
    assert digits.spec["modalities"]["image"]["range"] == [0, 16]
    assert digits.spec["num_classes"] == 10


def test_splits_ignore_the_training_seed_and_the_test_split_ignores_validation(digits: DataModule) -> None:
    torch.manual_seed(123)
    other = DataModule.of(Digits, validation_size=300)
    other.setup("test")
    assert set(ids(other.test_dataloader())) == set(ids(digits.test_dataloader()))
    same = DataModule.of(Digits)
    same.setup("fit")
    assert ids(same.val_dataloader()) == ids(digits.val_dataloader())
    reseeded = DataModule.of(Digits, split_seed=1)
    reseeded.setup("fit")
    assert ids(reseeded.val_dataloader()) != ids(digits.val_dataloader())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_size": 1437}, r"data\.validation_size: expected 1 to 1436, .* got 1437"),
        ({"validation_size": 0}, r"data\.validation_size: expected 1 to 1436, .* got 0"),
        ({"test_size": 1797}, r"data\.test_size: expected 1 to 1796, .* got 1797"),
    ],
)
def test_impossible_sizes(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataModule.of(Digits, **arguments).setup("fit")
