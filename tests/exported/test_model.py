"""Exported models: what is read of files, of samples and of outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx_files
from onnx_files import HOSTILE, METADATA, write
from PIL import Image

import perceiver.exported
from perceiver.exported import ExportedFileError, ExportedModel, load


@pytest.fixture
def model(tmp_path: Path) -> ExportedModel:
    return load(write(tmp_path / "model.onnx"), threads=1)


def test_prediction(model: ExportedModel) -> None:
    dark, light = np.zeros((2, 2), np.uint8), np.full((2, 2), 10)
    found = model.predict([dark, light, {"image": light}])
    assert [one.label for one in found] == ["dark", "light", "light"]
    assert found[1].probability == pytest.approx(1 / (1 + np.exp(-8)), abs=1e-6)
    assert model.predict(light)[0] == found[1]
    assert model.predict({"image": Image.fromarray(dark)})[0].label == "dark"
    assert model.predict(np.stack([dark, light]), batch_size=1) == found[:2]
    assert list(model.run({"image": np.ones((2, 1, 2, 2))})["output"][1]) == [-4, 4]
    assert list(model.run({"image": np.ones((1, 1, 2, 2)), "image.mask": [False]})["output"][0]) == [0, 0]
    assert "modalities=['image']" in repr(model)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"sound": 1}, r"sample 0: expected one or more of the modalities \['image'\], got \['sound'\]"),
        ({}, "sample 0: expected one or more"),
        ({"image": np.full((2, 2), 11)}, r"sample 0, modality 'image': expected integers in \[0, 10\]"),
        ({"image": np.zeros((3, 2), np.uint8)}, r"expected shape \(1, 2, 2\) as in training, got \(1, 3, 2\)"),
        ({"image": np.full((2, 2), np.nan)}, "4 of 4 values are NaN"),
        ({"image": b"no image"}, "cannot read 8 bytes as image"),
        ({"image": "text"}, "expected an array"),
        ({"image": np.array([["a"]])}, "expected numbers"),
    ],
)
def test_a_bad_sample(sample: Any, words: str, model: ExportedModel) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        model.predict(sample)


def test_cut_texts_are_counted(
    model: ExportedModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {"kind": "text", "shape": [None], "vocabulary_size": 262, "max_length": 4}
    monkeypatch.setitem(model.spec["modalities"], "image", text)
    monkeypatch.setattr("perceiver.exported.model.batch_of", lambda rows, *facts, **names: {"rows": rows})
    monkeypatch.setattr(ExportedModel, "run", lambda self, batch: batch)
    texts = ["abcdefg", "abcd", np.arange(6, 11)]
    lengths = [len(row["image"][None]) for batch, _ in model.compute(texts, batch_size=2) for row in batch["rows"]]
    assert lengths == [4, 4, 4]
    assert len(caplog.messages) == 1
    assert "predict, modality 'image': 2 of 3 texts have more than max_length = 4 ids" in caplog.text
    monkeypatch.setitem(text, "truncate", False)
    with pytest.raises(ValueError, match="sample 1, modality 'image': expected a text of at most max_length = 4 ids, got 7"):
        list(model.compute(texts[1::-1]))


def test_bad_calls(model: ExportedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        model.predict([], batch_size=0)
    with pytest.raises(ValueError, match=r"got also \['x'\]"):
        model.run({"x": np.ones(1)})
    with pytest.raises(ValueError, match="at least one modality"):
        model.run({})
    with pytest.raises(ValueError, match="predicts no text"):
        model.fill_in("[MASK]")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(tmp_path / "missing.onnx")
    with pytest.raises(FileNotFoundError, match="expected a run directory with export/model.onnx"):
        load(tmp_path / "..")
    (tmp_path / "program.pt2").touch()
    with pytest.raises(ExportedFileError, match="a torch.export program"):
        load(tmp_path / "program.pt2")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file(name: str, tmp_path: Path) -> None:
    """It is refused before a runtime reads it, or by comparison with its graph."""
    change, metadata, words = HOSTILE[name]
    file = write(tmp_path / "model.onnx", change=change, metadata=metadata)
    with pytest.raises(ExportedFileError, match=words) as caught:
        load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_file(share: float, tmp_path: Path) -> None:
    file = write(tmp_path / "model.onnx")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ExportedFileError, match=r"not an ONNX file, or damaged|no metadata|the graph|cannot load"):
        load(file)


def test_another_opset(tmp_path: Path) -> None:
    """The error names the opset of the file and the version of the runtime."""

    def later(made: Any) -> None:
        made.opset_import[0].version = 99

    file = write(tmp_path / "model.onnx", change=later)
    with pytest.raises(ExportedFileError, match=r"onnxruntime \d.*cannot load it \(opset 99, written with torch 2\.9\)"):
        load(file)


def test_values_of_a_spec_stay_data(tmp_path: Path) -> None:
    names = ["${oc.env:HOME}", "{x}"]
    metadata = onnx_files.with_value("spec.target.names", names)
    assert load(write(tmp_path / "model.onnx", metadata=metadata)).predict(np.zeros((2, 2)))[0].label == names[0]
    assert perceiver.exported.__all__ == ["ExportedFileError", "ExportedModel", "load"]
    assert METADATA["spec"]["target"]["names"] == ["dark", "light"]


@pytest.mark.parametrize("kind", [None, "pictures"])
def test_facts_of_a_kind_that_is_not_built_in(kind: str | None, tmp_path: Path) -> None:
    """Its samples are arrays of the spec's shape, whatever the shape says."""
    [name] = METADATA["spec"]["modalities"]
    entry = {"kind": kind, "shape": 2}
    metadata = onnx_files.with_value(f"spec.modalities.{name}", entry)
    with pytest.raises(ExportedFileError, match=r"metadata is damaged: spec\.modalities\.image\.shape: expected a list"):
        load(write(tmp_path / "model.onnx", metadata=metadata))
