"""Every hostile file through every door that takes it: nothing in it is run, no secret is read, memory and time are bounded.

`MODEL_FILES` x `DOORS`, `SHARDS` x `SHARD_DOORS`, and `SAMPLE_FILES`; a new door or a new kind of file joins by one line.
The docs have the table ("Safety"). More files of samples (images, sound, tables) are in
`tests/data/manifest/test_hostile_files.py`.
"""

import copy
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import hostile_data
import hostile_models
import pytest
from hostile_files import SECRET, SECRET_NAME, alias_bomb, checkpoint_with, files_with, payload, payload_by_name, set_at
from hostile_models import PACKAGE, Hostile, checkpoint, transformers_values
from hydra._internal.hydra import Hydra
from hydra_runs import run
from omegaconf import DictConfig, open_dict
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


def with_entries(folder: Path, changes: dict[str, object]) -> Hostile:
    """A good checkpoint whose entries of config and spec were changed, such as `spec.target.counts`."""
    file = checkpoint(folder, lambda model: None)
    return Hostile(checkpoint_with(file, file, changes), folder / "RAN", "")


def target_in_spec(folder: Path) -> Hostile:
    """A node for Hydra where the spec has numbers."""
    return with_entries(folder, {"spec.target.counts": payload(folder / "RAN")})


def target_with_keywords_in_spec(folder: Path) -> Hostile:
    """Another one, deeper."""
    return with_entries(folder, {"spec.modalities.image.notes": [payload_by_name(folder / "RAN")]})


def reference_in_spec(folder: Path) -> Hostile:
    """A reference to a variable of the environment as the name of a class and as a fact."""
    changes = {"spec.target.names": [REFERENCE, *"123456789"], "spec.modalities.image.note": REFERENCE}
    return with_entries(folder, changes)


def path_as_kind(folder: Path) -> Hostile:
    """A path as the kind of a modality, by which an adapter is looked up."""
    return with_entries(folder, {"spec.modalities.image.kind": "../../../planted"})


def pattern_of_paths(folder: Path) -> Hostile:
    """A pattern of paths that would read a variable of the environment."""
    return with_entries(folder, {"spec.modalities.image.path": f"${SECRET_NAME}/{{id}}.png"})


def task_of_a_stranger(folder: Path) -> Hostile:
    """A task, and callbacks, that make a file."""
    marker = folder / "RAN"
    callbacks = {"x": payload(marker)}
    return with_entries(
        folder, {"config.task": payload(marker), "config.callbacks": callbacks, "config.data": payload_by_name(marker)}
    )


def dropout_that_is_no_number(folder: Path) -> Hostile:
    """NaN as a dropout."""
    return hostile_models.number_out_of_range(folder, "encoder.dropout", float("nan"))


def negative_attention_dropout(folder: Path) -> Hostile:
    """A probability below 0."""
    return hostile_models.number_out_of_range(folder, "encoder.attention_dropout", -1.0)


def spec_of_another_type(folder: Path) -> Hostile:
    """Texts, lists and numbers where the spec and the config have mappings."""
    changes = {"spec.modalities.image.shape": "28x28", "spec.target": 5, "config.task": [1, 2], "config.data": "digits"}
    return with_entries(folder, changes)


def alias_bomb_beside_it(folder: Path) -> Hostile:
    """A run directory whose config.yaml would have millions of entries."""
    file = checkpoint(folder / "checkpoints", lambda model: None, name="best.ckpt")
    checkpoint_with(file, file, {"spec.modalities.image.kind": "../planted"})  # not to be trained on
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
    pattern_of_paths,
    task_of_a_stranger,
    dropout_that_is_no_number,
    negative_attention_dropout,
    spec_of_another_type,
    alias_bomb_beside_it,
    enormous_transformers_model,
    *hostile_models.DIRECTORIES,
)


def lying_ply(folder: Path) -> Path:
    """A header of 30 million points."""
    return hostile_data.claiming_ply(folder / "bad.ply")


def pcd_bomb(folder: Path) -> Path:
    """Compressed zeros without end."""
    return hostile_data.pcd_bomb(folder / "bad.pcd")


def truncated_m4a(folder: Path) -> Path:
    """The first half of a recording."""
    return hostile_data.truncated_m4a(folder / "bad.m4a")


def list_of_files(folder: Path) -> Path:
    """A playlist of FFmpeg's, called a recording, which names a good one."""
    secret = hostile_data.odd_wav(folder / "secret.wav", rate=8000)
    return hostile_data.playlist(folder / "bad.m4a", secret=secret)


SAMPLE_FILES: dict[Callable[[Path], Path], str] = {
    lying_ply: "points",
    pcd_bomb: "points",
    truncated_m4a: "audio",
    list_of_files: "audio",
}


