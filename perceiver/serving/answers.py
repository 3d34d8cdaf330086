"""Predictions as JSON."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

from perceiver.targets.predictions import (
    FieldPrediction,
    LabelsPrediction,
    Prediction,
    SegmentationPrediction,
    TextPrediction,
    ValuesPrediction,
)


def answer(prediction: Any) -> dict[str, Any]:
    """Return a prediction as plain values.

    Masks and values per pixel are files in base 64: a PNG whose pixels are class numbers, an array in NumPy's format.

    Raises:
        TypeError: for another kind of prediction.

    Examples:
        >>> answer(Prediction("cat", 0.9, {"cat": 0.9, "dog": 0.1}))
        {'kind': 'class', 'label': 'cat', 'probability': 0.9, 'probabilities': {'cat': 0.9, 'dog': 0.1}}
    """
    match prediction:
        case Prediction():
            return {
                "kind": "class",
                "label": prediction.label,
                "probability": prediction.probability,
                "probabilities": prediction.probabilities,
            }
        case LabelsPrediction():
            return {"kind": "labels", "labels": list(prediction.labels), "probabilities": prediction.probabilities}
        case ValuesPrediction():
            return {"kind": "values", "values": prediction.values}
        case TextPrediction():
            return {"kind": "text", "text": prediction.text, "score": prediction.score, "tokens": list(prediction.tokens)}
        case SegmentationPrediction():
            size = list(prediction.classes.shape)
            return {
                "kind": "mask",
                "names": list(prediction.names),
                "shares": prediction.shares,
                "size": size,
                "png": _file(prediction),
            }
        case FieldPrediction():
            return {
                "kind": "field",
                "names": list(prediction.names),
                "size": list(prediction.values.shape[1:]),
                "npy": _file(prediction),
            }
    raise TypeError(f"answer: expected a prediction of a built-in target, got {type(prediction).__name__}.")


def to_json(value: Any) -> bytes:
    """Return plain values as JSON; NaN and infinity, which JSON lacks, become null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _file(prediction: SegmentationPrediction | FieldPrediction) -> str:
    file = io.BytesIO()
    prediction.save(file)
    return base64.b64encode(file.getvalue()).decode("ascii")
