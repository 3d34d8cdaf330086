"""Predictions of one sample, for each kind of target. Without torch: exported models return them, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BufferedIOBase
from typing import BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from perceiver.targets.alignment import Alignment

PALETTE = (
    "1f77b4aec7e8ff7f0effbb782ca02c98df8ad62728ff98969467bdc5b0d5"
    "8c564bc49c94e377c2f7b6d27f7f7fc7c7c7bcbd22dbdb8d17becf9edae5"
)
"""Twenty class colours, RGB in hexadecimal: matplotlib's `tab20`."""


@dataclass(frozen=True)
class Prediction:
    """Most probable class of one sample, and the probability of every class by name.

    Examples:
        >>> import torch
        >>> from perceiver.targets.classes import ClassTarget
        >>> [prediction] = ClassTarget(names=["cat", "dog"]).predict(torch.tensor([[2.0, 0.0]]))
        >>> prediction.label, round(prediction.probability, 2)
        ('cat', 0.88)
    """

    label: str
    probability: float
    probabilities: dict[str, float]

    def cells(self) -> dict[str, str]:
        """Return the cells of a row in a table of predictions, by column."""
        return {"prediction": self.label} | probability_cells(self.probabilities)


def probability_cells(probabilities: Mapping[str, float]) -> dict[str, str]:
    """Return cells for the probability of each class or label."""
    return {f"probability_{name}": f"{probability:.6g}" for name, probability in probabilities.items()}


@dataclass(frozen=True)
class LabelsPrediction:
    """Labels of one sample whose probability reaches the threshold, and the probability of every label by name.

    Examples:
        >>> import torch
        >>> from perceiver.targets.labels import LabelsTarget
        >>> [prediction] = LabelsTarget(names=["red", "round", "soft"]).predict(torch.tensor([[2.0, 1.0, -1.0]]))
        >>> prediction.labels
        ('red', 'round')
    """

    labels: tuple[str, ...]
    probabilities: dict[str, float]

    def cells(self) -> dict[str, str]:
        """Return the cells of a row in a table of predictions, by column."""
        return {"prediction": ";".join(self.labels)} | probability_cells(self.probabilities)


@dataclass(frozen=True)
class ValuesPrediction:
    """Values of one sample by name, in the units of the training data.

    Examples:
        >>> import torch
        >>> from perceiver.targets.values import ValuesTarget
        >>> target = ValuesTarget(names=["height"], mean=[1.7], std=[0.1])
        >>> target.predict(torch.tensor([[2.0]]))
        [ValuesPrediction(values={'height': 1.9})]
    """

    values: dict[str, float]

    def cells(self) -> dict[str, str]:
        """Return the cells of a row in a table of predictions, by column, at full precision."""
        return {f"prediction_{name}": repr(value) for name, value in self.values.items()}


@dataclass(frozen=True, eq=False)
class SegmentationPrediction:
    """Most probable class of every pixel of one sample.

    Args:
        classes: `(H, W)`, class numbers.
        probabilities: `(classes, H, W)`, float32.
        names: class names 0, 1, …

    Examples:
        >>> import torch
        >>> from perceiver.targets.pixels import SegmentationTarget
        >>> target = SegmentationTarget(names=["sky", "sea"], modality="image")
        >>> [prediction] = target.predict(torch.tensor([[[[3.0, 0.0], [0.0, 3.0]]]]))  # (1, 1, 2, classes)
        >>> prediction.classes.tolist(), prediction.shares
        ([[0, 1]], {'sky': 0.5, 'sea': 0.5})
    """

    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    names: tuple[str, ...]

    suffix: ClassVar[str] = ".png"
    """File name suffix for `save`."""

    def cut(self, height: int, width: int) -> SegmentationPrediction:
        """Return the prediction for the first rows and columns."""
        return replace(self, classes=self.classes[:height, :width], probabilities=self.probabilities[:, :height, :width])

    def cells(self) -> dict[str, str]:
        """Return the cells of a row in a table of predictions, by column, besides the file."""
        return {f"share_{name}": f"{share:.6g}" for name, share in self.shares.items()}

    def save(self, file: BinaryIO | BufferedIOBase) -> None:
        """Write class numbers as the pixels of a PNG with a palette; with more than 256 classes, 16-bit grey."""
        from PIL import Image  # exported models of other targets need no Pillow

        if len(self.names) > 256:
            image = Image.fromarray(self.classes.astype(np.uint16))
        else:
            image = Image.fromarray(self.classes.astype(np.uint8))
            image.putpalette(bytes.fromhex((PALETTE * 13)[: 256 * 6]))
        image.save(file, format="PNG")  # type: ignore[arg-type]  # Pillow only writes to it

    @property
    def shares(self) -> dict[str, float]:
        """Return the share of pixels of each class, by name."""
        counts = np.bincount(self.classes.ravel(), minlength=len(self.names))
        return dict(zip(self.names, (counts / counts.sum()).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class FieldPrediction:
    """Values of every pixel of one sample, in the units of the training data.

    Args:
        values: `(E, H, W)`, float32; for optical flow, pixels to the right and down, from first to second frame.
        names: names of the E values.

    Examples:
        >>> import torch
        >>> from perceiver.targets.pixels import FieldTarget
        >>> target = FieldTarget(names=["x", "y"], mean=[0.0, 0.0], std=[2.0, 2.0], modality="frames")
        >>> [prediction] = target.predict(torch.ones(1, 4, 6, 2))
        >>> prediction.values.shape, float(prediction.values.max())
        ((2, 4, 6), 2.0)
    """

    values: NDArray[np.float32]
    names: tuple[str, ...]

    suffix: ClassVar[str] = ".npy"
    """File name suffix for `save`."""

    def cut(self, height: int, width: int) -> FieldPrediction:
        """Return the prediction for the first rows and columns."""
        return replace(self, values=self.values[:, :height, :width])

    def cells(self) -> dict[str, str]:
        """Return the cells of a row in a table of predictions, by column, besides the file: the mean of each value."""
        means = self.values.reshape(len(self.names), -1).mean(axis=1, dtype=np.float64).tolist()
        return {f"mean_{name}": f"{mean:.6g}" for name, mean in zip(self.names, means, strict=True)}

    def save(self, file: BinaryIO | BufferedIOBase) -> None:
        """Write the values as an array in NumPy's format."""
        np.save(file, self.values)


@dataclass(frozen=True)
class TextPrediction:
    """Generated text of one sample.

    Args:
        text: the text.
        score: sum of the log probabilities of its ids; for beam search divided by the length penalty.
        tokens: the text of each id, the end excluded.
        alignment: how much each word depends on each part of the inputs; None unless asked for.

    Examples:
        >>> from perceiver.targets.predictions import TextPrediction
        >>> TextPrediction(text="a dog", score=-1.5, tokens=["a", " dog"]).cells()
        {'prediction': 'a dog', 'score': '-1.5'}
    """

    text: str
    score: float
    tokens: list[str]
    alignment: Alignment | None = None

    def cells(self) -> dict[str, str]:
        """Return the cells of a row in a table of predictions, by column."""
        return {"prediction": self.text, "score": f"{self.score:.6g}"}
