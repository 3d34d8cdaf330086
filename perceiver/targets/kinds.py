"""Table of all kinds of target: from `spec["target"]` to an object that interprets outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BufferedIOBase
from typing import Any, BinaryIO, ClassVar, Protocol, runtime_checkable

from jaxtyping import Shaped
from torch import Tensor

from perceiver.targets.classes import ClassTarget
from perceiver.targets.comparison import Comparison
from perceiver.targets.labels import LabelsTarget
from perceiver.targets.pixels import FieldTarget, SegmentationTarget
from perceiver.targets.predictions import (
    FieldPrediction,
    LabelsPrediction,
    Prediction,
    SegmentationPrediction,
    TextPrediction,
    ValuesPrediction,
)
from perceiver.targets.text import TextTarget
from perceiver.targets.values import ValuesTarget

AnyPrediction = Prediction | LabelsPrediction | ValuesPrediction | SegmentationPrediction | FieldPrediction | TextPrediction


@runtime_checkable
class SavedPrediction(Protocol):
    """A prediction that is too large for a table of predictions, which refers to a file instead."""

    suffix: ClassVar[str]

    def cells(self) -> dict[str, str]:
        """Return the cells of its row in the table, by column, besides the file."""
        ...

    def save(self, file: BinaryIO | BufferedIOBase) -> None:
        """Write the prediction to an open file."""
        ...


@runtime_checkable
class Target(Protocol):
    """Interpretation of a model's outputs, made from `spec["target"]`."""

    def predict(self, outputs: Any) -> Sequence[AnyPrediction]:
        """Interpret the outputs of B samples, `(B, *grid, outputs)` or generated sequences, one prediction each."""
        ...

    def compare(self, outputs: Any, target: Shaped[Tensor, "batch *any"]) -> list[Comparison]:
        """Compare predictions with truths, for B samples."""
        ...


KINDS: dict[str, Callable[[Mapping[str, Any]], Target]] = {
    "classes": lambda target: ClassTarget(names=target["names"]),
    "labels": lambda target: LabelsTarget(names=target["names"], threshold=target.get("threshold", 0.5)),
    "values": lambda target: ValuesTarget(names=target["names"], mean=target["mean"], std=target["std"]),
    "segmentation": lambda target: SegmentationTarget(names=target["names"], modality=target["modality"]),
    "field": FieldTarget.of,
    "flow": FieldTarget.of,
    "text": TextTarget.of,
}
"""Makes the `Target` of a spec's entry `target`, by kind."""


def target_of(spec: Mapping[str, Any] | None) -> Target | None:
    """Return the target of a spec; None if it declares no target or an unknown kind."""
    target = (spec or {}).get("target") or {}
    make = KINDS.get(str(target.get("kind")))
    return None if make is None else make(target)
