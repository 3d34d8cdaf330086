"""A kind of modality from another package, from a table: every mode, with and without trust."""

import csv
import gc
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hydra_runs import QUIET, run
from manifest_runs import SMALL

import perceiver
from perceiver.data import DataModule, Manifest

PACKAGE = "thermometer"
MODALITIES = "data.modalities={readings: {kind: thermometer.Readings}}"
TRUST = f"trust=[{PACKAGE}]"
REFUSED = r"spec.modalities.readings.kind: the checkpoint names thermometer.readings.Readings, outside the trusted packages"
TRAINING = (*(word for word in SMALL if not word.startswith(("data.image_size", "data.sample_rate"))), "optimizer.lr=3e-3")


def forget() -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == PACKAGE]:
        del sys.modules[module]
    gc.collect()  # classes that still exist are found as subclasses


@pytest.fixture(scope="module", autouse=True)
def installed(repository: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository / "examples" / PACKAGE)
        yield
        forget()


@pytest.fixture(scope="module")
def folder(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("days")
    shutil.copy(repository / "examples" / PACKAGE / "days.csv", folder)
    return folder


@pytest.fixture(scope="module")
def search(repository: Path) -> tuple[str, ...]:
    return ("--config-dir", str(repository / "examples" / PACKAGE / "conf"))


@pytest.fixture(scope="module")
def trained(folder: Path, search: tuple[str, ...]) -> Path:
    directory = folder / "run"
    given = (f"data.manifest={folder / 'days.csv'}", MODALITIES, "trainer.max_epochs=2", f"hydra.run.dir={directory}")
    code, _, err = run(*search, *TRAINING, *given)
    assert code == 0, err
    return directory


def test_the_spec_has_the_class_and_what_it_learned(trained: Path) -> None:
    spec = perceiver.load(trained, trust=[PACKAGE]).spec
    assert spec is not None
    readings = spec["modalities"]["readings"]
    assert readings["kind"] == "thermometer.readings.Readings"
    assert (readings["shape"], readings["step_seconds"], readings["column"]) == ([1, None], 3600.0, "readings")
    assert 0 < readings["std"][0] < 20


def test_resuming(trained: Path, folder: Path, search: tuple[str, ...]) -> None:
    given = (f"data.manifest={folder / 'days.csv'}", MODALITIES, "trainer.max_epochs=3", f"ckpt_path={trained}")
    code, out, err = run(*search, *TRAINING, *given, f"hydra.run.dir={folder / 'longer'}")
    assert code == 0, err
    assert "epoch 3/3" in out
    assert "epoch 2/3" not in out


@pytest.mark.parametrize("mode", ["test", "predict", "embed"])
def test_no_mode_without_trust(mode: str, trained: Path, folder: Path) -> None:
    forget()
    arguments = (f"mode={mode}", f"ckpt_path={trained}", f"data.manifest={folder / 'days.csv'}", "data=manifest")
    code, _, err = run(*arguments, f"hydra.run.dir={folder / 'refused'}")
    assert code == 1
    assert REFUSED in err
    assert "trust=['thermometer']" in err
    assert PACKAGE not in sys.modules


def test_testing_predicting_and_embedding_with_trust(trained: Path, folder: Path) -> None:
    forget()
    common = (f"ckpt_path={trained}", f"data.manifest={folder / 'days.csv'}", "data.num_workers=0", TRUST)
    code, _, err = run(
        "mode=test", "experiment=manifest", "logger=none", *QUIET, *common, f"hydra.run.dir={folder / 'test'}"
    )
    assert code == 0, err
    earlier, later = (json.loads((one / "metrics.json").read_text()) for one in (trained, folder / "test"))
    assert later["test/loss"] == pytest.approx(earlier["test/loss"], rel=1e-4)
    code, _, err = run("mode=predict", "data=manifest", *common, f"hydra.run.dir={folder / 'predict'}")
    assert code == 0, err
    with (folder / "predict" / "predictions.csv").open() as file:
        predicted = list(csv.DictReader(file))
    with (folder / "days.csv").open() as file:
        days = list(csv.DictReader(file))
    model = perceiver.load(trained, trust=[PACKAGE])
    alone = model.predict(json.loads(day["readings"]) for day in days)
    assert [row["prediction"] for row in predicted] == [one.label for one in alone]
    code, _, err = run("mode=embed", "data=manifest", *common, f"hydra.run.dir={folder / 'embed'}")
    assert code == 0, err
    assert pq.read_table(folder / "embed" / "embeddings.parquet")["id"].to_pylist() == [day["id"] for day in days]


def test_shards_hold_the_same_samples_and_need_trust(trained: Path, folder: Path, search: tuple[str, ...]) -> None:
    shards = folder / "shards"
    data = ("data=manifest", f"data.manifest={folder / 'days.csv'}", "data.num_workers=0", MODALITIES)
    code, _, err = run("mode=shard", *data, f"shards={shards}", f"hydra.run.dir={folder / 'shard'}")
    assert code == 0, err
    settings = (word for word in TRAINING if not word.startswith(("experiment=", "data.batch_size")))
    training = (*search, *settings, "data=shards", f"data.shards={shards}", "trainer.max_epochs=1")
    forget()
    code, _, err = run(*training, f"hydra.run.dir={folder / 'refused'}")
    assert code == 1
    assert "thermometer.readings.Readings, outside the trusted packages" in err
    assert "here trust is a key of the configuration" in err
    assert PACKAGE not in sys.modules
    code, _, err = run(*training, TRUST, f"hydra.run.dir={folder / 'from_shards'}")
    assert code == 0, err


def test_the_class_itself_in_python(folder: Path) -> None:
    from thermometer import Readings  # type: ignore[import-not-found]

    modalities = {"readings": {"kind": Readings, "step_seconds": 60}}
    data = DataModule.of(Manifest, manifest=folder / "days.csv", modalities=modalities, num_workers=0, batch_size=5)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    x, mask = batch.inputs["readings"], batch.masks["readings"]
    assert isinstance(x, torch.Tensor)
    assert x.shape[:2] == (5, 1)
    assert mask.shape == (5, x.shape[2])
    assert data.spec["modalities"]["readings"]["step_seconds"] == 60.0
