"""mode=test: evaluate a checkpoint on the test split, configured as in training."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf, open_dict

from perceiver import checkpoints
from perceiver.data.loading.folds import Fold
from perceiver.model import Perceiver
from perceiver.run.assembly.data import make_data
from perceiver.run.assembly.spec import class_names, use_stored_spec
from perceiver.run.assembly.task import check_task, make_task
from perceiver.run.assembly.trainer import make_trainer
from perceiver.run.configuration.compilation import compile_model
from perceiver.run.configuration.literal import literal
from perceiver.run.configuration.resolve import resolve
from perceiver.run.cross_validation.averaging import Replayed, averaged, data_for
from perceiver.run.cross_validation.directory import PATHS, CrossValidationDirectory, place_of
from perceiver.run.cross_validation.fold_job import config_of_fold
from perceiver.run.errors import warn
from perceiver.run.modes.inference import find_checkpoint, set_decoding
from perceiver.run.processes.interruption import until_interrupted
from perceiver.run.reporting.console import print_result
from perceiver.run.reporting.figures import ConfusionFigures
from perceiver.run.reporting.metrics import last_metrics, monitored
from perceiver.run.reporting.report.callback import write_report
from perceiver.run.run_directory import RunDirectory
from perceiver.samples.batch import Batch


class OnlyModalities(Callback):
    """Masks all but some modalities in every sample of a test.

    Args:
        names: the modalities that stay.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Mask the others, in place: Lightning hands on the batch that it has."""
        batch.masks = batch.only(self.names).masks


@dataclass(frozen=True, kw_only=True)
class Test:
    """Tests a checkpoint with its own model, normalisation and class names, on the configured data.

    Args:
        ckpt_path: the checkpoint, or its run directory; of a cross-validation, all folds, whose predictions are averaged.
        generation: how texts are generated, as arguments of `Decoding`; None: as the checkpoint is configured.
        modalities: those that the model is given; the others are masked in all samples. None: all.
    """

    ckpt_path: str | None
    generation: Mapping[str, Any] | None = None
    modalities: Sequence[str] | None = None

    def run(self, config: DictConfig) -> float | None:
        """Test the checkpoint, and return the metric that chose the best checkpoint, computed on the test split."""
        CrossValidationDirectory.require_none(config.run_dir)
        folds = CrossValidationDirectory.find(self.ckpt_path)
        if folds is not None:
            return self._test_average(folds, config)
        file = find_checkpoint(self.ckpt_path, mode="test")
        recipe = checkpoints.read(file)
        check_task(config.task, recipe)
        model = checkpoints.load(file, trust=list(config.trust))
        set_decoding(model, self.generation)

        data = make_data(config.data)
        data.prepare_data()
        spec = use_stored_spec(data, recipe.spec, file=file, trained_on=recipe.section("data"))
        plain = resolve(_with_model(config, recipe), spec)

        compile_model(model, plain.get("compile"))
        seed_everything(int(plain["seed"]), workers=True, verbose=False)
        task = make_task(plain, model, spec)
        with RunDirectory(Path(config.run_dir)).locked() as directory:
            confusion = ConfusionFigures(directory=directory.path, names=class_names(spec), best=None)
            trainer = make_trainer(plain, [confusion, *self._given(model)])
            directory.begin_test(trainer, plain)
            started = time.monotonic()
            until_interrupted(trainer, lambda: trainer.test(task, datamodule=data, verbose=False))
            metrics = {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "seconds": round(time.monotonic() - started, 2),
                **last_metrics(trainer, "test"),
            }
            directory.write_metrics(metrics)
            write_report(trainer, plain, metrics)
        print_result(metrics, directory.path, chosen_by=monitored(trainer), tested=file)
        score = metrics.get((monitored(trainer) or "").replace("val/", "test/", 1))
        return None if score is None else float(score)

    def _given(self, model: Perceiver) -> list[Callback]:
        """Return what leaves out the modalities that the model is not given."""
        if self.modalities is None:
            return []
        names, known = list(self.modalities), sorted(model.adapters)
        if not names or not set(names) <= set(known):
            raise ValueError(f"modalities: expected one or more of {', '.join(known)}, or null for all; got {names}.")
        return [OnlyModalities(names)]

    def _test_average(self, folds: CrossValidationDirectory, config: DictConfig) -> float | None:
        """Test the average of the predictions of all folds, on samples that no fold was trained on."""
        started = time.monotonic()
        for name, value in (("generation", self.generation), ("modalities", self.modalities)):
            if value is not None:
                raise ValueError(f"{name}: expected null, since {folds.path} is a cross-validation, got {value}.")
        recipes = [checkpoints.read(file) for file in folds.checkpoints()]
        recipe = recipes[0]
        check_task(config.task, recipe)
        ids, outputs = averaged(recipes, config, split="test")
        _require_unseen(ids, folds, recipes, config)
        spec = recipe.spec or {}
        plain = resolve(_with_model(config, recipe), spec)
        data = data_for(recipe, config)
        replayed = Replayed(outputs)
        task = make_task(plain, checkpoints.load(recipe.file, trust=list(config.trust)), spec)
        measured = task.objective.metrics(task.model)
        for number, batch in enumerate(data.test_dataloader()):
            with torch.inference_mode(), replayed.batch(batch.size):
                task.objective.evaluate(replayed, task.objective.check(task.model, batch), measured, number=number)
        results = {f"test/{name}": float(value) for name, value in task.objective.results(measured).items()}
        metrics = {"folds": len(recipes), "seconds": round(time.monotonic() - started, 2), **results}
        with RunDirectory(Path(config.run_dir)).locked() as directory:
            directory.write_metrics(metrics)
        print_result(metrics, directory.path, chosen_by=None, tested=folds.path, loadable=folds.fold(0))
        score = metrics.get(str(OmegaConf.select(config, "callbacks.best.monitor")).replace("val/", "test/", 1))
        return None if score is None else float(score)


def _with_model(config: DictConfig, recipe: checkpoints.Recipe) -> DictConfig:
    """Return the configuration with the model of a checkpoint."""
    config = config.copy()
    with open_dict(config):
        config.model = literal(recipe.config["model"])
    return config


def _require_unseen(
    ids: Sequence[str], folds: CrossValidationDirectory, recipes: Sequence[checkpoints.Recipe], config: DictConfig
) -> None:
    """Check that the samples are not those of the folds, each of which most folds were trained on.

    Data at another place may have the same ids for other samples, so these are only warned of.

    Raises:
        ValueError: a sample of the same data is among those of the folds.
    """
    before: Mapping[str, Any] = recipes[0].section("data")
    before = {**before, **{key.removeprefix("data."): value for key, value in folds.plan().items()}}
    now: Any = OmegaConf.to_container(config.data, resolve=True)
    if before.get("_target_") != now.get("_target_"):
        return
    same = all(place_of(key, before.get(key)) == place_of(key, now.get(key)) for key in (*PATHS, "name"))
    seen: set[str] = set()
    for number, recipe in enumerate(recipes):
        found = folds.ids(number)
        if found is None and same:
            found = _ids_of_fold(Fold(number=number, of=len(recipes)), recipe, config)
        seen.update(found or ())
    common = [id_ for id_ in ids if id_ in seen]
    if not common:
        return
    which = f"{len(common)} of the {len(ids)} test samples, such as {common[0]!r},"
    if not same:
        warn(
            f"{which} have ids of samples of the folds in {folds.path}. If they are the same samples, most of the averaged "
            "models were trained on them, and these results are too good."
        )
        return
    raise ValueError(
        f"ckpt_path: {which} are samples of the folds in {folds.path}, so most of the averaged models were trained on them. "
        "The results for held-out samples are in its metrics.json; test on other data, e.g. data.manifest=NEW.csv "
        "data.test_fraction=1."
    )


def _ids_of_fold(fold: Fold, recipe: checkpoints.Recipe, config: DictConfig) -> list[str]:
    """Return the ids of the samples that a fold of the configured data holds out."""
    data = data_for(recipe, config_of_fold(config, fold, recipe.file.parent.parent))
    return [id_ for batch in data.test_dataloader() for id_ in batch.ids]
