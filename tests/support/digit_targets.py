"""scikit-learn's digits with other targets than their class: several labels, or the place of their ink."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader

from perceiver.modalities.preprocess import preprocess
from perceiver.samples.batch import Sample
from perceiver.samples.collate import Collate
from perceiver.targets.labels import labels_target
from perceiver.targets.values import values_target

LABELS = ("even", "above 4", "has a loop")
VALUES = ("row", "column")
SIZES = {"train": 500, "val": 150, "test": 150}


def digit_labels(digits: Tensor) -> Tensor:
    """`(B,)` digits -> booleans `(B, 3)`."""
    loops = torch.tensor([True, False, False, False, False, False, True, False, True, True])
    return torch.stack([digits % 2 == 0, digits > 4, loops[digits]], dim=1)


def ink_centres(pixels: Tensor) -> Tensor:
    """`(B, 8, 8)` -> `(B, 2)`: mean row and column of the ink, in thousandths of a pixel, a unit far from 1."""
    places = 1000 * torch.arange(8, dtype=torch.float32)
    ink = pixels.float().sum(dim=(1, 2))
    return torch.stack([(pixels.sum(dim=2) * places).sum(1) / ink, (pixels.sum(dim=1) * places).sum(1) / ink], dim=1)


class DigitTargets(LightningDataModule):
    """Images with a target made from each; 500, 150 and 150 of them. Subclasses say which."""

    def __init__(self, *, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size
        pixels, digits = load_digits(return_X_y=True)
        self.pixels = torch.from_numpy(pixels).to(torch.uint8).view(-1, 8, 8)
        self.digits = torch.from_numpy(digits).long()
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(3))
        self.index = dict(zip(SIZES, order[: sum(SIZES.values())].split(list(SIZES.values())), strict=True))
        self._spec: dict[str, Any] | None = None

    def targets(self) -> Tensor:
        """The targets of all images."""
        raise NotImplementedError

    def target_spec(self) -> dict[str, Any]:
        """What the spec says of the target besides the modalities."""
        raise NotImplementedError

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of the training split, or the one that was set."""
        if self._spec is None:
            training = self.pixels[self.index["train"]] / 16
            spec = {"kind": "image", "shape": [1, 8, 8], "range": [0, 16]}
            spec |= {"mean": [float(training.mean())], "std": [float(training.std())]}
            self._spec = {"modalities": {"image": spec}, **self.target_spec()}
        return deepcopy(self._spec)

    @spec.setter
    def spec(self, stored: Mapping[str, Any]) -> None:
        self._spec = deepcopy(dict(stored))

    def _loader(self, split: str) -> DataLoader[Any]:
        spec, targets = self.spec["modalities"]["image"], self.targets()
        samples = [
            Sample(
                inputs={"image": preprocess(self.pixels[index], spec=spec, name="digit")},
                target=targets[index],
                id=f"digits/{int(index)}",
            )
            for index in self.index[split]
        ]
        collate = Collate(modalities=self.spec["modalities"])
        return DataLoader(samples, batch_size=self.batch_size, shuffle=split == "train", collate_fn=collate)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")


class LabelledDigits(DigitTargets):
    """Even, above 4, with a loop: any of them."""

    def targets(self) -> Tensor:
        return digit_labels(self.digits)

    def target_spec(self) -> dict[str, Any]:
        target = labels_target(names=LABELS, training=self.targets()[self.index["train"]])
        return {"target": target, "num_classes": len(LABELS)}


class InkCentres(DigitTargets):
    """Where the ink is."""

    def targets(self) -> Tensor:
        return ink_centres(self.pixels)

    def target_spec(self) -> dict[str, Any]:
        target = values_target(names=VALUES, training=self.targets()[self.index["train"]])
        return {"target": target, "num_outputs": len(VALUES)}
