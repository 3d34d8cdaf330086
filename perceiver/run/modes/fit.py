"""mode=fit: train, then test the best checkpoint."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from omegaconf import DictConfig

from perceiver.model import Perceiver
from perceiver.run.assembly.data import make_data
from perceiver.run.assembly.spec import class_names, spec_of
from perceiver.run.assembly.task import make_task
from perceiver.run.assembly.trainer import make_trainer
from perceiver.run.configuration.compilation import compile_model
from perceiver.run.configuration.construct import construct
from perceiver.run.configuration.learning_rate import LearningRateScaling
from perceiver.run.configuration.resolve import resolve
from perceiver.run.cross_validation.directory import CrossValidationDirectory
from perceiver.run.errors import stopped
from perceiver.run.exceptions import TIME_LIMIT, TrainingStopped
from perceiver.run.fine_tuning.backbones import Backbones
from perceiver.run.fine_tuning.initialisation import Untrained
from perceiver.run.presets.apply import with_preset
from perceiver.run.processes.interruption import until_interrupted
from perceiver.run.reporting.console import print_model, print_result
from perceiver.run.reporting.figures import ConfusionFigures
from perceiver.run.reporting.loggers import finish_loggers, log_hyperparameters
from perceiver.run.reporting.metrics import (
    BestEpoch,
    best_checkpoint,
    last_metrics,
    monitored,
    require_defined,
    require_known,
)
from perceiver.run.reporting.report.callback import write_report
from perceiver.run.resuming.checkpoint_io import require_disk_space
from perceiver.run.resuming.epoch_progress import EpochProgress
from perceiver.run.resuming.last_checkpoint import LastCheckpoint
from perceiver.run.resuming.random_state import RandomState
from perceiver.run.resuming.resume import Scratch, find_resumed
from perceiver.run.run_directory import RunDirectory
from perceiver.training.optimizer import rated


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Outcome of a training.

    Args:
        score: the monitored metric of the best epoch; None without validation.
        metrics: metrics of training, validation and test; None if the training stopped at its time limit.
    """

    score: float | None
    metrics: dict[str, float | int] | None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Trains, resuming from a checkpoint if given, and tests the best epoch.

    Args:
        start: the initial weights of a training.
        ckpt_path: the training to continue, see `find_resumed`.
        test: test the best checkpoint afterwards.
        lr_scaling: adapts the learning rate to the global batch.
    """

    start: Untrained
    ckpt_path: str | None
    test: bool
    lr_scaling: LearningRateScaling

    def run(self, config: DictConfig) -> float | None:
        """Train as configured and return the monitored metric of the best epoch; None without validation."""
        CrossValidationDirectory.require_none(config.run_dir)
        return self.train(config).score

    def train(self, config: DictConfig) -> Trained:
        """Train and test as configured."""
        config = self.start.configured(config)
        with RunDirectory(Path(config.run_dir)).locked() as directory:
            origin = find_resumed(self.ckpt_path, directory=directory.path) or Scratch()
            directory.require_unused(origin)
            origin.check_task(config.task)

            backbones = Backbones.of(config.model.get("adapters"))
            data = make_data(config.data)
            data.prepare_data()
            origin.hand_spec_to(data)
            if origin.file is None:
                backbones.prescribe(data)
            data.setup("fit")
            spec = spec_of(data)
            config = with_preset(config, data, spec, requested=backbones.requests)
            plain = resolve(backbones.described(config, spec), spec)

            seed_everything(int(plain["seed"]), workers=True, verbose=False)
            model = self.start.build(plain["model"], spec)
            origin.check(model, plain, spec)
            if origin.file is None and self.start.is_random:
                backbones.fill(model, spec)
            backbones.use_cache(model, plain.get("cache"), data, mixed=bool((plain.get("task") or {}).get("mix")))
            compile_model(model, plain.get("compile"))
            best = BestEpoch()
            confusion = ConfusionFigures(directory=directory.path, names=class_names(spec), best=best)
            own: list[Callback] = [RandomState(seed=int(plain["seed"])), EpochProgress(), best, confusion]
            trainer = make_trainer(plain, [*own, *origin.callbacks(), *self.start.callbacks()], stoppable=True)
            self._require_checkpoint(trainer)
            scaled = self.lr_scaling(plain["optimizer"], batch_size=plain["data"].get("batch_size"), trainer=trainer)
            optimizer = origin.optimizer(self.start.optimizer(rated(construct(scaled.optimizer)), model))
            task = make_task({**plain, "optimizer": scaled.optimizer}, model, spec, optimizer=optimizer)

            require_disk_space(directory.path, model)
            require_known(trainer, task)
            require_defined(trainer, task, data.val_dataloader())
            directory.begin(trainer, plain, origin)
            log_hyperparameters(trainer, plain)
            self.start.report(model)
            with self.start.reading():
                print_model(model, data.val_dataloader(), trainer.strategy.root_device, batches=scaled.explanation)
            try:
                metrics = _train(trainer, task, data, model=model, origin=origin, best=best, directory=directory)
            except TrainingStopped as stop:
                if stop.cause != TIME_LIMIT:
                    raise
                stopped(stop, directory.path)
                return Trained(score=best.score, metrics=None)
            if self.test:
                metrics |= _test_best(trainer, task, data)
            backbones.report()
            directory.write_metrics(metrics)
            write_report(trainer, plain, metrics)
            finish_loggers(trainer)
            print_result(metrics, directory.path, chosen_by=monitored(trainer))
            return Trained(score=best.score, metrics=metrics)

    def _require_checkpoint(self, trainer: Trainer) -> None:
        if self.test and not any(isinstance(one, ModelCheckpoint | LastCheckpoint) for one in trainer.checkpoint_callbacks):
            raise ValueError(
                "test=true: needs a checkpoint to test, but none will be kept. Keep callbacks.best or "
                "callbacks.last, or set test=false."
            )


def _train(
    trainer: Trainer,
    task: LightningModule,
    data: LightningDataModule,
    *,
    model: Perceiver,
    origin: Scratch,
    best: BestEpoch,
    directory: RunDirectory,
) -> dict[str, float | int]:
    """Train, write the metrics and return them.

    Raises:
        TrainingStopped: the training was stopped cleanly; the metrics are written.
    """
    started = time.monotonic()
    stop: TrainingStopped | None = None
    try:
        until_interrupted(trainer, lambda: trainer.fit(task, datamodule=data, ckpt_path=origin.file))
    except TrainingStopped as error:
        stop = error
    metrics: dict[str, float | int] = {
        **last_metrics(trainer, "train"),
        **best.summary(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": trainer.current_epoch,
        "seconds": round(time.monotonic() - started, 2),
    }
    directory.write_metrics(metrics)
    if stop is not None:
        raise stop
    return metrics


def _test_best(trainer: Trainer, task: LightningModule, data: LightningDataModule) -> dict[str, float]:
    """Test the best checkpoint and return the metrics."""
    chosen = best_checkpoint(trainer)
    if chosen is None:
        raise ValueError(
            "test=true: needs a checkpoint to test, but none was written. See callbacks.best and callbacks.last."
        )
    # WeightAveraging would replace the averaged weights by the current weights, as a resumed training needs them.
    trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, WeightAveraging)]  # type: ignore[attr-defined]
    until_interrupted(trainer, lambda: trainer.test(task, datamodule=data, ckpt_path=chosen, verbose=False))
    return last_metrics(trainer, "test")
