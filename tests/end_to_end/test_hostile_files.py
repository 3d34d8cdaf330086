"""Every hostile file through every door that takes it: nothing in it is run, no secret is read, memory and time are bounded.

`MODEL_FILES` x `DOORS`, and `SHARDS` x `SHARD_DOORS`; a new door or a new kind of file joins by one line. The docs have the
table ("Safety"). Files of samples (images, sound, tables) are in `tests/data/manifest/test_hostile_files.py`.
"""

import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hostile_data
import hostile_models
import pytest
import torch
from hostile_files import SECRET, SECRET_NAME, alias_bomb, files_with, payload, payload_by_name, set_at
from hostile_models import PACKAGE, Hostile, checkpoint, transformers_values
from hydra_runs import run
from shard_cases import manifest, pack

import perceiver

MAX_SECONDS = 30
MAX_BYTES = 2 * 10**9
TINY = (
    "data=digits",
    "data.batch_size=256",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "callbacks.samples=null",
    "callbacks.attention=null",
    "callbacks.attention_modalities=null",
    "callbacks.report=null",
    "logger=none",
)
REFERENCE = "${oc.env:" + SECRET_NAME + "}"


def with_entry(folder: Path, place: str, value: object, *, marker: str = "RAN") -> Hostile:
    """A good checkpoint whose entry of config and spec was changed at `place`, such as `spec.target.counts`."""
    file = checkpoint(folder, lambda model: None)
    content = torch.load(file, weights_only=True)
    set_at(content["perceiver"], place, value)
    torch.save(content, file)
    return Hostile(file, folder / marker, "")


def target_in_spec(folder: Path) -> Hostile:
    """A node for Hydra where the spec has numbers."""
    return with_entry(folder, "spec.target.counts", payload(folder / "RAN"))


def target_with_keywords_in_spec(folder: Path) -> Hostile:
    """Another one, deeper."""
    return with_entry(folder, "spec.modalities.image.notes", [payload_by_name(folder / "RAN")])


def reference_in_spec(folder: Path) -> Hostile:
    """A reference to a variable of the environment as the name of a class and as a fact."""
    hostile = with_entry(folder, "spec.target.names", [REFERENCE, *"123456789"])
    content = torch.load(hostile.path, weights_only=True)
    set_at(content["perceiver"], "spec.modalities.image.note", REFERENCE)
    torch.save(content, hostile.path)
    return hostile


def path_as_kind(folder: Path) -> Hostile:
    """A path as the kind of a modality, by which an adapter is looked up."""
    return with_entry(folder, "spec.modalities.image.kind", "../../../planted")


def task_of_a_stranger(folder: Path) -> Hostile:
    """A task, and callbacks, that make a file."""
    hostile = with_entry(folder, "config.task", payload(folder / "RAN"))
    content = torch.load(hostile.path, weights_only=True)
    set_at(content["perceiver"], "config.callbacks", {"x": payload(folder / "RAN")})
    set_at(content["perceiver"], "config.data", payload_by_name(folder / "RAN"))
    torch.save(content, hostile.path)
    return hostile


def dropout_that_is_no_number(folder: Path) -> Hostile:
    """NaN as a dropout."""
    return hostile_models.number_out_of_range(folder, "encoder.dropout", float("nan"))


def negative_attention_dropout(folder: Path) -> Hostile:
    """A probability below 0."""
    return hostile_models.number_out_of_range(folder, "encoder.attention_dropout", -1.0)


def alias_bomb_beside_it(folder: Path) -> Hostile:
    """A run directory whose config.yaml would have millions of entries."""
    file = checkpoint(folder / "checkpoints", lambda model: None, name="best.ckpt")
    content = torch.load(file, weights_only=True)
    set_at(content["perceiver"], "spec.modalities.image.kind", "../planted")  # not to be trained on
    torch.save(content, file)
    alias_bomb(folder)
    return Hostile(folder, folder / "RAN", "")


def enormous_transformers_model(folder: Path) -> Hostile:
    """A directory of transformers' whose latents would take gigabytes."""
    return transformers_values(folder, {"d_latents": 10**9}, words="")


MODEL_FILES: tuple[Callable[[Path], Hostile], ...] = (
    *hostile_models.CHECKPOINTS,
    target_in_spec,
    target_with_keywords_in_spec,
    reference_in_spec,
    path_as_kind,
    task_of_a_stranger,
    dropout_that_is_no_number,
    negative_attention_dropout,
    alias_bomb_beside_it,
    enormous_transformers_model,
    *hostile_models.DIRECTORIES,
)


