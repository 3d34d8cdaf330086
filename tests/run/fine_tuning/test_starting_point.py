"""Fine-tuning imported models on images: directories of transformers and of `save_pretrained`, and what does not fit."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from hydra_runs import QUICK, QUIET
from hydra_runs import run as train
from image_sets import folder_set
from transformers_models import BY_NAME, their_model

import perceiver
from perceiver.interop.files import CONFIG
from perceiver.interop.hub import save_pretrained
from perceiver.interop.huggingface import from_transformers
from perceiver.run.fine_tuning.starting_point import Checkpoint, Imported, Pretrained, StartingPoint

FOURIER = BY_NAME["PerceiverForImageClassificationFourier"]
QUICKLY = (
    "experiment=finetune", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "logger=none", "test=false",
    *QUIET,
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Photographs in folders, as settings."""
    root = tmp_path_factory.mktemp("photos")
    folder_set(root)
    return ("data=image_folder", f"data.root={root}", "data.num_workers=0", "data.size=[9,9]", "data.batch_size=8")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that transformers wrote: the Fourier model, small."""
    directory = tmp_path_factory.mktemp("model") / "fourier"
    their_model(FOURIER).save_pretrained(directory)
    return directory


def learned(directory: Path) -> dict[str, torch.Tensor]:
    """What a run ended with, of adapters, fusion and encoder."""
    state = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    own = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    return {name: value for name, value in own.items() if not name.startswith("head.")}


def test_a_frozen_encoder_stays_as_published(published: Path, photos: tuple[str, ...], tmp_path: Path) -> None:
    finished = train(*QUICKLY, *photos, f"init_from={published}", "init_freeze=true", f"hydra.run.dir={tmp_path}")
    assert finished.code == 0, finished.err
    assert finished.err == ""
    assert f"Started from {published}: " in finished.out
    expected = from_transformers(published).state_dict()
    after = learned(tmp_path)
    assert len(after) > 40
    assert all(torch.equal(after[name], expected[name]) for name in after)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["model"]["adapters"]["image"]["position"]["resolution"] == [224, 224], "of the imported model"
    assert config["model"]["encoder"]["attention_dropout"] == 0.0
    trained = perceiver.load(tmp_path)
    assert trained({"image": torch.zeros(1, 3, 12, 7)}).shape == (1, 3), "the user's classes, images of any size"


def test_the_encoder_learns_more_slowly(published: Path, photos: tuple[str, ...], tmp_path: Path) -> None:
    expected = from_transformers(published).state_dict()
    moved = []
    for multiplier in (1.0, 0.01):
        directory = tmp_path / str(multiplier)
        finished = train(
            *QUICKLY, *photos, f"init_from={published}", f"init_lr_multiplier={multiplier}", "scheduler=none",
            "model.encoder.attention_dropout=0.1", f"hydra.run.dir={directory}",
        )  # fmt: skip
        assert finished.code == 0, finished.err
        after = learned(directory)
        moved.append(max(float((after[name] - expected[name]).abs().max()) for name in after))
        config = yaml.safe_load((directory / "config.yaml").read_text())
        assert config["model"]["encoder"]["attention_dropout"] == 0.1, "what the command line says holds"
    assert 0 < moved[1] < 0.05 * moved[0]


def test_every_kind_of_file_holds_the_same(published: Path, tmp_path: Path) -> None:
    model = from_transformers(published, attention_dropout=0.0)
    perceiver.save(model, tmp_path / "model.ckpt")
    save_pretrained(model, tmp_path / "own")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / CONFIG).write_text((published / CONFIG).read_text())
    torch.save(their_model(FOURIER).state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    found = {
        path: StartingPoint.find(path)
        for path in (
            published, published / "model.safetensors", tmp_path / "pickled", tmp_path / "own", tmp_path / "model.ckpt"
        )
    }  # fmt: skip
    assert [type(one) for one in found.values()] == [Imported, Imported, Imported, Pretrained, Checkpoint]
    for path, start in found.items():
        weights = start.weights()
        assert start.model_config() == model.config, path
        assert set(weights) == set(model.state_dict())
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items()), path


def test_a_saved_import_starts_as_the_directory_does(published: Path, photos: tuple[str, ...], tmp_path: Path) -> None:
    file = perceiver.save(from_transformers(published), tmp_path / "model.ckpt")
    after = []
    for number, start in enumerate((published, file)):
        directory = tmp_path / str(number)
        finished = train(
            *QUICKLY, *photos, f"init_from={start}", "model.encoder.attention_dropout=0", f"hydra.run.dir={directory}"
        )
        assert finished.code == 0, finished.err
        after.append(learned(directory))
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0])


def test_other_data_and_damaged_directories(published: Path, tmp_path: Path) -> None:
    def error(*arguments: str) -> str:
        finished = train(*QUICKLY, *arguments, f"hydra.run.dir={tmp_path / 'run'}")
        assert finished.code == 1
        return finished.error

    message = error(f"init_from={published}", "data=digits")
    assert f"init_from: {published} was trained on different inputs" in message
    assert "expected (batch, 3, height, width), got (1, 1, 8, 8)" in message
    assert "data=image_folder" in message

    (tmp_path / "empty").mkdir()
    message = error(f"init_from={tmp_path / 'empty'}")
    assert "init_from: " in message
    assert "or a directory with config.json and model.safetensors" in message

    other = tmp_path / "other"
    other.mkdir()
    (other / CONFIG).write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    assert "expected model_type 'perceiver', got 'bert'" in error(f"init_from={other}")

    (other / CONFIG).write_text((published / CONFIG).read_text())
    assert f"{other}: has neither model.safetensors nor pytorch_model.bin" in error(f"init_from={other}", "data=digits")

    values = json.loads((published / CONFIG).read_text()) | {"num_latents": 7}
    (other / CONFIG).write_text(json.dumps(values))
    (other / "model.safetensors").write_bytes((published / "model.safetensors").read_bytes())
    message = error(f"init_from={other}", "data=digits")
    assert "embeddings.latents" in message
    assert "(7, 8)" in message


def test_without_init_model_differences_are_named(published: Path, photos: tuple[str, ...], tmp_path: Path) -> None:
    finished = train(*QUICK, *photos, f"init_from={published}", f"hydra.run.dir={tmp_path}")
    assert finished.code == 1
    assert f"init_from: {published} does not fit the configured adapters" in finished.error
    assert "init_model=true" in finished.error
