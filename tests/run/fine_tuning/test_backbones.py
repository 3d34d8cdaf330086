"""Pretrained networks on the command line: spec, weights, cache, checkpoints without files, hostile checkpoints."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from hydra_runs import QUIET, Finished, run
from manifest_cases import animals, write_csv
from manifest_runs import SMALL
from safetensors.torch import load_file
from tiny_networks import timm_weights, tiny_directory

import perceiver
from perceiver.adapters import Backbone
from perceiver.adapters.backbones.axes import RowsAndColumns
from perceiver.adapters.backbones.network import DescribedNetwork
from perceiver.checkpoints.file import CheckpointError
from perceiver.run.configuration.command_line import of_adapters, with_new_adapters
from perceiver.run.fine_tuning.backbones import Backbones
from perceiver.tokens.positions import Fourier

EPOCHS = ("trainer.max_epochs=2", *(word for word in QUIET if word.split("=")[0] not in " ".join(SMALL)))


def fit(folder: Path, run_dir: Path, *words: str, modalities: str = "{photo: image, sound: audio}") -> Finished:
    return run(
        *SMALL, f"data.manifest={folder}/m.csv", f"data.modalities={modalities}", f"hydra.run.dir={run_dir}", *EPOCHS, *words
    )


def timm_words(folder: Path) -> tuple[str, ...]:
    """The command line of the documentation, for a file of weights."""
    settings = ("adapter.model_name=test_resnet.r160_in1k", f"adapter.pretrained={folder}/w.safetensors", "adapter.stage=1")
    return ("adapter@model.adapters.photo=timm", *settings, "adapter.image_size=32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest, weights, and a run with a cache; the weights are gone."""
    folder = tmp_path_factory.mktemp("backbones")
    write_csv(folder / "m.csv", animals(folder))
    timm_weights(folder / "w.safetensors")
    done = fit(folder, folder / "run", *timm_words(folder))
    assert done.code == 0, done.err
    (folder / "out.txt").write_text(done.out)
    assert fit(folder, folder / "uncached", *timm_words(folder), "cache=null").code == 0
    (folder / "w.safetensors").rename(folder / "kept")
    return folder


@pytest.fixture
def no_network() -> Iterator[None]:
    with mock.patch.object(socket, "socket", side_effect=AssertionError("connected")):
        yield


def test_the_checkpoint_describes_and_holds_the_network(trained: Path, no_network: None) -> None:
    model = perceiver.load(trained / "run")
    adapter = model.adapters["photo"]
    assert isinstance(adapter, Backbone)
    stored = load_file(trained / "kept")
    own = adapter.network.model.state_dict()
    assert own
    assert all(torch.equal(own[name], stored[name]) for name in own)
    assert model.spec is not None
    assert model.spec["modalities"]["photo"]["mean"] == [0.5] * 3
    assert model.spec["modalities"]["photo"]["interpolation"] == "bilinear"
    assert model.spec["modalities"]["photo"]["shape"] == [3, 32, 32]
    node = yaml.safe_load((trained / "run" / "config.yaml").read_text())["model"]["adapters"]["photo"]
    assert node["network"]["architecture"] == "test_resnet"
    assert str(trained) not in json.dumps(node), "no path"
    row = next(row for row in animals(trained) if row["photo"])
    assert model.predict([{"photo": trained / row["photo"]}])[0].label


def test_a_learning_rate_is_found_with_the_network(tmp_path: Path) -> None:
    write_csv(tmp_path / "m.csv", animals(tmp_path))
    timm_weights(tmp_path / "w.safetensors")
    done = fit(tmp_path, tmp_path / "run", *timm_words(tmp_path), "mode=lr_find", "lr_find.steps=20")
    assert done.code == 0, done.err
    assert "Suggested learning rate: optimizer.lr=" in done.out
    assert (tmp_path / "run" / "lr_find.csv").exists()


