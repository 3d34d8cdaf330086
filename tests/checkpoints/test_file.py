"""Checkpoints: what is saved comes back; what is damaged, hostile or foreign is refused, in words, and runs nothing."""

import errno
import io
import os
import pickle
import re
import resource
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader
from warm_process import python

import perceiver
from perceiver.checkpoints.build import build_model
from perceiver.checkpoints.file import (
    CheckpointError,
    entry,
    find,
    load,
    read,
    save,
)
from perceiver.runtime import files as atomic

Config = dict[str, Any]
IMAGE = {
    "_target_": "perceiver.adapters.ImagePixels",
    "image_channels": 1,
    "position": {"_target_": "perceiver.Fourier", "num_bands": 2, "resolution": [8, 8]},
}
MODEL: Config = {
    "_target_": "perceiver.Perceiver",
    "adapters": {"image": IMAGE},
    "encoder": {
        "_target_": "perceiver.Encoder",
        "num_latents": 3,
        "latent_channels": 8,
        "num_layers_per_block": 1,
        "num_self_heads": 2,
    },
    "head": {"_target_": "perceiver.PooledHead", "num_classes": 4},
}
CONFIG: Config = {"model": MODEL, "seed": 1, "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-3}}
ENCODER = "model.encoder (perceiver.encoders.encoder.Encoder)"
SPEC: Config = {
    "modalities": {"image": {"kind": "image", "shape": [1, 8, 8], "mean": [0.5], "std": [0.5], "range": [0, 255]}},
    "target": {"kind": "classes", "names": ["a", "b", "c", "d"]},
    "num_classes": 4,
}


@pytest.fixture
def model() -> perceiver.Perceiver:
    return build_model(MODEL, spec=SPEC)


@pytest.fixture
def file(model: perceiver.Perceiver, tmp_path: Path) -> Path:
    return save(model, tmp_path / "model.ckpt", config=CONFIG, spec=SPEC)


def rewritten(file: Path, change: Callable[[Config], object]) -> Path:
    """The same checkpoint with its content changed, as somebody else could write it."""
    content = torch.load(file, weights_only=True)
    change(content)
    torch.save(content, file)
    return file


# What is saved comes back.


def test_a_saved_model_comes_back(model: perceiver.Perceiver, file: Path) -> None:
    loaded = load(file)
    assert not loaded.training
    assert loaded.spec == SPEC
    assert loaded.state_dict().keys() == model.state_dict().keys()
    images = {"image": torch.rand(2, 1, 8, 8)}
    torch.testing.assert_close(loaded(images), model.eval()(images), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_public_names(file: Path) -> None:
    assert perceiver.load(file).spec == SPEC
    assert perceiver.load is load
    assert perceiver.save is save


def test_loading_leaves_the_random_state_alone(file: Path) -> None:
    before = torch.random.get_rng_state()
    load(file)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_keep_their_type(model: perceiver.Perceiver, tmp_path: Path, dtype: torch.dtype) -> None:
    model.to(dtype)
    loaded = load(save(model, tmp_path / "x.ckpt", config=CONFIG, spec=SPEC))
    for name, value in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == value.dtype
        assert torch.equal(loaded.state_dict()[name], value)


def test_weights_of_mixed_types_keep_them(model: perceiver.Perceiver, tmp_path: Path) -> None:
    model.encoder.to(torch.bfloat16)
    loaded = load(save(model, tmp_path / "x.ckpt", config=CONFIG, spec=SPEC))
    assert {parameter.dtype for parameter in loaded.encoder.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in loaded.head.parameters()} == {torch.float32}


def test_several_modalities(tmp_path: Path) -> None:
    config = {"model": MODEL | {"adapters": {"image": IMAGE, "depth": IMAGE}}}
    model = build_model(config["model"]).eval()
    loaded = load(save(model, tmp_path / "x.ckpt", config=config))
    assert loaded.spec is None
    images = {"depth": torch.rand(2, 1, 8, 8)}
    torch.testing.assert_close(loaded(images), model(images), rtol=0, atol=0)


def test_modality_dropout_and_what_is_read(tmp_path: Path) -> None:
    adapters = {"adapters": {"image": IMAGE, "depth": IMAGE}}
    encoder = MODEL["encoder"] | {"num_cross_attends": 2, "num_blocks": 2}
    dropout = {"_target_": "perceiver.ModalityDropout", "rates": {"depth": 0.5}}
    own = {"modality_dropout": dropout, "reads": [["depth"], ["depth", "image"]]}
    config = {"model": MODEL | adapters | own | {"encoder": encoder}}
    model = build_model(config["model"])
    file = save(model, tmp_path / "x.ckpt", config=config)
    loaded = load(file)
    assert loaded.modality_dropout is not None
    assert loaded.modality_dropout.rates == {"depth": 0.5}
    assert loaded.reads == (("depth",), ("depth", "image"))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    images = {"depth": torch.rand(2, 1, 8, 8), "image": torch.rand(2, 1, 8, 8)}
    torch.testing.assert_close(loaded(images), model.eval()(images), rtol=0, atol=0)
    stored = read(file).config["model"]["modality_dropout"]
    assert stored["_target_"] == "perceiver.masking.modality_dropout.ModalityDropout"
    plain = build_model(MODEL | adapters | {"encoder": encoder, "modality_dropout": dropout | {"rates": None}})
    assert plain.state_dict().keys() == build_model(MODEL | adapters | {"encoder": encoder}).state_dict().keys()


@pytest.mark.parametrize("name", ["LogMelFrames", "WaveformFrames"])
def test_audio_whose_constructor_computes_values(name: str, tmp_path: Path) -> None:
    audio: Config = {
        "_target_": f"perceiver.adapters.audio.{name}",
        "sample_rate": 8000,
        "duration_seconds": 1.0,
        "position": {"_target_": "perceiver.Fourier", "num_bands": 2, "resolution": [50]},
    }
    audio |= {"frame": 40} if name == "WaveformFrames" else {"num_mels": 8, "window_seconds": 0.03, "hop_seconds": 0.01}
    config = {"model": MODEL | {"adapters": {"audio": audio}}}
    model = build_model(config["model"]).eval()
    sound = {"audio": torch.rand(2, 1, 4000)}
    torch.testing.assert_close(load(save(model, tmp_path / "x.ckpt", config=config))(sound), model(sound))


def test_targets_are_saved_in_their_own_spelling_and_only_the_models(file: Path) -> None:
    recipe = read(file)
    assert recipe.file == file
    assert recipe.spec == SPEC
    assert recipe.config["seed"] == 1
    assert recipe.config["optimizer"] == CONFIG["optimizer"]
    assert recipe.config["model"]["adapters"]["image"]["_target_"] == "perceiver.adapters.image.ImagePixels"


def test_a_compiled_model_is_saved_as_the_plain_one(model: perceiver.Perceiver, tmp_path: Path) -> None:
    compiled = torch.compile(model)
    loaded = load(save(compiled, tmp_path / "x.ckpt", config=CONFIG, spec=SPEC))  # type: ignore[arg-type]
    assert loaded.state_dict().keys() == model.state_dict().keys()


class Task(lightning.LightningModule):
    """A training run in small: the model under `model`, a metric's state beside it."""

    def __init__(self, *, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("confusion", torch.zeros(4, 4))

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.model({"image": batch}).square().mean()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), lr=1e-2)

    def on_save_checkpoint(self, checkpoint: Config) -> None:
        checkpoint["perceiver"] = entry(CONFIG, SPEC)


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_lightnings_trainer_loads(model: perceiver.Perceiver, tmp_path: Path) -> None:
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Task(model=model), DataLoader(torch.rand(4, 1, 8, 8), batch_size=2))  # type: ignore[arg-type]
    (tmp_path / "checkpoints").mkdir()
    trainer.save_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    loaded = load(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_a_plug_in_needs_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugin_for_loading.py").write_text(
        "from perceiver.adapters import ImagePixels\n\nclass Mine(ImagePixels):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {"model": MODEL | {"adapters": {"image": IMAGE | {"_target_": "plugin_for_loading.Mine"}}}}
    file = save(build_model(config["model"]), tmp_path / "x.ckpt", config=config)
    with pytest.raises(CheckpointError) as caught:
        load(file)
    assert str(caught.value) == (
        f"{file}: model.adapters.image._target_: the checkpoint names plugin_for_loading.Mine, outside the trusted packages "
        "(perceiver, torch.nn.modules); if you trust that package's code, load with trust=['plugin_for_loading']"
    )
    assert type(load(file, trust=["plugin_for_loading"]).adapters["image"]).__name__ == "Mine"
    del sys.modules["plugin_for_loading"]


# Which file is meant.


def test_a_run_directory_gives_the_best_checkpoint_else_the_last(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("last.ckpt", "best.ckpt"):
        (folder / name).write_bytes(file.read_bytes())
        assert find(tmp_path / "run") == folder / name
    assert read(str(tmp_path / "run")).spec == SPEC
    assert load(tmp_path / "run").spec == SPEC


def test_a_folder_without_checkpoints_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no \.ckpt file; did the run finish its first epoch\?"):
        load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch=3.ckpt").touch()
    with pytest.raises(FileNotFoundError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: expected a run directory with checkpoints/best.ckpt or checkpoints/last.ckpt, "
        "found checkpoints/epoch=3.ckpt; give one of these files"
    )


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing: no such file or folder; expected a checkpoint"):
        load(tmp_path / "nothing")


# Damaged and foreign files.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty, probably because writing was interrupted"),
        (b"hello", "not a checkpoint: it does not start like a file of torch.save (5 bytes)"),
        (b"\x80\x02}q\x00.", "not a checkpoint"),
        (b"PK\x03\x04", "the file is truncated or damaged (4 bytes)"),
        (b"PK\x05\x06" + b"\0" * 18, "not a checkpoint"),
    ],
)
def test_no_checkpoint_at_all(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    for reader in (load, read):
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(tmp_path))}/x.ckpt: .*{re.escape(message)}"):
            reader(tmp_path / "x.ckpt")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 0.999))
