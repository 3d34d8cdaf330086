"""Reading shards: batches equal the manifest's, every sample once, resumed anywhere, the kit, and what may be wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from manifest_cases import MODALITIES
from shard_cases import SETTINGS, manifest, pack

from perceiver.data import DataModule, Manifest
from perceiver.data.shards import ShardError, Shards
from perceiver.samples.batch import Batch
from perceiver.testing import Check, data_module_checks


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DataModule:
    return manifest(tmp_path_factory.mktemp("animals"))


@pytest.fixture(scope="module")
def shards(source: DataModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(source, tmp_path_factory.mktemp("shards") / "s")


def module(shards: Path, **arguments: Any) -> DataModule:
    data = DataModule.of(Shards, shards=shards, **{"batch_size": 4, "num_workers": 0, **arguments})
    data.prepare_data()
    data.setup("fit")
    return data


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    flat: dict[str, Any] = {"target": batch.target}
    for name, x in batch.inputs.items():
        flat |= {f"{name}.{part}": one for part, one in (x.items() if isinstance(x, dict) else [("", x)])}
    return flat | {f"mask {name}": mask for name, mask in batch.masks.items()}


def test_batches_are_those_of_the_manifest(source: DataModule, shards: Path) -> None:
    """Bit for bit, every kind of modality."""
    data = module(shards)
    assert data.spec == source.spec
    assert set(data.spec["modalities"]) == set(MODALITIES)
    for loader in ("val_dataloader", "test_dataloader"):
        for expected, got in zip(getattr(source, loader)(), getattr(data, loader)(), strict=True):
            assert got.ids == expected.ids
            ours, theirs = tensors(got), tensors(expected)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_transforms_before_normalisation(source: DataModule, shards: Path) -> None:
    """Corruption that changes nothing leaves all numbers as they are; that of one modality leaves the others."""
    data = module(shards, corruption={"photo": {"none": torch.clone}, "sound": {"off": lambda x, mask: (0 * x, mask)}})
    for expected, got in zip(source.val_dataloader(), data.val_dataloader(), strict=True):
        ours, theirs = tensors(got), tensors(expected)
        there = got.masks.get("photo", torch.ones(got.size, dtype=torch.bool))
        assert torch.equal(ours["photo."][there], theirs["photo."][there])
        assert not ours.pop("sound.").any(), "silence, in [-1, 1], is 0"
        assert all(torch.equal(ours[name], theirs[name]) for name in ours if name != "photo.")
    with pytest.raises(ValueError, match=r"data\.augment\.picture: expected settings of "):
        module(shards, augment={"picture": {}})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_training_sample_once_per_epoch(num_workers: int, source: DataModule, shards: Path) -> None:
    data = module(shards, num_workers=num_workers)
    rows = source.split("train")
    expected = sorted(source.source._ids()(int(row)) for row in rows.rows)
    loader = data.train_dataloader()
    epochs = [[name for batch in loader for name in batch.ids] for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [expected, expected]
    assert epochs[0] != epochs[1]
    again = module(shards, num_workers=num_workers).train_dataloader()
    assert [name for batch in again for name in batch.ids] == epochs[0]
    assert len(loader) == -(-len(rows) // 4)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resuming_in_the_middle(num_workers: int, shards: Path) -> None:
    loader = module(shards, num_workers=num_workers).train_dataloader()
    whole = [[batch.ids for batch in loader] for _ in range(2)]
    loader = module(shards, num_workers=num_workers).train_dataloader()
    list(loader)
    for number, _ in enumerate(loader, start=1):
        if number == 3:
            state = loader.state_dict()
            break
    again = module(shards, num_workers=num_workers).train_dataloader()
    again.load_state_dict(state)
    assert [batch.ids for batch in again] == whole[1][3:]


@pytest.mark.parametrize("check", data_module_checks(lambda: None), ids=str)
def test_the_kit(check: Check, shards: Path) -> None:
    made = data_module_checks(lambda: DataModule.of(Shards, shards=shards, batch_size=4, num_workers=0))
    next(one for one in made if one.name == check.name)()


def test_some_of_the_modalities(shards: Path) -> None:
    data = module(shards, modalities=["note"])
    assert list(data.spec["modalities"]) == ["note"]
    assert list(next(iter(data.train_dataloader())).inputs) == ["note"]
    with pytest.raises(ValueError, match=r"data\.modalities: the shards in \S+ have photo, sound, .*, but not smell\."):
        module(shards, modalities=["smell"])


def test_prediction_takes_all_samples(shards: Path) -> None:
    data = DataModule.of(Shards, shards=shards, batch_size=7, num_workers=0)
    data.spec = module(shards).spec
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert sorted(name for batch in batches for name in batch.ids) == sorted(f"a{number}" for number in range(40))
    assert all(batch.target is None for batch in batches)


def test_classes_are_numbered_by_the_spec_that_was_set(shards: Path) -> None:
    """A checkpoint's classes may come in another order."""
    original = module(shards)
    stored = original.spec
    stored["target"]["names"] = ["bird", "dog", "cat"]
    data = DataModule.of(Shards, shards=shards, batch_size=100, num_workers=0)
    data.spec = stored
    (expected,), (got,) = original_batches(shards), list(data.val_dataloader())
    assert got.target.tolist() == [2 if label == 0 else 1 for label in expected.target.tolist()]


