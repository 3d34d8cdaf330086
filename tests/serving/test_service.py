"""The service: answers are the model's predictions, and an error is that of its request alone."""

import base64
import io
import json
import logging
import re
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("litserve")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import exported_models
import onnx_files
from PIL import Image
from served import Door, labels

from perceiver.model import Perceiver
from perceiver.serving.decoding import load_readers
from perceiver.serving.limits import Limits, RefusedError
from perceiver.serving.models import TorchModel, load_served
from perceiver.serving.request import Body
from perceiver.serving.service import _refused

TABLE = {"age": 30, "price": "1.234,50 €", "colour": "red"}


def png(size: tuple[int, int] = (6, 5), mode: str = "RGB") -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(file, format="PNG")
    return file.getvalue()


def wav(seconds: float = 0.15, rate: int = 8000) -> bytes:
    """A sound file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, rate, 0, "NONE", ""))
        sound.writeframes((3000 * np.sin(np.arange(int(seconds * rate)) / 5)).astype("<i2").tobytes())
    return file.getvalue()


@pytest.fixture(scope="module")
def model() -> Perceiver:
    made = exported_models.classifier("patches", "mel", "row", "text", "points", "series")
    assert made.spec is not None
    load_readers(made.spec["modalities"])
    return made


@pytest.fixture(scope="module")
def door(model: Perceiver) -> Door:
    limits = Limits(pixels=10_000, sound_seconds=0.5, request_seconds=5)
    return Door(TorchModel(model, name="model", threads=None), limits=limits)


@pytest.fixture(scope="module")
def onnx_door(tmp_path_factory: pytest.TempPathFactory) -> Door:
    file = onnx_files.write(tmp_path_factory.mktemp("onnx") / "model.onnx")
    return Door(load_served(file, threads=1), delay=0.03)


def in_json(content: bytes) -> dict[str, str]:
    """A file in JSON."""
    return {"bytes": base64.b64encode(content).decode()}


def test_forms_and_json_give_the_predictions_of_the_model(door: Door, model: Perceiver) -> None:
    image, sound, points = png(), wav(), [[0.0, 1.0, 2.0, 0.5], [1.0, 0.0, 1.0, 0.5]]
    cloud = io.BytesIO()
    np.save(cloud, np.array(points))
    series = {"values": [[1.0, None], [2.0, 3.0]], "times": [0.0, 1.5]}
    samples: list[dict[str, Any]] = [
        {"patches": image, "mel": sound, "row": TABLE, "text": "a cat"},
        {"patches": Image.open(io.BytesIO(image))},
        {"text": "a cat", "row": {"age": None}},
        {"points": np.array(points), "series": {key: np.array(value, dtype=float) for key, value in series.items()}},
    ]
    requests = [
        {
            "files": {"patches": ("../../etc/passwd", image), "mel": ("x.exe", sound)},
            "data": {"row": json.dumps(TABLE), "text": "a cat"},
        },
        {"json": {"patches": in_json(image)}},
        {"files": {"text": ("t.txt", b"a cat"), "row": ("r.json", b'{"age": null}')}},
        {"files": {"points": ("p.npy", cloud.getvalue())}, "data": {"series": json.dumps(series)}},
    ]
    answers = door.ask(*requests)
    assert [answer.status_code for answer in answers] == [200] * 4, [answer.text for answer in answers]
    for answer, expected in zip(answers, model.predict(samples), strict=True):
        assert answer.json()["label"] == expected.label
        assert answer.json()["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    again = door.post(json={"mel": in_json(sound), "points": points, "series": series["values"][1:] * 2, "text": [70, 71]})
    assert again.status_code == 400  # a series without times
    assert again.json()["error"].startswith("modality 'series': expected times")


def test_sound_as_numbers(door: Door, model: Perceiver) -> None:
    tone = np.sin(np.arange(800) / 9)
    answer = door.post(json={"mel": {"array": tone.tolist(), "sampling_rate": 4000}})
    [expected] = model.predict({"mel": (tone, 4000)})
    assert answer.json()["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "the body: expected JSON"),
    ({"content": b"[" * 10**5, "headers": {"content-type": "application/json"}}, 400, "the body"),
    ({"content": b"\xff\xfe", "headers": {"content-type": "application/json"}}, 400, "the body: expected JSON in UTF-8"),
    ({"json": [1]}, 400, "the body: expected a JSON object"),
    ({"json": {}}, 400, "expected one or more of the modalities"),
    ({"json": {"x": 1}}, 400, r"got also \['x'\]"),
    ({"json": {f"{n}" * 99: 1 for n in range(9)}}, 400, "and 4 more"),
    ({"content": b"a=b"}, 415, "content-type: expected application/json or multipart/form-data, got ''"),
    ({"data": {"text": "a"}}, 415, "got 'application/x-www-form-urlencoded'"),
    ({"content": b"zzz", "headers": {"content-type": "multipart/form-data"}}, 400, "the form is malformed"),
    ({"content": b"zzz", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "the form is malformed|none"),
    ({"files": [("text", ("a", b"a")), ("text", ("b", b"b"))]}, 400, "'text': expected one part of this name"),
    ({"json": {"patches": "/etc/passwd"}}, 400, "modality 'patches': .*got a text; files on the server are not opened"),
    ({"json": {"patches": {"path": "/etc/passwd"}}}, 400, "modality 'patches': .*got an object"),
    ({"json": {"patches": {"bytes": None, "path": "/etc/passwd"}}}, 400, "modality 'patches': .*got an object"),
    ({"json": {"patches": {"bytes": 5}}}, 400, "got a number as bytes"),
    ({"json": {"patches": {"bytes": "é"}}}, 400, "expected bytes as text in base 64"),
    ({"json": {"patches": {"bytes": ""}}}, 400, "got 0 bytes"),
    ({"json": {"patches": [["/etc/passwd"]]}}, 400, "expected numbers, got texts in lists"),
    ({"json": {"patches": [[1, 2], [3]]}}, 400, "expected numbers in lists of equal length"),
    ({"json": {"patches": [{"a": 1}]}}, 400, "expected numbers, got other values in lists"),
    ({"json": {"patches": None}}, 400, 'modality .patches.: expected .*base 64>"}, got null'),
    ({"files": {"patches": ("a.png", b"no image")}}, 400, "cannot read 8 bytes as image. Expected one of PNG"),
    ({"files": {"patches": ("a.png", png()[:60])}}, 400, "cannot read 60 bytes as image"),
    ({"files": {"patches": ("a.png", png((101, 100)))}}, 413, "at most 10,000 pixels in an image, got 10,100"),
    ({"files": {"mel": ("a.wav", wav(0.6))}}, 200, ""),  # the model cuts recordings
    ({"json": {"mel": {"array": [0.1], "sampling_rate": "8000"}}}, 400, "hertz as sampling_rate, got '8000'"),
    ({"json": {"mel": {"array": [0.1], "sampling_rate": 1e300}}}, 400, "whole number of hertz"),
    ({"json": {"mel": 5}}, 400, 'expected {"array": numbers, "sampling_rate": hertz}, or .*got a number'),
    ({"json": {"row": [1, 2]}}, 400, "modality 'row': expected an object of values by column, got a list"),
    ({"json": {"row": {"weight": 1}}}, 400, "modality 'row': expected columns among .*'weight'"),
    ({"json": {"row": {"age": {"a": 1}}}}, 400, "column 'age': expected a number or a text, got an object"),
    ({"json": {"row": {"age": "old"}}}, 400, "modality 'row', column 'age'"),
    ({"json": {"text": ""}}, 400, "modality 'text'"),
    ({"json": {"text": [10**30]}}, 400, "modality 'text'"),
    ({"json": {"text": [-1]}}, 400, "modality 'text': expected ids"),
    ({"files": {"text": ("a", b"\xff")}}, 400, "modality 'text': is not UTF-8: byte 0 is 0xff"),
    ({"data": {"row": "{"}, "files": {"text": ("a", b"a")}}, 400, "modality 'row': expected JSON"),
    ({"json": {"series": {"values": "x"}}}, 400, "modality 'series', 'values': expected numbers in lists, got a text"),
    ({"json": {"series": {"x": [1]}}}, 400, "modality 'series': expected values, times"),
    ({"content": b'{"points": [[NaN, 0, 0, 0]]}', "headers": {"content-type": "application/json"}}, 400, "NaN or infinite"),
    ({"content": b'{"points": [[1e999, 0, 0, 0]]}', "headers": {"content-type": "application/json"}}, 400, "infinite"),
    ({"json": {"points": [[0, 0]]}}, 400, r"modality 'points': expected shape \(any, 4\)"),
]


@pytest.mark.parametrize(("request_", "status", "words"), BAD, ids=[words[:40] for _, _, words in BAD])
def test_a_bad_request_is_one_clear_error(request_: dict[str, Any], status: int, words: str, door: Door) -> None:
    answer = door.post(**request_)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert set(answer.json()) == {"error"}
        assert "Traceback" not in answer.text
        assert "root:" not in answer.text
        assert "\n" not in answer.json()["error"]
        assert re.search(words, answer.json()["error"]), answer.json()["error"]


def test_one_bad_request_among_others_of_a_batch(onnx_door: Door) -> None:
    """Every order; the model gets one batch of the good ones."""
    dark, light = {"json": {"image": [[0, 0], [0, 0]]}}, {"json": {"image": [[9, 9], [9, 9]]}}
    bad = [{"json": {"image": [[99, 0], [0, 0]]}}, {"json": {"image": "x"}}, {"json": {}}, {"content": b"{"}]
    answers = onnx_door.ask(bad[0], dark, bad[1], light, bad[2], light, bad[3])
    assert [answer.status_code for answer in answers] == [400, 200, 400, 200, 400, 200, 415]
    assert labels([answers[1], answers[3], answers[5]]) == ["dark", "light", "light"]
    assert "in [0, 10]" in answers[0].json()["error"]


def test_a_sample_that_fails_only_in_the_batch_fails_alone(onnx_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx_door.api.model
    assert model is not None
    predict, sizes = model.predict, []

    def fails(samples: Any) -> list[Any]:
        sizes.append(len(samples))
        if any(sample["image"][None].max() > 0.8 for sample in samples):
            raise RuntimeError("secret of the server")
        return predict(samples)

    monkeypatch.setattr(model, "predict", fails)
    logging.disable(logging.CRITICAL)
    try:
        answers = onnx_door.ask({"json": {"image": [[0, 0], [0, 0]]}}, {"json": {"image": [[9, 9], [9, 9]]}})
    finally:
        logging.disable(logging.NOTSET)
    assert [answer.status_code for answer in answers] == [200, 500]
    assert "secret" not in answers[1].text
    assert sizes == [2, 1, 1]


def test_batches_have_at_most_max_batch(onnx_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = onnx_door.api.model, []
    assert model is not None
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda samples: sizes.append(len(samples)) or predict(samples))
    monkeypatch.setattr(onnx_door.api, "max_batch_size", 3)
    answers = onnx_door.ask(*[{"json": {"image": [[value, 0], [0, 0]]}} for value in range(8)])
    assert labels(answers) == ["dark", *["light"] * 7]
    assert sorted(sizes) == [2, 3, 3]


def test_too_many_requests_and_too_slow_ones(onnx_door: Door) -> None:
    assert onnx_door.api.model is not None
    image = {"json": {"image": [[0, 0], [0, 0]]}}
    few = Door(onnx_door.api.model, limits=Limits(requests=2), delay=0.05)
    answers = few.ask(*[image] * 5)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
    assert labels([few.post(**image)]) == ["dark"]
    slow = Door(onnx_door.api.model, limits=Limits(request_seconds=0.05), delay=0.2)
    answer = slow.post(**image)
    assert (answer.status_code, answer.json()["error"][:44]) == (504, "expected a request that takes at most 0.05 s")
    assert onnx_door.post(**image).status_code == 200


def test_a_sample_that_takes_too_long(onnx_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker stops it, even if a reader of files turns exceptions into errors of the file."""
    assert onnx_door.api.model is not None
    door = Door(onnx_door.api.model, limits=Limits(request_seconds=0.1))

    def endless(raw: Any) -> Any:
        try:
            while True:
                time.sleep(0.01)
        except Exception as error:
            raise ValueError("damaged") from error

    monkeypatch.setattr(onnx_door.api.model, "prepare", endless)
    refused = door.api.decode_request(Body(b'{"image": [[0, 0], [0, 0]]}'))
    assert isinstance(refused, RefusedError)
    assert refused.status == 504


