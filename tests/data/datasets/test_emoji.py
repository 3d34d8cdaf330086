"""Emoji: which pairs training sees, what is searched in evaluation, names, damaged files, a run from end to end."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emoji_set import emoji_set
from hydra_runs import run

import perceiver
from perceiver.data import DataModule, Emoji
from perceiver.data.datasets.emoji import read_emoji

SMALL = {"num_folds": 4, "validation_size": 6, "size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return emoji_set(tmp_path_factory.mktemp("emoji"))


def modalities_by_emoji(samples: Any) -> dict[int, list[tuple[str, ...]]]:
    found: dict[int, list[tuple[str, ...]]] = {}
    for number, modalities in samples.samples:
        found.setdefault(number, []).append(modalities)
    return found


def test_held_out_pairs_are_never_in_a_training_sample(folder: Path) -> None:
    source = Emoji(root=folder, names={"name": ["en"]}, **SMALL)  # type: ignore[arg-type]
    training, validation, test = source.split()
    assert (len(training), len(validation), len(test)) == (24, 6, 10)
    assert sorted(training + validation + test) == list(range(40))
    seen = modalities_by_emoji(source.read_training()[0])
    for number in training:
        assert seen[number] == [("noto", "twemoji", "name")]
    for number in validation + test:
        assert seen[number] == [("noto", "noto_again", "name"), ("twemoji", "twemoji_again")]
    unseen = Emoji(root=folder, held_out="unseen", second_views=False, **SMALL)  # type: ignore[arg-type]
    assert set(modalities_by_emoji(unseen.read_training()[0])) == set(training)
    alone = Emoji(root=folder, hands=["noto"], names={"name": ["en"]}, **SMALL)  # type: ignore[arg-type]
    assert modalities_by_emoji(alone.read_training()[0])[test[0]] == [("noto", "noto_again"), ("name",)]


def test_each_fold_tests_other_emoji(folder: Path) -> None:
    tested = [Emoji(root=folder, fold=fold, **SMALL).split()[2] for fold in range(4)]  # type: ignore[arg-type]
    assert sorted(number for fold in tested for number in fold) == list(range(40))


def test_queries_are_searched_among_all(folder: Path) -> None:
    source = Emoji(root=folder, names={"name": ["en"]}, **SMALL)  # type: ignore[arg-type]
    for samples, queries in ((source.read_training()[1], source.split()[1]), (source.read_test(), source.split()[2])):
        found = modalities_by_emoji(samples)
        assert [number for number, own in found.items() if ("noto", "twemoji", "name") in own] == queries
        counts = Counter(name for own in found.values() for modalities in own for name in modalities)
        assert counts == {"noto": 40, "twemoji": 40, "name": 40}
    ids = [source.read_test()[number].id for number in (0, len(source.read_test()) - 1)]
    assert ids[0].startswith("emoji/1f6")
    assert ids[1].endswith("/name")
    assert len(source.read_prediction()) == 40


def test_batches_and_normalisation(folder: Path) -> None:
    data = DataModule(Emoji(root=folder, names={"name": ["en", "de"]}, **SMALL), batch_size=24)  # type: ignore[arg-type]
    data.setup("fit")
    spec = data.spec["modalities"]
    assert spec["noto"]["mean"] == spec["twemoji_again"]["mean"]
    read = read_emoji(folder)
    training = data.source.split()[0]  # type: ignore[attr-defined]
    numbers = sorted({number for number, _ in data.split("train").samples})
    assert set(training) <= set(numbers)
    pixels = torch.cat([torch.nn.functional.avg_pool2d(x[numbers].float(), 4) for x in read.pictures.values()]) / 255
    torch.testing.assert_close(torch.tensor(spec["noto"]["mean"]), pixels.mean(dim=(0, 2, 3)), atol=2e-3, rtol=0)
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs["noto"].shape == (24, 3, 16, 16)  # type: ignore[union-attr]
    assert batch.masks["noto_again"].shape == (24,)
    assert not bool((batch.masks["noto_again"] & batch.masks["twemoji"]).any())
    drawn = {bytes((row[row >= 6] - 6).tolist()).decode() for row in batch.inputs["name"]}  # type: ignore[union-attr]
    assert any("Fleck" in name for name in drawn), "a language is drawn for each sample"
    assert any("Fleck" not in name for name in drawn)
    evaluated = next(iter(data.val_dataloader())).inputs["name"]
    assert all(b"Fleck" not in bytes((row[row >= 6] - 6).tolist()) for row in evaluated)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hands": ["apple"]}, r"data\.hands: expected one or more of noto, twemoji"),
        ({"names": {"noto": ["en"]}}, r"data\.names: expected a name for a modality besides"),
        ({"names": {"name": []}}, r"data\.names\.name: expected one or more languages"),
        ({"names": {"name": ["eo"]}}, r"data\.names: expected languages of names\.tsv, en, de, got \['eo'\]"),
        ({"size": 65}, r"data\.size: expected 1 to 64, got 65"),
        ({"max_length": 0}, r"data\.max_length"),
        ({"held_out": "hidden"}, r"data\.held_out: expected apart or unseen"),
        ({"fold": 4}, r"data\.fold: expected two folds or more, and one of them, got 4 of 4"),
        ({"validation_size": 30}, r"data\.validation_size: expected 1 to 29 emoji of the 30"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Emoji(root=folder, **{**SMALL, **settings}).read_training()  # type: ignore[arg-type]


def test_bad_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.root: expected the file names\.tsv"):
        Emoji(root=tmp_path).prepare()
    names = (folder / "names.tsv").read_text(encoding="utf-8")
    for content, message in (
        ("it\n", "expected a header emoji, en, de"),
        (names + "x\ty\n", "line 42: expected 3 cells"),
        (names + "x\ty\tz\n", r"noto64\.npz: expected images of shape \(41, 64, 64, 3\)"),
    ):
        (tmp_path / "names.tsv").write_text(content, encoding="utf-8")
        for hand in ("noto", "twemoji"):
            (tmp_path / f"{hand}64.npz").write_bytes((folder / f"{hand}64.npz").read_bytes())
        with pytest.raises(ValueError, match=message):
            Emoji(root=tmp_path).prepare()
    (tmp_path / "names.tsv").write_text(names, encoding="utf-8")
    for content in (b"no archive", b"PK"):
        (tmp_path / "noto64.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"noto64\.npz: expected an archive of NumPy"):
            Emoji(root=tmp_path).prepare()
    np.savez_compressed(tmp_path / "noto64.npz", images=np.zeros((500, 64, 64, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="it holds 6,144,128 bytes, more than"):
        Emoji(root=tmp_path).prepare()


def test_the_published_files(data_root: Path) -> None:
    if not (data_root / "emoji").is_dir():
        pytest.skip("the emoji are not there")
    found = read_emoji(data_root / "emoji")
    assert len(found.emoji) == 1845
    assert len(found.names) == 14
    assert found.names["de"][found.emoji.index("🥇")] == "goldmedaille"
    assert len(Emoji(root=data_root / "emoji").split()[2]) == 369


def test_a_run_learns_and_its_embeddings_are_searched(folder: Path, tmp_path: Path) -> None:
    settings = [
        "experiment=emoji_retrieval",
        f"data.root={folder}",
        "data.names.name=[en]",
        "data.size=16",
        "data.num_folds=4",
    ]
    settings += ["data.validation_size=6", "data.batch_size=32", "data.augment=null", "trainer.check_val_every_n_epoch=12"]
    sizes = ["model.encoder.num_latents=4", "model.encoder.latent_channels=32", "model.encoder.cross_qk_channels=32"]
    sizes += ["model.adapters.noto.stage_channels=[8,16]", "model.adapters.noto.strides=[2,2]"]
    sizes += ["model.adapters.name.local.num_buckets=64", "model.adapters.name.embedding_channels=16"]
    quiet = ["callbacks.attention=null", "callbacks.attention_modalities=null", "callbacks.report=null", "logger=none"]
    quiet += ["callbacks.figures.draw.retrieval.num_queries=1", "callbacks.figures.draw.retrieval.k=2"]
    directory = tmp_path / "run"
    done = run(*settings, *sizes, *quiet, "trainer.max_epochs=12", f"hydra.run.dir={directory}")
    assert done.code == 0, done.err
    metrics = json.loads((directory / "metrics.json").read_text())
    results = metrics.get("test", metrics)
    found = {key.removeprefix("test/"): value for key, value in results.items()}
    assert found["recall_at_5/noto_to_twemoji"] > 0.5, "by chance 0.125"
    assert {"recall_at_1/name_to_noto", "median_rank/twemoji_to_name"} <= set(found)
    assert (directory / "figures" / "retrieval_noto_to_twemoji_val.png").is_file()
    model = perceiver.load(directory)
    assert model.adapters["noto"] is model.adapters["twemoji_again"]
    arguments = ["mode=embed", f"ckpt_path={directory}", *settings, "embed=unit", "embed_modalities=[noto,twemoji]"]
    out = tmp_path / "out"
    for kind in ("parquet", "npy"):
        written = run(*arguments, f"embed_format={kind}", f"hydra.run.dir={out}")
        assert written.code == 0, written.err
        assert "40 embeddings (unit, twemoji)" in written.out
        index = perceiver.Index.load(out / f"embeddings_twemoji.{kind}")
        queries = perceiver.Index.load(out / f"embeddings_noto.{kind}")
        assert index.ids == queries.ids
        hits = [row[0].id == own for row, own in zip(index.search(queries.embeddings, k=1), queries.ids, strict=True)]
        assert sum(hits) > 10, "by chance 1"
    refused = run(*arguments[:-1], "embed_modalities=[sound]", f"hydra.run.dir={out}").error
    assert "embed_modalities: expected modalities among" in refused
