"""Masked tokens from end to end: `python train.py` on text files, its figure, what is fine-tuned, and what is refused."""

import csv
import importlib
import json
import re
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
import yaml
from hydra_runs import SMALL, Finished
from hydra_runs import run as train

import perceiver

TINY = (
    "experiment=masked_text",
    *SMALL,
    "data.batch_size=16",
    "model.adapters.text.embedding_channels=16",
    "model.encoder.num_cross_heads=2",
    "model.head.num_heads=2",
    "callbacks.attention=null",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of text files of one letter each, which what is not hidden of a text tells."""
    root = tmp_path_factory.mktemp("masked_text")
    (root / "texts").mkdir()
    for number in range(20):
        (root / "texts" / f"{number}.txt").write_text((chr(ord("a") + number) * 7 + " ") * (30 + number % 3))
    finished = train(
        *TINY, "data=text_files", f"data.files={root}/texts", "data.split_by=stretch", "data.max_length=24",
        "optimizer.lr=1e-2", "trainer.max_epochs=14", f"hydra.run.dir={root}/run", "logger=csv",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert "failed and is left out" not in finished.err
    return root / "run"


def test_the_loss_falls_and_everything_is_left(run: Path) -> None:
    with (run / "csv" / "metrics.csv").open() as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row.get("val/loss")]
    assert len(losses) == 14
    assert losses[-1] < 0.7 * losses[0]
    metrics = json.loads((run / "metrics.json").read_text())
    names = ("loss", "accuracy", "bits_per_token")
    assert {f"{stage}/{name}" for stage in ("val", "test") for name in names} <= set(metrics)
    assert metrics["val/bits_per_token"] == pytest.approx(metrics["val/loss"] / 0.693147, rel=1e-4)
    assert metrics["val/loss"] == pytest.approx(min(losses), rel=1e-4)
    assert (run / "figures" / "filled_in_val.png").stat().st_size > 1000
    message = (run / "figures" / "filled_in_text_val.txt").read_text()
    assert "original  " in message
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["head"]["queries"]["grid"] == [24]
    assert config["model"]["adapters"]["text"]["reference_length"] == 24


def test_the_model_fills_in(run: Path) -> None:
    model = perceiver.load(run)
    filled = perceiver.fill_in(model, "ccc[MASK]ccc ccccccc")
    assert filled.places == [3]
    assert filled.text.startswith("ccc")
    assert filled.text.endswith("ccc ccccccc")


def test_the_benchmark_tells_the_same_places(run: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    benchmark = importlib.import_module("masked_text")
    rows = {name: numbers for name, *numbers in benchmark.compare(run, split="val", device="cpu")}
    metrics = json.loads((run / "metrics.json").read_text())
    assert rows["the model"] == pytest.approx([metrics["val/accuracy"], metrics["val/bits_per_token"]], rel=1e-4)
    assert rows["the most frequent byte"][0] < rows["the bytes on both sides"][0] <= 1
    contexts = benchmark.Contexts([b"abab", b"ac"], shapes=[(), (-1,)])
    # Witten-Bell by hand: after a there came b twice and c once, of two kinds; bytes at all a 3, b 2, c 1, of three kinds.
    simple = (1 + 3 / 256) / (6 + 3)
    assert contexts.probabilities(b"a?", 1, up_to=2)[ord("c")] == pytest.approx((1 + 2 * simple) / (3 + 2))
    assert contexts.probabilities(b"a?", 1, up_to=2).sum() == pytest.approx(1)
    assert contexts.probabilities([97, benchmark.HIDDEN, 1], 2, up_to=2)[ord("c")] == pytest.approx(simple)


def test_fine_tuning_on_texts_with_classes(run: Path, tmp_path: Path) -> None:
    lines = [("if", line) for line in topics["if"].splitlines() if line.strip()]
    lines += [("while", line) for line in topics["while"].splitlines() if line.strip()]
    with (tmp_path / "lines.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((line, label) for label, line in lines)])
    finished = train(
        "experiment=finetune", f"init_from={run}", "data=manifest", f"data.manifest={tmp_path}/lines.csv",
        "data.modalities={text: text}", "data.num_workers=0", "trainer.max_epochs=1", "logger=none",
        "callbacks.samples=null", "callbacks.attention=null", "init_freeze=true", f"hydra.run.dir={tmp_path}/tuned",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert f"Started from {run}/checkpoints/best.ckpt" in finished.out
    before, after = (perceiver.load(one).state_dict() for one in (run, tmp_path / "tuned"))
    taken = [name for name in after if not name.startswith("head.")]
    assert len(taken) > 10
    assert all(torch.equal(before[name], after[name]) for name in taken)
    [prediction] = perceiver.load(tmp_path / "tuned").predict(["if_stmt: the suite of the clause"])
    assert prediction.label in ("if", "while")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("task=masked_tokens",), "refers to the adapter of modality 'text', but the data has only image"),
        (("experiment=masked_text", "task.masking.rate=1.5"), "TokenMasking.rate: expected a share above 0 and below 1"),
        (("experiment=masked_text", "model/head=pooled"), "refers to spec.num_classes, which the spec of this data lacks"),
        (("experiment=masked_text", "task.masking.mask_id=300"), "mask_id 300 .* the model's vocabulary of 262"),
        (("experiment=masked_text", "data=text_files", "data.files=no/such"), "data.files: expected a file, a folder"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    finished: Finished = train(*SMALL, *arguments, "logger=none", f"hydra.run.dir={tmp_path}")
    assert finished.code == 1
    assert re.search(words, finished.error)
