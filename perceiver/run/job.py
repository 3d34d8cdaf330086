"""One run: train (and test the best), test a checkpoint, or use it; everything it leaves lies in the run directory."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import WeightAveraging
from omegaconf import DictConfig, OmegaConf, open_dict

from perceiver import checkpoints
from perceiver.atomic import atomic_write, remove_leftovers
from perceiver.build import build_model
from perceiver.model import Perceiver
from perceiver.run.checkpoint_io import AtomicCheckpointIO, require_disk_space
from perceiver.run.config import resolve
from perceiver.run.embed import embed
from perceiver.run.epoch_progress import EpochProgress
from perceiver.run.errors import stopped
from perceiver.run.figures import ConfusionFigures
from perceiver.run.initialisation import Initialisation, with_stored_model
from perceiver.run.interruption import OrderlyStop, until_interrupted
from perceiver.run.last_checkpoint import LAST, PREVIOUS, LastCheckpoint
from perceiver.run.launch import ranks_of_one_job, start_ranks_by_job
from perceiver.run.learning_rate import scale_learning_rate
from perceiver.run.metrics import BestEpoch, best_checkpoint, last_metrics, monitored, write_metrics
from perceiver.run.metrics_table import EarlierTable
from perceiver.run.predict import predict
from perceiver.run.random_state import RandomState
from perceiver.run.regularisation import without_regularisation
from perceiver.run.report import print_line, print_model, print_result
from perceiver.run.resume import (
    AUTO,
    CarryBest,
    Resumed,
    check_architecture,
    check_unfinished,
    find_resumed,
    warn_of_changes,
)
from perceiver.run.shard import shard
from perceiver.run.stopped import TIME_LIMIT, TrainingStopped
from perceiver.run.stored_spec import use_stored_spec

CONFIG, METRICS = "config.yaml", "metrics.json"

# Notices of Lightning's that this package has already acted upon or that are meant for its developers.
_KNOWN_NOTICES = (
    r".*does not have many workers.*",
    r"Your `IterableDataset` has `__len__` defined.*",
    r"Checkpoint directory .* exists and is not empty.*",
    r"Experiment logs directory .* exists and is not empty.*",
    r"You requested to overfit but enabled train dataloader shuffling.*",
    r"You have overridden `on_before_batch_transfer` in `LightningModule`.*",
    r"You're using the WeightAveraging callback with a model that overrides the configure_model callback.*",
    r"Using `DistributedSampler` with the dataloaders.*",  # tasks leave out what it repeats
    r"The number of training batches .* is smaller than the logging interval.*",
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be provided.*WeightAveraging.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
)


def run(config: DictConfig) -> float | None:
    """Do what the configuration says.

    Args:
        config: as Hydra composed it (`conf/train.yaml`).

    Returns:
        mode=fit: the monitored validation metric of the best epoch, for sweepers; None without validation.
        mode=test: the same metric of the test split.
        mode=predict, mode=embed, mode=shard: None.

    Raises:
        ValueError: for settings that contradict each other; all that can be known before training is checked before.
    """
    modes: dict[str, Callable[[DictConfig], float | None]] = {
        "fit": _fit,
        "test": _test,
        "predict": predict,
        "embed": embed,
        "shard": shard,
    }
    if config.mode not in modes:
        raise ValueError(f"mode: expected fit, test, predict, embed or shard, got {config.mode!r}.")
    if config.mode not in ("fit", "shard") and config.ckpt_path is None:
        raise ValueError(f"mode={config.mode}: expected ckpt_path=RUN_DIR or ckpt_path=FILE, the checkpoint; got none.")
    if config.mode == "fit" and config.get("init_model"):
        config = with_stored_model(config)
    if not config.get("regularise", True):
        config = without_regularisation(config)
    with warnings.catch_warnings(), ranks_of_one_job():
        _silence_known_notices()
        return modes[config.mode](config)


def _fit(config: DictConfig) -> float | None:
    directory = Path(config.run_dir)
    resumed = find_resumed(config.ckpt_path, directory=directory)
    _check_unused(directory, resumed)
    start = Initialisation.of(config)
    recipe = None if resumed is None else resumed.recipe
    if recipe is not None:
        _check_task(config, recipe)

    data: LightningDataModule = instantiate(config.data, _convert_="all")
    data.prepare_data()
    if recipe is not None:
        use_stored_spec(data, recipe.spec)
    data.setup("fit")
    spec = _spec_of(data)
    plain = resolve(config, spec)

    seed_everything(int(plain["seed"]), workers=True, verbose=False)
    model = build_model(plain["model"], spec=spec)
    best = BestEpoch()
    callbacks: list[Callback] = [
        RandomState(seed=int(plain["seed"])),
        EpochProgress(),
        best,
        ConfusionFigures(directory=directory, names=_class_names(spec), best=best),
    ]
    if resumed is not None:
        check_architecture(model, resumed.file)
        check_unfinished(resumed.file, plain["trainer"], may_be_finished=config.ckpt_path == AUTO)
        warn_of_changes(resumed.recipe, checkpoints.entry(plain, spec)["config"])
        callbacks.append(CarryBest(resumed=resumed.file))
    started_from = None if start is None else start.apply(model)
    callbacks += [] if start is None else start.callbacks()
    trainer = _trainer(plain, callbacks, stoppable=True)
    scaled = scale_learning_rate(plain, trainer)
    task = _task({**plain, "optimizer": scaled.optimizer}, model, spec, start)
    require_disk_space(directory, model)
    if trainer.is_global_zero:
        if resumed is not None:
            resumed.set_damaged_aside()
        remove_leftovers(directory / "checkpoints")
        _continue_table(directory, trainer, resumed)
        _write_config(directory, plain)
        if started_from is not None:
            print_line(started_from)
        with nullcontext() if start is None else start.reading():
            print_model(model, data.val_dataloader(), trainer.strategy.root_device, batches=scaled.explanation)

    started = time.monotonic()
    stop: TrainingStopped | None = None
    try:
        until_interrupted(
            trainer, lambda: trainer.fit(task, datamodule=data, ckpt_path=None if resumed is None else resumed.file)
        )
    except TrainingStopped as error:
        stop = error
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
        chosen = best_checkpoint(trainer)
        if chosen is None:
            raise ValueError(
                "test=true: there is no checkpoint to test; keep callbacks.best or callbacks.last, or set test=false."
            )
        # It would put the weights that are not averaged in place of the averaged ones, as a resumed training needs them.
        trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, WeightAveraging)]  # type: ignore[attr-defined]
        until_interrupted(
            trainer,
            lambda: trainer.test(task, datamodule=data, ckpt_path=chosen, verbose=False),
        )
        metrics |= last_metrics(trainer, "test")
    if trainer.is_global_zero:
        write_metrics(directory / METRICS, metrics)
        print_result(metrics, directory, chosen_by=monitored(trainer))
    return best.score


def _test(config: DictConfig) -> float | None:
    """Test a checkpoint as it was trained: its model, its normalisation, its class names; the data is the present one."""
    directory = Path(config.run_dir)
    file = checkpoints.find(config.ckpt_path)
    recipe = checkpoints.read(file)
    _check_task(config, recipe)
    model = checkpoints.load(file, trust=list(config.trust))

    data: LightningDataModule = instantiate(config.data, _convert_="all")
    data.prepare_data()
    spec = use_stored_spec(data, recipe.spec, trained_on=recipe.config.get("data"))
    config = config.copy()
    with open_dict(config):
        config.model = OmegaConf.create(recipe.config["model"])
    plain = resolve(config, spec)

    seed_everything(int(plain["seed"]), workers=True, verbose=False)
    task = _task(plain, model, spec)
    figures = ConfusionFigures(directory=directory, names=_class_names(spec), best=None)
    trainer = _trainer(plain, [figures])
    if trainer.is_global_zero:
        _continue_table(directory, trainer, None)
        if not (directory / CONFIG).exists():
            _write_config(directory, plain)
    started = time.monotonic()
    until_interrupted(trainer, lambda: trainer.test(task, datamodule=data, verbose=False))
    metrics = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(time.monotonic() - started, 2),
        **last_metrics(trainer, "test"),
    }
    if trainer.is_global_zero:
        write_metrics(directory / METRICS, metrics)
        print_result(metrics, directory, chosen_by=monitored(trainer), tested=file)
    score = metrics.get((monitored(trainer) or "").replace("val/", "test/", 1))
    return None if score is None else float(score)


def _check_task(config: DictConfig, recipe: checkpoints.Recipe) -> None:
    """The command line says the task, since nothing that a checkpoint names is run; but it must be the checkpoint's own."""
    stored = (recipe.config.get("task") or {}).get("_target_")
    if stored is not None and stored != config.task.get("_target_"):
        raise ValueError(
            f"task: {recipe.file} was trained with {stored}, but {config.task.get('_target_')} is configured; choose its "
            "own with task=NAME."
        )


