"""Lightning data modules: real data in, `perceiver.batch.Batch` out, and the `spec` that describes the data."""

from perceiver.data.augmentation import RandomAffine
from perceiver.data.digits import Digits
from perceiver.data.mnist import MNIST

__all__ = ["MNIST", "Digits", "RandomAffine"]
