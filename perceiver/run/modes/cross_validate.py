"""mode=cross_validate: train and test on each fold of the data in turn, and report mean and spread of the metrics."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from perceiver import checkpoints
from perceiver.data.loading.folds import Fold
from perceiver.run.configuration.command_line import typed_override
from perceiver.run.configuration.learning_rate import LearningRateScaling
from perceiver.run.cross_validation.averaging import SCALES, outputs_of
from perceiver.run.cross_validation.directory import FOLDS, PREDICTIONS, CrossValidationDirectory, FoldResult, place_of
from perceiver.run.cross_validation.fold_job import config_of_fold, job_of_fold
from perceiver.run.cross_validation.summary import print_folds, summarised
from perceiver.run.errors import warn
from perceiver.run.fine_tuning.initialisation import Untrained
from perceiver.run.modes.fit import Fit
from perceiver.run.modes.predict import PredictionTable
from perceiver.run.reporting.console import print_line
from perceiver.run.resuming.resume import AUTO, LAST_OF_RUN
from perceiver.run.run_directory import METRICS, RunDirectory
from perceiver.runtime.files import atomic_write
from perceiver.runtime.process_rank import first_process_only, process_rank
from perceiver.targets.kinds import target_of

DEFAULT_FOLDS = 5
_OF_TRAINING = ("augment", "balanced_sampling", "batch_size", "batch_tokens", "steps_per_epoch")
"""Settings of data that change the training, but not the samples."""
_WITHOUT_EFFECT = ("cache", "check_files", "download", "max_decompressed_bytes", "max_row_group_bytes", "needs_test",
                   "num_workers")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CrossValidate:
    """Trains a model per fold, in `fold_0`, `fold_1`, … of the run directory, one after another.

    The directory of a fold is a complete run directory. The run directory itself gets `metrics.json` with the mean of every
    metric and its standard deviation (`NAME_std`), `folds.csv` with a row per fold, and `predictions.csv` with the
    prediction for every sample by the model whose fold holds it out.

    Args:
        start: the initial weights of every training.
        ckpt_path: the cross-validation to continue: its directory, or auto (the run's own directory, started if it holds
            none). Complete folds are kept, and the interrupted one goes on where it stopped. None: a new cross-validation.
        test: test the best checkpoint of each fold on its held-out samples; False leaves them untouched, and reports the
            validation.
        lr_scaling: adapts the learning rate to the global batch.
    """

    start: Untrained
    ckpt_path: str | None
    test: bool
    lr_scaling: LearningRateScaling

    def run(self, config: DictConfig) -> float | None:
        """Train all folds, and return the mean of the monitored validation metric over the folds; None without it.

        Raises:
            ValueError: the data has no folds, or those of the cross-validation to continue are other folds.
        """
        folds = _number_of_folds(config)
        place, resume = self._place(Path(config.run_dir))
        directory = CrossValidationDirectory(place)
        with RunDirectory(place).locked():
            if process_rank() == 0:  # another process may come when this one has begun
                directory.begin({"folds": folds, **_decisive(config)}, training=_training(config), resume=resume)
            # Decided before the first training, so that all processes train the same folds.
            pending = [number for number in range(folds) if not self._is_complete(directory.result(number))]
            for number in pending:
                done = len([one for one in range(folds) if one not in pending or one < number])
                print_line(f"Fold {number} ({done + 1} of {folds}): {directory.fold(number)}")
                if not self._train(config, Fold(number=number, of=folds), directory):
                    print_line(f"Continue with mode=cross_validate and {typed_override('ckpt_path', place)}")
                    return None
            return _report(directory, folds)

    def _place(self, run_dir: Path) -> tuple[Path, bool]:
        """Return the directory to write to, and whether to continue what is in it."""
        if self.ckpt_path is None:
            return run_dir, False
        if self.ckpt_path in (AUTO, LAST_OF_RUN):
            return run_dir, True
        given = CrossValidationDirectory.find(self.ckpt_path)
        if given is None:
            raise ValueError(
                f"ckpt_path: expected the directory of a cross-validation, or {AUTO}, got {self.ckpt_path}. To start all "
                "folds from trained weights, set init_from."
            )
        return given.path, True

    def _is_complete(self, result: FoldResult | None) -> bool:
        tested = result is not None and any(name.startswith("test/") for name in result.metrics)
        return result is not None and (tested or not self.test)

    def _train(self, config: DictConfig, fold: Fold, directory: CrossValidationDirectory) -> bool:
        """Train and test a fold; False if it stopped at its time limit."""
        own = config_of_fold(config, fold, directory.fold(fold.number))
        fit = Fit(start=self.start, ckpt_path=AUTO, test=self.test, lr_scaling=self.lr_scaling)
        with job_of_fold(fold, own):
            trained = fit.train(own)
        if trained.metrics is None:
            return False
        if self.test:
            _predict(own, directory.fold(fold.number))
        earlier = directory.result(fold.number)  # of a fold that was trained without a test
        metrics = {**(earlier.metrics if earlier else {}), **trained.metrics}
        directory.write_result(FoldResult(fold=fold.number, metrics=metrics, score=trained.score))
        return True


def _number_of_folds(config: DictConfig) -> int:
    """Return the configured number of folds.

    Raises:
        ValueError: the data has no folds, or a single one is chosen.
    """
    if "folds" not in config.data or "fold" not in config.data:
        raise ValueError(
            f"mode=cross_validate: {config.data.get('_target_')} has no settings data.folds and data.fold. Use other data, "
            "such as data=manifest, image_folder or audio_folder."
        )
    if config.data.fold is not None:
        raise ValueError(
            f"data.fold: expected null, because mode=cross_validate runs all folds, got {config.data.fold}; mode=fit runs "
            "one."
        )
    folds = DEFAULT_FOLDS if config.data.folds is None else config.data.folds
    Fold.chosen(folds=folds, fold=0)
    return int(folds)


def _decisive(config: DictConfig) -> dict[str, Any]:
    """Return the settings of data, besides the number of folds, that decide which samples are in which fold."""
    data: Any = OmegaConf.to_container(config.data, resolve=True)
    others = {"folds", "fold", *_OF_TRAINING, *_WITHOUT_EFFECT}
    return {f"data.{key}": place_of(key, value) for key, value in data.items() if key not in others}


def _training(config: DictConfig) -> dict[str, Any]:
    """Return the configuration, of whose data only the settings that `_decisive` leaves to the training."""
    whole: Any = OmegaConf.to_container(config, resolve=False)
    return {**whole, "data": {key: value for key, value in whole["data"].items() if key in _OF_TRAINING}}


@first_process_only
def _predict(config: DictConfig, directory: Path) -> None:
    """Write the predictions for the held-out samples of a fold, if they can be averaged and joined."""
    recipe = checkpoints.read(directory)
    spec = recipe.spec or {}
    target = target_of(spec)
    if target is None or str((spec.get("target") or {}).get("kind")) not in SCALES:
        return
    ids, outputs = outputs_of(recipe, config, split="test")
    with atomic_write(directory / PREDICTIONS) as stream:
        PredictionTable(stream, target).write(ids, outputs.float())


def _report(directory: CrossValidationDirectory, folds: int) -> float | None:
    """Write and print the results of all folds; return the mean score."""
    results = [found for number in range(folds) if (found := directory.result(number)) is not None]
    if len(results) < folds:  # another process writes them
        return None
    directory.write_table(results)
    predicted = _join(directory, folds)
    metrics: Mapping[str, float | int] = summarised(results)
    RunDirectory(directory.path).write_metrics(metrics)
    print_folds(results)
    written = ", ".join([METRICS, FOLDS, *([PREDICTIONS] if predicted else [])])
    print_line(f"Run directory {directory.path}: {written}, fold_0 to fold_{folds - 1}")
    scores = [one.score for one in results if one.score is not None]
    return statistics.fmean(scores) if len(scores) == folds else None


def _join(directory: CrossValidationDirectory, folds: int) -> bool:
    """Write the out-of-fold predictions; whether there are any."""
    try:
        return process_rank() == 0 and directory.write_predictions(range(folds))
    except ValueError as error:
        warn(f"{PREDICTIONS} is left out: {error}")
        return False
