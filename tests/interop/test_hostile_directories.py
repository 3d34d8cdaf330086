"""Directories of transformers as a stranger could write them: refused in one error, before memory is asked for."""

import resource
from collections.abc import Callable
from pathlib import Path

import hostile_models
import pytest
from hostile_models import Hostile, transformers_values

from perceiver.interop.architectures import ArchitectureError
from perceiver.interop.files import WeightFileError
from perceiver.interop.huggingface import config_from_transformers, from_transformers


@pytest.mark.parametrize("name", hostile_models.TRANSFORMERS)
def test_values_out_of_range_are_refused_before_memory_is_taken(name: str, tmp_path: Path) -> None:
    values, words = hostile_models.TRANSFORMERS[name]
    hostile = transformers_values(tmp_path, values, words=words)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ArchitectureError, WeightFileError), match=hostile.words) as raised:
        from_transformers(hostile.path)
    assert str(tmp_path) in str(raised.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2_000_000  # kB
    if "needs" not in words and "modules" not in words:
        with pytest.raises((ArchitectureError, WeightFileError), match=hostile.words):
            config_from_transformers(hostile.path)


@pytest.mark.parametrize("make", hostile_models.DIRECTORIES)
def test_hostile_files_are_refused(make: Callable[[Path], Hostile], tmp_path: Path) -> None:
    hostile = make(tmp_path)
    with pytest.raises(WeightFileError, match=hostile.words):
        from_transformers(hostile.path)
    hostile.assert_nothing_ran()
