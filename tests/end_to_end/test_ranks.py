"""Trainings of two processes that are stopped, continued by as many or another number of them, or in which one hangs.

`benchmarks/kills.py --processes 2` kills them instead; test_parallel.py has whole runs from the command line.
"""

import csv
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from forked_ranks import outcomes
from hydra_runs import SMALL
from made_once import made_once

from perceiver.run.processes.lost_rank import explained

pytestmark = pytest.mark.slow

RUN = (
    "data=digits", *SMALL, "trainer.max_epochs=2", "trainer.accelerator=cpu", "logger=csv",
    "callbacks.samples=null", "callbacks.attention=null",
    "callbacks.attention_by_modality=null", "callbacks.attention_modalities=null", "callbacks.report=null", "test=false",
    "ckpt_path=auto",
    "averaging=ema", "callbacks.averaging.multi_avg_fn.decay=0.8", "trainer.limit_train_batches=9",
    "regularise=false",  # each process would augment and drop in its own way
    "optimizer=sgd", "optimizer.lr=0.05",  # Adam makes steps of rounding errors where a gradient is zero, as of key biases
)  # fmt: skip
ONE = ("trainer=single", "data.batch_size=128")
TWO = ("trainer=ddp", "trainer.devices=2", "data.batch_size=64")
# Batches of 64 in one process: 1,152 samples of an epoch as well.
HALVES = ("trainer=single", "data.batch_size=64", "trainer.limit_train_batches=18")


PART = "predictions.parquet/part-00003-of-00008.parquet"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each training, by a name, and the folder of their run directories under "folder"."""
    folder = made_once(tmp_path_factory, "ranks", lambda folder: outcomes(planned(folder)[1], folder))
    results = json.loads((folder / "results.json").read_text())
    return {**dict(zip(planned(folder)[0], results, strict=True)), "folder": folder}


def planned(folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the trainings, and what `forked_ranks.py` is to do, in order."""
    names: list[str] = []
    plan: list[dict[str, Any]] = []

    def train(name: str, run: str, *overrides: str, act: tuple[int, int, str] | None = None) -> None:
        names.append(name)
        entry = {"processes": 2 if "trainer=ddp" in overrides else 1}
        plan.append({**entry, "arguments": [*RUN, *overrides, f"hydra.run.dir={folder / run}"]})
        if act is not None:
            plan[-1]["act"] = dict(zip(("rank", "step", "signal"), act, strict=True))

    def copy(run: str, other: str) -> None:
        plan.append({"copy": [str(folder / run), str(folder / other)]})

    def predict(name: str, to: str, *overrides: str) -> None:
        names.append(name)
        found = ("mode=predict", "data=digits", f"ckpt_path={folder / 'one'}", "trainer.accelerator=cpu")
        arguments = [*found, "data.batch_size=64", *overrides, f"hydra.run.dir={folder / to}"]
        plan.append({"processes": 2 if "trainer=ddp" in overrides else 1, "arguments": arguments})

    train("one", "one", *ONE)
    train("two", "two", *TWO)
    predict("predicted by two", "predicted", "trainer=ddp", "trainer.devices=2", "rows_per_part=50")
    copy("predicted", "predicted-again")
    names.append("one part lost")
    plan.append({"processes": 1, "call": ["os", "remove", str(folder / "predicted-again" / PART)]})
    predict("predicted again", "predicted-again", "trainer=ddp", "trainer.devices=2")
    predict("predicted by one", "predicted-one")
    train("stopped by SIGTERM", "a", *TWO, act=(1, 3, "SIGTERM"))
    copy("a", "a-one")
    copy("a", "a-halves")
    train("continued after SIGTERM", "a", *TWO)
    train("two to one", "a-one", *ONE)
    train("two to one, other batches", "a-halves", *HALVES)
    train("stopped by SIGUSR1", "b", *TWO, act=(0, 8, "SIGUSR1"))  # the last step of the first epoch
    copy("b", "b-one")
    train("continued after SIGUSR1", "b", *TWO)
    train("two to one after an epoch", "b-one", *ONE)
    train("stopped by time", "c", *TWO, "trainer.max_time={seconds: 0}")
    train("continued after time", "c", *TWO)
    train("one stopped", "d", *ONE, act=(0, 4, "SIGTERM"))
    train("one to two", "d", *TWO)
    short = "trainer.strategy.timeout.minutes=0.1"
    train("second hangs", "e", *TWO, short, act=(1, 3, "SIGSTOP"))
    train("first hangs", "f", *TWO, short, act=(0, 3, "SIGSTOP"))

    return names, plan