def original_batches(shards: Path) -> list[Batch]:
    return list(module(shards, batch_size=100).val_dataloader())


def damaged(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def test_truncated_and_missing_shards(shards: Path, tmp_path: Path) -> None:
    copy = damaged(shards, tmp_path)
    file = copy / "train" / "shard-000001.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    message = rf"shard-000001\.bin is truncated: expected {len(content)} bytes, got {len(content) - 10}"
    with pytest.raises(ShardError, match=message):
        module(copy)
    file.write_bytes(content[:100] + bytes(len(content) - 100))
    with pytest.raises(ShardError, match=r"a shard has the right size but is damaged: "):
        list(module(copy).train_dataloader())
    file.unlink()
    with pytest.raises(ShardError, match=r"the shard \S+shard-000001\.bin is missing; this split has"):
        module(copy)
    (copy / "train" / "index.json").unlink()
    with pytest.raises(ShardError, match=r"train/index\.json is missing or damaged"):
        module(copy)


def test_versions_and_damaged_descriptions(shards: Path, tmp_path: Path) -> None:
    copy = damaged(shards, tmp_path)
    content = json.loads((copy / "shards.json").read_text())
    (copy / "shards.json").write_text(json.dumps({**content, "version": 2}))
    with pytest.raises(ShardError, match=r"has shards of version 2, but this package reads version 1\. Convert"):
        module(copy)
    others = [{**content, "format": "other"}, {"format": "perceiver-shards", "version": 1}]
    for text in ("{", "[]", *map(json.dumps, others)):
        (copy / "shards.json").write_text(text)
        with pytest.raises(ShardError, match=r"shards\.json is damaged"):
            module(copy)


def test_folders_without_shards(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.shards: expected a folder of shards .* contains no shards\. Make"):
        module(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist\. Make them with mode=shard"):
        module(tmp_path / "nowhere")


def test_splits_that_are_not_there(source: DataModule, tmp_path: Path) -> None:
    arguments = {"modalities": {"note": "text"}, "test_fraction": 0.0, "needs_test": False, **SETTINGS}
    without = DataModule.of(Manifest, manifest=source.source.manifest, **arguments)
    without.setup("fit")
    shards = pack(without, tmp_path / "s")
    with pytest.raises(ShardError, match=r"has no samples for the test split, .* Set test=false"):
        module(shards)
    assert len(list(module(shards, needs_test=False).val_dataloader())) > 0


def test_a_spec_of_other_data_is_refused(shards: Path) -> None:
    stored = module(shards).spec
    data = DataModule.of(Shards, shards=shards)
    with pytest.raises(
        ValueError, match=r"spec\.target\.kind: the shards in \S+ have classes, but the stored spec has 'values'"
    ):
        data.spec = {**stored, "target": {"kind": "values"}}
    with pytest.raises(ValueError, match=r"spec\.modalities: the shards in \S+ have"):
        data.spec = {**stored, "modalities": {"photo": {"kind": "audio"}}}
    with pytest.raises(RuntimeError, match="call prepare_data"):
        _ = DataModule.of(Shards, shards=shards).spec


def test_what_a_network_requires_replaces_the_statistics_in_the_folder(shards: Path) -> None:
    mean, std = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]
    data = DataModule.of(Shards, shards=shards, batch_size=4, num_workers=0)
    with pytest.raises(ValueError, match=r"model\.adapters\.picture: the data has only the modalities .*photo"):
        data.prescribe({"picture": {"kind": "image"}})
    data.prescribe({"photo": {"kind": "image", "mean": mean, "std": std}})
    data.setup("fit")
    assert [data.spec["modalities"]["photo"][key] for key in ("mean", "std")] == [mean, std]
    plain = module(shards)
    measured = plain.spec["modalities"]["photo"]
    for ours, theirs in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
        there = ours.masks.get("photo", torch.ones(ours.size, dtype=torch.bool))
        photos = [
            batch.inputs["photo"][there] * torch.tensor(own["std"])[:, None, None] + torch.tensor(own["mean"])[:, None, None]
            for batch, own in ((ours, {"mean": mean, "std": std}), (theirs, measured))
        ]
        torch.testing.assert_close(*photos)