def by_load(path: Path, directory: Path) -> str:
    """`perceiver.load`"""
    return raised(lambda: perceiver.load(path))


def by_import(path: Path, directory: Path) -> str:
    """`perceiver.interop`, from_transformers and from_pretrained"""
    from perceiver.interop.hub import from_pretrained
    from perceiver.interop.huggingface import from_transformers

    return raised(lambda: from_transformers(path)) + raised(lambda: from_pretrained(path))


def by_serve(path: Path, directory: Path) -> str:
    """`perceiver-serve`: loading the model, and what the service publishes of its spec."""
    pytest.importorskip("litserve")
    from perceiver.serving.limits import Limits
    from perceiver.serving.models import load_served
    from perceiver.serving.schema import openapi, public_spec

    def published() -> None:
        spec = load_served(path).spec
        raise ValueError(f"{public_spec(spec, limits=Limits())} {openapi(spec, limits=Limits())}")

    return raised(published)


def by_command(*arguments: str) -> Callable[[Path, Path], str]:
    """`python train.py` with these arguments, in which {file} is the file."""

    def door(path: Path, directory: Path) -> str:
        # Relative, so that the words are the same for every file, and so is the configuration that Hydra makes of them.
        words = (argument.format(file=os.path.relpath(path)) for argument in arguments)
        _, out, err = run(*TINY, f"hydra.run.dir={os.path.relpath(directory)}", *words)
        assert "Could not override" not in err, err  # it must get as far as the file
        return out + err

    return door


DOORS: dict[str, Callable[[Path, Path], str]] = {
    "load": by_load,
    "import": by_import,
    "serve": by_serve,
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
        folder / "shards.json", lambda content: set_at(content, "spec.target.counts", payload(marker))
    ),
    "path": lambda folder, marker: hostile_data.edit_json(
        folder / "val" / "index.json", lambda index: index["chunks"][0].update(filename="../../x.bin")
    ),
}
SHARD_DOORS: dict[str, tuple[str, ...]] = {
    "fit": ("mode=fit",),
    "batch_size": ("mode=batch_size", "batch_sizes.largest=8"),
}


COLUMNS: dict[str, str] = {
    "load": "`load`",
    "import": "`from_transformers`, `from_pretrained`",
    "serve": "`perceiver-serve`",
    "test": "`mode=test`",
    "fit": "resume, `ckpt_path`",
    "init_from": "`init_from`",
    "predict": "`mode=predict`",
    "embed": "`mode=embed`",
    "export": "`mode=export`",
    "batch_size": "`mode=batch_size`",
}
"""The column of each entry of `DOORS` in the documentation."""


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


@pytest.fixture(autouse=True, scope="module")
def composed_once() -> Iterator[None]:
    """Equal commands get copies of one configuration: composing it takes longer than finding that a file is hostile."""
    compose = Hydra.compose_config
    made: dict[str, DictConfig] = {}

    def copied(self: Hydra, **settings: Any) -> DictConfig:
        key = repr(sorted(settings.items()))
        if key not in made:
            made[key] = compose(self, **settings)
        config = copy.deepcopy(made[key])
        with open_dict(config):
            config.hydra.runtime.cwd = os.getcwd()
        return config

    with mock.patch.object(Hydra, "compose_config", copied):
        yield


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


@pytest.mark.parametrize("make", SAMPLE_FILES, ids=lambda make: make.__name__)
def test_a_hostile_sample(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    rows = "".join(f"{path.name},{label}\n" for label in "aabb")
    (tmp_path / "m.csv").write_text(f"x,label\n{rows}")
    arguments = (
        "experiment=manifest",
        f"data.manifest={tmp_path / 'm.csv'}",
        f"data.modalities={{x: {SAMPLE_FILES[make]}}}",
        "data.sample_rate=8000",
        "data.num_workers=0",
        "trainer.accelerator=cpu",
    )
    text = bounded(lambda: "".join(map(str, run(*arguments, f"hydra.run.dir={tmp_path / 'run'}"))))
    assert f"{path}: " in text
    assert "Traceback" not in text


def test_the_documentation_has_a_column_for_each_entry_point(repository: Path) -> None:
    lines = (repository / "docs" / "guides" / "safety.md").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| file | `load`"))
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first : lines.index("", first)]]
    header, _, *rows = table
    assert header[1:] == [COLUMNS[door] for door in DOORS]
    assert {len(row) for row in rows} == {len(header)}
    assert {cell for row in rows for cell in row[1:]} == {"✓", "–"}
    assert any("`data=shards`, `mode=batch_size`" in line for line in lines)
    assert set(SHARD_DOORS) == {"fit", "batch_size"}
