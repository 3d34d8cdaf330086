"""Every YAML of conf/: it composes, what it names can be built, and its head says what it is for."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from dense_cases import flow_set, segmentation_set
from digit_sets import read_recordings_once
from emoji_set import emoji_set
from hf_cases import small_set
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from image_sets import cifar10_set, cifar100_set, cifar_checksums, folder_set, idx_set, imagenet_set
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from manifest_cases import animals, write_csv
from omegaconf import DictConfig, open_dict
from shard_cases import manifest, pack
from transformers_models import BY_NAME, their_model
from transformers_models import SMALL as THEIRS

from perceiver.adapters.image import ImagePixels
from perceiver.checkpoints.build import build_model
from perceiver.generation.flow import generate
from perceiver.interop.architectures import model_config
from perceiver.interop.backbones.request import BackboneRequest
from perceiver.interop.huggingface import from_transformers
from perceiver.modalities.texts.text_bytes import encode_bytes
from perceiver.model import Perceiver
from perceiver.objectives import Dense, Supervised
from perceiver.objectives.self_supervised.multimodal_autoencoding import Reconstruction
from perceiver.run.assembly.data import make_data
from perceiver.run.assembly.task import make_task
from perceiver.run.configuration.regularisation import without_regularisation
from perceiver.run.configuration.resolve import resolve
from perceiver.run.configuration.resolvers import register_resolvers
from perceiver.samples.batch import Batch
from perceiver.targets.text import text_target
from perceiver.training import Task

CONF = Path(__file__).resolve().parents[1] / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
GROUPS = {group.name: sorted(path.stem for path in group.glob("*.yaml")) for group in CONF.iterdir() if group.is_dir()}
MODELS = [name for name in GROUPS["model"] if name not in ("perceiver_ar", "interface")]
"""Models of any modalities for a target; Perceiver AR is for texts alone, and an interface generates a modality."""

MODALITIES: dict[str, dict[str, Any]] = {
    "image": {"kind": "image", "shape": [1, 12, 8], "mean": [0.0], "std": [1.0], "range": [0, 255]},
    "audio": {"kind": "audio", "shape": [1, 4000], "sample_rate": 8000, "duration_seconds": 0.5},
    "points": {"kind": "points", "shape": [20, 5], "scale": 1.0},
    "video": {"kind": "video", "shape": [3, None, 16, 24], "mean": [0.0] * 3, "std": [1.0] * 3},
    "text": {"kind": "text", "shape": [None], "vocabulary_size": 262},
    "timeseries": {
        "kind": "timeseries",
        "num_values": 2,
        "names": ["pulse", "pressure"],
        "mean": [70.0, 120.0],
        "std": [10.0, 15.0],
        "duration_seconds": 3600.0,
    },
    "table": {
        "kind": "table",
        "numbers": ["age", "height"],
        "mean": [40.0, 1.7],
        "std": [20.0, 0.1],
        "categories": {"sex": ["f", "m"]},
        "category_sizes": [3],
    },
}
INPUTS: dict[str, Any] = {
    "image": torch.rand(2, 1, 12, 8),
    "audio": torch.rand(2, 1, 4000),
    "points": torch.rand(2, 20, 5),
    "video": torch.rand(2, 3, 5, 16, 24),
    "text": encode_bytes("Grüße").expand(2, -1),
    "timeseries": {"values": torch.rand(2, 4, 2), "times": torch.arange(4, dtype=torch.float64).expand(2, -1)},
    "table": {"numbers": torch.rand(2, 2), "categories": torch.tensor([[1], [0]])},
}


# Sets that are too large, or not there, to be read in tests: what makes a tiny one, and overrides that suit it.
SMALL_SETS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "fashion_mnist": (lambda root: idx_set(root / "FashionMNIST" / "raw"), ["data.validation_size=10"]),
    "fashion_mnist_prompts": (
        lambda root: idx_set(root / "FashionMNIST" / "raw"),
        ["data.source.root={root}", "data.source.validation_size=10"],
    ),
    "cifar10_prompts": (cifar10_set, ["data.source.root={root}", "data.source.validation_size=10"]),
    "cifar100_prompts": (cifar100_set, ["data.source.root={root}", "data.source.validation_size=100"]),
    "emoji_prompts": (emoji_set, ["data.size=16"]),
    "cifar10": (cifar10_set, ["data.validation_size=10"]),
    "cifar100": (cifar100_set, ["data.validation_size=100"]),
    "image_folder": (folder_set, ["data.num_workers=0"]),
    "manifest": (
        lambda root: write_csv(root / "m.csv", animals(root)),
        ["data.manifest={root}/m.csv", "data.modalities={photo: image, sound: audio, cloud: points}", "data.num_workers=0"],
    ),
    "hf": (small_set, ["data.path={root}/set", "data.num_workers=0"]),
    "shards": (
        lambda root: pack(manifest(root, modalities={"photo": "image", "sound": "audio"}), root / "shards"),
        ["data.shards={root}/shards", "data.num_workers=0"],
    ),
    "segmentation_folder": (segmentation_set, ["data.num_workers=0"]),
    "flow_folder": (flow_set, ["data.num_workers=0", "data.size=[8,10]"]),
    "imagenet": (imagenet_set, ["data.num_workers=0", "data.validation_size=6", "data.size=[16,16]"]),
    "parallel_text": (
        lambda root: [(root / name).write_text("Ein Text.\n" * 40) for name in ("a", "b")],
        ["data.source={root}/a", "data.target={root}/b", "data.tokenizer=bytes"],
    ),
    "text_files": (lambda root: (root / "it.txt").write_text("Some text of mine.\n" * 50), ["data.files={root}"]),
    "python_texts": (lambda root: None, []),
    "long_texts": (
        lambda root: None,
        ["data.texts.docstrings=false", "model.encoder.num_latents=8", "model.adapters.text.reference_length=64"],
    ),
    "long_text_files": (
        lambda root: (root / "it.txt").write_text("Some text of mine.\n" * 50),
        ["data.texts.files={root}", "model.encoder.num_latents=8", "model.adapters.text.reference_length=64"],
    ),
    "emoji": (emoji_set, ["data.validation_size=5", "data.size=16"]),
    "mirrored_copy": (lambda root: None, ["model.encoder.num_latents=8", "model.adapters.text.reference_length=64"]),
}
CIFAR = {
    name: kind
    for group, kind in (("cifar10", torchvision.datasets.CIFAR10), ("cifar100", torchvision.datasets.CIFAR100))
    for name in (group, f"{group}_prompts")
}
UNLABELLED = {
    "python_texts": "masked_tokens",
    "text_files": "masked_tokens",
    "long_text_files": "next_tokens",
    "long_texts": "next_tokens",
    "mirrored_copy": "next_tokens",
    "emoji": "contrastive",
}
"""The task of data without labels."""
TEXTS = ("multi30k", "scene_captions", "scene_captions_sound", "spoken_sequences")
"""Experiments that generate texts."""


def spec(*names: str) -> dict[str, Any]:
    return {
        "modalities": {name: MODALITIES[name] for name in names},
        "target": {"kind": "classes", "names": ["a", "b", "c"]},
        "num_classes": 3,
    }


@pytest.fixture(autouse=True)
def hydra_started() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> DictConfig:
    return compose("train", overrides=["run_dir=nowhere", *overrides])


def built(config: DictConfig, facts: dict[str, Any]) -> Perceiver:
    return build_model(resolve(config, facts)["model"], spec=facts)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_head_says_what_it_is_for(file: Path) -> None:
    lines = (CONF / file).read_text().splitlines()
    words = [line for line in lines[:2] if line.startswith("# ") and not line.startswith("# @package")]
    assert words, f"{file}: the first line (after @package) is a comment"


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    model = built(composed(f"model={name}", "model.encoder.dropout=0.1"), spec("image"))
    assert model({"image": INPUTS["image"]}).shape == (2, 3)
    assert isinstance(model.adapters["image"], ImagePixels)


@pytest.mark.parametrize("name", ["classification", "per_class", "pooled"])
def test_heads_of_classes_labels_and_numbers(name: str) -> None:
    model = built(composed(f"model/head={name}"), spec("image"))
    assert model({"image": INPUTS["image"]}).shape == (2, 3)
    numbers = resolve(composed(f"model/head={name}", "task=regression"), {**spec("image"), **TARGETS["regression"]})
    assert build_model(numbers["model"], spec=numbers["spec"])({"image": INPUTS["image"]}).shape == (2, 1)


# Requests for networks of libraries; tests/run/fine_tuning/test_backbones.py and tests/interop/backbones build them.
BACKBONES = ("timm", "torchaudio", "torchvision", "transformers_image", "transformers_sound", "transformers_text")


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_name_arguments_of_their_requests(name: str) -> None:
    node = composed(f"+adapter@model.adapters.other={name}").model.adapters.other
    request = get_class(node["_target_"])
    assert issubclass(request, BackboneRequest)
    arguments = inspect.signature(request).parameters
    assert {str(key) for key in node} - {"_target_"} == set(arguments)


@pytest.mark.parametrize("name", GROUPS["memory"])
def test_memories(name: str) -> None:
    facts = {**spec("image"), **TARGETS["text_generation"]}
    model = built(composed("task=text_generation", f"memory@model.head.memory={name}"), facts)
    assert model({"image": INPUTS["image"]}, target_ids=torch.ones(2, 7, dtype=torch.int64)).shape == (2, 7, 262)
    blocks = model.memory({"image": INPUTS["image"]}).blocks
    assert list(blocks) == [{"latents": "latents", "written": "image"}[name]]


@pytest.mark.parametrize("name", [name for name in GROUPS["adapter"] if name not in ("label", *BACKBONES)])
def test_adapters(name: str) -> None:
    modality = name.split("_")[0]
    mounted = f"adapter@model.adapters.{modality}={name}"
    if name == "video_surroundings":
        facts = spec("video")
        facts["modalities"]["video"] = {**facts["modalities"]["video"], "shape": [3, 5, 16, 24]}
        model = built(composed("~adapter@model.adapters.image", f"+{mounted}"), facts)
        assert model({"video": INPUTS["video"]}).shape == (2, 3)
        return
    overrides = [mounted] if modality == "image" else ["~adapter@model.adapters.image", f"+{mounted}"]
    model = built(composed(*overrides), spec(modality))
    assert model({modality: INPUTS[modality]}).shape == (2, 3)


def test_default_adapters_serve_several_modalities() -> None:
    model = built(composed(), spec(*MODALITIES))
    assert model(INPUTS).shape == (2, 3)
    assert model({"audio": INPUTS["audio"]}).shape == (2, 3)


def test_optional_facts_are_taken_where_the_spec_has_them() -> None:
    facts = spec("video", "timeseries", "table")
    sparse = resolve(composed("~adapter@model.adapters.image"), facts)["model"]["adapters"]
    assert sparse["video"]["position"]["resolution"] == [16, 2, 3]
    assert sparse["timeseries"]["step_seconds"] is None
    facts["modalities"]["video"] = {**MODALITIES["video"], "shape": [3, 9, 16, 24]}
    facts["modalities"]["timeseries"] = {**MODALITIES["timeseries"], "step_seconds": 0.5}
    facts["modalities"]["table"] = {**MODALITIES["table"], "numbers": [], "mean": [], "std": []}
    full = resolve(composed("~adapter@model.adapters.image"), facts)["model"]["adapters"]
    assert full["video"]["position"]["resolution"] == [5, 2, 3]
    assert full["timeseries"]["step_seconds"] == 0.5
    assert (sparse["table"]["num_numbers"], full["table"]["num_numbers"]) == (2, 0)
    assert full["table"]["category_sizes"] == [3]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("plus", ["", "+"])
def test_modality_dropout_and_reads_from_the_command_line(name: str, plus: str) -> None:
    facts = spec("image", "audio", "points")
    assert built(composed(f"model={name}"), facts).reads is None
    reads = "[[audio,image,points]]" if name == "perceiver_io" else "[[audio],[points,image]]"
    rates = f"{plus}model.modality_dropout.rates={{image: 0.3, audio: 0.5}}"
    model = built(composed(f"model={name}", rates, f"model.reads={reads}"), facts)
    assert model.modality_dropout is not None
    assert model.modality_dropout.rates == {"image": 0.3, "audio": 0.5}
    assert model.reads == ((("audio", "image", "points"),) if name == "perceiver_io" else (("audio",), ("image", "points")))
    assert model({name: INPUTS[name] for name in facts["modalities"]}).shape == (2, 3)
    if plus:
        return
    one = composed(f"model={name}", "+model.modality_dropout.rates.image=0.3")
    assert resolve(one, facts)["model"]["modality_dropout"]["rates"] == {"image": 0.3}
    assert built(without_regularisation(one), facts).modality_dropout is None
    assert built(composed(f"model={name}", "model.modality_dropout=null"), facts).modality_dropout is None


@pytest.mark.parametrize("optimizer", GROUPS["optimizer"])
@pytest.mark.parametrize("scheduler", GROUPS["scheduler"])
def test_optimizers_and_schedulers(optimizer: str, scheduler: str) -> None:
    config = composed(f"optimizer={optimizer}", f"scheduler={scheduler}", "optimizer.weight_decay=0.5")
    plain = resolve(config, spec("image"))
    weight = torch.nn.Parameter(torch.ones(2, 2))
    made = instantiate(plain["optimizer"], _convert_="all")([{"params": [weight]}])
    assert made.param_groups[0]["weight_decay"] == 0.5
    rate = made.param_groups[0]["lr"]
    if plain["scheduler"] is None:
        assert scheduler == "none"
        return
    schedule = instantiate(plain["scheduler"], _convert_="all")(made, 10)
    for _ in range(10):
        weight.grad = torch.ones_like(weight)
        made.step()
        schedule.step()
    assert made.param_groups[0]["lr"] < 0.01 * rate


TARGETS: dict[str, dict[str, Any]] = {
    "classification": {},
    "contrastive": {},
    "flow_matching": {},
    "dense_regression": {
        "target": {"kind": "field", "names": ["depth"], "mean": [1.0], "std": [2.0], "modality": "image"},
        "num_outputs": 1,
    },
    "masked_autoencoding": {},
    "masked_tokens": {},
    "multimodal_autoencoding": {},
    "segmentation": {"target": {"kind": "segmentation", "names": ["a", "b", "c"], "counts": [1, 2, 3], "modality": "image"}},
    "multilabel": {"target": {"kind": "labels", "names": ["a", "b", "c"], "positives": [1, 2, 3], "samples": 4}},
    "regression": {"target": {"kind": "values", "names": ["x"], "mean": [1.0], "std": [2.0]}, "num_outputs": 1},
    "next_tokens": {"target": text_target(tokenizer={"kind": "bytes"}, max_length=16)},
    "text_generation": {"target": text_target(tokenizer={"kind": "bytes"}, max_length=16)},
}


@pytest.mark.parametrize("name", GROUPS["task"])
def test_tasks(name: str) -> None:
    needs = {
        "contrastive": ["+adapter@model.adapters.audio=audio"],
        "masked_tokens": ["~adapter@model.adapters.image"],
        "next_tokens": ["~adapter@model.adapters.image"],
        "multimodal_autoencoding": ["adapter@model.adapters.image=image_patches", "+queries@model.head.queries.image=image"],
    }
    config = composed(f"task={name}", *needs.get(name, []))
    modalities = {"masked_tokens": ["text"], "next_tokens": ["text"], "contrastive": ["image", "audio"]}.get(name, ["image"])
    plain = resolve(config, {**spec(*modalities), **TARGETS[name]})
    dense = name in ("dense_regression", "segmentation")
    model = build_model(plain["model"], spec=plain["spec"])
    objective = make_task(plain, model, plain["spec"]).objective
    if isinstance(objective, Supervised | Dense):
        assert objective.criterion.num_outputs == (1 if "regression" in name else 3)
    best = instantiate(plain["callbacks"]["best"], _convert_="all")
    monitor = plain.get("monitor") or {"name": "val/accuracy", "mode": "max"}
    assert (best.monitor, best.mode) == (monitor["name"], monitor["mode"])
    if dense:
        outputs = model({"image": INPUTS["image"]})
        assert outputs.shape == (2, 12, 8, 3 if name == "segmentation" else 1)
    if isinstance(objective, Supervised):
        assert plain["model"]["head"]["num_classes"] == (1 if name == "regression" else 3)


@pytest.mark.parametrize("name", GROUPS["trainer"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_trainers(name: str) -> None:
    trainer = instantiate(composed(f"trainer={name}").trainer, logger=False, accelerator="cpu", _convert_="all")
    assert isinstance(trainer, Trainer)


@pytest.mark.parametrize("name", GROUPS["callbacks"])
def test_callbacks(name: str) -> None:
    entries = {key: entry for key, entry in composed(f"callbacks={name}").callbacks.items() if entry is not None}
    assert "averaging" not in entries
    callbacks = [instantiate(entry, _convert_="all") for entry in entries.values()]
    assert all(isinstance(callback, Callback) for callback in callbacks)
    assert len(callbacks) == (7 if name == "early_stopping" else 6)


@pytest.mark.parametrize("name", GROUPS["averaging"])
def test_averaging(name: str) -> None:
    config = composed(f"averaging={name}")
    assert isinstance(instantiate(config.callbacks.averaging, _convert_="all"), Callback)
    assert set(config.callbacks) > {"best", "last", "averaging"}


def test_searches_and_clusters() -> None:
    """Choices of Hydra's own groups: the direction and the tasks of a node follow from what is set elsewhere."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs pip install -e '.[sweep,cluster]'")

    def hydra(*overrides: str) -> DictConfig:
        config = compose("train", overrides=["run_dir=nowhere", *overrides], return_hydra_config=True)
        assert isinstance(config.hydra, DictConfig)
        return config.hydra

    assert GROUPS["hparams_search"] == ["optuna"]
    assert GROUPS["cluster"] == ["joblib", "slurm"]
    sweeper = hydra("hparams_search=optuna", "callbacks.best.mode=min", "seed=7").sweeper
    assert (sweeper.direction, sweeper.sampler.seed, sweeper.n_jobs) == ("minimize", 7, 1)
    assert hydra("hparams_search=optuna", "cluster=joblib", "hydra.launcher.n_jobs=3").sweeper.n_jobs == 3
    launcher = hydra("cluster=slurm", "trainer.devices=4", "trainer.num_nodes=2").launcher
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == (2, 4, 4)


