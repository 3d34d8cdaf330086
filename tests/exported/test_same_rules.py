"""Preparation of samples and interpretation of outputs in NumPy are those of training, for every built-in kind."""

import sys
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

from perceiver.exported.interpretation import KINDS, predictions_of
from perceiver.exported.preprocess import KINDS as PREPARED
from perceiver.exported.preprocess import preprocess
from perceiver.exported.tokenizers import _library_tokenizer
from perceiver.modalities import kinds
from perceiver.modalities import preprocess as training
from perceiver.modalities.texts.tokenizers import train_pairs
from perceiver.targets.kinds import KINDS as TARGETS
from perceiver.targets.kinds import target_of

GREY = {"kind": "image", "shape": [1, 5, 4], "range": [0, 255], "crop_fraction": 0.8, "mean": [0.3], "std": [0.2]}
COLOUR = {"kind": "image", "shape": [3, 5, 4], "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1]}
SOUND = {"kind": "audio", "shape": [1, None], "sample_rate": 8000, "max_seconds": 0.01, "mean": [0.0], "std": [0.1]}
SERIES = {"kind": "timeseries", "num_values": 2, "mean": [1.0, 2.0], "std": [2.0, 0.5], "step_seconds": 2.0}
TABLE = {
    "kind": "table", "numbers": ["a", "day"], "categories": {"c": ["1", "x"]}, "mean": [1.0, 1000.0], "std": [2.0, 50.0],
    "dates": {"day": {"unit": "days", "written": "iso"}}, "written": {"a": {"decimal": ",", "thousands": "", "unit": ""}},
}  # fmt: skip
POINTS = {"kind": "points", "shape": [None, 4], "unit_sphere": True}
BYTES = {"kind": "text", "shape": [None], "vocabulary_size": 262, "max_length": 7}


def outcome(call: Any) -> Any:
    """What a call returns, or the type of its error and the beginning of the message."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"[:35]


def assert_same(raw: Any, spec: dict[str, Any]) -> None:
    """The same arrays, or an error in both whose message begins in the same way."""
    theirs = outcome(lambda: training.preprocess(raw, spec=spec, name="x"))
    ours = outcome(lambda: preprocess(raw, spec, "x"))
    if isinstance(theirs, str):
        assert theirs == ours
        return
    parts: dict[Any, Any] = theirs if isinstance(theirs, dict) else {None: theirs}
    for part, x in parts.items():
        if x.numel():
            # Filters of up to 1700 coefficients are summed in another order.
            resampled = isinstance(raw, tuple) and raw[1] != spec["sample_rate"]
            tolerance = 2e-5 * float(x.abs().max()) if resampled else 2e-6
            np.testing.assert_allclose(ours[part], x.numpy(), rtol=1e-5, atol=tolerance, err_msg=str(part))


RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (9, 7, 3), dtype=np.uint8)
CASES: list[tuple[Any, dict[str, Any]]] = [
    (IMAGE[:5, :4, 0], {**GREY, "crop_fraction": 1.0}),
    (Image.fromarray(IMAGE), GREY),
    (Image.fromarray(IMAGE), {**GREY, "shape": [3, 5, 4], "mean": [0.3] * 3, "std": [0.2] * 3}),
    (Image.fromarray(IMAGE[:5, :4, 0]), {"kind": "image", "shape": [1, 5, 4], "range": [0, 255]}),
    (Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 200), GREY),
    (IMAGE[:5, :4], COLOUR),
    (IMAGE[:5, :4] / 255, COLOUR),
    (IMAGE[:5, :4] / 100, COLOUR),
    (IMAGE[:5, :4].tolist(), COLOUR),
    (IMAGE[:5, :4] > 99, COLOUR),
    ([Image.fromarray(IMAGE)] * 2, {"kind": "video", "shape": [3, 2, 9, 7]}),
    (np.stack([IMAGE, IMAGE]), {"kind": "video", "shape": [3, 2, 9, 7], "mean": [0.1] * 3, "std": [2.0] * 3}),
    (RANDOM.normal(size=300).astype(np.float32) / 5, SOUND),
    ((RANDOM.normal(size=300) * 3000).astype(np.int16), {**SOUND, "max_seconds": None}),
    ((RANDOM.integers(0, 256, 90, dtype=np.uint8), 8000), SOUND),
    ((RANDOM.normal(size=(2, 441)), 44100), {**SOUND, "max_seconds": None}),
    ((RANDOM.normal(size=301), 3000), {**SOUND, "max_seconds": None}),
    ((RANDOM.normal(size=301), 7919), {**SOUND, "max_seconds": None}),
    ((RANDOM.normal(size=90), 8000), {**SOUND, "shape": [2, None], "mean": [0.0] * 2, "std": [1.0] * 2}),
    ([1, 2, 40000], SOUND),
    (RANDOM.normal(size=(9, 4)) + 5, POINTS),
    (np.ones((3, 4)), POINTS),
    (RANDOM.normal(size=(9, 3)), POINTS),
    (RANDOM.normal(size=(2, 3)), {"kind": "array", "shape": [2, 3], "channel_axis": 0, "mean": [1.0] * 2, "std": [3.0] * 2}),
    ("häuser", BYTES),
    ("", BYTES),
    ("häuser", {**BYTES, "truncate": False}),
    ("häusern", {**BYTES, "truncate": False}),
    ([5, 261], BYTES),
    ([5, 262], BYTES),
    ({"a": "1,5", "day": "2024-02-03", "c": 1.0}, TABLE),
    ({"a": None, "c": "unseen"}, TABLE),
    ({"a": "x"}, TABLE),
    ({"z": 1}, TABLE),
    (np.array([[1.0, np.nan], [2.0, 3.0]]), SERIES),
    ({"values": [[1, 2], [3, 4], [5, 6]], "times": [9.0, 3.0, 9.0]}, SERIES),
    ({"values": np.ones((2, 2)), "times": np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[D]")}, SERIES),
    ({"values": np.ones((2, 2)), "times": [0.0, np.inf]}, SERIES),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "spec"), CASES)
def test_preparation(raw: Any, spec: dict[str, Any]) -> None:
    assert_same(raw, spec)


def test_texts_of_a_learned_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package `tokenizers` reads them; without it, ids can be passed."""
    learned = {"kind": "pairs", "json": train_pairs(["a dog", "two dogs"], vocabulary_size=262)}
    spec = {**BYTES, "tokenizer": learned}
    for raw in ("dogs", "</s> grün", [5, 7]):
        assert_same(raw, spec)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    _library_tokenizer.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="x: this model's tokenizer needs the package tokenizers"):
        preprocess("a", spec, "x")
    assert preprocess([5, 7], spec, "x")[None].tolist() == [5, 7]


