"""Files of one's own from the command line: training, testing, prediction and embeddings, and how errors read."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from hydra_runs import QUIET
from manifest_cases import animals, write_csv
from manifest_runs import SETTINGS, SMALL, train
from PIL import Image

import perceiver

MODALITIES = "data.modalities={photo: image, sound: audio, cloud: points}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("animals")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    made = animals(folder, count=40)
    write_csv(folder / "m.csv", made)
    return made


@pytest.fixture(scope="module")
def run_directory(folder: Path, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run") / "first"
    code, out, err = train(*SMALL, f"data.manifest={folder / 'm.csv'}", MODALITIES, f"hydra.run.dir={directory}")
    assert code == 0, err
    assert "adapters.sound" in out
    return directory


def test_training_learns_and_the_loaded_model_takes_raw_samples(
    run_directory: Path, folder: Path, rows: list[dict[str, Any]]
) -> None:
    metrics = json.loads((run_directory / "metrics.json").read_text())
    assert metrics["test/accuracy"] == 1.0
    model = perceiver.load(run_directory)
    samples = [
        {"photo": Image.open(folder / row["photo"]), "cloud": np.load(folder / row["cloud"])} for row in rows if row["photo"]
    ]
    right = [
        one.label == row["label"] for one, row in zip(model.predict(samples), [r for r in rows if r["photo"]], strict=True)
    ]
    assert sum(right) / len(right) > 0.9


def test_augmentation_and_steps_from_the_command_line(folder: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    package = "perceiver.data.augmentation"
    photo = f"{{flip: {{_target_: {package}.images.RandomShiftFlip, shift: 1, flip: true}}}}"
    vitals = f"{{warp: {{_target_: {package}.series.RandomTimeWarp, strength: 0.2}}}}"
    words = (
        "data.modalities={photo: image, vitals: timeseries}",
        "adapter@model.adapters.vitals=timeseries_conv",
        f"data.augment={{photo: {photo}, vitals: {vitals}}}",
        "data.steps_per_epoch=5",
        "trainer.max_epochs=2",
        "callbacks.report=null",
        "test=false",
    )
    small = [word for word in SMALL if not word.startswith("trainer.max_epochs")]
    code, _, err = train(*small, f"data.manifest={folder / 'm.csv'}", *words, f"hydra.run.dir={tmp_path}")
    assert code == 0, err
    assert err == ""
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 10
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs"] == 2


def test_testing_gives_the_same(run_directory: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ("mode=test", f"ckpt_path={run_directory}", f"data.manifest={folder / 'm.csv'}", f"hydra.run.dir={tmp_path}")
    code, _, err = train("data=manifest", *SETTINGS, *arguments)
    assert code == 0, err
    earlier, later = (json.loads((one / "metrics.json").read_text()) for one in (run_directory, tmp_path))
    assert later["test/loss"] == pytest.approx(earlier["test/loss"], rel=1e-4)


def test_predictions(run_directory: Path, folder: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """No target, no data group, other order, no experiment: the checkpoint says what it needs."""
    new = [{"id": row["id"], "cloud": row["cloud"], "sound": row["sound"], "photo": row["photo"]} for row in reversed(rows)]
    path = write_csv(folder / "new.csv", new)
    arguments = ("mode=predict", f"ckpt_path={run_directory}", f"data.manifest={path}", f"hydra.run.dir={tmp_path}")
    code, out, err = train(*arguments, "data.batch_size=7", "data.num_workers=0")
    assert code == 0, err
    assert err == ""
    assert f"40 predictions of {run_directory}/checkpoints/best.ckpt: {tmp_path}/predictions.csv" in out
    with (tmp_path / "predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["id", "prediction", "probability_cat", "probability_dog"]
    assert [row["id"] for row in table] == [row["id"] for row in new]
    truth = {row["id"]: row["label"] for row in rows}
    assert sum(row["prediction"] == truth[row["id"]] for row in table) / 40 > 0.9
    model = perceiver.load(run_directory)
    sound = soundfile.read(folder / "1.wav", dtype="float32")
    raw = {"photo": Image.open(folder / "1.png"), "sound": sound, "cloud": np.load(folder / "1.npy")}
    [one] = model.predict([raw])
    [same] = [row for row in table if row["id"] == "a1"]
    assert float(same["probability_dog"]) == pytest.approx(one.probabilities["dog"], abs=1e-4)


@pytest.mark.parametrize(("form", "kind"), [("mean", "parquet"), ("latents", "npy")])
def test_embeddings(form: str, kind: str, run_directory: Path, folder: Path, tmp_path: Path) -> None:
    arguments = (
        "mode=embed",
        f"ckpt_path={run_directory}",
        f"data.manifest={folder / 'm.csv'}",
        f"hydra.run.dir={tmp_path}",
    )
    code, _, err = train(*arguments, f"embed={form}", f"embed_format={kind}", "data.num_workers=0", "data.batch_size=16")
    assert code == 0, err
    if kind == "parquet":
        table = pq.read_table(tmp_path / "embeddings.parquet")
        found, ids = np.array(table["embedding"].to_pylist()), table["id"].to_pylist()
    else:
        found, ids = np.load(tmp_path / "embeddings.npy"), (tmp_path / "embeddings_ids.txt").read_text().splitlines()
    assert found.shape == ((40, 16) if form == "mean" else (40, 4, 16))
    assert ids[:2] == ["a0", "a1"]
    model = perceiver.load(run_directory)
    data = perceiver_data(folder, model.spec)
    batch = next(iter(data.predict_dataloader()))
    with torch.no_grad():
        latents = model.encode(batch.inputs, batch.masks).numpy()
    np.testing.assert_allclose(found, latents.mean(axis=1) if form == "mean" else latents, atol=1e-4)


def perceiver_data(folder: Path, spec: Any) -> Any:
    from perceiver.data import DataModule, Manifest

    data = DataModule.of(Manifest, manifest=folder / "m.csv", num_workers=0, batch_size=100)
    data.spec = spec
    return data


def test_other_data_modules_predict_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ("model.encoder.num_latents=4", "model.encoder.latent_channels=16", "trainer.max_epochs=1", "logger=none")
    code, _, err = train(*small, "test=false", *QUIET, f"hydra.run.dir={run}")
    assert code == 0, err
    for mode in ("predict", "embed"):
        code, _, err = train(f"mode={mode}", f"ckpt_path={run}", f"hydra.run.dir={tmp_path / mode}")
        assert code == 0, err
    with (tmp_path / "predict" / "predictions.csv").open() as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert pq.read_table(tmp_path / "embed" / "embeddings.parquet")["id"].to_pylist() == ids
    assert len(set(ids)) == len(ids) > 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data.manifest=no/such.csv"], "data.manifest: expected a CSV, Parquet or JSON file, but"),
        (["data.target=lable"], "has no column 'lable', only id, photo, sound"),
        (["data.modalities={foto: image}"], "data.modalities.foto: "),
        (["data.modalities=null"], "data.modalities: expected modalities, as columns with their kinds"),
        (["mode=predict"], "mode=predict: expected a checkpoint, ckpt_path="),
        (["mode=embed"], "mode=embed: expected a checkpoint, ckpt_path="),
        (["mode=embed", "ckpt_path={run}", "embed=max"], "embed: expected mean, latents or unit, got 'max'"),
        (["mode=embed", "ckpt_path={run}", "embed_format=csv"], "embed_format: expected parquet or npy, got 'csv'"),
        (["mode=predict", "ckpt_path={run}", "data.modalities={cloud: audio}"], "this data does not fit the checkpoint"),
    ],
)
def test_bad_input(arguments: list[str], words: str, run_directory: Path, folder: Path, tmp_path: Path) -> None:
    given = [argument.replace("{run}", str(run_directory)) for argument in arguments]
    modalities = [] if any(argument.startswith("data.modalities=") for argument in arguments) else [MODALITIES]
    code, _, err = train(*SMALL, f"data.manifest={folder / 'm.csv'}", *modalities, *given, f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert words in err.splitlines()[0]
    assert len(err.splitlines()) == 2, err