def test_a_file_cut_anywhere_is_refused(file: Path, share: float) -> None:
    whole = file.read_bytes()
    cut = file.with_name("cut.ckpt")
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt: "):
        load(cut)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 0.999), st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_changes_nothing(file: Path, share: float, flip: int) -> None:
    whole = bytearray(file.read_bytes())
    whole[int(len(whole) * share)] ^= flip
    damaged = file.with_name("damaged.ckpt")
    damaged.write_bytes(whole)
    try:
        loaded = load(damaged)
    except CheckpointError as error:
        assert "damaged.ckpt: " in str(error)  # noqa: PT017
        return
    for name, value in load(file).state_dict().items():  # a byte between the parts
        assert torch.equal(loaded.state_dict()[name], value)


def test_a_checkpoint_of_something_else(file: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 3}, file)
    with pytest.raises(
        CheckpointError, match=r"expected a checkpoint with the entry 'perceiver' .*found the keys 'state_dict', 'epoch'"
    ):
        load(file)
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match=r"not a model of this package: .*found a list"):
        load(file)
    torch.save(torch.ones(3), file)
    with pytest.raises(CheckpointError, match="found a Tensor"):
        read(file)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, "unknown checkpoint format 2; this version reads format 1; upgrade perceiver-multimodal"),
        (0, "unknown checkpoint format 0; this version reads format 1"),
        (None, "unknown checkpoint format a NoneType"),
        (True, "unknown checkpoint format a bool"),
        ("1", "unknown checkpoint format a str"),
    ],
)
def test_an_unknown_format(file: Path, version: object, message: str) -> None:
    rewritten(file, lambda content: content["perceiver"].update(format=version))
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read(file)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("config", None, "config: expected a mapping with the key model"),
        ("config", {"model": 3}, "config: expected a mapping with the key model"),
        ("config", {"model": {"x": torch.ones(1)}}, "config.model.x: torch.Tensor is not a plain value"),
        ("config", {"model": {3: 4}}, "keys must be strings"),
        ("spec", [1], "spec: expected a mapping with modalities and target, got [1]"),
        ("spec", {"mean": torch.ones(1)}, "spec.mean: torch.Tensor is not a plain value"),
    ],
)
def test_config_and_spec_must_be_plain(file: Path, key: str, value: object, message: str) -> None:
    rewritten(file, lambda content: content["perceiver"].update({key: value}))
    for reader in (read, load):
        with pytest.raises(CheckpointError, match=re.escape(message)):
            reader(file)