def test_losses_are_equal_without_the_cache(trained: Path) -> None:
    cached, uncached = (json.loads((trained / name / "metrics.json").read_text()) for name in ("run", "uncached"))
    names = [name for name in cached if name.startswith(("train/", "val/", "test/"))]
    assert "train/loss" in names
    assert {name: cached[name] for name in names} == {name: uncached[name] for name in names}, "in every digit"
    assert len([*(trained / "run" / "features").glob("*.features")]) == 1
    assert not (trained / "uncached" / "features").exists()
    [line] = [line for line in (trained / "out.txt").read_text().splitlines() if line.startswith("photo: features computed")]
    assert "read" in line


def test_a_run_resumes_without_the_weights(trained: Path, no_network: None) -> None:
    words = (*timm_words(trained), f"ckpt_path={trained}/run/checkpoints/last.ckpt", "trainer.max_epochs=3")
    done = fit(trained, trained / "resumed", *words)
    assert done.code == 0, done.err


def test_the_network_learns_at_its_rate(trained: Path, tmp_path: Path) -> None:
    words = ("adapter.pretrained=false", "adapter.frozen=false", "adapter.lr_multiplier=1e-9", "scheduler=none")
    done = fit(trained, tmp_path / "run", *(word for word in timm_words(trained) if "pretrained" not in word), *words)
    assert done.code == 0, done.err
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    rates = [group["lr"] for group in state["optimizer_states"][0]["param_groups"]]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-11, 1e-11])
    assert not (tmp_path / "run" / "features").exists()


def test_a_text_encoder_brings_its_tokenizer(tmp_path: Path, no_network: None) -> None:
    write_csv(tmp_path / "m.csv", [{"text": f"the {'cat' if n % 2 else 'dog'} sat", "label": n % 2} for n in range(24)])
    folder = tiny_directory(tmp_path / "net", "bert")
    words = ("adapter@model.adapters.text=transformers_text", f"adapter.model_name={folder}")
    done = fit(tmp_path, tmp_path / "run", *words, modalities="{text: text}")
    assert done.code == 0, done.err
    folder.rename(tmp_path / "gone")
    model = perceiver.load(tmp_path / "run")
    assert model.spec is not None
    assert model.spec["modalities"]["text"]["tokenizer"]["kind"] == "library"
    assert model.predict(["the red cat ran"])[0].label in "01"
    words = (
        f"data.manifest={tmp_path}/m.csv",
        "data.num_workers=0",
        "experiment=manifest",
        f"hydra.run.dir={tmp_path}/predict",
    )
    assert run("mode=predict", f"ckpt_path={tmp_path}/run", *words, "logger=none").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("adapter@model.adapters.photo=timm",), "model.adapters.photo.model_name: must be given"),
        (("adapter@model.adapters.photo=timm", "adapter.model_name=no"), "expected the name of a model, such as resnet18"),
        (
            ("adapter@model.adapters.sound=timm", "adapter.model_name=test_resnet", "adapter.pretrained=false"),
            "model.adapters.sound: its network takes the kind image, but data.modalities.sound is of kind audio",
        ),
        (
            ("adapter@model.adapters.foto=timm", "adapter.model_name=test_resnet", "adapter.pretrained=false"),
            "the data has no modality 'foto', only photo, sound",
        ),
    ],
)
def test_errors_of_the_command_line(words: tuple[str, ...], said: str, trained: Path, tmp_path: Path) -> None:
    assert said in fit(trained, tmp_path / "run", *words).error


def test_overrides_of_adapters() -> None:
    words = [
        "adapter.x=1",
        "adapter@model.adapters.a=timm",
        "adapter.stage=1",
        "+adapter@model.adapters.b=text",
        "+adapter.y=2",
    ]
    assert of_adapters(words) == [
        "adapter.x=1",
        "adapter@model.adapters.a=timm",
        "model.adapters.a.stage=1",
        "+adapter@model.adapters.b=text",
        "+model.adapters.b.y=2",
    ]
    unknown = ValueError("Could not override 'adapter@model.adapters.a'. No match in the defaults list.")
    assert with_new_adapters(words, unknown) == [words[0], f"+{words[1]}", *words[2:]]
    assert with_new_adapters(words, ValueError("another")) is None
    assert with_new_adapters([f"+{words[1]}"], unknown) is None, "tried once"


