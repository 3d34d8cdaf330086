"""Default data set: 1,797 real handwritten digits of 8 x 8 pixels, part of scikit-learn, without download.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits" (UCI Machine Learning Repository),
test set.
"""

from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from perceiver.data.loading.folds import Fold
from perceiver.data.loading.images import Images, LabelledImages, image_spec, image_statistics
from perceiver.data.loading.source import Source
from perceiver.data.loading.splits import stratified_split

VALUE_RANGE = (0, 16)


class Digits(Source):
    """scikit-learn's digits, split by class into training, validation and test.

    The set has no official split. The test split depends on `test_size` and `split_seed` only, so that runs
    with other validation sizes or training seeds remain comparable. Batches hold `inputs["image"]` `(B, 1, 8,
    8)`.

    Args:
        validation_size: number of validation images.
        test_size: number of test images, without folds.
        split_seed: seed of the split; not the training seed.
        folds: number of folds of a cross-validation of all images. None: no cross-validation.
        fold: number of the fold that is the test split, from 0; validation images are split off the other folds.

    Raises:
        ValueError: for a size that leaves no images for another split.
    """

    def __init__(
        self,
        *,
        validation_size: int = 180,
        test_size: int = 360,
        split_seed: int = 0,
        folds: int | None = None,
        fold: int | None = None,
    ) -> None:
        super().__init__(
            specs=image_spec((1, 8, 8), value_range=VALUE_RANGE),
            class_names=[str(digit) for digit in range(10)],
            split_seed=split_seed,
            fold=Fold.chosen(folds=folds, fold=fold),
        )
        self.validation_size = validation_size
        self.test_size = test_size

    def read_training(self) -> tuple[LabelledImages, LabelledImages]:
        """Return 1,257 and 180 images by default."""
        remaining, _ = self._split_off_test()
        kept, taken = stratified_split(
            remaining.labels, size=self.validation_size, seed=self.split_seed, name="data.validation_size"
        )
        return remaining.take(kept), remaining.take(taken)

    def read_test(self) -> LabelledImages:
        """Return 360 images by default."""
        return self._split_off_test()[1]

    def statistics(self, training: Images) -> dict[str, dict[str, Any]]:
        """Return mean and standard deviation of the pixels."""
        return image_statistics(training)

    def _split_off_test(self) -> tuple[LabelledImages, LabelledImages]:
        pixels, labels = _read()
        images = LabelledImages(
            pixels=pixels,
            labels=labels,
            ids="digits",
            numbers=torch.arange(len(labels)),
            value_range=VALUE_RANGE,
        )
        if self.fold is None:
            kept, taken = stratified_split(images.labels, size=self.test_size, seed=self.split_seed, name="data.test_size")
        else:
            kept, taken = self.fold.split(images.labels, seed=self.split_seed, name="the digits")
        return images.take(kept), images.take(taken)


@cache
def _read() -> tuple[Tensor, Tensor]:
    """Pixels and labels, which scikit-learn has in a compressed text file; a run needs them for training and for testing."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 8, 8), torch.from_numpy(labels).long()
