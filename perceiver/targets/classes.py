"""Kind of target: one of several classes per sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from perceiver.targets.comparison import Comparison


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