REQUEST = "perceiver.interop.backbones.timm_images.Timm"
TEXTS = "perceiver.interop.backbones.transformers_texts"
BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}


def network(**changes: Any) -> dict[str, Any]:
    return {"_target_": "perceiver.interop.backbones.timm_images.TimmNetwork", "architecture": "test_resnet", **changes}


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (network(pretrained=True), "network.pretrained: unknown argument"),
        (network(checkpoint_path="/etc/passwd"), "network.checkpoint_path: unknown argument"),
        (network(architecture="hf-hub:owner/name"), "expected the name of a model"),
        (network(architecture="local-dir:/etc"), "expected the name of a model"),
        (network(architecture="https://example.org/weights"), "expected the name of a model"),
        (network(architecture="resnet50", stage=-1), "so the config does not match them"),
        ({"_target_": REQUEST, "model_name": "test_resnet", "pretrained": True}, "is a class, but not derived from"),
        ({"_target_": f"{TEXTS}.TransformersTexts", "model_name": "owner/name"}, "is a class, but not derived from"),
        ({"_target_": "timm.models.resnet.ResNet"}, "outside the trusted packages"),
        ({"_target_": "transformers.BertModel"}, "outside the trusted packages"),
        (
            {
                "_target_": f"{TEXTS}.TransformersTextNetwork",
                "model_type": "bert",
                "config": {"attn_implementation": "o/kernel"},
            },
            "takes no argument 'attn_implementation'",
        ),
        (
            {"_target_": f"{TEXTS}.TransformersTextNetwork", "model_type": "bert", "config": {**BERT, "hidden_size": 10**6}},
            "TransformersTextNetwork",
        ),
        (
            {
                "_target_": "perceiver.interop.backbones.torchvision_images.TorchvisionNetwork",
                "architecture": "resnet18",
                "stage": "__class__.x",
            },
            "resnet18 has no node",
        ),
    ],
)
def test_hostile_checkpoints_fetch_and_open_nothing(
    node: dict[str, Any], said: str, trained: Path, tmp_path: Path, no_network: None
) -> None:
    content = torch.load(trained / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    content["perceiver"]["config"]["model"]["adapters"]["photo"]["network"] = node
    torch.save(content, tmp_path / "hostile.ckpt")
    with pytest.raises(CheckpointError, match=said):
        perceiver.load(tmp_path / "hostile.ckpt")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("augment", "mixed", "kept"),
    [({}, False, True), ({"photo": "…"}, False, False), ({"other": "…"}, False, True), ({}, True, False)],
)
def test_features_of_samples_that_never_come_again_are_not_kept(
    augment: dict[str, str], mixed: bool, kept: bool, tmp_path: Path
) -> None:
    network = DescribedNetwork(module=torch.nn.Conv2d(3, 4, kernel_size=4, stride=4), channels=4, strides=(4, 4))
    adapter = Backbone(network=network, axes=RowsAndColumns(), position=Fourier(num_bands=2, resolution=(2, 2)))
    model: Any = SimpleNamespace(adapters={"photo": adapter})
    backbones = Backbones()
    backbones.use_cache(model, str(tmp_path), SimpleNamespace(augment=augment, corruption={}), mixed=mixed)  # type: ignore[arg-type]
    adapter.train()
    adapter(torch.rand(2, 3, 8, 8))
    assert backbones.caches["photo"].computed == (2 if kept else 0)
    adapter.eval()
    adapter(torch.rand(2, 3, 8, 8))
    assert backbones.caches["photo"].computed == (4 if kept else 2)
