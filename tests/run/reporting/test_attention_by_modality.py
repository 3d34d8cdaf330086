"""What is logged of the attention that each modality gets while validating."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra_runs import OTHER_DATA
from hydra_runs import run as train
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy
from plots_cases import MODALITIES, model
from torch.utils.data import DataLoader

import perceiver
from perceiver.objectives import classification
from perceiver.run.reporting.attention_by_modality import AttentionByModality
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.training import Task

SIZE = 4


def samples(count: int = 14) -> list[Sample]:
    """Every third lacks points, and every fourth has nothing else."""
    made = []
    for number in range(count):
        inputs = {"image": torch.randn(3, 9, 8), "points": torch.randn(5 + number % 3, 4)}
        if number % 3 == 0:
            del inputs["points"]
        elif number % 4 == 0:
            del inputs["image"]
        made.append(Sample(inputs=inputs, target=number % 3, id=f"sample/{number}"))
    return made


def loader(items: list[Sample]) -> DataLoader[Any]:
    collate = Collate(modalities=MODALITIES)
    return DataLoader(items, batch_size=SIZE, collate_fn=collate)  # type: ignore[arg-type]


def task(*modalities: str) -> Task:
    perceiver, objective = model(*modalities).train(), classification(num_classes=3)
    return Task(model=perceiver, objective=objective, optimizer=partial(torch.optim.SGD, lr=0.0))


def trainer(directory: Path, *callbacks: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    settings: dict[str, Any] = {"callbacks": list(callbacks), "enable_checkpointing": False, **quiet}
    return Trainer(max_epochs=1, accelerator="cpu", default_root_dir=directory, **settings)


@pytest.mark.parametrize("num_batches", [1, 2, 9])
def test_means_over_the_first_samples_and_all_cross_attends(tmp_path: Path, num_batches: int) -> None:
    """The last batch is smaller: samples count, not batches."""
    learner, items = task("image", "points"), samples()
    runner = trainer(tmp_path, AttentionByModality(num_batches=num_batches))
    runner.validate(learner, loader(items), verbose=False)
    logged = {name: float(value) for name, value in runner.callback_metrics.items() if name.startswith("val/attention/")}
    batch: Batch = Collate(modalities=MODALITIES)(items[: num_batches * SIZE])
    with torch.no_grad():
        steps = learner.model.eval().attention_weights(batch.inputs, batch.masks)
    expected = {
        f"val/attention/{name}": float(torch.stack([step[name].flatten(3).sum(-1).mean() for step in steps]).mean())
        for name in ("image", "points")
    }
    assert logged == pytest.approx(expected, abs=1e-5)
    assert sum(logged.values()) == pytest.approx(1.0, abs=1e-5)


def test_a_modality_that_no_sample_has_gets_nothing(tmp_path: Path) -> None:
    learner = task("image", "points", "sound")
    runner = trainer(tmp_path, AttentionByModality())
    runner.validate(learner, loader(samples()), verbose=False)
    assert float(runner.callback_metrics["val/attention/sound"]) == 0.0


def test_training_is_not_disturbed(tmp_path: Path) -> None:
    results = []
    for callbacks in ([], [AttentionByModality()]):
        torch.manual_seed(1)
        learner = task("image", "points")
        runner = trainer(tmp_path, *callbacks)
        runner.fit(learner, loader(samples()), loader(samples()))
        results.append({name: float(value) for name, value in runner.callback_metrics.items()})
    added = {f"val/attention/{name}" for name in ("image", "points")}
    assert results[1].keys() - results[0].keys() == added
    assert {name: value for name, value in results[1].items() if name not in added} == results[0]


def test_a_single_modality_is_not_logged(tmp_path: Path) -> None:
    items = [Sample(inputs={"image": torch.randn(3, 9, 8)}, target=0, id=str(number)) for number in range(4)]
    runner = trainer(tmp_path, AttentionByModality())
    runner.validate(task("image"), loader(items), verbose=False)
    assert set(runner.callback_metrics) == {"val/loss", "val/accuracy"}


def test_sharded_and_other_models_are_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, callback = task("image", "points"), AttentionByModality()
    batch = Collate(modalities=MODALITIES)(samples(4))
    monkeypatch.setattr(learner.model, "attention_by_modality", pytest.fail)
    runner = trainer(tmp_path)
    monkeypatch.setattr(Trainer, "strategy", property(lambda self: object.__new__(FSDPStrategy)))
    callback.on_validation_batch_end(runner, learner, None, batch, 0)
    monkeypatch.undo()
    learner.model = torch.nn.Linear(1, 1)
    callback.on_validation_batch_end(runner, learner, None, batch, 0)


def test_a_run_of_two_modalities(tmp_path: Path) -> None:
    """From the command line: dropout and reads in the model and its checkpoint; shares in metrics, tables and a figure."""
    run = tmp_path / "run"
    model = ("model.modality_dropout.rates={image: 0.3, lower: 0.2}", "model.reads=[[image],[image,lower]]")
    common = ("data._target_=digit_halves.DigitHalves", "trainer.max_epochs=2", "logger=csv", "test=false")
    common = (*common, "trainer.limit_train_batches=4", "model.encoder.num_layers_per_block=1")
    code, out, err = train(*OTHER_DATA, *common, *model, f"hydra.run.dir={run}")
    assert code == 0, err
    assert err == "", "nothing is warned of"
    metrics = json.loads((run / "metrics.json").read_text())
    shares = {name: value for name, value in metrics.items() if "/attention/" in name}
    assert shares.keys() == {"val/attention/image", "val/attention/lower"}
    # Samples without the upper half get nothing from the first cross-attend: one in five.
    assert sum(shares.values()) == pytest.approx(1 - 0.5 * 13 / 64, abs=1e-5), "the first two batches of 32"
    assert "val/attention/image" in (run / "csv" / "metrics.csv").read_text().splitlines()[0]
    assert not [line for line in out.splitlines() if line.startswith("epoch") and "attention" in line]
    assert "Cross-attention to image: " in out
    assert (run / "figures" / "attention_modalities_val.png").is_file()
    loaded = perceiver.load(run)
    assert loaded.modality_dropout is not None
    assert loaded.modality_dropout.rates == {"image": 0.3, "lower": 0.2}
    assert loaded.reads == (("image",), ("image", "lower"))

    quick = (*common, "trainer.max_epochs=1", "regularise=false", *model, f"hydra.run.dir={tmp_path / 'plain'}")
    code, _, err = train(*OTHER_DATA, *quick)
    assert code == 0, err
    assert perceiver.load(tmp_path / "plain").modality_dropout is None
    for wrong, words in (("model.reads=[[image],[upper]]", "got ['upper']"), (model[0].replace("lower", "x"), "'x'")):
        code, _, err = train(*OTHER_DATA, *common, wrong, f"hydra.run.dir={tmp_path / 'wrong'}")
        assert code == 1
        assert "error: model (perceiver.model.Perceiver): Perceiver." in err
        assert words in err


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="num_batches: expected 1 or more, got 0"):
        AttentionByModality(num_batches=0)
