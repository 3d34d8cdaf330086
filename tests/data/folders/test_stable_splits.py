"""A damaged file that is left out moves no other file to another split, with a validation split and with folds."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from dense_cases import flow_set
from PIL import Image

from perceiver.data import FlowFolder, SegmentationFolder, Source
from perceiver.data.folders.audio import AudioFolder
from perceiver.data.folders.images import ImageFolder


def places(root: Path, suffix: str) -> Iterator[Path]:
    """Files of two classes in `train` and `test`; the folders exist."""
    for split, count in (("train", 12), ("test", 2)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            yield from (root / split / name / f"{number:02}{suffix}" for number in range(count))


def images(root: Path) -> dict[str, Any]:
    random = np.random.default_rng(0)
    for place in places(root, ".png"):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place)
    return {"size": (8, 8)}


def sounds(root: Path) -> dict[str, Any]:
    random = np.random.default_rng(0)
    for place in places(root, ".wav"):
        soundfile.write(place, random.uniform(-0.5, 0.5, 100), 8000)
    return {"sample_rate": 8000}


def masks(root: Path) -> dict[str, Any]:
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 2)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / "images" / f"{number:02}.png")
            Image.fromarray(pixels[..., 0] % 2).save(root / split / "masks" / f"{number:02}.png")
    return {"size": (8, 8), "class_names": ["even", "odd"]}


def flows(root: Path) -> dict[str, Any]:
    flow_set(root)
    for kind in ("first", "second", "flow"):
        [one, *_] = sorted(path for path in (root / "train" / kind).rglob("*") if path.is_file())
        for number in range(20):
            shutil.copy(one, one.with_stem(f"more{number:02}"))
    return {"size": (8, 10)}


def splits(source: Source, *, test: bool) -> dict[str, list[str]]:
    training, validation = source.read_training()
    found = {"train": training, "val": validation} | ({"test": source.read_test()} if test else {})
    return {split: [samples[index].id for index in range(len(samples))] for split, samples in found.items()}


CASES = [
    (ImageFolder, images, {}),
    (ImageFolder, images, {"folds": 3, "fold": 0}),
    (AudioFolder, sounds, {}),
    (AudioFolder, sounds, {"folds": 3, "fold": 0}),
    (SegmentationFolder, masks, {}),
    (FlowFolder, flows, {}),
]


@pytest.mark.parametrize(("kind", "written", "settings"), CASES)
def test_other_files_keep_their_split(
    tmp_path: Path, kind: Any, written: Callable[[Path], dict[str, Any]], settings: dict[str, Any]
) -> None:
    settings = {"root": tmp_path, "on_bad_row": "skip", "validation_fraction": 0.3, **written(tmp_path), **settings}
    folds = "folds" in settings
    whole = splits(kind(**settings), test=folds)
    [first, *_] = sorted(path for path in (tmp_path / "train").rglob("*") if path.suffix in (".png", ".wav", ".flo"))
    first.write_bytes(b"damaged")
    source = kind(**settings)
    fewer = splits(source, test=folds)
    everything = {name for names in whole.values() for name in names}
    [lost] = everything - {name for names in fewer.values() for name in names}
    assert fewer == {split: [name for name in names if name != lost] for split, names in whole.items()}
    assert len(source.left_out) == 1
