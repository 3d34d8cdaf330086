"""Settings of the optimizer on resuming: what was changed holds from the first step on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from perceiver import checkpoints
from perceiver.run.resuming.optimizer import OptimizerSettings

ADAM = "torch.optim.AdamW"


def recipe(**optimizer: Any) -> checkpoints.Recipe:
    config = {"optimizer": {"_target_": ADAM, **optimizer}, "trainer": {"max_epochs": 2}}
    return checkpoints.Recipe(file=Path("run/checkpoints/last.ckpt"), config=config, spec=None)


def trained(*, lr: float, steps: int = 4, total: int = 8, weight_decay: float = 0.1) -> tuple[Optimizer, LambdaLR]:
    """An optimizer with two groups, the second of half the rate and no decay, after some steps of a linear decline."""
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = torch.optim.AdamW(
        [{"params": weights[:1]}, {"params": weights[1:], "lr": lr / 2, "weight_decay": 0.0}],
        lr=lr, weight_decay=weight_decay,
    )  # fmt: skip
    scheduler = LambdaLR(optimizer, [lambda step: 1 - step / total] * 2)
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler


def resumed(
    settings: OptimizerSettings, before: tuple[Optimizer, LambdaLR], now: dict[str, Any], **changes: Any
) -> Optimizer:
    """The optimizer as a training has it before its first step: made anew, then given the state of the checkpoint."""
    settings.check({"optimizer": {"_target_": ADAM, **now}})
    made: list[Any] = []

    def factory(groups: Any) -> Optimizer:
        made.extend(trained(lr=now["lr"], weight_decay=now["weight_decay"], steps=0, **changes))
        return made[0]

    settings.noting(factory)([])
    optimizer, scheduler = made
    optimizer.load_state_dict(before[0].state_dict())
    scheduler.load_state_dict({**before[1].state_dict(), "lr_lambdas": [None, None]})
    entries = [SimpleNamespace(scheduler=scheduler)]
    trainer: Any = SimpleNamespace(optimizers=[optimizer], lr_scheduler_configs=entries, max_epochs=2)
    settings.on_train_start(trainer, torch.nn.Module())  # type: ignore[arg-type]
    return optimizer


def settings_of(optimizer: Optimizer) -> list[tuple[float, float]]:
    return [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]


@pytest.mark.usefixtures("unchecked")  # a stand-in for a trainer
def test_unchanged_settings_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = trained(lr=0.4)
    now = {"lr": 0.4, "weight_decay": 0.1}
    assert settings_of(resumed(OptimizerSettings(recipe=recipe(**now)), before, now)) == settings_of(before[0])
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("unchecked")  # a stand-in for a trainer
def test_rate_and_decay_hold_at_the_place_of_the_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    settings = OptimizerSettings(recipe=recipe(lr=0.4, weight_decay=0.1))
    optimizer = resumed(settings, trained(lr=0.4), {"lr": 0.04, "weight_decay": 0.3})
    assert settings_of(optimizer) == [(pytest.approx(0.02), 0.3), (pytest.approx(0.01), 0.0)]
    assert "the learning rate continues at 0.02; the checkpoint stopped at 0.2." in capsys.readouterr().err
    assert optimizer.state_dict()["param_groups"][0]["initial_lr"] == 0.04


@pytest.mark.usefixtures("unchecked")  # a stand-in for a trainer
def test_a_longer_schedule_tells_what_the_rate_does(capsys: pytest.CaptureFixture[str]) -> None:
    old = recipe(lr=0.4, weight_decay=0.1)
    old.config["trainer"]["max_epochs"] = 1
    optimizer = resumed(OptimizerSettings(recipe=old), trained(lr=0.4), {"lr": 0.4, "weight_decay": 0.1}, total=16)
    assert settings_of(optimizer)[0] == (pytest.approx(0.2), 0.1), "for the next step, as ever"
    message = capsys.readouterr().err
    assert "continues at 0.3; the checkpoint stopped at 0.2. Its schedule now covers 2 epochs instead of 1." in message


def test_another_optimizer_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"optimizer: .*trained with torch.optim.AdamW, whose state does not fit torch.optim.SGD"
    ):
        OptimizerSettings(recipe=recipe()).check({"optimizer": {"_target_": "torch.optim.SGD"}})
