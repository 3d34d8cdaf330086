"""mode=fit: train, then test the best checkpoint."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import WeightAveraging
from omegaconf import DictConfig

from perceiver import checkpoints
from perceiver.checkpoints.build import build_model
from perceiver.run.assembly import (
    check_task,
    class_names,
    make_data,
    make_task,
    make_trainer,
    spec_of,
)
from perceiver.run.configuration.compilation import compile_model
from perceiver.run.configuration.learning_rate import scale_learning_rate
from perceiver.run.configuration.resolve import resolve
from perceiver.run.errors import stopped
from perceiver.run.exceptions import TIME_LIMIT, TrainingStopped
from perceiver.run.fine_tuning.initialisation import Initialisation
from perceiver.run.processes.interruption import until_interrupted
from perceiver.run.reporting.console import print_line, print_model, print_result
from perceiver.run.reporting.figures import ConfusionFigures
from perceiver.run.reporting.metrics import (
    BestEpoch,
    best_checkpoint,
    last_metrics,
    monitored,
    require_defined,
    write_metrics,
)
from perceiver.run.resuming.checkpoint_io import require_disk_space
from perceiver.run.resuming.epoch_progress import EpochProgress
from perceiver.run.resuming.random_state import RandomState
from perceiver.run.resuming.resume import (
    AUTO,
    CarryBest,
    Resumed,
    check_architecture,
    check_unfinished,
    find_resumed,
    warn_of_changes,
)
from perceiver.run.resuming.run_directory import METRICS, check_unused, continue_table, write_config
from perceiver.run.resuming.stored_spec import use_stored_spec
from perceiver.runtime.files import remove_leftovers


def fit(config: DictConfig) -> float | None:
    """Train as configured, from where a checkpoint stands if there is one, and test the best.

    Returns:
        The monitored metric of the best epoch; None without validation.
    """
    directory = Path(config.run_dir)
    resumed = find_resumed(config.ckpt_path, directory=directory)
    check_unused(directory, resumed)
    start = Initialisation.of(config)
    if resumed is not None:
        check_task(config, resumed.recipe)

    data = make_data(config.data)
    data.prepare_data()
    if resumed is not None:
        use_stored_spec(data, resumed.recipe.spec, file=resumed.file)
    data.setup("fit")
    spec = spec_of(data)
    plain = resolve(config, spec)

    seed_everything(int(plain["seed"]), workers=True, verbose=False)
    limit = None if start is None or not start.built_as_stored else start.limit()
    model = build_model(plain["model"], spec=spec, encoder_limit=limit)
    best = BestEpoch()
    callbacks: list[Callback] = [
        RandomState(seed=int(plain["seed"])),
        EpochProgress(),
        best,
        ConfusionFigures(directory=directory, names=class_names(spec), best=best),
    ]
    if resumed is not None:
        check_architecture(model, resumed.file)
        check_unfinished(resumed.file, plain["trainer"], may_be_finished=config.ckpt_path == AUTO)
        warn_of_changes(resumed.recipe, checkpoints.entry(plain, spec)["config"])
        callbacks.append(CarryBest(resumed=resumed.file))
    started_from = None if start is None else start.apply(model)
    callbacks += [] if start is None else start.callbacks()
    compile_model(model, plain.get("compile"))
    trainer = make_trainer(plain, callbacks, stoppable=True)
    scaled = scale_learning_rate(plain, trainer)
    task = make_task({**plain, "optimizer": scaled.optimizer}, model, spec, start)
    require_disk_space(directory, model)
    require_defined(trainer, task, data.val_dataloader())
    if trainer.is_global_zero:
        if resumed is not None:
            resumed.set_damaged_aside()
        remove_leftovers(directory / "checkpoints")
        continue_table(directory, trainer, resumed)
        write_config(directory, plain)
        if started_from is not None:
            print_line(started_from)
        with nullcontext() if start is None else start.reading():
            print_model(model, data.val_dataloader(), trainer.strategy.root_device, batches=scaled.explanation)

    started = time.monotonic()
    stop = _train(trainer, task, data, resumed)
    metrics: dict[str, float | int] = {
        **last_metrics(trainer, "train"),
        **best.metrics,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": trainer.current_epoch,
        "seconds": round(time.monotonic() - started, 2),
    }
    if best.epoch is not None:
        metrics["best_epoch"] = best.epoch
    if trainer.is_global_zero:
        write_metrics(directory / METRICS, metrics)
    if stop is not None and stop.cause != TIME_LIMIT:
        raise stop
    if stop is not None:
        stopped(stop, directory)
        return best.score
    if plain["test"]:
        metrics |= _test_best(trainer, task, data)
    if trainer.is_global_zero:
        write_metrics(directory / METRICS, metrics)
        print_result(metrics, directory, chosen_by=monitored(trainer))
    return best.score


def _train(
    trainer: Trainer, task: LightningModule, data: LightningDataModule, resumed: Resumed | None
) -> TrainingStopped | None:
    """To the end, or until it is stopped in good order, which is returned."""
    checkpoint = None if resumed is None else resumed.file
    try:
        until_interrupted(trainer, lambda: trainer.fit(task, datamodule=data, ckpt_path=checkpoint))
    except TrainingStopped as stop:
        return stop
    return None


def _test_best(trainer: Trainer, task: LightningModule, data: LightningDataModule) -> dict[str, Any]:
    """Metrics of the test split at the best checkpoint."""
    chosen = best_checkpoint(trainer)
    if chosen is None:
        raise ValueError(
            "test=true: there is no checkpoint to test; keep callbacks.best or callbacks.last, or set test=false."
        )
    # It would put the weights that are not averaged in place of the averaged ones, as a resumed training needs them.
    trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, WeightAveraging)]  # type: ignore[attr-defined]
    until_interrupted(trainer, lambda: trainer.test(task, datamodule=data, ckpt_path=chosen, verbose=False))
    return last_metrics(trainer, "test")
