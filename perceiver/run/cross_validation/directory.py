"""The directory of a cross-validation: its plan, the run directories of its folds, and their results."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perceiver import checkpoints
from perceiver.run.configuration.command_line import typed_override
from perceiver.run.errors import warn
from perceiver.run.resuming.resume import SHAPING, changed_settings
from perceiver.runtime.files import atomic_write, read_json, write_json
from perceiver.runtime.process_rank import first_process_only

PLAN, RESULT = "cross_validation.json", "fold.json"
FOLDS, PREDICTIONS = "folds.csv", "predictions.csv"
_TRAINING = "training"
PATHS = ("root", "manifest", "path", "files")
"""Settings of data that name files and folders."""
# Plans used to hold only these.
_FORMER_KEYS = {"folds", "data._target_", "data.split_seed", "data.group"}
_SHAPING = (
    *SHAPING, "preset", "regularise", "init_from", "init_model", "init_freeze", "init_lr_multiplier", "lr_scaling",
    "trainer.max_epochs", "trainer.max_steps", "trainer.limit_train_batches",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """Result of a fold.

    Args:
        fold: number of the fold, from 0.
        metrics: metrics of its run, as in its metrics.json.
        score: the monitored validation metric of its best epoch; None without validation.
    """

    fold: int
    metrics: Mapping[str, float]
    score: float | None


class CrossValidationDirectory:
    """Run directory of a cross-validation, with the run directories `fold_0`, `fold_1`, … of its folds.

    `cross_validation.json` holds the settings that decide the folds, and those of the training. `fold.json` in the directory
    of a fold holds its result, and exists once the fold is complete.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def find(cls, path: str | Path | None) -> CrossValidationDirectory | None:
        """Return the cross-validation at a path; None if it holds none."""
        return cls(Path(path)) if path is not None and (Path(path) / PLAN).is_file() else None

    def fold(self, number: int) -> Path:
        """Return the run directory of a fold."""
        return self.path / f"fold_{number}"

    @classmethod
    def require_none(cls, path: str | Path) -> None:
        """Refuse to write other results over those of a cross-validation.

        Raises:
            FileExistsError: the directory holds a cross-validation.
        """
        if cls.find(path) is not None:
            raise FileExistsError(
                f"hydra.run.dir: {path} holds a cross-validation, whose results would be overwritten. Choose another "
                "directory."
            )

    def plan(self) -> dict[str, Any]:
        """Return the settings that decide the folds; empty before `begin`."""
        found = read_json(self.path / PLAN) if (self.path / PLAN).exists() else {}
        return {key: value for key, value in found.items() if key != _TRAINING}

    def begin(self, plan: Mapping[str, Any], *, training: Mapping[str, Any] | None = None, resume: bool) -> None:
        """Write the plan, or compare it with that of the cross-validation to continue.

        Args:
            plan: the number of folds, and the settings of the data that decide which samples are in them.
            training: the configuration of the training; a warning tells what has changed in it.
            resume: whether to continue what is there.

        Raises:
            FileExistsError: the directory holds a cross-validation that shall not be continued, or another run.
            ValueError: the folds of the cross-validation to continue are other folds.
        """
        again = typed_override("ckpt_path", self.path)
        if (self.path / PLAN).exists():
            if not resume:
                raise FileExistsError(
                    f"hydra.run.dir: {self.path} already holds a cross-validation. Choose another directory, or continue it "
                    f"with {again}."
                )
            self._compare(_plain(plan), _plain(_shaping(training or {})))
            return
        if (self.path / "checkpoints").exists():
            raise FileExistsError(f"hydra.run.dir: {self.path} already holds a run. Choose another directory.")
        write_json(self.path / PLAN, _plain({**plan, _TRAINING: _shaping(training or {})}))

    def _compare(self, plan: Mapping[str, Any], training: Mapping[str, Any]) -> None:
        before = self.plan()
        keys = sorted(before.keys() & plan.keys() if before.keys() <= _FORMER_KEYS else before.keys() | plan.keys())
        changed = [f"{key}: {before.get(key)} -> {plan.get(key)}" for key in keys if before.get(key) != plan.get(key)]
        if changed:
            raise ValueError(
                f"ckpt_path: the cross-validation in {self.path} has other folds: {'; '.join(changed)}. Continue it with "
                f"the settings that it was started with. If the same files are at another place now, correct {PLAN} there."
            )
        trained = read_json(self.path / PLAN).get(_TRAINING)
        if isinstance(trained, dict) and (found := changed_settings(trained, training, sections=_SHAPING)):
            warn(f"The cross-validation in {self.path} was started with different settings: {found}")

    def result(self, number: int) -> FoldResult | None:
        """Return the result of a fold; None if it is not complete."""
        file = self.fold(number) / RESULT
        if not file.is_file():
            return None
        content = read_json(file)
        metrics, score = content.get("metrics"), content.get("score")
        if not isinstance(metrics, dict) or not (score is None or _is_number(score)):
            raise ValueError(f"{file}: expected the result of a fold. Delete the file to test the fold again.")
        numbers = {str(key): float(value) for key, value in metrics.items() if _is_number(value)}
        return FoldResult(fold=number, metrics=numbers, score=None if score is None else float(score))

    @first_process_only
    def write_result(self, result: FoldResult) -> None:
        """Mark a fold as complete."""
        write_json(self.fold(result.fold) / RESULT, {"metrics": dict(result.metrics), "score": result.score})

    @first_process_only
    def write_table(self, results: Sequence[FoldResult]) -> None:
        """Write `folds.csv`: a row per complete fold, a column per metric."""
        names = sorted({name for one in results for name in one.metrics})
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["fold", *names])
        writer.writerows([one.fold, *(one.metrics.get(name, "") for name in names)] for one in results)
        with atomic_write(self.path / FOLDS) as file:
            file.write(text.getvalue().encode())

    def write_predictions(self, numbers: Sequence[int]) -> bool:
        """Join the predictions of the folds for their own test samples; False if a fold has none."""
        files = [self.fold(number) / PREDICTIONS for number in numbers]
        if not all(file.is_file() for file in files):
            return False
        header: list[str] | None = None
        with atomic_write(self.path / PREDICTIONS) as whole:
            for number, file in zip(numbers, files, strict=True):
                with file.open(newline="", encoding="utf-8") as stream:
                    reader = csv.reader(stream)
                    columns = next(reader)
                    header = header or columns
                    if columns != header:
                        raise ValueError(
                            f"{file}: expected the columns of fold {numbers[0]}, {', '.join(header)}, got "
                            f"{', '.join(columns)}: the training rows of the folds have different classes. Use fewer folds, "
                            "or leave out rare classes."
                        )
                    text = io.StringIO(newline="")
                    writer = csv.writer(text, lineterminator="\n")
                    if number == numbers[0]:
                        writer.writerow([columns[0], "fold", *columns[1:]])
                    writer.writerows([row[0], number, *row[1:]] for row in reader)
                whole.write(text.getvalue().encode())
        return True

    def ids(self, number: int) -> list[str] | None:
        """Return the ids of a fold's own test samples; None if it has no predictions."""
        file = self.fold(number) / PREDICTIONS
        if not file.is_file():
            return None
        with file.open(newline="", encoding="utf-8") as stream:
            return [row[0] for row in csv.reader(stream)][1:]

    def checkpoints(self) -> list[Path]:
        """Return the checkpoint of each fold, all of which must be complete.

        Raises:
            ValueError: a fold is not complete.
            FileNotFoundError: a fold has no checkpoint.
        """
        folds = read_json(self.path / PLAN).get("folds")
        if type(folds) is not int or not 2 <= folds <= 10_000:
            raise ValueError(f"{self.path / PLAN}: expected the number of folds.")
        missing = [number for number in range(folds) if not (self.fold(number) / RESULT).is_file()]
        if missing:
            raise ValueError(
                f"ckpt_path: {self.path} is a cross-validation whose folds {', '.join(map(str, missing))} are not complete. "
                f"Continue it with mode=cross_validate and {typed_override('ckpt_path', self.path)}, or use a single fold: "
                f"{typed_override('ckpt_path', self.fold(0))}."
            )
        return [checkpoints.find(self.fold(number)) for number in range(folds)]


def place_of(key: str, value: Any) -> Any:
    """Return the value of a setting of data; files and folders as absolute paths, so that every spelling is the same."""
    if isinstance(value, list):
        return [place_of(key, one) for one in value]
    if key not in PATHS or not isinstance(value, str):
        return value
    path = Path(os.path.expandvars(value)).expanduser()
    # What names no file, such as a pattern or a name on the Hub, stays.
    return str(path.resolve()) if path.exists() else value


def _shaping(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a configuration that shape a training."""
    parts = {name.partition(".")[0] for name in _SHAPING}
    return {key: value for key, value in config.items() if key in parts}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as they come back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return plain


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