def test_every_kind_has_its_rules() -> None:
    assert set(PREPARED) == set(kinds.KINDS)
    assert set(KINDS) == set(TARGETS) - {"text"}  # see test_text_decoder.py


@settings(max_examples=30)
@given(st.text(max_size=9) | st.lists(st.integers(0, 300), max_size=9))
def test_texts(raw: Any) -> None:
    assert_same(raw, BYTES)


CELL = st.none() | st.text("0123456789,.-x ", max_size=6) | st.floats() | st.integers(-5, 5) | st.booleans()


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["a", "day", "c"]), CELL))
def test_rows(raw: Any) -> None:
    assert_same(raw, TABLE)


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ({"kind": "classes", "names": ["a", "b"]}, (3, 2)),
        ({"kind": "labels", "names": ["a", "b"], "threshold": 0.3}, (3, 2)),
        ({"kind": "values", "names": ["a", "b"], "mean": [1e6, 0.0], "std": [2.0, 1.0]}, (3, 2)),
        ({"kind": "segmentation", "names": ["a", "b", "c"], "modality": "image"}, (2, 4, 5, 3)),
        ({"kind": "flow", "names": ["x", "y"], "mean": [0.0, 0.0], "std": [2.0, 2.0], "modality": "image"}, (2, 4, 5, 2)),
    ],
)
def test_interpretation(target: dict[str, Any], shape: tuple[int, ...]) -> None:
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 5
    made = target_of({"target": target})
    assert made is not None
    for ours, theirs in zip(predictions_of(outputs.numpy(), target), made.predict(outputs), strict=True):
        assert type(ours) is type(theirs)
        for key in ("label", "labels", "names"):
            assert getattr(ours, key, None) == getattr(theirs, key, None)
        for key in ("probabilities", "values", "classes"):
            mine, other = (getattr(one, key, 0) for one in (ours, theirs))
            mine, other = (list(one.values()) if isinstance(one, dict) else one for one in (mine, other))
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
