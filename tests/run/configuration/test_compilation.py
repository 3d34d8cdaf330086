"""`torch.compile` in place: the same model, the same names, and few compilations."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra_runs import run
from warm_process import python

import perceiver

SUPPORT = Path(__file__).resolve().parents[2] / "support"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `compiled_models.py` saw, and the directory of its run."""
    directory = tmp_path_factory.mktemp("compiled") / "run"
    done = python(SUPPORT / "compiled_models.py", directory)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**seen, "directory": directory}


def test_layers_of_all_blocks_share_a_compilation_whatever_the_inputs(found: dict[str, Any]) -> None:
    assert found["layers"]["compilations"] == 2, "one for the first batch, one for batches of any size; not for each layer"


@pytest.mark.parametrize("what", ["layers", "model"])
def test_it_is_the_plain_model(found: dict[str, Any], what: str) -> None:
    assert found[what]["outputs"] < 1e-5
    assert found[what]["gradients"] < 1e-4
    assert found[what]["names"]


def test_all_of_the_model_is_compiled(found: dict[str, Any]) -> None:
    assert found["model"]["compilations"] > found["layers"]["compilations"]


def test_a_run_trains_and_its_checkpoint_is_a_plain_one(found: dict[str, Any]) -> None:
    assert found["run"]["code"] == 0, found["run"]["err"]
    assert "test/accuracy" in json.loads((found["directory"] / "metrics.json").read_text())
    assert not any("_orig_mod" in name for name in perceiver.load(found["directory"]).state_dict())


def test_other_words_are_refused(tmp_path: Path) -> None:
    code, _, err = run("compile=fast", f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert "compile: expected layers, model or null, got 'fast'." in err
