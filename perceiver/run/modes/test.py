"""mode=test: a checkpoint on the test split, as it was trained."""

from __future__ import annotations

import time
from pathlib import Path

from lightning.pytorch import seed_everything
from omegaconf import DictConfig, open_dict

from perceiver import checkpoints
from perceiver.run.assembly import check_task, class_names, make_data, make_task, make_trainer
from perceiver.run.configuration.compilation import compile_model
from perceiver.run.configuration.literal import literal
from perceiver.run.configuration.resolve import resolve
from perceiver.run.processes.interruption import until_interrupted
from perceiver.run.reporting.console import print_result
from perceiver.run.reporting.figures import ConfusionFigures
from perceiver.run.reporting.metrics import last_metrics, monitored, write_metrics
from perceiver.run.resuming.run_directory import CONFIG, METRICS, continue_table, write_config
from perceiver.run.resuming.stored_spec import use_stored_spec


def evaluate(config: DictConfig) -> float | None:
    """Test a checkpoint: its model, its normalisation, its class names; the data is the present one.

    Returns:
        What the best checkpoint was chosen by, of the test split.
    """
    directory = Path(config.run_dir)
    file = checkpoints.find(config.ckpt_path)
    recipe = checkpoints.read(file)
    check_task(config, recipe)
    model = checkpoints.load(file, trust=list(config.trust))

    data = make_data(config.data)
    data.prepare_data()
    spec = use_stored_spec(data, recipe.spec, file=file, trained_on=recipe.config.get("data"))
    config = config.copy()
    with open_dict(config):
        config.model = literal(recipe.config["model"])
    plain = resolve(config, spec)

    compile_model(model, plain.get("compile"))
    seed_everything(int(plain["seed"]), workers=True, verbose=False)
    task = make_task(plain, model, spec)
    figures = ConfusionFigures(directory=directory, names=class_names(spec), best=None)
    trainer = make_trainer(plain, [figures])
    if trainer.is_global_zero:
        continue_table(directory, trainer, None)
        if not (directory / CONFIG).exists():
            write_config(directory, plain)
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
