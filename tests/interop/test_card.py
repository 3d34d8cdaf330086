"""Model cards and uploads: metadata that the Hub reads, the files of a run, and text that stays text."""

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from hostile_models import MODEL, SPEC, checkpoint

from perceiver.checkpoints.build import build_model
from perceiver.interop.card import model_card
from perceiver.interop.hub import from_pretrained, prepare_upload, push


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    checkpoint(run / "checkpoints", lambda model: None, name="best.ckpt")
    (run / "metrics.json").write_text(json.dumps({"test/accuracy": 0.9, "val/accuracy": 0.8, "test/note": "x"}))
    (run / "export").mkdir()
    (run / "export" / "model.onnx").write_bytes(b"onnx")
    return run


def test_card(run_directory: Path, tmp_path: Path) -> None:
    folder = prepare_upload(run_directory, tmp_path / "upload", name="me/digits")
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.onnx", "model.safetensors"]
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["library_name"] == "perceiver-multimodal"
    assert facts["pipeline_tag"] == "image-classification"
    assert facts["tags"] == ["image", "perceiver"]
    [index] = facts["model-index"]
    [result] = index["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9}]
    assert "HubPerceiver.from_pretrained('me/digits')" in body
    assert "| image | image | 1 × 8 × 8 |" in body
    assert from_pretrained(folder).spec == SPEC


def test_an_export_is_uploaded_with_its_step_unless_it_is_older(
    run_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exported = run_directory / "export" / "model.onnx"
    exported.with_name("model.step.onnx").write_bytes(b"step")
    folder = prepare_upload(run_directory, tmp_path / "both", name="x")
    assert sorted(file.name for file in folder.glob("*.onnx")) == ["model.onnx", "model.step.onnx"]
    os.utime(exported, (1, 1))
    folder = prepare_upload(run_directory, tmp_path / "none", name="x")
    assert not list(folder.glob("*.onnx"))
    assert "model.onnx is left out: it is older than" in caplog.text


def test_text_of_a_spec_stays_text() -> None:
    names = ["a|b", "<script>", "[x](http://y)\n# heading", "---"]
    spec: dict[str, Any] = {**SPEC, "target": {"kind": "classes", "names": names}}
    card = model_card(build_model(MODEL, spec=spec), name="x\n---\ny: 1")
    assert "\n# heading" not in card
    assert "\\<script\\>" in card
    assert "a\\|b" in card
    _, head, _ = card.split("---\n", 2)
    assert "y" not in yaml.safe_load(head)


def test_push(run_directory: Path) -> None:
    with mock.patch("perceiver.interop.hub.huggingface_hub.HfApi") as api:
        api.return_value.upload_folder.side_effect = lambda **given: mock.Mock(
            commit_url=",".join(sorted(file.name for file in Path(given["folder_path"]).iterdir()))
        )
        address = push(run_directory, "me/digits", private=True, token="secret")
    assert address == "README.md,config.json,model.onnx,model.safetensors"
    api.assert_called_once_with(token="secret")
    api.return_value.create_repo.assert_called_once_with("me/digits", private=True, exist_ok=True)