def _task(
    plain: Mapping[str, Any], model: Perceiver, spec: Mapping[str, Any], start: Initialisation | None = None
) -> LightningModule:
    """The training objective around the model. Partially applied first: Hydra must neither copy nor merge a model."""
    scheduler = plain.get("scheduler")
    optimizer = instantiate(plain["optimizer"], _convert_="all")
    task: LightningModule = instantiate({**plain["task"], "_partial_": True}, _convert_="all")(
        model=model,
        optimizer=optimizer if start is None else start.optimizer(optimizer, model),
        scheduler=None if not scheduler else instantiate(scheduler, _convert_="all"),
        checkpoint=checkpoints.entry(plain, spec),
    )
    return task


def _trainer(plain: Mapping[str, Any], callbacks: list[Callback], *, stoppable: bool = False) -> Trainer:
    configured = [instantiate(entry, _convert_="all") for entry in (plain.get("callbacks") or {}).values() if entry]
    loggers = [instantiate(entry, _convert_="all") for entry in (plain.get("logger") or {}).values() if entry]
    settings = dict(plain["trainer"])
    # Lightning would end the epoch early at its time limit, and count it as done.
    max_time = settings.pop("max_time", None)
    if stoppable:
        last = next((callback for callback in configured if isinstance(callback, LastCheckpoint)), None)
        configured.append(OrderlyStop(last=last, max_time=max_time))
    make = instantiate({**settings, "_partial_": True}, _convert_="all")
    try:
        trainer: Trainer = make(
            callbacks=[*callbacks, *configured], logger=loggers or False, plugins=[AtomicCheckpointIO()]
        )
    except MisconfigurationException as error:
        raise ValueError(
            f"trainer: {error} This machine has {torch.cuda.device_count()} CUDA devices; trainer.accelerator="
            f"{settings.get('accelerator')} trainer.devices={settings.get('devices')} were asked for."
        ) from error
    start_ranks_by_job(trainer, Path(plain["run_dir"]))
    return trainer


