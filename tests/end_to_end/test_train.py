"""`python train.py` from end to end on real digits: what it leaves behind, and how each bad input reads.

A few runs are processes of their own; the others call the same `main` in this one, which spares importing Lightning.
"""

import csv
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from hydra_runs import QUICK, QUIET, SMALL, Finished, metrics_of
from hydra_runs import run as train
from made_once import made_once
from sklearn.datasets import load_digits
from warm_process import start

import perceiver
from perceiver.data import DataModule, Digits

REPOSITORY = Path(__file__).resolve().parents[2]
LARGER = ("model.encoder.num_latents=8", "model.encoder.latent_channels=32")


def process(*arguments: str) -> Finished:
    """Run train.py as a user does."""
    command = [sys.executable, "train.py", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, in a process of its own, whose output is beside it."""

    def make(folder: Path) -> None:
        finished = process(*SMALL, "trainer.max_epochs=2", f"hydra.run.dir={folder / 'first'}")
        assert finished.code == 0, finished.err
        (folder / "out").write_text(finished.out)
        (folder / "err").write_text(finished.err)

    return made_once(tmp_path_factory, "run_of_two_epochs", make) / "first"


def test_a_run_says_what_it_does(run_directory: Path) -> None:
    assert (run_directory.parent / "err").read_text() == "", "a run without problems warns of nothing"
    out = (run_directory.parent / "out").read_text()
    for words in (
        "adapters.image",
        "64 tokens × 19",
        "Estimated FLOPs",
        "epoch 2/2  train/loss",
        "Validation accuracy",
        "Test accuracy",
        f'perceiver.load("{run_directory}")',
    ):
        assert words in out


def test_a_run_leaves_one_directory(run_directory: Path) -> None:
    assert {path.name for path in run_directory.iterdir()} == {
        ".hydra",
        "checkpoints",
        "config.yaml",
        "csv",
        "figures",
        "metrics.json",
        "report.html",
        "tensorboard",
        "train.log",
    }
    assert {path.name for path in (run_directory / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert {path.name for path in (run_directory / "figures").iterdir()} == {
        "attention_image_val.png",
        "calibration_test.png",
        "confusion_test.png",
        "confusion_val.png",
        "latents_image_val.png",
        "learning_curves.png",
        "samples_val.png",
    }
    assert "val/accuracy" in (run_directory / "csv" / "metrics.csv").read_text().splitlines()[0]
    assert list((run_directory / "tensorboard").glob("events.out.tfevents.*"))


def test_metrics(run_directory: Path) -> None:
    metrics = metrics_of(run_directory)
    assert set(metrics) == {
        "best_epoch",
        "epochs",
        "parameters",
        "seconds",
        "test/accuracy",
        "test/loss",
        "train/accuracy",
        "train/learning_rate",
        "train/loss",
        "val/accuracy",
        "val/loss",
    }
    model = perceiver.load(run_directory)
    assert metrics["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    best = torch.load(run_directory / "checkpoints" / "best.ckpt", weights_only=True)
    assert metrics["best_epoch"] == best["epoch"]


def test_the_configuration_is_resolved_and_holds_the_spec(run_directory: Path) -> None:
    text = (run_directory / "config.yaml").read_text()
    assert "${" not in text
    config = yaml.safe_load(text)
    assert config["spec"]["target"]["names"] == [str(digit) for digit in range(10)]
    assert config["model"]["head"]["num_classes"] == 10
    assert config["model"]["adapters"]["image"]["position"]["resolution"] == [8, 8]
    recipe = perceiver.checkpoints.read(run_directory)
    assert recipe.spec == config["spec"]
    assert recipe.config["model"] == config["model"]


def test_the_reported_test_accuracy_is_that_of_the_loaded_model(run_directory: Path) -> None:
    data = DataModule.of(Digits)
    data.setup("test")
    test = data.source.read_test()
    images = load_digits().images.astype("uint8")
    numbers = test.numbers.tolist()
    model = perceiver.load(run_directory)
    predicted = [prediction.label for prediction in model.predict([images[number] for number in numbers])]
    right = [label == str(int(target)) for label, target in zip(predicted, test.labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(metrics_of(run_directory)["test/accuracy"])


def test_testing_a_checkpoint_later_gives_the_same(run_directory: Path, tmp_path: Path) -> None:
    """The model, the normalisation and the classes are those of the checkpoint, not those of the command line."""
    finished = train("mode=test", f"ckpt_path={run_directory}", f"hydra.run.dir={tmp_path}", "data.validation_size=700")
    assert finished.code == 0, finished.err
    metrics, earlier = metrics_of(tmp_path), metrics_of(run_directory)
    assert metrics["test/accuracy"] == earlier["test/accuracy"]
    assert metrics["test/loss"] == pytest.approx(earlier["test/loss"], rel=1e-5)
    assert "val/accuracy" not in metrics
    assert (tmp_path / "figures" / "confusion_test.png").is_file()
    assert not (tmp_path / "checkpoints").exists()
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["spec"] == yaml.safe_load((run_directory / "config.yaml").read_text())["spec"]
    assert config["model"]["encoder"]["num_latents"] == 4


def test_a_run_can_be_continued(run_directory: Path, tmp_path: Path) -> None:
    """Two epochs and then two more, as a run of four would have gone: optimizer, schedule and epoch come along."""
    schedule = (*QUIET, "trainer.max_epochs=4", "scheduler=none", "test=false", "logger=csv")
    first = tmp_path / "first"
    assert train(*SMALL, *schedule, f"hydra.run.dir={first}", "trainer.max_epochs=2").code == 0
    finished = train(*SMALL, *schedule, f"ckpt_path={first}", f"hydra.run.dir={tmp_path / 'second'}")
    assert finished.code == 0, finished.err
    assert "epoch 3/4" in finished.out
    assert "epoch 2/4" not in finished.out
    metrics = metrics_of(tmp_path / "second")
    assert metrics["epochs"] == 4
    last = torch.load(tmp_path / "second" / "checkpoints" / "last.ckpt", weights_only=True)
    steps = torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert last["epoch"] == 3
    assert last["global_step"] == 2 * steps
    assert {float(state["step"]) for state in last["optimizer_states"][0]["state"].values()} == {2.0 * steps}
    assert metrics["val/accuracy"] >= metrics_of(first)["val/accuracy"]

    again = train(*SMALL, *schedule, f"ckpt_path={first}", f"hydra.run.dir={first}")
    assert again.code == 0, again.err
    with (first / "csv" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"], "one table, continued"


def test_a_worse_continuation_keeps_the_best(run_directory: Path, tmp_path: Path) -> None:
    finished = train(
        *SMALL, *QUIET, "trainer.max_epochs=3", "trainer.gradient_clip_val=null", "logger=none",
        f"ckpt_path={run_directory}", f"hydra.run.dir={tmp_path}", "trainer.limit_val_batches=1",
        "data.batch_size=2", "trainer.limit_train_batches=1",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    before = torch.load(run_directory / "checkpoints" / "best.ckpt", weights_only=True)
    if metrics_of(tmp_path)["best_epoch"] < 2:
        assert best["epoch"] == before["epoch"]
        assert torch.equal(best["state_dict"]["model.encoder.latents"], before["state_dict"]["model.encoder.latents"])
    assert metrics_of(tmp_path)["val/accuracy"] >= metrics_of(run_directory)["val/accuracy"]


def test_the_test_split_stays_untouched(tmp_path: Path) -> None:
    with mock.patch.object(Digits, "read_test", side_effect=AssertionError("the test split was read")):
        finished = train(*QUICK, "test=false", f"hydra.run.dir={tmp_path}")
        assert finished.code == 0, finished.err
        assert train(*QUICK, f"hydra.run.dir={tmp_path / 'other'}").code == 1
    assert not [name for name in metrics_of(tmp_path) if name.startswith("test/")]


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    losses = []
    for number, seed in enumerate((1, 1, 2)):
        directory = tmp_path / str(number)
        assert train(*QUICK, "test=false", f"seed={seed}", f"hydra.run.dir={directory}").code == 0
        losses.append(metrics_of(directory)["train/loss"])
    assert losses[0] == losses[1] != losses[2]


def test_overfitting_reaches_zero_loss(tmp_path: Path) -> None:
    finished = train(
        "debug=overfit", *SMALL, *LARGER, *QUIET, "data.batch_size=32", "logger=none", f"hydra.run.dir={tmp_path}"
    )
    assert finished.code == 0, finished.err
    metrics = metrics_of(tmp_path)
    assert metrics["train/loss"] < 1e-3
    assert metrics["train/accuracy"] == 1.0
    assert not [name for name in metrics if name.startswith(("val/", "test/"))]


def test_a_sweep_makes_a_directory_per_job(tmp_path: Path) -> None:
    arguments = ("-m", *QUICK, "test=false", f"hydra.sweep.dir={tmp_path}", "optimizer.lr=1e-3,3e-4")
    finished = train(*arguments)
    assert finished.code == 0, finished.err
    rates = [yaml.safe_load((tmp_path / job / "config.yaml").read_text())["optimizer"]["lr"] for job in ("0", "1")]
    assert rates == [1e-3, 3e-4]
    assert all("val/accuracy" in metrics_of(tmp_path / job) for job in ("0", "1"))


def test_directories_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train("data=digits", "mode=test").code == 1
    assert train("-m", "data=digits,mnist", "mode=test").code == 1
    [run] = (tmp_path / "runs" / "digits").iterdir()
    [sweep] = (tmp_path / "runs" / "sweeps").iterdir()
    assert (run / "error.log").is_file()
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1"]


def test_a_failed_job_does_not_stop_its_sweep(tmp_path: Path) -> None:
    finished = train("-m", *QUICK, "test=false", f"hydra.sweep.dir={tmp_path}", "task.label_smoothing=2.0,0.1")
    assert finished.code == 1
    assert "task.label_smoothing" in finished.error
    assert (tmp_path / "0" / "error.log").is_file()
    assert (tmp_path / "1" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.encoder.num_latent=3"], "'model.encoder.num_latent'.*Did you mean model.encoder.num_latents?"),
        (["optimzer=lamb"], "Did you mean optimizer?"),
        (["optimizer=adam"], "Available options in 'optimizer': adamw, lamb, sgd. Did you mean optimizer=adamw?"),
        (["experiment=imagenet"], "Could not find 'experiment/imagenet'"),
        (["model=perceiver_i0"], "Did you mean model=perceiver_io?"),
        (["a=["], "no viable alternative"),
        (["mode=train"], "Could not find 'mode/train'. Available options in 'mode': batch_size, compare, cross_validate,"),
        (["mode=tests"], "Did you mean mode=test?"),
        (["shards=folder"], "Could not override 'shards'.*It belongs to mode=shard."),
        (["mode=test", "init_freeze=true"], "It belongs to mode=batch_size and mode=cross_validate and mode=fit and"),
    ],
)  # fmt: skip
def test_a_wrong_override(arguments: list[str], words: str) -> None:
    finished = train(*arguments)
    assert finished.code == 1
    assert all(part in finished.error for part in words.split(".*")), finished.error
    assert "HYDRA_FULL_ERROR=1" in finished.err
    assert len(finished.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mode=test"], "mode=test: expected a checkpoint, ckpt_path="),
        (["mode=test", "ckpt_path=no/such/run"], "no/such/run: no such file or folder"),
        (["ckpt_path=no/such/run"], "no/such/run: no such file or folder"),
        (["data=mnist", "data.root=no/such/folder", "data.download=false"], "data.root: expected MNIST's files in"),
        (["data.batch_size=0"], "data.batch_size: expected 1 or more, got 0"),
        (["data.validation_size=5000"], "data.validation_size: expected 1 to"),
        (["model.encoder.num_self_heads=7"], "qk_channels = 16 must be a positive multiple of num_heads = 7"),
        (["model.encoder._target_=perceiver.encoders.encoder.Encodr"], "Encodr"),
        (
            ["data.augment={_target_: perceiver.data.RandomAffin}"],
            "_target_=perceiver.data.RandomAffin (at data.augment): no such class",
        ),
        (["scheduler.warmup_fraction=3"], "scheduler.warmup_fraction: expected a fraction between 0 and 1, got 3"),
        (["optimizer.lr=1e30", "trainer.gradient_clip_val=null"], "the training loss is nan in epoch 1"),
    ],
)
def test_bad_input(arguments: list[str], words: str, tmp_path: Path) -> None:
    finished = train(
        *QUICK, "trainer.limit_train_batches=9", "scheduler.warmup_fraction=0", *arguments, f"hydra.run.dir={tmp_path}"
    )
    assert finished.code == 1
    assert words in finished.error, finished.error
    assert f"full traceback: {tmp_path}/error.log" in finished.err
    assert "Traceback" in (tmp_path / "error.log").read_text()
    assert len(finished.err.splitlines()) == 2, finished.err


def test_a_checkpoint_of_another_architecture(run_directory: Path, tmp_path: Path) -> None:
    arguments = (*SMALL, "trainer.max_epochs=9", f"hydra.run.dir={tmp_path}", f"ckpt_path={run_directory}")
    finished = train(*arguments, "model.encoder.num_latents=5", "model=perceiver_io")
    assert finished.code == 1
    assert "a different architecture" in finished.error
    assert "encoder.latents (checkpoint 4x16, model 5x16)" in finished.error
    assert "are not in the checkpoint: head.query (model 1x16)" in finished.error
    assert not (tmp_path / "csv").exists(), "found before training"


def test_a_finished_run_has_nothing_to_continue(run_directory: Path, tmp_path: Path) -> None:
    finished = train(*SMALL, "trainer.max_epochs=2", f"ckpt_path={run_directory}", f"hydra.run.dir={tmp_path}")
    assert finished.code == 1
    assert "already been trained for 2 epochs; set trainer.max_epochs above that (now 2)" in finished.error


def test_a_corrupt_checkpoint(run_directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "half.ckpt"
    content = (run_directory / "checkpoints" / "best.ckpt").read_bytes()
    file.write_bytes(content[: len(content) // 2])
    for mode in ("fit", "test"):
        finished = train(*QUICK, f"mode={mode}", f"ckpt_path={file}", f"hydra.run.dir={tmp_path / mode}")
        assert finished.code == 1
        assert str(file) in finished.error
        assert "truncated or damaged" in finished.error


def test_a_checkpoint_of_other_data(run_directory: Path, tmp_path: Path, data_root: Path) -> None:
    finished = train(
        "mode=test", "data=mnist", f"data.root={data_root}", f"ckpt_path={run_directory}", f"hydra.run.dir={tmp_path}"
    )
    assert finished.code == 1
    assert "this data does not fit the checkpoint" in finished.error
    assert "perceiver.data.Digits" in finished.error


def test_an_earlier_run_is_not_written_over(run_directory: Path, tmp_path: Path) -> None:
    earlier = shutil.copytree(run_directory, tmp_path / "earlier")
    before = (earlier / "checkpoints" / "last.ckpt").read_bytes()
    finished = train(*QUICK, f"hydra.run.dir={earlier}")
    assert finished.code == 1
    assert (
        f"already holds a run (last.ckpt). Choose another directory, or continue that run with ckpt_path={earlier}"
        in finished.error
    )
    assert (earlier / "checkpoints" / "last.ckpt").read_bytes() == before


def test_labels_out_of_range_name_the_sample(tmp_path: Path) -> None:
    finished = train(*QUICK, "task.num_classes=5", "model.head.num_classes=5", f"hydra.run.dir={tmp_path}")
    assert finished.code == 1
    assert "target of sample 'digits/" in finished.error
    assert "expected a class number from 0 to 4" in finished.error


def test_a_disk_too_small_is_found_before_training(tmp_path: Path) -> None:
    with mock.patch("perceiver.run.resuming.checkpoint_io.free_bytes", return_value=1000):
        finished = train(*QUICK, f"hydra.run.dir={tmp_path}")
    assert finished.code == 1
    assert "not enough disk space for checkpoints" in finished.error
    assert "epoch 1" not in finished.out


def test_a_disk_that_fills_up_leaves_what_was_written(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        finished = train(*QUICK, "model.encoder.num_latents=512", f"hydra.run.dir={tmp_path}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert finished.code == 1
    assert f"no space left while writing {tmp_path}/checkpoints/best.ckpt" in finished.error
    assert list((tmp_path / "checkpoints").iterdir()) == [], "nothing half-written is left"
    assert (tmp_path / "config.yaml").is_file()


def test_an_interrupt_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    running = start("train.py", *SMALL, *QUIET, "trainer.max_epochs=10000", f"hydra.run.dir={tmp_path}")
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "checkpoints" / "last.ckpt").exists():
            assert time.monotonic() < deadline, "no epoch ended within two minutes"
            assert running.poll() is None, running.communicate()
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert err.strip().splitlines()[-1].startswith(f"interrupted: {tmp_path}/checkpoints/last.ckpt is kept; continue")
    assert f"ckpt_path={tmp_path}" in err
    assert perceiver.load(tmp_path / "checkpoints" / "last.ckpt") is not None


def test_help_teaches_groups_and_overrides() -> None:
    finished = train("--help")
    assert finished.code == 0
    for line in (
        "optimizer: adamw, lamb, sgd",
        "model: interface, perceiver, perceiver_ar, perceiver_io",
        "debug=overfit",
        "ckpt_path=RUN_DIR",
        "-m optimizer.lr",
    ):
        assert line in finished.out
    assert "${" not in finished.out


def test_train_py_is_thin() -> None:
    assert len((REPOSITORY / "train.py").read_text().splitlines()) < 60


def test_full_tracebacks_on_request(tmp_path: Path) -> None:
    with mock.patch.dict(os.environ, {"HYDRA_FULL_ERROR": "1"}):
        finished = train("mode=shard", f"hydra.run.dir={tmp_path}")
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
    assert finished.error == "error: mode=shard: expected an output folder, shards=DIR; got none."
    assert "Traceback" in finished.err
