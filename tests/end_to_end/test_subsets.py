"""benchmarks/subsets.py: intervals against theory and an independent bootstrap, and the script on trained models."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from digit_sets import digit_sets, read_recordings_once
from hydra_runs import run as train
from made_once import made_once


@pytest.fixture
def subsets(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, imported as a script is: its folder is on the path."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.delitem(sys.modules, "subsets", raising=False)
    return importlib.import_module("subsets")


def test_independent_pairs_have_the_binomial_interval(subsets: Any) -> None:
    values = (np.arange(400) % 4 > 0).astype(float)
    weights = subsets.resampled(400, seed=0)
    estimate = subsets.interval(values, [str(number) for number in range(400)], weights)
    half = 100 * 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert estimate.value == 75
    assert (estimate.low, estimate.high) == pytest.approx((75 - half, 75 + half), abs=0.4)


def test_pairs_that_share_a_recording_count_once(subsets: Any) -> None:
    """Ten copies of each of 40 values say no more than the 40."""
    values = (np.arange(40) % 4 > 0).astype(float)
    weights = subsets.resampled(40, seed=0)
    once = subsets.interval(values, [f"{number:02}" for number in range(40)], weights)
    copied = subsets.interval(np.tile(values, 10), [f"{number:02}" for number in range(40)] * 10, weights)
    assert vars(copied) == pytest.approx(vars(once))
    assert once.high - once.low > 20


def test_against_a_bootstrap_written_out(subsets: Any) -> None:
    random = np.random.default_rng(1)
    clusters = random.integers(0, 30, 300)
    values = (random.random(300) < 0.5 + 0.4 * (clusters % 2)).astype(float)
    estimate = subsets.interval(values, clusters.astype(str).tolist(), subsets.resampled(30, seed=2))
    means = []
    for _ in range(4000):
        chosen = np.concatenate([values[clusters == one] for one in random.integers(0, 30, 30)])
        means.append(100 * chosen.mean())
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.6)


def test_recordings_of_ids(subsets: Any) -> None:
    ids = ["mnist/test/1+spoken_digits/3_theo_0", "mnist/test/2+spoken_digits/4_theo_1+mnist/test/9"]
    assert subsets.recordings(ids) == ["spoken_digits/3_theo_0", "spoken_digits/4_theo_1"]


def test_script(
    subsets: Any,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Models are trained for an epoch on tiny files; the values of the table are counted again by hand."""
    read_recordings_once(monkeypatch)
    root = made_once(tmp_path_factory, "digit_sets", digit_sets)
    settings = ("data.download=false", "data.validation_images=10", "data.validation_pairs=20", "data.test_pairs=60")
    size = ("model.encoder.num_latents=4", "model.encoder.latent_channels=16", "trainer.max_epochs=1", "test=false")
    plain = ("callbacks.samples=null", "callbacks.attention=null", "callbacks.report=null", f"data.root={root}")
    both, alone = tmp_path / "both", tmp_path / "alone"
    for run, subset in (
        (both, ()),
        (alone, ("data.modalities=[image]", "~model.adapters.audio", "model.modality_dropout=null")),
    ):
        code, _, err = train("experiment=av_digits", *settings, *size, *plain, *subset, f"hydra.run.dir={run}")
        assert code == 0, err
    threads = torch.get_num_threads()
    written = tmp_path / "out.json"
    capsys.readouterr()
    subsets.main([str(both), str(alone), "--threads", "1", "--json", str(written)])
    torch.set_num_threads(threads)
    printed, result = capsys.readouterr().out, json.loads(written.read_text())
    rows = {("+".join(row["modalities"]), Path(row["run"]).name): row for row in result["results"]}
    assert set(rows) == {("audio", "both"), ("image", "both"), ("audio+image", "both"), ("image", "alone")}
    assert (result["pairs"], result["recordings"]) == (60, len(set(subsets.recordings(subsets.evaluate(both).ids))))
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values())
    difference = rows["image", "alone"]["first_minus_this"]
    assert difference["value"] == pytest.approx(rows["image", "both"]["value"] - rows["image", "alone"]["value"])
    best = max(rows[name, "both"]["value"] for name in ("audio", "image"))
    assert result["all_minus_best_single"]["value"] == pytest.approx(rows["audio+image", "both"]["value"] - best)
    assert "trained on these only" in printed
    assert "test split" in printed

    other = subsets.evaluate(both, changes=["test_pairs=10"])
    assert len(other.ids) == 10
    foreign = subsets.Evaluation(other.modalities, ["x"], other.correct)
    monkeypatch.setattr(subsets, "evaluate", lambda run, **_: other if run == alone else foreign)
    with pytest.raises(ValueError, match="expected the same pairs as in"):
        subsets.main([str(both), str(alone), "--threads", "1"])
    torch.set_num_threads(threads)
