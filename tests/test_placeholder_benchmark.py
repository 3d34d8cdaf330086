"""benchmarks/placeholder.py: what stands for an absent modality, sizes, the choice on validation, and the table."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def benchmark(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark, imported as a script is: its folder is on the path."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    for name in ("placeholder", "measure"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("placeholder")
    for name in ("placeholder", "measure"):
        sys.modules.pop(name, None)


def made_up(benchmark: Any, count: int = 40) -> Any:
    """Features of random pairs: no network, no data."""
    splits = {}
    for number, split in enumerate(("train", "val", "test")):
        torch.manual_seed(number)
        maps = {"audio": torch.rand(count, 48, 13), "image": torch.rand(count, 48, 4, 4)}
        present = benchmark.presence(count, seed=number)
        splits[split] = benchmark.Pairs(maps=maps, labels=torch.arange(count) % 10, present=present)
    return benchmark.Features(splits=splits, placeholders={"audio": torch.rand(48, 13), "image": torch.rand(48, 4, 4)})


def test_sizes_are_within_ten_percent(benchmark: Any) -> None:
    counts = [benchmark.parameters(contender.build()) for contender in benchmark.contenders().values()]
    assert max(counts) < 1.1 * min(counts)


@pytest.mark.parametrize("absent", ["placeholder", "zeros", "masks"])
def test_features_of_an_absent_modality_are_not_read(absent: str, benchmark: Any) -> None:
    features = made_up(benchmark)
    pairs = features.splits["test"]
    name = {"placeholder": "placeholder, MLP", "zeros": "zeros, MLP", "masks": "masks, Perceiver (ours)"}[absent]
    model = benchmark.contenders()[name].build().eval()
    present = pairs.present
    assert 0.5 < present.float().mean() < 0.75
    assert present.any(dim=1).all()
    outputs = []
    for scale in (1.0, 7.0):
        maps = {
            name: torch.where(present[:, number].reshape(-1, *[1] * (values.ndim - 1)), values, scale * values)
            for number, (name, values) in enumerate(pairs.maps.items())
        }
        inputs, masks = benchmark.given(absent, maps, present, features.placeholders)
        assert bool(masks) == (absent == "masks")
        outputs.append(model(inputs, masks) if masks else model(inputs))
    assert torch.equal(*outputs)


def test_a_placeholder_replaces_absent_features_only(benchmark: Any) -> None:
    features = made_up(benchmark)
    pairs = features.splits["test"]
    inputs, _ = benchmark.given("placeholder", pairs.maps, pairs.present, features.placeholders)
    for number, name in enumerate(benchmark.MODALITIES):
        has = pairs.present[:, number]
        assert torch.equal(inputs[name][has], pairs.maps[name][has])
        assert (inputs[name][~has] == features.placeholders[name]).all()


def test_noise_ends_with_the_recording(benchmark: Any) -> None:
    waveforms = torch.zeros(2, 100)
    waveforms[:, :60] = torch.randn(2, 60)
    noisy = benchmark.corrupted_sounds(waveforms)
    assert (noisy[:, :60] != waveforms[:, :60]).all()
    assert not noisy[:, 60:].any()


def test_partners_have_the_same_class(benchmark: Any) -> None:
    labels, others = torch.arange(30) % 3, torch.arange(12) % 4
    chosen = benchmark.partners(labels, others, generator=torch.Generator().manual_seed(0))
    assert torch.equal(others[chosen], labels)
    assert len(chosen.unique()) > 3


def test_the_script_chooses_on_validation(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    features = made_up(benchmark)
    computed: list[Path] = []
    monkeypatch.setattr(benchmark, "frozen_features", lambda root: computed.append(root) or features)
    monkeypatch.setattr(benchmark.compare, "__kwdefaults__", {"rates": (1e-3, 1e-2)})
    threads = torch.get_num_threads()
    try:
        for data in ("a", "b"):
            kept = ["--data", data, "--features", str(tmp_path / "kept.pt"), "--json", str(tmp_path / f"{data}.json")]
            benchmark.main(["--steps", "3", "--seeds", "0", "1", *kept])
    finally:
        torch.set_num_threads(threads)
    written, again = (json.loads((tmp_path / f"{data}.json").read_text()) for data in ("a", "b"))
    assert computed == [Path("a")]
    assert again["results"] == written["results"], "from the file, with the same seeds"
    assert written["machine"]["threads"] == 1
    assert [row["name"] for row in written["results"]] == list(benchmark.contenders())
    for row in written["results"]:
        best = max(row["validation"], key=row["validation"].get)
        assert row["lr"] == float(best)
        assert {title: len(values) for title, values in row["test"].items()} == dict.fromkeys(
            ("50% missing", "none missing", "image only", "sound only"), 2
        )
    assert "| masks, Perceiver (ours) |" in capsys.readouterr().out