# Another architecture.


def test_another_architecture_is_described(file: Path) -> None:
    def change(content: Config) -> None:
        content["perceiver"]["config"]["model"]["encoder"]["num_latents"] = 5
        state = content["state_dict"]
        state["model.head.extra"] = torch.ones(2, 3)
        del state["model.encoder.latents"]
        state["model.head.output.bias"] = torch.ones(9)

    rewritten(file, change)
    with pytest.raises(CheckpointError) as caught:
        load(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: its weights do not fit the model of its config (has the code changed since?):\n")
    assert "missing from the file: 1\n    encoder.latents (5, 8)" in text
    assert "not in the model: 1\n    head.extra (2, 3)" in text
    assert "different shape: 1\n    head.output.bias file (9,), model (4,)" in text


def test_a_long_list_of_differences_is_cut(file: Path) -> None:
    rewritten(file, lambda content: content["perceiver"]["config"]["model"]["encoder"].update(num_layers_per_block=4))
    with pytest.raises(CheckpointError, match=r"missing from the file: \d+\n") as caught:
        load(file)
    assert re.search(r"    … and \d+ more", str(caught.value))
    assert len(str(caught.value).splitlines()) == 11


def test_another_kind_of_number(file: Path) -> None:
    rewritten(
        file, lambda content: content["state_dict"].update({"model.encoder.latents": torch.ones(3, 8, dtype=torch.int64)})
    )
    with pytest.raises(
        CheckpointError, match=r"different dtype: 1\n    encoder\.latents file torch\.int64, model torch\.float32"
    ):
        load(file)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "state_dict: expected a mapping from name to tensor"),
        ({}, "state_dict: expected weights of a model, found no entry that begins with 'model.'"),
        ({"other.x": torch.ones(1)}, "state_dict: expected weights of a model, found no entry that begins with 'model.'"),
        ({"model.x": 3}, "state_dict['model.x'] is not an ordinary tensor"),
        ({"model.x": torch.ones(2, 2).to_sparse()}, "state_dict['model.x'] is not an ordinary tensor"),
        ({"model.x": torch.empty(3, device="meta")}, "state_dict['model.x'] is not an ordinary tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_weights_must_be_ordinary_tensors(file: Path, state: object, message: str) -> None:
    rewritten(file, lambda content: content.update(state_dict=state))
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load(file)


# Hostile files.


class Hostile:
    """Runs a command when it is unpickled by a careless reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("where", ["top", "config", "weights", "spec"])
@pytest.mark.parametrize("writer", ["torch.save", "legacy", "pickle"])
def test_code_in_a_file_is_not_run(file: Path, tmp_path: Path, where: str, writer: str) -> None:
    content: Any = torch.load(file, weights_only=True)
    hostile = Hostile(tmp_path / "EXECUTED")
    if where == "top":
        content = hostile
    elif where == "config":
        content["perceiver"]["config"]["model"]["x"] = hostile
    elif where == "spec":
        content["perceiver"]["spec"]["x"] = [hostile]
    else:
        content["state_dict"]["model.x"] = hostile
    if writer == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=writer == "torch.save")
    message = "refused, and none of its code was run: it names posix.system; a checkpoint may hold only tensors"
    for reader in (load, read):
        with pytest.raises(CheckpointError, match=re.escape(message if writer == "torch.save" else "not a checkpoint")):
            reader(file)
    assert not (tmp_path / "EXECUTED").exists()
    assert "weights_only" not in message


def test_the_environment_cannot_lift_the_protection(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(Hostile(tmp_path / "EXECUTED"), file)
    with pytest.raises(CheckpointError, match="refused, and none of its code was run"):
        load(file)
    assert not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.system", "command": "touch EXECUTED"},
        {"_target_": "builtins.exec", "source": "open('EXECUTED', 'w')"},
        {"_target_": "perceiver.checkpoints.os.system", "command": "touch EXECUTED"},
        {"_target_": "torch.nn.modules.module.torch.load", "f": "EXECUTED"},
        {"_target_": "torch.nn.modules.linear.Identity", "_partial_": True},
        {"_target_": "perceiver.Perceiver"},
    ],
)
def test_hostile_configs_are_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: Config) -> None:
    monkeypatch.chdir(tmp_path)
    rewritten(file, lambda content: content["perceiver"]["config"]["model"]["encoder"].update(dropout=[[node]]))
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(file))}: model\.encoder\.dropout\[0\]\[0\]\._"):
        load(file)
    assert not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"encoder": {"num_latents": 10**12}}, f"{ENCODER}: a tensor of shape (1000000000000, 8)"),
        ({"encoder": {"latent_channels": 10**9}}, f"{ENCODER}: a tensor of shape"),
        ({"encoder": {"num_layers_per_block": 10**9}}, f"{ENCODER}: more than "),
        (
            {"head": {"num_classes": 10**12}},
            "model.head (perceiver.decoders.pooled.PooledHead): a tensor of shape (1000000000000, 8)",
        ),
        ({"adapters": {"image": {"position": {"num_bands": 10**12}}}}, f"{ENCODER}: a tensor of shape (4000000000003, 8)"),
    ],
)
def test_absurd_sizes_end_in_an_error_not_in_exhaustion(file: Path, change: Config, path: str) -> None:
    def merge(into: Config, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                merge(into[key], value)
            else:
                into[key] = value

    rewritten(file, lambda content: merge(content["perceiver"]["config"]["model"], change))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=re.escape(f"{file}: {path}")):
        load(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3_000_000  # kB


def test_a_tensor_that_claims_a_size_it_does_not_have_lends_no_memory(file: Path) -> None:
    def change(content: Config) -> None:
        content["perceiver"]["config"]["model"]["encoder"]["num_latents"] = 10**12
        content["state_dict"]["model.encoder.latents"] = torch.zeros(1).expand(10**12, 8)

    with pytest.raises(CheckpointError, match=r"a tensor of shape \(1000000000000, 8\) needs 32\.0 TB"):
        load(rewritten(file, change))


def test_configs_that_contain_themselves_or_explode(file: Path) -> None:
    def loop(content: Config) -> None:
        content["perceiver"]["config"]["model"]["head"]["x"] = content["perceiver"]["config"]

    with pytest.raises(CheckpointError, match="contains itself"):
        load(rewritten(file, loop))

    def explode(content: Config) -> None:
        laughs: list[Any] = []
        for _ in range(40):
            laughs = [laughs, laughs]
        content["perceiver"]["config"] = {"model": {}, "x": laughs}

    with pytest.raises(CheckpointError, match="more than 2,000,000 values"):
        load(rewritten(file, explode))


def test_compressed_archives_are_refused(file: Path) -> None:
    bomb = file.with_name("bomb.ckpt")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("model/data/99", b"\0" * 10**7)
    with pytest.raises(CheckpointError, match=r"its parts are compressed, which torch\.save never does"):
        load(bomb)


def test_other_archives_are_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(CheckpointError, match="the file is damaged or not a checkpoint"):
        load(file)


# Writing.


def test_missing_folders_are_made_and_the_mode_is_ordinary(model: perceiver.Perceiver, tmp_path: Path) -> None:
    file = save(model, str(tmp_path / "a" / "b" / "x.ckpt"), config=CONFIG, spec=SPEC)
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [entry.name for entry in file.parent.iterdir()] == ["x.ckpt"]


def test_a_folder_is_no_file(model: perceiver.Perceiver, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=r"expected a file to write, got a folder; give a name .*model\.ckpt"):
        save(model, tmp_path, config=CONFIG, spec=SPEC)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MODEL, "config: expected a run's resolved config, a mapping with the key model"),
        (
            {"model": MODEL | {"head": {"_target_": "builtins.dict"}}},
            "model.head._target_: builtins.dict is a class, but not derived",
        ),
        (
            {"model": MODEL | {"head": nn.Linear(1, 1)}},
            "config.model.head: torch.nn.modules.linear.Linear is not a plain value",
        ),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(
    model: perceiver.Perceiver, tmp_path: Path, config: Config, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        save(model, tmp_path / "x.ckpt", config=config, spec=SPEC)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_known_to_be_full(model: perceiver.Perceiver, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: shutil_usage(free=1500))
    with pytest.raises(OSError, match="no space left") as caught:
        save(model, file, config=CONFIG, spec=SPEC)
    assert caught.value.errno == errno.ENOSPC
    assert re.search(
        rf"no space left while writing {re.escape(str(file))}: the file needs [\d,]+ bytes, 1,500 bytes are free\. "
        r"The earlier file is intact\. Free some space",
        str(caught.value),
    )
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def shutil_usage(*, free: int) -> Any:
    return type("Usage", (), {"free": free})()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_turns_out_to_be_full(
    model: perceiver.Perceiver, file: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match=r"no space left while writing .*: failed after .* The earlier file is intact"):
        save(model, file, config=CONFIG, spec=SPEC)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_real_limit_on_the_size_of_files(file: Path) -> None:
    """A child process that may write files of 4 kB only: the kernel itself stops the write half-way."""
    before = file.read_bytes()
    code = (
        "import resource, signal, sys, torch; from perceiver import checkpoints\n"
        "recipe = checkpoints.read(sys.argv[1]); model = checkpoints.load(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    checkpoints.save(model, sys.argv[1], config=recipe.config, spec=recipe.spec)\n"
        "except OSError as error:\n    sys.exit(str(error))\n"
    )
    finished = python("-c", code, file)
    assert finished.returncode == 1
    assert f"no space left while writing {file}: failed after" in finished.stderr
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad disk"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_older_file(
    model: perceiver.Perceiver, file: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = file.read_bytes()

    def interrupted(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(atomic.os, "fsync", interrupted)
    with pytest.raises(type(error)):
        save(model, file, config=CONFIG, spec=SPEC)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_saved_file_is_what_torch_reads(file: Path) -> None:
    content = torch.load(io.BytesIO(file.read_bytes()), weights_only=True)
    assert content.keys() == {"state_dict", "perceiver"}
    assert all(name.startswith("model.") for name in content["state_dict"])
    assert content["perceiver"]["format"] == 1
