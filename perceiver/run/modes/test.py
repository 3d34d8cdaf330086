"""mode=test: evaluate a checkpoint on the test split, configured as in training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything
from omegaconf import DictConfig, open_dict

from perceiver import checkpoints
from perceiver.run.configuration.compilation import compile_model
from perceiver.run.configuration.literal import literal
from perceiver.run.configuration.resolve import resolve
from perceiver.run.data import make_data
from perceiver.run.modes.inference import find_checkpoint, set_decoding
from perceiver.run.processes.interruption import until_interrupted
from perceiver.run.reporting.console import print_result
from perceiver.run.reporting.figures import ConfusionFigures
from perceiver.run.reporting.metrics import last_metrics, monitored
from perceiver.run.reporting.report.callback import write_report
from perceiver.run.run_directory import RunDirectory
from perceiver.run.spec import class_names, use_stored_spec
from perceiver.run.task import check_task, make_task
from perceiver.run.trainer import make_trainer


@dataclass(frozen=True, kw_only=True)
class Test:
    """Tests a checkpoint with its own model, normalisation and class names, on the configured data.

    Args:
        ckpt_path: the checkpoint, or its run directory.
        generation: how texts are generated, as arguments of `Decoding`; None: as the checkpoint is configured.
    """

    ckpt_path: str | None
    generation: Mapping[str, Any] | None = None

    def run(self, config: DictConfig) -> float | None:
        """Test the checkpoint, and return the metric that chose the best checkpoint, computed on the test split."""
        file = find_checkpoint(self.ckpt_path, mode="test")
        recipe = checkpoints.read(file)
        check_task(config.task, recipe)
        model = checkpoints.load(file, trust=list(config.trust))
        set_decoding(model, self.generation)

        data = make_data(config.data)
        data.prepare_data()
        spec = use_stored_spec(data, recipe.spec, file=file, trained_on=recipe.section("data"))
        config = config.copy()
        with open_dict(config):
            config.model = literal(recipe.config["model"])
        plain = resolve(config, spec)

        compile_model(model, plain.get("compile"))
        seed_everything(int(plain["seed"]), workers=True, verbose=False)
        task = make_task(plain, model, spec)
        with RunDirectory(Path(config.run_dir)).locked() as directory:
            trainer = make_trainer(plain, [ConfusionFigures(directory=directory.path, names=class_names(spec), best=None)])
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
