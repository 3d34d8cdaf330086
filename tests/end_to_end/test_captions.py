"""A captioner of a user's own table, from the command line alone: photos, sounds and captions; shards; imported encoders."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra_runs import run
from made_once import made_once
from manifest_cases import animals, write_csv
from manifest_runs import SMALL

import perceiver

CAPTIONS = (
    "task=text_generation",
    "data.target=caption",
    "data.target_kind=text",
    "model.encoder.num_self_heads=2",
    "callbacks.report=null",
    "callbacks.attention_modalities=null",
)
MEASURES = "task.measure=[bleu,exact_match,word_error_rate,character_error_rate]"
INPUTS = "data.modalities={photo: image, sound: audio, note: text}"


def captions(folder: Path) -> Path:
    """The animals with a caption each; `note` must not contain it."""
    rows: list[dict[str, Any]] = animals(folder)
    for number, row in enumerate(rows):
        row["caption"] = f"a {row['label']}"
        row["split"] = "train" if number < 16 else "val" if number < 20 else "test"
    return write_csv(folder / "table.csv", rows)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `table.csv`, and the run directory `run` of a captioner."""

    def make(folder: Path) -> None:
        table = captions(folder)
        done = run(
            *SMALL, *CAPTIONS, MEASURES, INPUTS, f"data.manifest={table}", f"hydra.run.dir={folder / 'run'}",
            "data.batch_tokens=40", "trainer.max_epochs=6", "data.target_max_length=16", "optimizer.lr=3e-2",
            "callbacks.figures.draw.samples=null",
        )  # fmt: skip
        assert done.code == 0, done.out + done.err

    return made_once(tmp_path_factory, "captions", make)


def test_a_table_with_photos_and_captions_trains_a_captioner(trained: Path) -> None:
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    assert {f"test/{name}" for name in ("bleu", "exact_match", "word_error_rate", "character_error_rate")} <= set(metrics)
    assert metrics["test/loss"] < 1.5  # nats per byte; untrained: log 262 = 5.6
    figures = {path.name for path in (trained / "run" / "figures").iterdir()}
    assert {"words_photo_val.png", "words_sound_val.png", "words_note_val.png"} <= figures
    model = perceiver.load(trained / "run")
    sample = {"photo": trained / "20.png", "note": "Ein Tier"}
    [prediction] = model.predict(sample, alignments=True, generation={"num_beams": 2})
    assert prediction.text.startswith("a ")
    found = prediction.alignment
    assert [word.text for word in found.words] == prediction.text.split()
    assert found.maps["photo"].shape[1:] == (8, 8)
    assert found.matrix("note").shape == (len(found.words), 2)
    assert "sound" not in found.modalities
    np.testing.assert_allclose(sum(found.modalities.values()), 1.0, rtol=1e-5)
    explained = perceiver.explain(model, sample, output=1)
    [greedy] = model.predict(sample, alignments=True)
    np.testing.assert_allclose(explained.tokens["photo"], greedy.alignment.maps["photo"][1])
    with pytest.raises(ValueError, match=r"explain\.output: expected a word of the text"):
        perceiver.explain(model, sample, output=100)
    with pytest.raises(ValueError, match=r"explain\.method: expected rollout"):
        perceiver.explain(model, sample, method="integrated_gradients")
    with pytest.raises(ValueError, match=r"generation: expected some of .*'num_beams'.*got \['beams'\]"):
        model.predict(sample, generation={"beams": 2})


def test_predictions_and_alignments_are_written(trained: Path, tmp_path: Path) -> None:
    done = run(
        "mode=predict", f"ckpt_path={trained / 'run'}", "data=manifest", f"data.manifest={trained / 'table.csv'}", INPUTS,
        "data.num_workers=0", "alignments=true", "generation={num_beams: 2}", f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "alignments.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [line["id"] for line in lines] == [f"a{number}" for number in range(24)]
    assert [row["prediction"] for row in rows] == [line["text"] for line in lines]
    assert set(lines[2]["inputs"]) == {"note", "photo"}  # every fourth row has no sound
    assert lines[2]["inputs"]["note"]["words"] == ["Ein", "Kätzchen", ",", "2"]
    shares = [sum(one["share"][0] for one in line["inputs"].values()) for line in lines]
    np.testing.assert_allclose(shares, 1.0, atol=1e-4)
    assert np.shape(lines[0]["inputs"]["photo"]["map"])[1:] == (8, 8)


def test_shards_hold_the_texts(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("litdata")
    packed = run(
        "mode=shard", f"shards={tmp_path / 'shards'}", "data=manifest", f"data.manifest={trained / 'table.csv'}", INPUTS,
        "data.target=caption", "data.target_kind=text", "data.num_workers=0", "data.image_size=[8,8]",
        "data.target_max_length=16", "data.sample_rate=8000", f"hydra.run.dir={tmp_path / 'shard'}",
    )  # fmt: skip
    assert packed.code == 0, packed.out + packed.err
    tested = run(
        "mode=test", f"ckpt_path={trained / 'run'}", "task=text_generation", MEASURES, "data=shards", "data.num_workers=0",
        f"data.shards={tmp_path / 'shards'}", f"hydra.run.dir={tmp_path / 'test'}", "logger=none", "callbacks.report=null",
        "callbacks.figures=null",
    )  # fmt: skip
    assert tested.code == 0, tested.out + tested.err
    ours = json.loads((tmp_path / "test" / "metrics.json").read_text())
    theirs = json.loads((trained / "run" / "metrics.json").read_text())
    assert ours["test/loss"] == pytest.approx(theirs["test/loss"], rel=1e-5)
    assert ours["test/exact_match"] == theirs["test/exact_match"]


def test_an_imported_encoder_learns_to_caption(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers_models import BY_NAME, their_model

    published = tmp_path / "published"
    their_model(BY_NAME["PerceiverForImageClassificationFourier"]).save_pretrained(published)
    done = run(
        "experiment=finetune", f"init_from={published}", "init_freeze=true", "data=manifest", *CAPTIONS[:3], MEASURES,
        f"data.manifest={trained / 'table.csv'}", "data.modalities={image: {kind: image, column: photo}}",
        "data.num_workers=0", "data.image_size=[9,9]", "data.batch_size=8", "trainer.max_epochs=1", "callbacks.report=null",
        "logger=none", "callbacks.figures=null", "model.head.num_heads=2", "model.head.memory.num_heads=2",
        "data.on_bad_row=skip",
        f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert f"Started from {published}: " in done.out
    assert "test/bleu" in json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert isinstance(perceiver.load(tmp_path / "run").predict(trained / "0.png")[0].text, str)