def by_load(path: Path, directory: Path) -> str:
    """`perceiver.load`"""
    return raised(lambda: perceiver.load(path))


def by_import(path: Path, directory: Path) -> str:
    """`perceiver.interop`, from_transformers and from_pretrained"""
    from perceiver.interop.hub import from_pretrained
    from perceiver.interop.huggingface import from_transformers

    return raised(lambda: from_transformers(path)) + raised(lambda: from_pretrained(path))


def by_command(*arguments: str) -> Callable[[Path, Path], str]:
    """`python train.py` with these arguments, in which {file} is the file."""

    def door(path: Path, directory: Path) -> str:
        _, out, err = run(*TINY, f"hydra.run.dir={directory}", *(argument.format(file=path) for argument in arguments))
        assert "Could not override" not in err, err  # it must get as far as the file
        return out + err

    return door


DOORS: dict[str, Callable[[Path, Path], str]] = {
    "load": by_load,
    "import": by_import,
    "test": by_command("mode=test", "ckpt_path={file}"),
    "fit": by_command("ckpt_path={file}", "trainer.max_epochs=2"),
    "init_from": by_command("experiment=finetune", "init_from={file}"),
    "predict": by_command("mode=predict", "ckpt_path={file}"),
    "embed": by_command("mode=embed", "ckpt_path={file}"),
    "export": by_command("mode=export", "ckpt_path={file}", "export.format=torch"),
    "batch_size": by_command("mode=batch_size", "init_from={file}", "init_model=true", "batch_sizes.largest=8"),
}
SHARDS: dict[str, Callable[[Path, Path], object]] = {
    "pickles": hostile_data.pickled_shards,
    "imports": lambda folder, marker: hostile_data.importing_shards(folder),
    "spec": lambda folder, marker: hostile_data.edit_json(
        folder / "shards.json", lambda facts: set_at(facts, "spec.target.counts", payload(marker))
    ),
    "path": lambda folder, marker: hostile_data.edit_json(
        folder / "val" / "index.json", lambda index: index["chunks"][0].update(filename="../../x.bin")
    ),
}
SHARD_DOORS: dict[str, tuple[str, ...]] = {
    "fit": ("mode=fit",),
    "batch_size": ("mode=batch_size", "batch_sizes.largest=8"),
}


def raised(call: Callable[[], object]) -> str:
    """The message of the error that a call ends in; empty without one."""
    try:
        call()
    except Exception as error:
        return str(error)
    return ""


def bounded(call: Callable[[], str]) -> str:
    """What a call returns, which must neither take long nor much memory."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = call()
    assert time.process_time() - begun < MAX_SECONDS
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MAX_BYTES
    return text


@pytest.fixture(autouse=True)
def in_a_strangers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As whoever works where hostile files were unpacked, with a secret in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(SECRET_NAME, SECRET)
    for name in (PACKAGE, "touching"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("make", MODEL_FILES, ids=lambda make: make.__name__)
def test_a_hostile_model(make: Callable[[Path], Hostile], door: str, tmp_path: Path) -> None:
    hostile = make(tmp_path)
    directory = tmp_path / "run"
    text = bounded(lambda: DOORS[door](hostile.path, directory))
    hostile.assert_nothing_ran()
    assert PACKAGE not in sys.modules
    assert SECRET not in text
    assert "Traceback" not in text
    assert not directory.exists() or not files_with(SECRET, directory)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    return pack(manifest(folder, 24), folder / "shards")


@pytest.mark.parametrize("door", SHARD_DOORS)
@pytest.mark.parametrize("kind", SHARDS)
def test_hostile_shards(kind: str, door: str, shards: Path, tmp_path: Path) -> None:
    folder, marker = tmp_path / "shards", tmp_path / "RAN"
    shutil.copytree(shards, folder)
    hostile_data.touching_module(tmp_path, marker)
    SHARDS[kind](folder, marker)
    arguments = ("data=shards", f"data.shards={folder}", "data.num_workers=0", *SHARD_DOORS[door])
    _, out, err = run(*(entry for entry in TINY if entry != "data=digits"), f"hydra.run.dir={tmp_path / 'run'}", *arguments)
    assert not marker.exists()
    assert "error: data.shards: " in err
    assert str(folder) in err
    assert "Traceback" not in out + err