@pytest.fixture
def compare(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What two runs do not have alike, bit by bit, as the benchmark says."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.delitem(sys.modules, "kills", raising=False)
    return importlib.import_module("kills").compare


def last(run: Path) -> Any:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_weights(run: Path, other: Path) -> None:
    """The averaged ones and those that training goes on from."""
    one, two = last(run), last(other)
    assert one["global_step"] == two["global_step"] == 18
    assert int(one["averaging_state"]["n_averaged"]) == int(two["averaging_state"]["n_averaged"]) == 18
    for key in ("state_dict", "current_model_state"):
        torch.testing.assert_close(one[key], two[key], rtol=1e-5, atol=1e-5)
    name = "model.encoder.latents"
    assert not torch.allclose(one["state_dict"][name], one["current_model_state"][name], atol=1e-4)


def ids(result: Any, epoch: int) -> list[str]:
    return [name for rank in result["seen"] for number, batch in rank if number == epoch for name in batch]


def test_two_processes_average_the_weights_of_one(runs: dict[str, Any]) -> None:
    assert (runs["one"]["code"], runs["two"]["code"]) == (0, 0), runs["two"]["errors"]
    assert runs["two"]["errors"] == ["", ""]
    assert_same_weights(runs["folder"] / "one", runs["folder"] / "two")
    assert sorted(ids(runs["one"], 1)) == sorted(ids(runs["two"], 1))


def test_two_processes_predict_every_row_once(runs: dict[str, Any]) -> None:
    """As one process does, in the same order; a lost part is computed again, the others stay."""
    for name in ("predicted by two", "predicted again", "predicted by one"):
        assert (runs[name]["code"], set(runs[name]["errors"])) == (0, {""}), runs[name]["errors"]
    one, other = runs["predicted by two"]["output"]
    assert one.endswith("predictions.parquet (8 parts)\n")
    assert other == ""
    with (runs["folder"] / "predicted-one" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    for run in ("predicted", "predicted-again"):
        table = pq.read_table(runs["folder"] / run / "predictions.parquet")
        assert table.column_names == list(rows[0])
        assert table["id"].to_pylist() == [row["id"] for row in rows]
        assert table["prediction"].to_pylist() == [row["prediction"] for row in rows]
        for name in table.column_names[2:]:
            expected = [float(row[name]) for row in rows]
            assert table[name].to_pylist() == pytest.approx(expected, abs=1e-5)
    assert "8 parts of 50 rows, 7 of them complete" in runs["predicted again"]["output"][0]
    before, after = ((runs["folder"] / run / PART).parent.glob("part-*") for run in ("predicted", "predicted-again"))
    times = {file.name: file.stat().st_mtime_ns for file in before}
    assert [file.name for file in after if file.stat().st_mtime_ns != times[file.name]] == [Path(PART).name]


@pytest.mark.parametrize(("cause", "run", "code"), [("SIGTERM", "a", 143), ("SIGUSR1", "b", 138), ("time", "c", 0)])
def test_two_processes_stop_together_and_go_on(cause: str, run: str, code: int, runs: dict[str, Any], compare: Any) -> None:
    """Asked for in either of them; what is resumed ends as what was left alone."""
    stopped, folder = runs[f"stopped by {cause}"], runs["folder"]
    assert stopped["code"] == code
    first, second = stopped["errors"]
    name = "trainer.max_time" if cause == "time" else cause
    assert first.startswith(f"stopped by {name}: {folder / run}/checkpoints/last.ckpt is kept; continue with")
    assert first.count("\n") == 1
    assert second == ""
    continued = runs[f"continued after {cause}"]
    assert (continued["code"], continued["errors"]) == (0, ["", ""])
    assert compare(folder / "two", folder / run) == []
    one, other = last(folder / "two"), last(folder / run)
    torch.testing.assert_close(one["current_model_state"], other["current_model_state"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "run", "message"),
    [
        ("two to one", "a-one", "2 processes, now 1"),
        ("two to one after an epoch", "b-one", "2 processes, now 1"),
        ("one to two", "d", "1 process, now 2"),
    ],
)
def test_another_number_of_processes_goes_on(name: str, run: str, message: str, runs: dict[str, Any]) -> None:
    """With the same global batches the weights are the same, in the middle of an epoch and at its end."""
    result = runs[name]
    assert result["code"] == 0, result["errors"]
    assert message in result["errors"][0]
    assert_same_weights(runs["folder"] / "one", runs["folder"] / run)


def test_other_global_batches_take_up_the_remaining_samples(runs: dict[str, Any]) -> None:
    result, stopped = runs["two to one, other batches"], runs["stopped by SIGTERM"]
    assert result["code"] == 0, result["errors"]
    before, after = ids(stopped, 0), ids(result, 0)
    assert len(before) == 4 * 128
    assert not set(before) & set(after)
    assert sorted(before + after) == sorted(ids(runs["one"], 0))
    message = "2 processes, now 1, so the global batch changes from 128 to 64: the epoch continues after 512 samples."
    assert message in result["errors"][0]


@pytest.mark.parametrize(("victim", "witness"), [("second", 0), ("first", 1)])
def test_a_process_that_hangs_stops_the_others(victim: str, witness: int, runs: dict[str, Any]) -> None:
    result = runs[f"{victim} hangs"]
    # The second one ends the first, which would be left behind: it was started by it, and nobody else watches.
    assert result["code"] == (1 if victim == "second" else -9)
    message = result["errors"][witness]
    where = " on rank 1" if witness else ""
    assert message.startswith(f"error{where}: another process made no progress for 6 seconds (trainer.strategy.timeout)")
    assert "ckpt_path=DIR" in message
    assert len([line for line in message.splitlines() if line.startswith("error")]) == 1


# ---- what torch says, and what is made of it


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 18000ms for recv operation to "
            "complete",
            "no progress for 18 seconds (trainer.strategy.timeout), so this one stops. Other processes: rank 1 "
            "(process 7) is stopped.",
        ),
        (
            "Timed out after 19 seconds waiting for clients. 1/2 clients joined.",
            "only 1 of 2 processes connected within 19 seconds",
        ),
        ("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3456", "another process ended"),
    ],
)
def test_errors_of_torch_are_explained(error: str, words: str) -> None:
    found = explained(RuntimeError(error), hanging=["rank 1 (process 7) is stopped"])
    assert found is not None
    assert words in str(found)


def test_other_errors_stay_what_they_are() -> None:
    assert explained(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert explained(RuntimeError("Timed out after 60 seconds waiting for a worker")) is None
    assert explained(TimeoutError("gloo Timed out waiting 3000ms")) is None
