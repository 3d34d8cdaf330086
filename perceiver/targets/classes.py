"""One of several classes per sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from perceiver.targets.comparison import Comparison


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one sample, and the probability of every class by name.

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
        """The cells of a row in a table of predictions, by column."""
        return {"prediction": self.label} | probability_cells(self.probabilities)


def probability_cells(probabilities: Mapping[str, float]) -> dict[str, str]:
    """A column for the probability of each class or label."""
    return {f"probability_{name}": f"{probability:.6g}" for name, probability in probabilities.items()}


@dataclass(frozen=True)
class ClassTarget:
    """One of several classes; outputs are logits.

    Args:
        names: of the classes 0, 1, …
    """

    names: Sequence[str]

    def predict(self, outputs: Float[Tensor, "batch classes"]) -> list[Prediction]:
        """Softmax over the classes."""
        predictions = []
        for row in outputs.float().softmax(dim=-1).cpu():
            best = int(row.argmax())
            table = dict(zip(self.names, row.tolist(), strict=True))
            predictions.append(Prediction(self.names[best], table[self.names[best]], table))
        return predictions

    def compare(self, outputs: Float[Tensor, "batch classes"], target: Shaped[Tensor, "batch *classes"]) -> list[Comparison]:
        """Targets are class numbers `(B,)` or shares of the classes, of which the largest counts."""
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
    """The entry `target` of the spec for classes: their names, and how many samples of the training split are of each."""
    return {"kind": "classes", "names": list(names), "counts": list(counts)}
