"""Changed optimizer settings for the rest of a resumed training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from perceiver import checkpoints
from perceiver.checkpoints.moved import present_name
from perceiver.run.errors import warn
from perceiver.training.optimizer import OptimizerFactory


class OptimizerSettings(Callback):
    """Applies the configured learning rate, weight decay and other settings, in place of those that a checkpoint restores.

    The state of the optimizer (moments, step counts) is restored. A changed learning rate applies at once, scaled by the
    schedule at the step that the training has reached. Unchanged settings are not touched. If only the schedule changed,
    the next step uses the restored rate, and later steps follow the new schedule.

    Args:
        recipe: recipe of the checkpoint.
    """

    def __init__(self, *, recipe: checkpoints.Recipe) -> None:
        self.recipe = recipe
        self._configured: list[dict[str, Any]] = []
        self._changed: set[str] = set()

    def check(self, plain: Mapping[str, Any]) -> None:
        """Compare the optimizer of the resolved configuration with that of the checkpoint; ValueError for another class."""
        stored, now = self.recipe.section("optimizer"), plain["optimizer"]
        before, after = (present_name(str(node.get("_target_"))) for node in (stored, now))
        if stored.get("_target_") is not None and before != after:
            raise ValueError(
                f"optimizer: {self.recipe.file} was trained with {before}, whose state does not fit {after}. Choose "
                "that optimizer, or start a new training from these weights with init_from."
            )
        self._changed = {name for name in now if stored.get(name) != now[name]} - {"lr"}

    def noting(self, factory: OptimizerFactory) -> OptimizerFactory:
        """Return the same factory, which also records the settings of each parameter group that it makes."""

        def make(groups: Iterable[Any]) -> Optimizer:
            made = factory(groups)
            self._configured = [{name: group[name] for name in group if name != "params"} for group in made.param_groups]
            return made

        return make

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the changed settings, after the checkpoint is restored and before the first step."""
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        schedulers = [entry.scheduler for entry in trainer.lr_scheduler_configs if hasattr(entry.scheduler, "base_lrs")]
        before = groups[0]["lr"]
        planned = []
        for index, (group, configured) in enumerate(zip(groups, self._configured, strict=True)):
            group.update({name: configured[name] for name in self._changed if name in configured})
            base = group.get("initial_lr", group["lr"])
            if changed := configured["lr"] != base:
                group["lr"] = group["lr"] * configured["lr"] / base if base else configured["lr"]
                if "initial_lr" in group:
                    group["initial_lr"] = configured["lr"]
                for scheduler in schedulers:
                    scheduler.base_lrs[index] = configured["lr"]
            planned.append(group["lr"])
            for scheduler in schedulers:
                if isinstance(scheduler, LambdaLR):
                    planned[index] = scheduler.base_lrs[index] * scheduler.lr_lambdas[index](scheduler.last_epoch)
            if changed:
                group["lr"] = planned[index]
        for scheduler in schedulers:
            scheduler._last_lr = [group["lr"] for group in groups]
        if planned[0] != before:
            epochs = self.recipe.section("trainer").get("max_epochs")
            stretched = schedulers and epochs != trainer.max_epochs
            why = f" Its schedule now covers {trainer.max_epochs} epochs instead of {epochs}." if stretched else ""
            warn(f"the learning rate continues at {planned[0]:.4g}; the checkpoint stopped at {before:.4g}.{why}")
