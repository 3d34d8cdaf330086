"""Kind of target: one of several classes per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from perceiver.targets.comparison import Comparison
from perceiver.targets.predictions import Prediction


@dataclass(frozen=True)
class ClassTarget:
    """Target with one class per sample; outputs are logits.

    Args:
        names: class names 0, 1, …
    """

    names: Sequence[str]

    def predict(self, outputs: Float[Tensor, "batch classes"]) -> list[Prediction]:
        """Return predictions by a softmax over the classes."""
        predictions = []
        for row in outputs.float().softmax(dim=-1).cpu():
            best = int(row.argmax())
            table = dict(zip(self.names, row.tolist(), strict=True))
            predictions.append(Prediction(self.names[best], table[self.names[best]], table))
        return predictions

    def compare(self, outputs: Float[Tensor, "batch classes"], target: Shaped[Tensor, "batch *classes"]) -> list[Comparison]:
        """Compare with class numbers `(B,)`, or with the most probable of class probabilities."""
        truths = (target.argmax(dim=1) if target.is_floating_point() else target).tolist()
        return [
            Comparison(
                predicted=f"{one.label} ({one.probability:.0%})",
                true=self.names[truth],
                correct=one.label == self.names[truth],
                loss=1.0 - one.probabilities[self.names[truth]],
            )
            for one, truth in zip(self.predict(outputs), truths, strict=True)
        ]


def classes_target(*, names: Sequence[str], counts: Sequence[int]) -> dict[str, Any]:
    """Return the spec's entry `target` for classes: names, and the number of training samples of each."""
    return {"kind": "classes", "names": list(names), "counts": list(counts)}