@pytest.mark.parametrize("name", GROUPS["logger"])
def test_loggers(name: str, tmp_path: Path) -> None:
    if name in ("mlflow", "wandb"):
        pytest.importorskip(name, reason="needs pip install -e '.[loggers]'")
    config = composed(f"logger={name}", f"run_dir={tmp_path}")
    loggers = [instantiate(entry, _convert_="all") for entry in config.logger.values()]
    assert all(isinstance(logger, Logger) for logger in loggers)
    assert len(loggers) == {"none": 0, "default": 2}.get(name, 1)


@pytest.mark.parametrize("name", GROUPS["data"])
def test_data(name: str, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny set in the original format, or the real data; skipped where it is not there."""
    make, overrides = SMALL_SETS.get(name, (None, []))
    read_recordings_once(monkeypatch)
    if make is not None:
        make(tmp_path)
    if name in CIFAR:
        cifar_checksums(tmp_path, CIFAR[name], monkeypatch)
    overrides = [override.replace("{root}", str(tmp_path)) for override in overrides]
    known = composed(f"data={name}").data
    settings = {"root": data_root if make is None else tmp_path, "download": "false"}
    overrides += [f"data.{key}={settings[key]}" for key in settings if key in known]
    config = composed(f"data={name}", *overrides, *([f"task={UNLABELLED[name]}"] if name in UNLABELLED else []))
    data = make_data(config.data)
    try:
        data.prepare_data()
    except FileNotFoundError as error:
        if make is not None:
            raise
        pytest.skip(str(error))
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    if name == "emoji_prompts":
        # It has no target for a model to predict.
        mounted = "+adapter@model.adapters.image=image_patches"
        model = built(composed(f"data={name}", "task=flow_matching", mounted, *overrides), data.spec)
        assert generate(model, {"text": batch.inputs["text"]}, steps=1).shape == batch.inputs["image"].shape
        return
    if data.spec.get("target", {}).get("kind") in ("flow", "segmentation"):
        # Heads that classify samples are not for them: their task sets one.
        task = "dense_regression" if data.spec["target"]["kind"] == "flow" else "segmentation"
        model = built(composed(f"data={name}", f"task={task}", *overrides), data.spec)
        shape = (batch.size, *batch.target.shape[-2:], len(data.spec["target"]["names"]))
        assert model(batch.inputs, batch.masks).shape == shape
        return
    if data.spec.get("target", {}).get("kind") == "text" and name not in UNLABELLED:
        model = built(composed(f"data={name}", "task=text_generation", *overrides), data.spec)
        ids, size = batch.target[:, :-1], data.spec["target"]["vocabulary_size"]
        assert model(batch.inputs, batch.masks, target_ids=ids).shape == (*ids.shape, size)
        return
    model = built(config, data.spec)
    expected = (batch.size, 64 if name == "emoji" else data.spec.get("num_classes"))
    if UNLABELLED.get(name) == "masked_tokens":
        expected = (*batch.inputs["text"].shape, 262)
    if UNLABELLED.get(name) == "next_tokens":
        expected = (batch.size, 8, 262)  # the positions with a latent
    assert model(batch.inputs, batch.masks).shape == expected


def test_augmentation_is_a_list_to_choose_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar10_set(tmp_path)
    cifar_checksums(tmp_path, CIFAR["cifar10"], monkeypatch)
    listed = ["RandAugment", "RandomErasing", "{_target_: torchvision.transforms.v2.RandomResizedCrop, size: [32, 32]}"]
    entries = ", ".join(x if x[0] == "{" else f"{{_target_: torchvision.transforms.v2.{x}}}" for x in listed)
    overrides = [f"data.augment.transforms=[{entries}]", f"data.root={tmp_path}", "data.validation_size=10"]
    data = make_data(composed("data=cifar10", *overrides).data)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs["image"].shape == (90, 3, 32, 32)


@pytest.mark.parametrize("name", GROUPS["experiment"])
def test_experiments(name: str) -> None:
    if name in (*AUTOENCODERS, *GENERATORS, *PROMPTED):
        pytest.skip("has a test of its own")
    large = ("audioset", "imagenet", "modelnet40")
    # Large recipes take minutes for a batch: with fewer and narrower latents they are the same otherwise.
    small = ["model.encoder.num_latents=4", "model.encoder.latent_channels=16"] if name.startswith(large) else []
    small += ["data.manifest=m.csv", "data.modalities={image: image}"] if name == "manifest" else []
    small += ["init_from=nowhere"] if name.endswith("finetune") else []
    if name == "perceiver_io_masked_lm":
        small = ["model.encoder.latent_channels=16", "model.encoder.num_layers_per_block=1", "data.files=m.txt"]
    config = composed(f"experiment={name}", *small)
    if name in ("moving_digits", "placed_digits"):
        dense_experiment(config)
        return
    modalities = [str(modality) for modality in config.model.adapters] or ["image"]
    if name in ("emoji_retrieval", "emoji_languages"):
        emoji_experiment(config, modalities)
        return
    facts = spec(*modalities)
    ids = None
    if name in TEXTS:
        dictionary = {"modality": "text", "pairs": [["dog", "hund"]]} if name == "multi30k" else None
        facts["target"] = text_target(tokenizer={"kind": "bytes"}, max_length=9, dictionary=dictionary)
        ids = torch.ones(2, 7, dtype=torch.int64)
    if name in ("perceiver_ar_text", "mirrored_copy"):
        facts["target"] = text_target(tokenizer={"kind": "bytes"}, max_length=4096)
    model = built(config, facts)
    outputs = model({modality: INPUTS[modality] for modality in modalities}, target_ids=ids)
    if isinstance(outputs, dict):
        assert {key: tuple(one.shape) for key, one in outputs.items()} == {"image": (2, 3, 2, 16)}, "what patches hold"
    else:
        texts = "text" in modalities or name in TEXTS
        expected = (2, 7, 262) if texts else (2, 64) if name in ("av_retrieval", "unseen_pairs") else (2, 3)
        assert outputs.shape == expected
    plain = resolve(config, facts)
    assert isinstance(make_data(plain["data"]), LightningDataModule)
    assert isinstance(make_task(plain, model, facts), Task)


GENERATORS = ("mnist_generation",)
"""Experiments that generate images of the classes of the data."""


@pytest.mark.parametrize("name", GENERATORS)
def test_generators(name: str) -> None:
    facts = spec("image")
    plain = resolve(composed(f"experiment={name}"), facts)
    model = build_model(plain["model"], spec=facts)
    assert isinstance(make_data(plain["data"]), LightningDataModule)
    objective = make_task(plain, model, facts).objective
    batch = objective.check(model, Batch(inputs={"image": INPUTS["image"]}, target=torch.tensor([0, 2])))
    assert bool(objective.loss(model, batch).isfinite())
    made = generate(model, {"label": torch.eye(3)}, steps=1, guidance=2.0)
    assert made.shape == (3, 1, 12, 8)


PROMPTED = {"digit_prompts": "text", "two_digit_prompts": "text", "emoji_prompts": "text", "spoken_to_drawn": "audio"}
"""Experiments that generate images from prompts of a modality, and judge them."""


@pytest.mark.parametrize("name", PROMPTED)
def test_prompted(name: str) -> None:
    facts = spec("image", PROMPTED[name])
    plain = resolve(composed(f"experiment={name}", "++callbacks.figures.draw.generated.steps=2"), facts)
    model = build_model(plain["model"], spec=facts)
    assert isinstance(make_data(plain["data"]), LightningDataModule)
    task = make_task(plain, model, facts)
    inputs = {key: INPUTS[key] for key in facts["modalities"]}
    assert bool(task.objective.loss(model, task.objective.check(model, Batch(inputs=inputs))).isfinite())
    assert {"prompt_accuracy", "frechet_distance/unguided"} <= set(task.objective.test_metrics(model))
    figure = instantiate(plain["callbacks"]["figures"]["draw"]["generated"], _convert_="all")
    assert set(figure(model, [Batch(inputs=inputs)])) == {"generated"}


@pytest.mark.parametrize(
    ("modality", "adapter", "kernel"), [("audio", "audio_waveform", "[5]"), ("points", "points_values", "null")]
)
def test_other_modalities_are_generated(modality: str, adapter: str, kernel: str) -> None:
    mounted = ["~adapter@model.adapters.image", f"+adapter@model.adapters.{modality}={adapter}"]
    config = composed("task=flow_matching", f"task.modality={modality}", f"model.encoder.local_kernel={kernel}", *mounted)
    plain = resolve(config, spec(modality))
    model = build_model(plain["model"], spec=spec(modality))
    loss = make_task(plain, model, spec(modality)).objective.loss(model, Batch(inputs={modality: INPUTS[modality]}))
    assert bool(loss.isfinite())
    assert generate(model, num_samples=2, steps=1).shape == INPUTS[modality].shape


def emoji_experiment(config: DictConfig, modalities: list[str]) -> None:
    picture = {"kind": "image", "shape": [3, 32, 32]}
    names = [name for name in modalities if name in ("name", "other")]
    facts = {"modalities": {name: MODALITIES["text"] if name in names else picture for name in modalities}}
    model = built(config, facts)
    for name in modalities:
        x = INPUTS["text"] if name in names else torch.rand(2, 3, 32, 32)
        assert model({name: x}).shape == (2, 128)
    plain = resolve(config, facts)
    assert isinstance(make_data(plain["data"]), LightningDataModule)
    assert isinstance(make_task(plain, model, facts), Task)


AUTOENCODERS: dict[str, dict[str, Any]] = {
    "dialed_digits": {
        "audio": {"kind": "audio", "shape": [1, 640], "sample_rate": 4000},
        "video": {"kind": "video", "shape": [1, 4, 12, 12]},
    },
    "kinetics_autoencoding": {
        "audio": {"kind": "audio", "shape": [1, 30720], "sample_rate": 48000},
        "video": {"kind": "video", "shape": [3, 16, 224, 224]},
    },
}
"""Experiments of multimodal autoencoding, and what their data is like."""


def autoencoder(name: str, *, classes: int, **sizes: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The resolved configuration and the spec, with other sizes for some modalities."""
    modalities = {key: {**facts, "shape": sizes.get(key, facts["shape"])} for key, facts in AUTOENCODERS[name].items()}
    target = {"kind": "classes", "names": [str(number) for number in range(classes)]}
    facts = {"modalities": modalities, "target": target, "num_classes": classes}
    return resolve(composed(f"experiment={name}", "data.manifest=m.csv" if "kinetics" in name else "seed=0"), facts), facts


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoders(name: str) -> None:
    """They reconstruct what they get, of any size, sampled or whole."""
    large = name == "kinetics_autoencoding"
    sizes = {"audio": [1, 30720], "video": [3, 1, 8, 8]} if large else {}
    plain, facts = autoencoder(name, classes=10, **sizes)
    if large:
        plain["model"]["encoder"] |= {"num_latents": 4, "latent_channels": 16, "num_layers_per_block": 1}
    model = build_model(plain["model"], spec=facts)
    assert isinstance(make_data(plain["data"]), LightningDataModule)
    objective: Any = make_task(plain, model, facts).objective
    inputs: dict[str, Any] = {key: torch.rand(2, *one["shape"]) for key, one in facts["modalities"].items()}
    batch = Batch(inputs=inputs, target=torch.tensor([3, 9]))
    losses, outputs = objective.losses(model, batch, index=objective.sampled(model, batch))
    assert set(losses.values) == {"audio", "label", "video"}
    assert outputs["label"].shape == (2, 1, 10)
    assert outputs["audio"].shape == ((2, 512, 16) if large else (2, 16, 40))


def test_the_published_autoencoder() -> None:
    """19,858,855 parameters, and of the same name and shape as those that released weights are taken into."""
    plain, facts = autoencoder("kinetics_autoencoding", classes=700)
    values = {"num_latents": 784, "d_latents": 512, "num_self_attends_per_block": 8, "num_cross_attention_heads": 1}
    published = model_config("PerceiverForMultimodalAutoencoding", {**values, "image_size": 224, "num_labels": 700})
    with torch.device("meta"):
        own, theirs = build_model(plain["model"], spec=facts), build_model(published)
    assert count(own) == 19_858_855
    shapes = [{name: tuple(one.shape) for name, one in model.state_dict().items()} for model in (own, theirs)]
    assert shapes[0] == shapes[1]
    assert own.fusion.channels == 704
    assert own.head.query_channels == 1026  # type: ignore[union-attr]


@pytest.mark.parametrize("name", GROUPS["queries"])
def test_queries(name: str) -> None:
    """A grid as large as what there is to reconstruct, and no number that stands elsewhere already."""
    modality = "image" if name == "tokens" else name.split("_")[0]
    adapter = {"image": "image_patches", "audio": "audio_waveform"}.get(modality, modality)
    facts = spec("image", modality)
    facts["modalities"]["video"] = {**MODALITIES["video"], "shape": [3, 5, 16, 24]}
    facts["modalities"] = {modality: facts["modalities"][modality]}
    mounted = f"adapter@model.adapters.{modality}={adapter}"
    overrides = [mounted] if modality == "image" else ["~adapter@model.adapters.image", f"+{mounted}"]
    channels = "${spec.modalities.video.shape.0}"
    pixels = [f"+model.head.output_channels.video={channels}"] if name == "video_pixels" else []
    config = composed("task=multimodal_autoencoding", *overrides, f"+queries@model.head.queries.{modality}={name}", *pixels)
    plain = resolve(config, facts)
    model = build_model(plain["model"], spec=facts)
    objective: Any = make_task(plain, model, facts).objective
    batch = Batch(inputs={modality: INPUTS[modality]}, target=torch.tensor([0, 2]))
    losses, outputs = objective.losses(model, batch)
    assert losses.values[modality].shape == (2,)
    assert outputs[modality].shape[:-1] == Reconstruction.of(model).contents(batch)[modality].values.shape[:-1]


def test_a_modality_that_is_no_targets_name_is_an_error() -> None:
    config = composed("task=multimodal_autoencoding", "model.head.target=null")
    with pytest.raises(ValueError, match="model.adapters.label: the data has no modality 'label'"):
        resolve(config, spec("image"))


def dense_experiment(config: DictConfig) -> None:
    """Its data is drawn, and its outputs lie on the grid of the targets."""
    with open_dict(config):
        config.data.update(training_scenes=4, validation_scenes=2, test_scenes=2, batch_size=2)
    data = make_data(config.data)
    data.setup("fit")
    model = built(config, data.spec)
    plain = resolve(config, data.spec)
    task = make_task(plain, model, data.spec)
    batch = task.on_before_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert bool(task.training_step(batch, 0).isfinite())


IMAGE_NET = {
    "modalities": {"image": {**MODALITIES["image"], "shape": [3, 224, 224], "mean": [0.0] * 3, "std": [1.0] * 3}},
    "target": {"kind": "classes", "names": [str(number) for number in range(1000)]},
    "num_classes": 1000,
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("imagenet_perceiver", 44_912_254), ("imagenet_perceiver_io", 48_440_627), ("imagenet_conv", 48_646_522)],
)
def test_imagenet_experiments_are_the_published_models(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = built(composed(f"experiment={name}"), IMAGE_NET)
    assert count(model) == parameters


def test_the_masked_language_model_is_the_published_one() -> None:
    """Its parameters by number, and in small the outputs of transformers' with its weights."""
    facts = {"modalities": {"text": {**MODALITIES["text"], "max_length": 2048}}}
    with torch.device("meta"):
        model = built(composed("experiment=perceiver_io_masked_lm", "data.files=m.txt"), facts)
    assert count(model) == 201_108_230
    case = BY_NAME["PerceiverForMaskedLM"]
    imported = from_transformers(their_model(case, values={**THEIRS, **case.config, "num_blocks": 1}))
    facts = {"modalities": {"text": {**MODALITIES["text"], "vocabulary_size": 11, "max_length": 9}}}
    sizes = {
        "adapters.text.embedding_channels": 16,
        "encoder.num_latents": 4,
        "encoder.latent_channels": 8,
        "encoder.num_layers_per_block": 2,
        "encoder.num_self_heads": 2,
        "encoder.num_cross_heads": 2,
        "encoder.cross_qk_channels": 4,
        "encoder.self_qk_channels": 4,
    }
    overrides = [f"model.{key}={value}" for key, value in sizes.items()]
    same = built(composed("experiment=perceiver_io_masked_lm", "data.files=m.txt", *overrides), facts)
    same.load_state_dict(imported.state_dict())
    ids = torch.randint(0, 11, (2, 9))
    torch.testing.assert_close(same.eval()({"text": ids}), imported({"text": ids}))


@pytest.mark.parametrize("size", [path.stem for path in (CONF / "model" / "size").glob("*.yaml") if path.stem != "stack"])
@pytest.mark.parametrize("model", MODELS)
def test_sizes(size: str, model: str) -> None:
    """Every size composes with every model and gives what its head says."""
    text = (CONF / "model" / "size" / f"{size}.yaml").read_text()
    [number] = re.findall(rf"([\d,]+)(?: parameters)? with model={model}\b", text)
    facts = spec("image")
    facts["modalities"]["image"] = {**facts["modalities"]["image"], "shape": [1, 28, 28]}
    facts = {**facts, "num_classes": 10}
    with torch.device("meta"):
        made = built(composed(f"model={model}", f"model/size={size}"), facts)
    assert count(made) == int(number.replace(",", ""))
    assert len(made.encoder.cross_schedule) == (1 if model == "perceiver_io" else len(made.encoder.block_schedule))


def test_the_size_of_a_model_is_its_own_unless_chosen() -> None:
    facts = spec("image")
    assert count(built(composed(), facts)) == count(built(composed("model/size=tiny"), facts))
    assert len(built(composed("model=perceiver_io"), facts).encoder.blocks[0]) == 4
    chosen = composed("experiment=imagenet_perceiver_io", "model/size=tiny", "model.encoder.num_latents=3")
    assert chosen.model.encoder.latent_channels == 64, "the command line chooses last"
    assert chosen.model.encoder.num_latents == 3


def count(model: Perceiver) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_overfitting_leaves_nothing_that_regularises() -> None:
    config = composed(
        "debug=overfit", "experiment=mnist", "model=perceiver_io", "optimizer=sgd", "model.encoder.attention_dropout=0.0"
    )
    plain = resolve(without_regularisation(config), spec("image"))
    assert plain["test"] is False
    assert plain["regularise"] is False
    assert plain["data"]["augment"] is None
    assert plain["optimizer"]["weight_decay"] == 0.0
    assert plain["task"]["label_smoothing"] == 0.0
    assert plain["scheduler"] is None
    assert plain["model"]["modality_dropout"] is None
    dropouts = [value for key, value in flat(plain["model"]) if key.endswith("dropout") and key != "modality_dropout"]
    assert len(dropouts) == 3
    assert set(dropouts) == {0.0}


def flat(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value)
        else:
            yield key, value


def test_a_constructor_argument_can_be_overridden_by_its_name() -> None:
    config = composed("adapter@model.adapters.image=image_patches", "model.adapters.image.position.num_bands=3")
    assert resolve(config, spec("image"))["model"]["adapters"]["image"]["position"]["num_bands"] == 3


def test_the_help_names_every_group() -> None:
    groups = {group.name for group in CONF.iterdir() if group.is_dir()}
    assert groups == set(GROUPS)
    assert "$APP_CONFIG_GROUPS" in (CONF / "hydra" / "help" / "train.yaml").read_text()
