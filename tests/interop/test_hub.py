"""Directories of the Hub: what is saved comes back; nothing that a file names is run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from killed import killed_at_every_step
from safetensors.torch import load_file, save_file
from transformers_models import BY_NAME, their_model

import perceiver
from perceiver.checkpoints.build import build_model
from perceiver.checkpoints.file import CheckpointError
from perceiver.interop.files import WeightFileError
from perceiver.interop.hub import HubPerceiver, from_pretrained, save_pretrained
from perceiver.run.fine_tuning.starting_point import StartingPoint

CONFIG: dict[str, Any] = {
    "_target_": "perceiver.Perceiver",
    "adapters": {
        "image": {
            "_target_": "perceiver.adapters.ImagePixels",
            "image_channels": 1,
            "position": {"_target_": "perceiver.Fourier", "num_bands": 2, "resolution": [4, 4]},
        }
    },
    "encoder": {
        "_target_": "perceiver.Encoder",
        "num_latents": 3,
        "latent_channels": 8,
        "num_self_heads": 2,
        "num_blocks": 2,
        "num_layers_per_block": 1,
    },
    "head": {"_target_": "perceiver.PooledHead", "num_classes": 4},
}
INPUTS = {"image": torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(0))}


@pytest.fixture
def model() -> perceiver.Perceiver:
    return build_model(CONFIG, spec={"modalities": {"image": {"kind": "image"}}}).eval()


@pytest.fixture
def directory(model: perceiver.Perceiver, tmp_path: Path) -> Path:
    return save_pretrained(model, tmp_path / "made" / "saved")


def test_round_trip(model: perceiver.Perceiver, directory: Path) -> None:
    assert sorted(file.name for file in directory.iterdir()) == ["config.json", "model.safetensors"]
    again = from_pretrained(directory)
    assert not again.training
    assert torch.equal(again(INPUTS), model(INPUTS))
    assert (again.config, again.spec) == (model.config, model.spec)


def test_mixin(model: perceiver.Perceiver, tmp_path: Path) -> None:
    HubPerceiver(model=model).save_pretrained(tmp_path)
    again = HubPerceiver.from_pretrained(tmp_path)
    assert isinstance(again, HubPerceiver)
    assert torch.equal(again(INPUTS), model(INPUTS))
    assert torch.equal(from_pretrained(tmp_path)(INPUTS), model(INPUTS))


def model_of(classes: int) -> perceiver.Perceiver:
    """Models of 4 and of 5 classes, with other weights."""
    torch.manual_seed(classes)
    config = {**CONFIG, "head": {**CONFIG["head"], "num_classes": classes}}
    return build_model(config, spec={"modalities": {"image": {"kind": "image"}}, "num_classes": classes}).eval()


@pytest.mark.parametrize(("by", "earlier"), [("function", True), ("mixin", False)])
def test_an_interrupted_save_leaves_the_old_or_the_new_model(by: str, earlier: bool, tmp_path: Path) -> None:
    folder, old, new = tmp_path / "saved", model_of(4), model_of(5)
    models = {4: old(INPUTS), 5: new(INPUTS)}

    def restore() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if earlier:
            save_pretrained(old, folder)
            (folder / "README.md").write_text("mine")

    def save() -> None:
        if by == "function":
            save_pretrained(new, folder)
        else:
            HubPerceiver(model=new).save_pretrained(folder)

    found = []
    for _ in killed_at_every_step(save, folder, restore=restore):
        if earlier or (folder / "model.safetensors").exists():
            loaded = from_pretrained(folder)
            assert torch.equal(loaded(INPUTS), models[loaded.spec["num_classes"]])  # type: ignore[index]
            found.append(loaded.spec["num_classes"])  # type: ignore[index]
            assert StartingPoint.find(folder).model_config()["head"]["num_classes"] == found[-1]
    assert found == sorted(found)
    assert {*found} == ({4, 5} if earlier else {5})
    assert torch.equal(from_pretrained(folder)(INPUTS), models[5])
    save_pretrained(old, folder)  # nothing of interrupted saves is in the way, or left
    assert torch.equal(from_pretrained(folder)(INPUTS), models[4])
    assert {file.name for file in folder.iterdir()} - {"README.md"} == {"config.json", "model.safetensors"}


def test_a_config_edited_by_hand_counts(directory: Path) -> None:
    change(directory, lambda model: model["head"].update(dropout=0.5))
    assert from_pretrained(directory).config["head"]["dropout"] == 0.5  # type: ignore[index]


def test_checkpoints_and_directories_hold_the_same(model: perceiver.Perceiver, directory: Path, tmp_path: Path) -> None:
    loaded = perceiver.load(perceiver.save(from_pretrained(directory), tmp_path / "model.ckpt"))
    assert torch.equal(loaded(INPUTS), model(INPUTS))
    assert loaded.spec == model.spec


def change(directory: Path, change_model: Any) -> None:
    file = directory / "config.json"
    content = json.loads(file.read_text())
    change_model(content["perceiver"]["config"]["model"])
    file.write_text(json.dumps(content))


def test_what_a_config_names_is_vetted(directory: Path) -> None:
    change(directory, lambda model: model["head"].update(_target_="os.system"))
    with pytest.raises(CheckpointError, match=r"os\.system, outside the trusted packages"):
        from_pretrained(directory)
    with pytest.raises(CheckpointError, match=r"os\.system, outside the trusted packages"):
        HubPerceiver.from_pretrained(directory)


def test_weights_that_do_not_fit(directory: Path) -> None:
    file = directory / "model.safetensors"
    weights = load_file(file)
    weights["encoder.latents"] = torch.zeros(3, 7)
    del weights["head.output.bias"]
    save_file(weights, file)
    with pytest.raises(CheckpointError) as raised:
        from_pretrained(directory)
    assert "head.output.bias (4,)" in str(raised.value)
    assert "encoder.latents file (3, 7), model (3, 8)" in str(raised.value)


def test_huge_models_are_refused(directory: Path) -> None:
    change(directory, lambda model: model["encoder"].update(num_latents=10**12))
    with pytest.raises(CheckpointError, match="at most .* are allowed"):
        from_pretrained(directory)


def test_other_directories(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: expected a directory written by"):
        from_pretrained(tmp_path / "nowhere")
    their_model(BY_NAME["PerceiverForMaskedLM"]).save_pretrained(tmp_path / "theirs")  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=r"a transformers config: use perceiver\.interop\.huggingface"):
        from_pretrained(tmp_path / "theirs")
    (directory / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(WeightFileError, match="not a safetensors file"):
        from_pretrained(directory)
    (directory / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; .*written by .*, found model\.safetensors"):
        from_pretrained(directory)


def test_a_model_that_does_not_say_what_it_was_built_from(model: perceiver.Perceiver, tmp_path: Path) -> None:
    model.config = None
    with pytest.raises(CheckpointError, match="the model has no config"):
        save_pretrained(model, tmp_path)
    with pytest.raises(CheckpointError, match="the model has no config"):
        perceiver.save(model, tmp_path / "model.ckpt")
