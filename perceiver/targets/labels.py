"""Kind of target: any number of labels per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from perceiver.targets.comparison import Comparison
from perceiver.targets.predictions import LabelsPrediction


@dataclass(frozen=True)
class LabelsTarget:
    """Target with any number of labels per sample; outputs are logits.

    Args:
        names: label names, in the order of the outputs.
        threshold: minimum probability of a predicted label.
    """

    names: Sequence[str]
    threshold: float = 0.5

    def predict(self, outputs: Float[Tensor, "batch labels"]) -> list[LabelsPrediction]:
        """Return predictions with an independent probability per label."""
        tables = [dict(zip(self.names, row, strict=True)) for row in outputs.float().sigmoid().tolist()]
        return [
            LabelsPrediction(tuple(name for name, probability in table.items() if probability >= self.threshold), table)
            for table in tables
        ]

    def compare(self, outputs: Float[Tensor, "batch labels"], target: Shaped[Tensor, "batch labels"]) -> list[Comparison]:
        """Compare by the loss of the worst label: missing and extra labels weigh the same, however many there are."""
        wrong = (outputs.float().sigmoid() - target.float()).abs().amax(dim=1).tolist()
        truths = [tuple(name for name, share in zip(self.names, row, strict=True) if share > 0.5) for row in target.tolist()]
        return [
            Comparison(
                predicted=", ".join(one.labels) or "none",
                true=", ".join(truth) or "none",
                correct=one.labels == truth,
                loss=loss,
            )
            for one, truth, loss in zip(self.predict(outputs), truths, wrong, strict=True)
        ]


def labels_target(*, names: Sequence[str], training: Shaped[Tensor, "samples labels"]) -> dict[str, Any]:
    """Return the spec's entry `target` for labels: names, and how often each occurs in the training split.

    Args:
        names: label names.
        training: targets of the training split, 0 or 1.
    """
    check_columns(names, training)
    return {
        "kind": "labels",
        "names": list(names),
        "positives": (training > 0.5).sum(dim=0).tolist(),
        "samples": len(training),
    }


def check_columns(names: Sequence[str], training: Tensor) -> None:
    if training.shape[1] != len(names):
        raise ValueError(f"names: expected one for each of the {training.shape[1]} columns of training, got {len(names)}.")
