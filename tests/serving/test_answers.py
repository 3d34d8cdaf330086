"""Predictions as JSON, for every kind of target."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from perceiver.serving.answers import answer, to_json
from perceiver.serving.limits import Limits
from perceiver.serving.schema import openapi
from perceiver.targets.predictions import (
    FieldPrediction,
    LabelsPrediction,
    Prediction,
    SegmentationPrediction,
    TextPrediction,
    ValuesPrediction,
)

CLASSES = np.array([[0, 1, 1], [1, 1, 1]])
VALUES = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
PREDICTIONS = {
    "classes": Prediction("a", 0.75, {"a": 0.75, "b": 0.25}),
    "labels": LabelsPrediction(("b",), {"a": 0.25, "b": 0.75}),
    "values": ValuesPrediction({"a": 1.5, "b": float("nan")}),
    "text": TextPrediction("a dog", -1.5, ["a", " dog"]),
    "segmentation": SegmentationPrediction(CLASSES, np.zeros((2, 2, 3), np.float32), ("a", "b")),
    "field": FieldPrediction(VALUES, ("a", "b")),
}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_an_answer_is_json_with_the_properties_of_the_schema(kind: str) -> None:
    found = json.loads(to_json(answer(PREDICTIONS[kind])))
    document = openapi({"modalities": {}, "target": {"kind": kind, "names": ["a", "b"]}}, limits=Limits())
    schema = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(found) == set(schema["properties"])
    assert found["kind"] == {"classes": "class", "segmentation": "mask"}.get(kind, kind)


def test_content() -> None:
    assert answer(PREDICTIONS["labels"])["labels"] == ["b"]
    assert json.loads(to_json(answer(PREDICTIONS["values"])))["values"] == {"a": 1.5, "b": None}
    mask = answer(PREDICTIONS["segmentation"])
    assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(mask["png"])))), CLASSES)
    assert mask["shares"] == {"a": pytest.approx(1 / 6), "b": pytest.approx(5 / 6)}
    field = answer(PREDICTIONS["field"])
    assert np.array_equal(np.load(io.BytesIO(base64.b64decode(field["npy"]))), VALUES)
    with pytest.raises(TypeError, match="got int"):
        answer(5)
