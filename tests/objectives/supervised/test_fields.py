"""Dense regression: end-point error against numpy, sampled losses against whole ones, and flow from end to end."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense_cases import batch_of, flowing, frames, pooled
from hydra_runs import run
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

import perceiver
from perceiver.data import DataModule, Digits, MovingDigits
from perceiver.objectives import EndPointError, dense_regression
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.targets.kinds import target_of
from perceiver.training import Task

MEAN, STD = [0.5, -1.0], [2.0, 3.0]


def task(model: Any = None, **settings: Any) -> Task:
    objective = dense_regression(**{"mean": MEAN, "std": STD, **settings})
    return Task(model=model or flowing(), objective=objective, optimizer=partial(torch.optim.SGD, lr=0.0))


def flow_batch(size: int = 3, *, masked: bool = True) -> Batch:
    """Garbage where it is not valid."""
    x = frames(size)
    target = 3 * torch.randn(size, 2, *x.shape[3:])
    mask = torch.rand(size, *x.shape[3:]) < 0.6
    target = torch.where(mask[:, None], target, torch.nan) if masked else target
    return batch_of("frames", x, target, mask if masked else None)


def trainer(**settings: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(max_epochs=1, accelerator="cpu", logger=False, log_every_n_steps=1, **quiet, **settings)


def loader(batches: list[Batch]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def expected(learner: Task, batches: list[Batch]) -> tuple[float, float]:
    """End-point error and its normalised form, by numpy over all valid pixels."""
    errors, losses = [], []
    for batch in batches:
        with torch.no_grad():
            outputs = learner.model(batch.inputs).numpy().astype(np.float64)
        target = np.moveaxis(batch.target.numpy().astype(np.float64), 1, -1)
        valid = np.ones(target.shape[:-1], bool) if batch.target_mask is None else batch.target_mask.numpy()
        errors.append(np.sqrt(((outputs * STD + MEAN - target)[valid] ** 2).sum(-1)))
        losses.append(np.sqrt(((outputs - (target - MEAN) / STD)[valid] ** 2).sum(-1)))
    return float(np.concatenate(errors).mean()), float(np.concatenate(losses).mean())


def test_end_point_error_is_that_of_numpy() -> None:
    """Over batches of unequal numbers of valid pixels; training at a learning rate of 0 changes nothing."""
    learner, batches = task(), [flow_batch(3), flow_batch(1), flow_batch(2, masked=False)]
    runner = trainer()
    runner.fit(learner, loader(batches), loader(batches))
    logged = {name: float(value) for name, value in runner.callback_metrics.items()}
    assert set(logged) == {"train/loss", "train/learning_rate", "val/loss", "val/epe"}
    epe, loss = expected(learner, batches)
    assert logged["val/epe"] == pytest.approx(epe, rel=1e-5)
    assert logged["val/loss"] == pytest.approx(loss, rel=1e-5)
    [tested] = runner.test(learner, loader(batches), verbose=False)
    assert tested["test/epe"] == pytest.approx(epe, rel=1e-5)
    # The predictions of the same spec have the same error.
    target = target_of({"target": {"kind": "flow", "names": ["x", "y"], "mean": MEAN, "std": STD, "modality": "frames"}})
    assert target is not None
    with torch.no_grad():
        predictions = np.stack([one.values for one in target.predict(learner.model(batches[2].inputs))])  # type: ignore[union-attr]
    own, _ = expected(learner, batches[2:])
    assert np.linalg.norm(predictions - batches[2].target.numpy(), axis=1).mean() == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (None, lambda d: np.sqrt((d**2).sum(-1))),
        (nn.L1Loss(reduction="none"), lambda d: np.abs(d).mean(-1)),
        (nn.MSELoss(reduction="none"), lambda d: (d**2).mean(-1)),
    ],
)
def test_the_loss_is_an_object(loss: nn.Module | None, formula: Any) -> None:
    learner, batch = task(loss=loss), flow_batch()
    with torch.no_grad():
        difference = learner.model(batch.inputs).numpy() - (np.moveaxis(batch.target.numpy(), 1, -1) - MEAN) / STD
    runner = trainer()
    runner.fit(learner, loader([batch]), loader([batch]))
    value = formula(difference)[batch.target_mask.numpy()].mean()
    assert float(runner.callback_metrics["train/loss"]) == pytest.approx(value, rel=1e-4)


def step(learner: Task, batch: Batch) -> torch.Tensor:
    return learner.training_step(learner.on_before_batch_transfer(batch, 0), 0)


def test_sampled_loss_and_gradient_are_unbiased() -> None:
    batch = flow_batch()
    learner = task()
    whole = step(learner, batch)
    weight = learner.model.head.output.weight  # type: ignore[union-attr]
    [gradient] = torch.autograd.grad(whole, weight)
    learner.objective.num_queries = 4  # type: ignore[assignment]
    drawn = [step(learner, batch) for _ in range(100)]
    gradients = torch.stack([torch.autograd.grad(loss, weight)[0] for loss in drawn])
    losses = torch.stack(drawn).detach()
    assert losses.std() > 0.01
    assert abs(losses.mean() - whole) < 4 * losses.std() / 100**0.5
    assert bool(((gradients.mean(0) - gradient).abs() < 5 * gradients.std(0) / 100**0.5 + 1e-6).all())


def test_what_is_not_valid_changes_nothing() -> None:
    batch, learner = flow_batch(), task()
    other = torch.where(batch.target_mask[:, None], batch.target, 1e6)
    losses = [step(learner, batch_of("frames", batch.inputs["frames"], x, batch.target_mask)) for x in (batch.target, other)]
    assert losses[0] == losses[1]
    assert bool(torch.isfinite(losses[0]))
    losses[0].backward()
    assert all(bool(p.grad.isfinite().all()) for p in learner.parameters() if p.grad is not None)
    nothing = batch_of("frames", batch.inputs["frames"], batch.target, torch.zeros_like(batch.target_mask))
    assert step(learner, nothing).item() == 0.0


def test_frames_of_several_sizes() -> None:
    """Padding is no target: the error of a batch is the mean over the pixels of its samples alone."""
    samples = [
        Sample(inputs={"frames": torch.randn(1, 2, h, w)}, target=torch.randn(2, h, w), id=f"{h}x{w}")
        for h, w in ((6, 7), (4, 9), (8, 3))
    ]
    collate = Collate(modalities={"frames": {"kind": "video"}})
    learner = task()
    batches, alone = [collate(samples)], [collate([one]) for one in samples]
    runner = trainer()
    runner.validate(learner, loader(batches), verbose=False)
    together = float(runner.callback_metrics["val/epe"])
    assert together == pytest.approx(expected(learner, alone)[0], rel=1e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": None}, r"batch\.target: expected values \(B, 2, \*grid\), got None"),
        ({"target": torch.zeros(3, 6, 7)}, r"batch\.target: expected floating-point values \(3, 2, \*grid\)"),
        ({"target": torch.zeros(3, 2, 6, 7, dtype=torch.int64)}, r"expected floating-point values"),
        ({"target_mask": torch.ones(3, 7, 6, dtype=torch.bool)}, r"batch\.target_mask: expected boolean \(3, 6, 7\)"),
        ({"target_mask": None}, r"target of sample 'sample/0', pixel \[\d, \d\]: expected finite numbers, got \[nan, nan\]"),
    ],
)
def test_wrong_targets(changed: dict[str, Any], message: str) -> None:
    batch = flow_batch()
    parts = {"target": batch.target, "target_mask": batch.target_mask, **changed}
    wrong = Batch(inputs=batch.inputs, ids=batch.ids, **parts)
    with pytest.raises(ValueError, match=message):
        task().on_before_batch_transfer(wrong, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": pooled()}, r"dense_regression needs a perceiver\.Perceiver whose head is a .*QueryDecoder.*PooledHead"),
        ({"std": [1.0, 0.0]}, r"task\.mean, task\.std: expected a finite mean and a standard deviation above 0"),
        ({"num_queries": 0}, r"task\.num_queries: expected at least 1 per sample"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**arguments)


def test_losses_and_outputs_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"task\.loss: expected L1Loss to return a loss for each of 126 pixels.*reduction=none"
    ):
        step(task(loss=nn.L1Loss()), flow_batch())
    batch = flow_batch(masked=False)
    with pytest.raises(ValueError, match=r"2 outputs for each query, but the spec's target has 1"):
        step(task(mean=[0.0], std=[1.0]), batch_of("frames", batch.inputs["frames"], batch.target[:, :1]))
    small = flow_batch(masked=False)
    with pytest.raises(
        ValueError, match=r"the targets have the grid \(5, 7\), but the model's outputs have the grid \(6, 7\)"
    ):
        step(task(), batch_of("frames", small.inputs["frames"], small.target[:, :, 1:]))


def test_end_point_error_of_equal_fields_has_a_gradient() -> None:
    x = torch.ones(4, 2, requires_grad=True)
    EndPointError()(x, torch.ones(4, 2)).sum().backward()
    assert bool((x.grad == 0).all())


SMALL = (
    "experiment=moving_digits",
    "data.size=[10,12]",
    "data.diameter=[6,8]",
    "data.training_scenes=96",
    "data.validation_scenes=8",
    "data.test_scenes=6",
    "data.batch_size=8",
    "model.encoder.num_latents=4",
    "model.encoder.latent_channels=32",
    "model.encoder.num_layers_per_block=1",
    "model.adapters.frames.embedding_channels=16",
    "task.num_queries=40",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "optimizer.lr=5e-3",
)


def test_flow_from_end_to_end(tmp_path: Path) -> None:
    """Loss falls, a figure is drawn, the checkpoint predicts raw frames, and mode=predict writes a file for each sample."""
    folder = tmp_path / "run"
    code, _, err = run(*SMALL, "trainer.max_epochs=4", f"hydra.run.dir={folder}")
    assert code == 0, err
    table = (folder / "csv" / "metrics.csv").read_text().splitlines()
    at = table[0].split(",").index("train/loss")
    losses = [float(line.split(",")[at]) for line in table[1:] if line.split(",")[at]]
    assert losses[-1] < 0.9 * losses[0]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["val/epe"] > 0
    assert (folder / "figures" / "flow_val.png").exists()

    model = perceiver.load(folder)
    data = DataModule.of(MovingDigits, source=Digits(), size=(10, 12), diameter=(6, 8), test_scenes=6)
    data.setup("test")
    scenes = list(data.source.read_test())
    predictions = model.predict([scene.inputs["frames"] for scene in scenes])
    errors = [
        np.linalg.norm(one.values - scene.target.numpy(), axis=0)[scene.target_mask.numpy()]
        for one, scene in zip(predictions, scenes, strict=True)
    ]
    assert np.concatenate(errors).mean() == pytest.approx(metrics["test/epe"], rel=1e-4)
    assert predictions[0].names == ("x", "y")

    code, _, err = run(*SMALL, "mode=predict", f"ckpt_path={folder}", f"hydra.run.dir={tmp_path / 'predictions'}")
    assert code == 0, err
    rows = (tmp_path / "predictions" / "predictions.csv").read_text().splitlines()
    assert rows[0] == "id,prediction,mean_x,mean_y"
    assert len(rows) == 7
    for row, one in zip(rows[1:], predictions, strict=True):
        np.testing.assert_allclose(np.load(tmp_path / "predictions" / row.split(",")[1]), one.values, atol=1e-4)
    code, _, err = run(*SMALL, "mode=test", f"ckpt_path={folder}", f"hydra.run.dir={tmp_path / 'tested'}")
    assert code == 0, err
    tested = json.loads((tmp_path / "tested" / "metrics.json").read_text())
    assert tested["test/epe"] == pytest.approx(metrics["test/epe"], rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*DistributedSampler.*", "ignore:.*does not have many workers.*")
def test_two_processes_count_every_sample_once() -> None:
    """Five samples: Lightning repeats the first, which must not count twice."""
    model = flowing()
    samples = [
        Sample(inputs={"frames": torch.randn(1, 2, 6, 7)}, target=10.0 * number * torch.ones(2, 6, 7), id=str(number))
        for number in range(5)
    ]
    data: DataLoader[Any] = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=2,
        collate_fn=Collate(modalities={"frames": {"kind": "video"}}),
    )
    alone = trainer()
    alone.validate(task(model=model), data, verbose=False)
    quiet: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    both = Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", logger=False, **quiet)
    both.validate(task(model=model), data, verbose=False)
    for name in ("val/epe", "val/loss"):
        assert float(both.callback_metrics[name]) == pytest.approx(float(alone.callback_metrics[name]), rel=1e-5)
