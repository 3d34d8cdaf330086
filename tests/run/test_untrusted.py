"""Strings and nodes that come with files stay data: nothing they name is run, and nothing they refer to is read."""

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hostile_files import (
    REFERENCES,
    SECRET,
    SECRET_NAME,
    alias_bomb,
    checkpoint_with_config,
    checkpoint_with_spec,
    deep_yaml,
    files_with,
    large_yaml,
    payload,
    payload_by_name,
    shards_with_spec,
)
from hydra import compose, initialize_config_dir
from hydra_runs import QUICK
from hydra_runs import run as train
from PIL import Image
from shard_cases import manifest, pack

from perceiver.data.shards.folder import ShardError, ShardFolder
from perceiver.run.configuration.construct import construct
from perceiver.run.configuration.data_choice import data_of_checkpoint
from perceiver.run.configuration.resolve import resolve
from perceiver.run.configuration.resolvers import register_resolvers
from perceiver.run.configuration.yaml_file import read_text_at, to_yaml
from perceiver.run.main import conf_directory
from perceiver.run.reporting.metrics import write_metrics

TINY = (*QUICK, "trainer.limit_train_batches=1")


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret of the environment."""
    monkeypatch.setenv(SECRET_NAME, SECRET)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("digits") / "run"
    code, _, err = train(*TINY, f"hydra.run.dir={directory}")
    assert code == 0, err
    return directory


@pytest.fixture(scope="module")
def checkpoint(digits_run: Path) -> Path:
    return digits_run / "checkpoints" / "last.ckpt"


def hostile_run(file: Path, directory: Path, *, mode: str, more: tuple[str, ...] = ()) -> tuple[int, str]:
    """A run from a checkpoint; exit status, standard error."""
    epochs = ("trainer.max_epochs=2",) if mode == "fit" else ()
    code, _, err = train(*TINY, f"mode={mode}", *epochs, f"ckpt_path={file}", f"hydra.run.dir={directory}", *more)
    assert not files_with(SECRET, directory)
    return code, err


@pytest.mark.parametrize("mode", ["test", "fit", "predict"])
@pytest.mark.parametrize("node", [payload, payload_by_name])
def test_a_stored_spec_runs_nothing(mode: str, node: Any, checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    file = checkpoint_with_spec(checkpoint, tmp_path / "hostile.ckpt", {"target.counts": node(marker)})
    code, err = hostile_run(file, tmp_path / "run", mode=mode, more=("data=digits",))
    assert not marker.exists()
    assert code == 1
    assert f"{file}: spec.target.counts._target_: keys that begin and end with '_'" in err


@pytest.mark.parametrize("mode", ["test", "fit"])
def test_a_stored_spec_reads_no_secret(mode: str, checkpoint: Path, tmp_path: Path) -> None:
    changes = {
        "target.counts": ["${oc.env:" + SECRET_NAME + "}"] * 10,
        "modalities.image.note": "${oc.env:" + SECRET_NAME + "}",
    }
    file = checkpoint_with_spec(checkpoint, tmp_path / "hostile.ckpt", changes)
    hostile_run(file, tmp_path / "run", mode=mode)


@pytest.mark.parametrize("mode", ["test", "fit"])
def test_references_in_a_stored_spec_are_text(mode: str, checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint_with_spec(checkpoint, tmp_path / "text.ckpt", {"modalities.image.notes": list(REFERENCES)})
    code, err = hostile_run(file, tmp_path / "run", mode=mode)
    assert code == 0, err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["spec"]["modalities"]["image"]["notes"] == list(REFERENCES)


def test_a_stored_model_reads_no_secret_and_runs_nothing(checkpoint: Path, tmp_path: Path) -> None:
    changes = {"model.modality_dropout": "${oc.env:" + SECRET_NAME + "}"}
    file = checkpoint_with_config(checkpoint, tmp_path / "hostile.ckpt", changes)
    code, err = hostile_run(file, tmp_path / "run", mode="test")
    assert code == 1
    assert SECRET not in err


def test_a_target_of_a_stored_model_stays_in_the_model(checkpoint: Path, tmp_path: Path) -> None:
    more = ("+task.extra=${model.encoder}",)
    code, err = hostile_run(checkpoint, tmp_path / "run", mode="test", more=more)
    assert code == 1
    assert "task.extra._target_: 'perceiver.encoders.encoder.Encoder' is not written in the configuration itself" in err


def test_class_labels_are_literal_text(tmp_path: Path) -> None:
    """Folder names as classes: trained, tested, predicted."""
    root = tmp_path / "images"
    random = np.random.default_rng(0)
    for folder in (root / split / name for split in ("train", "test") for name in REFERENCES):
        folder.mkdir(parents=True)
        for number in range(4):
            Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    data = ("data=image_folder", f"data.root={root}", "data.size=[8,8]", "data.num_workers=0")
    directory, again = tmp_path / "run", tmp_path / "again"
    code, out, err = train(*TINY, *data, f"hydra.run.dir={directory}")
    assert code == 0, err
    names = sorted(REFERENCES)
    assert yaml.safe_load((directory / "config.yaml").read_text())["spec"]["target"]["names"] == names
    stored = torch.load(directory / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)["perceiver"]
    assert stored["spec"]["target"]["names"] == stored["config"]["spec"]["target"]["names"] == names
    for mode in ("test", "predict"):
        code, more, err = train(*TINY, *data, f"mode={mode}", f"ckpt_path={directory}", f"hydra.run.dir={again}")
        assert code == 0, err
        out += more
    with (again / "predictions.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert {row["prediction"] for row in rows} <= set(names)
    assert {f"probability_{name}" for name in names} <= set(rows[0])
    for folder in (directory, again):
        assert not files_with(SECRET, folder)
    assert SECRET not in out


def test_shards_refuse_keys_of_hydra(tmp_path: Path) -> None:
    folder = pack(manifest(tmp_path, 12, modalities={"note": "text"}), tmp_path / "shards")
    marker = tmp_path / "marker"
    shards_with_spec(folder, {"target.counts": payload(marker)})
    with pytest.raises(ShardError, match=r"shards\.json is damaged: spec\.target\.counts\._target_: keys that begin"):
        ShardFolder.read(folder)
    code, _, err = train("data=shards", f"data.shards={folder}", "data.num_workers=0", f"hydra.run.dir={tmp_path / 'run'}")
    assert (code, marker.exists()) == (1, False)
    assert "spec.target.counts._target_" in err


SPEC: dict[str, Any] = {
    "modalities": {"my image": {"kind": "image", "shape": [3, 10, 12]}},
    "target": {"kind": "classes", "modality": "my image", "names": list(REFERENCES), "counts": {"a": {"b": [1, 2.5, None]}}},
    "num_classes": len(REFERENCES),
}


@pytest.fixture
def hydra_started() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        yield


def composed(*overrides: str) -> Any:
    return compose("train", overrides=["run_dir=nowhere", "~adapter@model.adapters.image", *overrides])


@pytest.mark.usefixtures("hydra_started")
def test_facts_arrive_as_they_are() -> None:
    overrides = [
        "+task.names=${spec.target.names}",
        "+task.second=${spec.target.names.1}",
        "+task.nested=${oc.select:spec.target.counts,null}",
        "+task.height='${spec.modalities.${spec.target.modality}.shape.1}'",
        "+task.path=of/${spec.target.modality}",
    ]
    plain = resolve(composed(*overrides), SPEC)
    task = plain["task"]
    assert plain["spec"] == SPEC
    assert task["names"] == list(REFERENCES)
    assert task["second"] == REFERENCES[1]
    assert task["nested"] == {"a": {"b": [1, 2.5, None]}}
    assert (task["height"], task["path"]) == (10, "of/my image")
    assert all(type(name) is str for name in task["names"])
    built = construct(
        {"_target_": "builtins.dict", "names": task["names"], "inner": {"_target_": "builtins.dict", "x": "${x}"}}
    )
    assert built == {"names": list(REFERENCES), "inner": {"x": "${x}"}}


@pytest.mark.usefixtures("hydra_started")
@pytest.mark.parametrize("text", ["${oc.env:" + SECRET_NAME + "}", "???"])
def test_text_like_a_reference_is_no_part_of_a_longer_value(text: str) -> None:
    spec = {**SPEC, "target": {**SPEC["target"], "note": text}}
    with pytest.raises(Exception, match="comes from data and looks like a reference"):
        resolve(composed("+task.path=of/${spec.target.note}"), spec)


@pytest.mark.usefixtures("hydra_started")
@pytest.mark.parametrize("written", ["${spec.target.maker}", "os.${spec.target.modality}", "${oc.select:spec.target.maker}"])
def test_data_names_no_target(written: str) -> None:
    spec = {**SPEC, "target": {**SPEC["target"], "maker": "torch.nn.Identity"}}
    with pytest.raises(ValueError, match=r"task\._target_: '.*' is not written in the configuration itself"):
        resolve(composed(f"task._target_='{written}'"), spec)


@pytest.mark.usefixtures("hydra_started")
def test_a_target_may_refer_to_the_configuration() -> None:
    plain = resolve(composed("+name=torch.nn.Identity", "task._target_=${name}"), SPEC)
    assert plain["task"]["_target_"] == "torch.nn.Identity"


@pytest.mark.usefixtures("hydra_started")
@pytest.mark.parametrize("key", ["_target_", "_args_", "_partial_", "_convert_", "_recursive_", "_x_"])
def test_keys_of_hydra_are_refused(key: str) -> None:
    spec = {**SPEC, "target": {**SPEC["target"], "counts": [{key: 1}]}}
    with pytest.raises(
        ValueError, match=rf"data \(perceiver\.data\.\w+\): spec\.target\.counts\[0\]\.{key}: keys that begin"
    ):
        resolve(composed(), spec)


@pytest.mark.usefixtures("hydra_started")
@pytest.mark.parametrize(
    "kind", ["../data/digits", "image/../image", "/etc/x", "a@b", "${seed}", "", "image\n", ["image"], None]
)
def test_a_kind_is_the_name_of_an_adapter(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"model\.adapters\.image: no adapter is configured, .* known names: audio"):
        resolve(composed(), {**SPEC, "modalities": {"image": {"kind": kind}}})


@pytest.mark.usefixtures("hydra_started")
@pytest.mark.parametrize("spec", [{}, {"modalities": 3}, {"modalities": {"image": 3}}])
def test_a_spec_has_modalities(spec: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"data \(.*\): spec\.modalities: expected a mapping"):
        resolve(composed(), spec)


@pytest.mark.parametrize("bomb", [alias_bomb, deep_yaml, large_yaml])
def test_a_run_directory_exhausts_nothing(bomb: Any, tmp_path: Path) -> None:
    bomb(tmp_path)
    started = time.monotonic()
    assert data_of_checkpoint(["mode=predict", f"ckpt_path={tmp_path}"], conf_directory()) is None
    assert time.monotonic() - started < 5


def test_an_earlier_metrics_file_exhausts_nothing(tmp_path: Path) -> None:
    for content in ("[" * 100_000, "[1]", " " * 2**21 + '{"a": 1}'):
        (tmp_path / "metrics.json").write_text(content)
        write_metrics(tmp_path / "metrics.json", {"b": 2})
        assert json.loads((tmp_path / "metrics.json").read_text()) == {"b": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data:\n  _target_: a.B\n", "a.B"),
        ("x: {data: {_target_: no}}\nlist: [1, {data: 2}]\ndata: {other: [1, [2]], _target_: a.B}\n", "a.B"),
        ("? [a]\n: data\ndata: {? {_target_: no} : no, _target_: a.B}\n", "a.B"),
        ("- data\n- {_target_: a.B}\n", None),
        ("data: {x: {_target_: a.B}}\n_target_: a.B\n", None),
        ("data: [_target_, a.B]\n", None),
        ("other: data\n_target_: a.B\n", None),
        ("x: &x {_target_: a.B}\ndata: *x\n", None),
        ("", None),
    ],
)
def test_one_value_of_a_yaml_file(text: str, expected: str | None, tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(text)
    assert read_text_at(file, "data", "_target_") == expected


def test_yaml_holds_every_value_as_it_is() -> None:
    shared = [1, "x"]
    tree = {
        "names": [*REFERENCES, "1e3", "1_0", "1.5", "null", "yes", ""],
        "a": shared,
        "b": shared,
        "c": [1e-3, None, True],
    }
    text = to_yaml(tree)
    assert yaml.safe_load(text) == tree
    assert "'1e3'" in text
    assert "\na:\n- 1\n- x\nb:\n- 1\n- x\n" in text