def test_spec_health_and_openapi(door: Door, model: Perceiver) -> None:
    spec = door.get("/spec").json()
    assert set(spec["modalities"]) == {"patches", "mel", "row", "text", "points", "series"}
    assert spec["modalities"]["row"]["categories"]["colour"] == ["blue", "red"]
    assert "mean" not in spec["modalities"]["row"]
    assert spec["target"] == {"kind": "classes", "names": ["cat", "dog", "owl"]}
    assert spec["limits"]["pixels"] == 10_000
    assert door.get("/health").status_code == 200
    document = door.get("/openapi.json").json()
    assert set(document["paths"]) == {"/predict", "/spec", "/health"}
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    assert set(content["application/json"]["schema"]["properties"]) == set(spec["modalities"])
    for missing in ("/docs", "/redoc", "/nothing"):
        assert door.get(missing).json() == {"error": "Not Found"}


def test_errors_for_the_log_stay_there(caplog: pytest.LogCaptureFixture) -> None:
    assert str(_refused(ValueError("sample 0, modality 'x': bad"))) == "modality 'x': bad"
    assert str(_refused(ValueError("sample '0': bad"))) == "bad"
    assert _refused(MemoryError()).status == 413
    with caplog.at_level(logging.ERROR):
        assert "secret" not in str(_refused(KeyError("secret")))
    assert "secret" in caplog.text
    path = Path("unused")
    assert str(path) not in str(_refused(OSError(path)))