def _spec_of(data: LightningDataModule) -> dict[str, Any]:
    spec = getattr(data, "spec", None)
    if not isinstance(spec, Mapping) or "modalities" not in spec:
        raise ValueError(
            f"data: {type(data).__name__}.spec: expected a dict with 'modalities' and 'target' after setup('fit'), "
            f"got {spec!r}."
        )
    return dict(spec)


def _class_names(spec: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in spec.get("target", {}).get("names", [])]


def _check_unused(directory: Path, resumed: Resumed | None) -> None:
    """Refuse to train over the checkpoints of another run: what is written stays."""
    folder = directory / "checkpoints"
    there = next((name for name in (LAST, PREVIOUS, "best.ckpt") if (folder / name).exists()), None)
    if there is not None and (resumed is None or resumed.file.parent.resolve() != folder.resolve()):
        raise FileExistsError(
            f"hydra.run.dir: {directory} already holds a run ({there}). Choose another directory, or continue that run "
            f"with ckpt_path={directory}."
        )


def _continue_table(directory: Path, trainer: Trainer, resumed: Resumed | None) -> None:
    """Keep the metrics table of a run that is continued here, which CSVLogger would delete."""
    path = directory / "csv" / "metrics.csv"
    here = resumed is not None and resumed.file.parent.parent.resolve() == directory.resolve()
    if resumed is not None and here:
        EarlierTable(path, steps=resumed.step, last_row=resumed.last_row).continue_in(trainer)
    else:
        EarlierTable(path, steps=None)


def _write_config(directory: Path, plain: Mapping[str, Any]) -> None:
    with atomic_write(directory / CONFIG) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(dict(plain))).encode())


def _silence_known_notices() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in _KNOWN_NOTICES:
        warnings.filterwarnings("ignore", message=pattern)
    if not torch.cuda.is_available():
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
