"""Two ranks, two workers: every sample exactly once per epoch, ranks disjoint and equal, exact resumption."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from forked_ranks import outcomes
from shard_cases import manifest, pack


def test_every_sample_once(tmp_path: Path) -> None:
    """48 samples are two ranks' eight batches of three; of 51, three are left out of each epoch."""
    folders = {count: _shards(tmp_path / str(count), count) for count in (48, 51)}
    call = ["two_ranks", "main", "3", *map(str, folders.values())]
    [result] = outcomes([{"processes": 2, "call": call}], tmp_path)
    assert result["code"] == 0, result["errors"]
    for count, folder in folders.items():
        whole, resumed = ([_read(folder / f"{phase}-{rank}.json") for rank in range(2)] for phase in ("whole", "resumed"))
        for epoch in range(2):
            seen = Counter(sample for number, names in _both(whole) if number == epoch for sample in names)
            assert len(seen) == 48
            assert set(seen.values()) == {1}
            assert [sum(number == epoch for number, _ in rank) for rank in whole] == [8, 8]
        assert [names for _, names in whole[0][:8]] != [names for _, names in whole[0][8:]], "shuffled anew"
        assert count == 51 or len({sample for _, names in _both(whole) for sample in names}) == count
        # Saved after ten steps, that is two into the second epoch.
        assert resumed == [rank[10:] for rank in whole]


def _shards(folder: Path, count: int) -> Path:
    folder.mkdir()
    fractions = {"validation_fraction": 20 / (count + 20), "test_fraction": 0.0, "needs_test": False}
    data = manifest(folder, count + 20, modalities={"note": "text"}, **fractions)
    assert len(data.split("train")) == count
    return pack(data, folder / "shards", rows=7)


def _read(file: Path) -> Any:
    return json.loads(file.read_text())


def _both(ranks: list[Any]) -> list[Any]:
    return [step for rank in ranks for step in rank]
