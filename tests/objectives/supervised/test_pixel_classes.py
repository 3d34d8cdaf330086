"""Segmentation: IoU against scikit-learn, sampled losses against whole ones, and drawn digits from end to end."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense_cases import batch_of, images, pooled, segmenting
from hydra_runs import run
from lightning.pytorch import Trainer
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score
from torch.utils.data import DataLoader

import perceiver
from perceiver.data import DataModule, Digits, PlacedDigits
from perceiver.objectives import segmentation
from perceiver.samples.batch import Batch
from perceiver.training import Task


def task(model: Any = None, **settings: Any) -> Task:
    objective = segmentation(**{"num_classes": 3, **settings})
    return Task(model=model or segmenting(), objective=objective, optimizer=partial(torch.optim.SGD, lr=0.0))


def class_batch(size: int = 3, *, masked: bool = True, high: int = 3) -> Batch:
    """255 where pixels are to be ignored."""
    x = images(size)
    target = torch.randint(0, high, (size, *x.shape[2:]))
    mask = torch.rand(target.shape) < 0.6
    return batch_of("image", x, torch.where(mask, target, 255) if masked else target, mask if masked else None)


def trainer() -> Trainer:
    quiet: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(max_epochs=1, accelerator="cpu", logger=False, log_every_n_steps=1, **quiet)


def loader(batches: list[Batch]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("positions", [False, True])
def test_metrics_are_those_of_scikit_learn(positions: bool) -> None:
    """The last class occurs neither in targets nor in predictions; over batches of unequal numbers of valid pixels."""
    model = segmenting(classes=4, positions=positions)
    model.head.output.bias.data[3] = -100.0  # type: ignore[union-attr, operator, index]
    learner = task(model=model, num_classes=4, class_names=["a", "b", "c", "d"])
    batches = [class_batch(3), class_batch(1), class_batch(2, masked=False)]
    runner = trainer()
    runner.fit(learner, loader(batches), loader(batches))
    logged = {name: float(value) for name, value in runner.callback_metrics.items()}
    predictions, true = [], []
    for batch in batches:
        with torch.no_grad():
            predicted = learner.model(batch.inputs).argmax(dim=-1)
        valid = torch.ones_like(predicted, dtype=torch.bool) if batch.target_mask is None else batch.target_mask
        predictions.append(predicted[valid].numpy())
        true.append(batch.target[valid].numpy())
    predicted, truth = np.concatenate(predictions), np.concatenate(true)
    present = sorted({*predicted.tolist(), *truth.tolist()})
    assert present == [0, 1, 2]
    each = jaccard_score(truth, predicted, labels=[0, 1, 2], average=None)
    assert logged["val/mean_iou"] == pytest.approx(each.mean(), rel=1e-5)
    assert logged["val/pixel_accuracy"] == pytest.approx(accuracy_score(truth, predicted), rel=1e-5)
    assert [logged[f"val/iou/{name}"] for name in "abcd"] == pytest.approx([*each, 0.0], rel=1e-5)
    assert int(learner.confusion("val").sum()) == len(truth), "ignored pixels never count"
    [tested] = runner.test(learner, loader(batches), verbose=False)
    assert tested["test/mean_iou"] == pytest.approx(logged["val/mean_iou"])
    assert tested["test/loss"] == pytest.approx(logged["val/loss"])


def step(learner: Task, batch: Batch) -> torch.Tensor:
    return learner.training_step(learner.on_before_batch_transfer(batch, 0), 0)


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 3.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_torch(weights: list[float] | None, smoothing: float) -> None:
    batch, learner = class_batch(), task(class_weights=weights, label_smoothing=smoothing)
    logits = learner.model(batch.inputs).movedim(-1, 1)
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(logits, batch.target, weight=weight, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(step(learner, batch), expected)


def test_sampled_loss_is_unbiased_with_class_weights() -> None:
    batch, learner = class_batch(), task(class_weights=[1.0, 0.1, 5.0])
    whole = step(learner, batch).item()
    learner.objective.num_queries = 3  # type: ignore[assignment]
    drawn = torch.stack([step(learner, batch).detach() for _ in range(100)])
    assert drawn.std() > 0.01
    assert abs(float(drawn.mean()) - whole) < 4 * float(drawn.std()) / 100**0.5


def test_balanced_weights_follow_the_pixels() -> None:
    weights = task(class_weights="balanced", class_counts=[100, 10, 0]).objective.criterion.class_weights  # type: ignore[union-attr]
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([110 / 200, 110 / 20, 0.0]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": None}, r"batch\.target: expected class numbers \(B, \*grid\), got None"),
        ({"target": torch.zeros(3, dtype=torch.int64)}, r"batch\.target: expected class numbers \(3, \*grid\)"),
        ({"target": torch.zeros(3, 6, 7)}, r"integers without a channel axis, got torch\.float32"),
        ({"target_mask": torch.ones(3, 6, dtype=torch.bool)}, r"batch\.target_mask: expected boolean \(3, 6, 7\)"),
        (
            {"target_mask": None},
            r"target of sample 'sample/0', pixel \[\d, \d\]: expected a class number from 0 to 2, got 255",
        ),
    ],
)
def test_wrong_targets(changed: dict[str, Any], message: str) -> None:
    batch = class_batch()
    parts = {"target": batch.target, "target_mask": batch.target_mask, **changed}
    with pytest.raises(ValueError, match=message):
        task().on_before_batch_transfer(Batch(inputs=batch.inputs, ids=batch.ids, **parts), 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": pooled()}, r"segmentation needs a perceiver\.Perceiver whose head is a .*QueryDecoder.*PooledHead"),
        ({"num_classes": 1}, r"task\.num_classes: expected at least 2"),
        ({"num_queries": 0}, r"task\.num_queries: expected at least 1"),
        ({"class_names": ["a"]}, r"task\.class_names: expected 3 names"),
        ({"class_weights": [1.0]}, r"task\.class_weights: expected 3 numbers"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**arguments)


def test_queries_on_another_grid() -> None:
    x = torch.randn(2, 2, 5, 5)
    batch = batch_of("image", x, torch.zeros(2, 5, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"grid \(5, 5\), but the model's outputs have the grid \(6, 7\).*queries\.grid"):
        step(task(model=segmenting(positions=True)), batch)


SMALL = (
    "experiment=placed_digits",
    "data.size=[12,14]",
    "data.diameter=[7,9]",
    "data.digits=[1,1]",
    "data.training_scenes=96",
    "data.validation_scenes=8",
    "data.test_scenes=6",
    "data.batch_size=8",
    "model.encoder.num_latents=4",
    "model.encoder.latent_channels=32",
    "model.encoder.num_layers_per_block=1",
    "task.num_queries=40",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "optimizer.lr=5e-3",
)


def test_digits_from_end_to_end(tmp_path: Path) -> None:
    """Loss falls, a figure is drawn, the checkpoint predicts raw images, and mode=predict writes a file for each sample."""
    folder = tmp_path / "run"
    code, _, err = run(*SMALL, "trainer.max_epochs=4", f"hydra.run.dir={folder}")
    assert code == 0, err
    table = (folder / "csv" / "metrics.csv").read_text().splitlines()
    at = table[0].split(",").index("train/loss")
    losses = [float(line.split(",")[at]) for line in table[1:] if line.split(",")[at]]
    assert losses[-1] < 0.9 * losses[0]
    assert (folder / "figures" / "segmentation_val.png").exists()
    assert (folder / "figures" / "confusion_val.png").exists()
    metrics = json.loads((folder / "metrics.json").read_text())

    model = perceiver.load(folder)
    data = DataModule.of(PlacedDigits, source=Digits(), size=(12, 14), diameter=(7, 9), digits=(1, 1), test_scenes=6)
    data.setup("test")
    scenes = list(data.source.read_test())
    predictions = model.predict([scene.inputs["image"] for scene in scenes])
    truth = np.stack([scene.target.numpy() for scene in scenes])
    assert (np.stack([one.classes for one in predictions]) == truth).mean() == pytest.approx(metrics["test/pixel_accuracy"])
    assert predictions[0].names == (*map(str, range(10)), "background")
    np.testing.assert_allclose(predictions[0].probabilities.sum(axis=0), 1.0, rtol=1e-5)
    assert sum(predictions[0].shares.values()) == pytest.approx(1.0)

    code, _, err = run(*SMALL, "mode=predict", f"ckpt_path={folder}", f"hydra.run.dir={tmp_path / 'predictions'}")
    assert code == 0, err
    rows = (tmp_path / "predictions" / "predictions.csv").read_text().splitlines()
    assert rows[0].startswith("id,prediction,share_0,")
    assert len(rows) == 7
    for row, one in zip(rows[1:], predictions, strict=True):
        with Image.open(tmp_path / "predictions" / row.split(",")[1]) as image:
            assert np.array_equal(np.asarray(image), one.classes)
