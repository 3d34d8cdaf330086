"""mode=lr_find: a suggestion from the training split alone, a curve, no checkpoint, and what goes wrong."""

import csv
from pathlib import Path

import pytest
from hydra_runs import SMALL, run

from perceiver.data.loading.module import DataModule
from perceiver.run.modes.lr_find import suggestion

SETTINGS = (*SMALL, "mode=lr_find", "lr_find.steps=40", "data.batch_size=32")

pytestmark = pytest.mark.usefixtures("unchecked")


def test_suggestion_curve_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    split = DataModule.split

    def noted(self: DataModule, name: str) -> object:
        read.append(name)
        return split(self, name)

    monkeypatch.setattr(DataModule, "split", noted)
    done = run(*SETTINGS, f"hydra.run.dir={tmp_path}")
    assert done.code == 0, done.err
    [line] = [line for line in done.out.splitlines() if line.startswith("Suggested learning rate: optimizer.lr=")]
    assert 1e-5 < float(line.rpartition("=")[2]) < 0.5
    assert "test" not in read
    with (tmp_path / "lr_find.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates == sorted(rates)
    assert rates[0] < 1e-5
    assert len(rows) <= 40
    assert (tmp_path / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not (tmp_path / "metrics.json").exists()


def test_training_that_diverges(tmp_path: Path) -> None:
    done = run(*SETTINGS, "lr_find.smallest=10", "lr_find.largest=1e6", "optimizer=sgd", f"hydra.run.dir={tmp_path}")
    assert done.code == 1
    assert done.error.startswith(("error: lr_find.", "error: mode=lr_find: the loss does not fall"))
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr_find.steps=10", "lr_find.steps: expected 20 or more, got 10"),
        ("lr_find.smallest=2", "lr_find: expected 0 < smallest < largest, got smallest=2"),
        ("lr_find.smallest=0", "lr_find: expected 0 < smallest < largest"),
    ],
)
def test_settings_out_of_range(override: str, message: str, tmp_path: Path) -> None:
    done = run("mode=lr_find", override, f"hydra.run.dir={tmp_path}")
    assert done.code == 1
    assert message in done.error


def test_the_steepest_fall_is_suggested() -> None:
    rates = [10 ** (step / 10 - 6) for step in range(60)]
    losses = [2.3] * 25 + [2.3 - 0.02 * step for step in range(10)] + [2.1 - 0.1 * step for step in range(10)] + [9.0] * 15
    assert 35 <= suggestion(rates, losses) <= 43
    noisy_start = [9.0, 1.0, *losses[2:]]
    assert suggestion(rates, noisy_start) == suggestion(rates, losses)
    with pytest.raises(ValueError, match=r"the loss does not fall at any rate from 1e-06 to 0\.79"):
        suggestion(rates, [1.0 + 0.1 * step for step in range(60)])
