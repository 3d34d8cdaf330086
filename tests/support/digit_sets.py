"""Tiny files of MNIST and of the Free Spoken Digit Dataset, as the originals lay them out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from image_sets import idx_set

from perceiver.data.datasets.spoken_digits import ALL, SpokenDigits


def digit_sets(root: Path) -> None:
    """60 + 20 images, and 3,000 recordings of 0.04 to 0.06 s whose level says which they are."""
    idx_set(root / "MNIST" / "raw")
    folder = root / "free-spoken-digit-dataset" / "recordings"
    folder.mkdir(parents=True)
    for number, one in enumerate(ALL):
        samples = np.full(300 + 40 * (number % 5), number + 1, dtype=np.int16)
        soundfile.write(folder / one.name, samples, 8000)


_READ: dict[tuple[object, ...], Any] = {}


def read_recordings_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks and decodes each folder of recordings once for all tests of a process: with type checks on it takes seconds."""

    def remembered(name: str, read: Callable[[SpokenDigits], Any]) -> Callable[[SpokenDigits], Any]:
        def wrapped(module: SpokenDigits) -> Any:
            key = (name, module.folder, module.validation_size, module.split_seed, module.held_out_speaker)
            if key not in _READ:
                _READ[key] = read(module)
            return _READ[key]

        return wrapped

    for name in ("prepare", "read_training", "read_test"):
        monkeypatch.setattr(SpokenDigits, name, remembered(name, getattr(SpokenDigits, name)))
