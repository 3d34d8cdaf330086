"""mode=export: the file, what is printed, and errors in one line."""

from pathlib import Path

import pytest
import torch
from hostile_models import checkpoint
from hydra_runs import run

import perceiver


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    checkpoint(tmp_path / "run" / "checkpoints", lambda model: None, name="best.ckpt")
    return tmp_path / "run"


def test_program(run_directory: Path, tmp_path: Path) -> None:
    arguments = ("mode=export", f"ckpt_path={run_directory}", "export.format=torch", f"hydra.run.dir={tmp_path / 'job'}")
    code, out, err = run(*arguments)
    assert code == 0, err
    file = run_directory / "export" / "model.pt2"
    assert f'load it with: torch.export.load("{file}").module()' in out
    extra = {"perceiver.json": ""}
    program = torch.export.load(file, extra_files=extra).module()
    assert '"names": ["0", "1"' in extra["perceiver.json"]
    image = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        expected = perceiver.load(run_directory)({"image": image})
    torch.testing.assert_close(program(image, torch.ones(5, dtype=torch.bool)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "mode=export: expected a checkpoint, ckpt_path=RUN_DIR"),
        (("ckpt_path={empty}",), "expected a run directory with checkpoints/best.ckpt"),
        (("ckpt_path={run}", "export.format=tflite"), "export.format: expected onnx or torch, got 'tflite'"),
        (("ckpt_path={run}", "export.opset=9"), "export.opset: expected 18 to 23, or null for that of torch"),
        (("ckpt_path={run}", "export.modalities=[sound]"), "export.modalities: expected a list of some of ['image']"),
        (("ckpt_path={run}", "export.outputs=logits"), "export.outputs: expected target, all or latents, got 'logits'"),
        (("ckpt_path={run}", "export.format=torch", "export.int8=true"), "export.int8: expected the format onnx"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors(arguments: tuple[str, ...], words: str, run_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    typed = [argument.format(run=run_directory, empty=tmp_path / "empty") for argument in arguments]
    code, _, err = run("mode=export", *typed, f"hydra.run.dir={tmp_path / 'job'}")
    assert code == 1
    assert words in err
    assert "Traceback" not in err
    assert not (run_directory / "export").exists()
