"""mode=batch_size: it trains, goes on until memory ends, and says so."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra_runs import SMALL, run
from torch import Tensor

from perceiver.encoders.encoder import Encoder
from perceiver.run.modes import batch_size
from perceiver.run.modes.batch_size import Trial

SETTINGS = (*SMALL, "mode=batch_size", "data.num_workers=0", "batch_sizes.steps=4", "batch_sizes.smallest=32")


def limited(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[int]:
    """The encoder asks for more memory than any machine has where a batch is above the limit. Returns the sizes seen."""
    seen: list[int] = []
    forward = Encoder.forward

    def hungry(self: Encoder, tokens: Any, reads: Any = None) -> Tensor:
        size = tokens[0].batch
        seen.append(size)
        if size > limit:
            torch.empty(2**60)
        return forward(self, tokens, reads)

    monkeypatch.setattr(Encoder, "forward", hungry)
    return seen


def test_sizes_double_until_memory_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = limited(monkeypatch, 100)
    code, out, err = run(*SETTINGS, f"hydra.run.dir={tmp_path}")
    assert code == 0, err
    assert "Largest batch that fits: 64. 128 samples do not fit into memory." in out
    found = json.loads((tmp_path / "batch_sizes.json").read_text())
    assert [trial["batch_size"] for trial in found["trials"]] == [32, 64]
    assert all(trial["samples_per_second"] > 0 and trial["memory_gb"] > 0 for trial in found["trials"])
    assert seen.count(32) == seen.count(64) == 4, "as many training steps as were asked for"
    assert not (tmp_path / "checkpoints").exists()


def test_it_ends_with_a_batch_of_all_samples(tmp_path: Path) -> None:
    code, out, err = run(*SETTINGS, "batch_sizes.smallest=900", f"hydra.run.dir={tmp_path}")
    assert code == 0, err
    samples = json.loads((tmp_path / "batch_sizes.json").read_text())["trials"][-1]["batch_size"]
    assert f"Largest batch that fits: {samples}. Larger sizes were not tried: this is the whole training split." in out
    assert 900 < samples < 1797


def test_nothing_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 1)
    code, _, err = run(*SETTINGS, f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert "32 samples do not fit into memory. Set batch_sizes.smallest lower" in err


def test_other_errors_are_not_taken_for_lack_of_memory(tmp_path: Path) -> None:
    code, _, err = run(*SETTINGS, "optimizer.lr=1e30", "trainer.gradient_clip_val=null", f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert "the training loss is" in err


def test_wrong_sizes(tmp_path: Path) -> None:
    code, _, err = run(*SETTINGS, "batch_sizes.largest=16", f"hydra.run.dir={tmp_path}")
    assert code == 1
    assert "batch_sizes: expected 1 <= smallest <= largest and steps > 2, got smallest=32, largest=16, steps=4." in err


def test_main_memory_is_not_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [Trial(batch_size=size, samples_per_second=1.0, memory_gb=gb) for size, gb in ((8, 1.0), (16, 2.0))]
    monkeypatch.setattr(batch_size, "_free_memory", lambda: 2 * 2**30)
    assert batch_size._too_large(trials, on_cpu=True), "the next doubling takes two more, of which 0.8 x 2 may be taken"
    monkeypatch.setattr(batch_size, "_free_memory", lambda: 3 * 2**30)
    assert not batch_size._too_large(trials, on_cpu=True)
    assert not batch_size._too_large(trials, on_cpu=False)
