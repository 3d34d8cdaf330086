"""Outputs of an exported model -> predictions, in NumPy; the rules are those of `perceiver.targets`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceiver.exported.sequences import Generated
from perceiver.exported.tokenizers import END, PAD, START
from perceiver.targets.predictions import (
    FieldPrediction,
    LabelsPrediction,
    Prediction,
    SegmentationPrediction,
    TextPrediction,
    ValuesPrediction,
)

Array = NDArray[Any]


def predictions_of(outputs: Array, target: Mapping[str, Any]) -> list[Any]:
    """Return a prediction for each sample of `(B, …)` outputs; `target` is the spec's entry, of a kind in `KINDS`."""
    return list(KINDS[target["kind"]](outputs.astype(np.float32), target))


def texts_of(generated: Generated, text_of: Callable[[Sequence[int]], str], *, count: int) -> list[TextPrediction]:
    """Return the texts of generated sequences, the best one for each of `count` samples."""
    each = len(generated.ids) // count
    rows = zip(generated.ids.tolist(), generated.lengths.tolist(), generated.scores.tolist(), strict=True)
    predictions = []
    for ids, length, score in list(rows)[::each]:
        own = [number for number in ids[:length] if number not in (PAD, START, END)]
        predictions.append(TextPrediction(text=text_of(own), score=score, tokens=[text_of([number]) for number in own]))
    return predictions


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    normalised: Array = weights / weights.sum(axis=-1, keepdims=True)
    return normalised


def _classes(outputs: Array, target: Mapping[str, Any]) -> Sequence[Any]:
    names = [str(name) for name in target["names"]]
    predictions = []
    for row in softmax(outputs):
        best = int(row.argmax())
        table = dict(zip(names, row.tolist(), strict=True))
        predictions.append(Prediction(names[best], table[names[best]], table))
    return predictions


def _labels(outputs: Array, target: Mapping[str, Any]) -> Sequence[Any]:
    names, threshold = [str(name) for name in target["names"]], float(target.get("threshold", 0.5))
    with np.errstate(over="ignore"):
        shares = 1 / (1 + np.exp(-outputs))
    tables = [dict(zip(names, row, strict=True)) for row in shares.tolist()]
    return [LabelsPrediction(tuple(name for name, share in one.items() if share >= threshold), one) for one in tables]


def _values(outputs: Array, target: Mapping[str, Any]) -> Sequence[Any]:
    names = [str(name) for name in target["names"]]
    mean, std = (np.array(target[key], dtype=np.float64) for key in ("mean", "std"))
    return [
        ValuesPrediction(dict(zip(names, row, strict=True))) for row in (outputs.astype(np.float64) * std + mean).tolist()
    ]


def _segmentation(outputs: Array, target: Mapping[str, Any]) -> Sequence[Any]:
    names = tuple(str(name) for name in target["names"])
    probabilities = np.moveaxis(softmax(outputs), -1, 1)
    return [SegmentationPrediction(one.argmax(axis=0), one, names) for one in probabilities]


def _field(outputs: Array, target: Mapping[str, Any]) -> Sequence[Any]:
    names = tuple(str(name) for name in target["names"])
    mean, std = (np.array(target[key], dtype=np.float32) for key in ("mean", "std"))
    return [FieldPrediction(one, names) for one in np.moveaxis(outputs * std + mean, -1, 1)]


KINDS: dict[str, Callable[[Array, Mapping[str, Any]], Sequence[Any]]] = {
    "classes": _classes,
    "labels": _labels,
    "values": _values,
    "segmentation": _segmentation,
    "field": _field,
    "flow": _field,
}
"""Interpretation of outputs, by kind of target."""
