"""Mutated files end in a result or a clear error; `benchmarks/fuzz.py` tries more of them."""

import random
from pathlib import Path

import fuzzing
import pytest
from fuzzing import DOORS, fuzz

COUNTS = {"tables": 12, "specs": 12, "models": 30}


@pytest.mark.usefixtures("unchecked")  # the errors of production
@pytest.mark.parametrize("name", DOORS)
def test_mutated_files_end_in_clear_errors(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = DOORS[name](tmp_path)
    found = fuzz(name, attempt, seed="tests", count=COUNTS.get(name, 60))
    assert not found.faults, "\n".join(fault for *_, fault in found.faults)
    assert found.refused, "mutations must reach the checks"
    for unchanged in ("mutated", "mutated_tree"):
        monkeypatch.setattr(fuzzing, unchanged, lambda content, chance: content)
    for seed in range(3):
        attempt(random.Random(seed))
