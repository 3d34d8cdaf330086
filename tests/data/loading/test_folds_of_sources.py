"""Folds and groups of every source that has them: each sample is held out once, and no group is on both sides of a split."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from image_sets import folder_set, idx_set
from manifest_cases import animals, write_csv

from perceiver.data import MNIST, DataModule, Digits, Manifest
from perceiver.data.datasets.spoken_digits import SpokenDigit, SpokenDigits, recording_of
from perceiver.data.folders.audio import AudioFolder
from perceiver.data.folders.images import ImageFolder
from perceiver.data.loading.samples import InMemory
from perceiver.data.manifest import BadRowError
from perceiver.samples.batch import Sample

Splits = dict[str, list[str]]


def splits(kind: Any, **settings: Any) -> Splits:
    """The ids of the samples of each split."""
    module = DataModule.of(kind, **{"batch_size": 5000, **settings})
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    loaders = {"train": module.train_dataloader(), "val": module.val_dataloader(), "test": module.test_dataloader()}
    return {split: ids(loader) for split, loader in loaders.items()}


def ids(loader: Any) -> list[str]:
    return [id_ for batch in loader for id_ in batch.ids]


def folds(number: int, kind: Any, **settings: Any) -> Iterator[Splits]:
    """The splits of each fold, which are disjoint, and whose samples are the same for every fold."""
    seen: list[str] = []
    everything: set[str] | None = None
    for fold in range(number):
        found = splits(kind, folds=number, fold=fold, **settings)
        of_fold = [id_ for part in found.values() for id_ in part]
        assert len(of_fold) == len(set(of_fold))
        assert everything in (None, set(of_fold))
        everything = set(of_fold)
        seen += found["test"]
        yield found
    assert sorted(seen) == sorted(everything or ())


def test_digits() -> None:
    for found in folds(5, Digits):
        assert {part: len(found[part]) for part in ("val", "test")} == {"val": 180, "test": pytest.approx(359.4, abs=1)}
    assert splits(Digits, folds=5, fold=0, split_seed=1)["test"] != splits(Digits, folds=5, fold=0)["test"]
    assert splits(Digits, folds=5, fold=0, validation_size=90)["test"] == splits(Digits, folds=5, fold=0)["test"]


def test_the_official_test_images_stay_out(tmp_path: Path) -> None:
    idx_set(tmp_path / "MNIST" / "raw")
    for found in folds(3, MNIST, root=tmp_path, download=False, validation_size=10):
        assert {part: len(found[part]) for part in found} == {"train": 30, "val": 10, "test": 20}
        assert all(id_.startswith("mnist/train/") for part in found.values() for id_ in part)


@pytest.mark.parametrize("held_out", [None, "theo"])
def test_no_spoken_digit_of_a_speaker_is_on_both_sides(held_out: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def unread(self: SpokenDigits, digits: Iterable[SpokenDigit]) -> InMemory:
        return InMemory([Sample(inputs={}, target=one.digit, id=one.name.removesuffix(".wav")) for one in digits])

    monkeypatch.setattr(SpokenDigits, "_read", unread)
    for fold in range(3):
        source = SpokenDigits(root="absent", folds=3, fold=fold, group="speaker", held_out_speaker=held_out)
        parts = [[one.id for one in part.samples] for part in (*source.read_training(), source.read_test())]
        speakers = [{recording_of(id_).speaker for id_ in part} for part in parts]
        assert sum(len(own) for own in speakers) == len(set.union(*speakers)) == (6 if held_out is None else 5)
        assert held_out not in set.union(*speakers)
        assert sum(len(part) for part in parts) == (2700 if held_out is None else 2500)
    one_by_one = [one.id for one in SpokenDigits(root="absent", folds=5, fold=0).read_test().samples]
    assert len(one_by_one) == 540
    assert {recording_of(id_).speaker for id_ in one_by_one} == {"george", "jackson", "lucas", "nicolas", "theo", "yweweler"}
    validation = SpokenDigits(root="absent", group="speaker", held_out_speaker="george").read_training()[1]
    assert len({recording_of(one.id).speaker for one in validation.samples}) == 1


def test_the_official_test_split_divides_speakers() -> None:
    with pytest.raises(ValueError, match=r"data\.group=speaker: expected data\.folds or data\.held_out_speaker"):
        SpokenDigits(root="absent", group="speaker")
    with pytest.raises(ValueError, match=r"data\.group: expected speaker or null, got 'age'"):
        SpokenDigits(root="absent", group="age", folds=5, fold=0)


def tones(root: Path) -> None:
    """Two classes in three folders of splits, each of several speakers; `a` is in all of them."""
    for split, speakers in (("train", "abcde"), ("val", "af"), ("test", "ag")):
        for name, hertz in (("high", 1500), ("low", 200)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for speaker in speakers:
                for number in range(2):
                    sound = 0.5 * np.sin(hertz * np.arange(400) / 1000)
                    soundfile.write(folder / f"{speaker}_{number}.wav", sound, 8000)


def pictures(root: Path) -> None:
    folder_set(root)
    shutil.copytree(root / "test", root / "val", dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("kind", "make", "settings", "count"),
    [(AudioFolder, tones, {"sample_rate": 8000}, 28), (ImageFolder, pictures, {"size": [8, 8]}, None)],
)
def test_folders(
    kind: Any, make: Callable[[Path], None], settings: dict[str, Any], count: int | None, tmp_path: Path
) -> None:
    make(tmp_path)
    for found in folds(2, kind, root=tmp_path, validation_fraction=0.3, num_workers=0, **settings):
        names = [id_ for part in found.values() for id_ in part]
        assert {id_.split("/")[0] for id_ in names} <= {"train", "val"}
        assert count in (None, len(names))
        assert found["val"]


def test_groups_of_folders(tmp_path: Path) -> None:
    tones(tmp_path)
    settings = {"root": tmp_path, "sample_rate": 8000, "group": r"/(\w)_\d", "num_workers": 0}
    for found in folds(3, AudioFolder, **settings):
        speakers = [{id_.split("/")[2][0] for id_ in part} for part in found.values()]
        assert sum(len(own) for own in speakers) == len(set.union(*speakers)) == 6
    with pytest.raises(ValueError, match=r"data\.group: .* has the group 'a' in both train and val"):
        splits(AudioFolder, **settings)
    for place in tmp_path.glob("val/*/a_*"):
        place.unlink()
    with pytest.raises(ValueError, match=r"data\.group: .* has the group 'a' in both train and test"):
        splits(AudioFolder, **settings)
    for place in tmp_path.glob("test/*/a_*"):
        place.unlink()
    found = splits(AudioFolder, **settings)
    assert [len(part) for part in found.values()] == [20, 4, 4]


def people(folder: Path, **columns: list[Any]) -> dict[str, Any]:
    """A manifest of 48 rows: notes of 12 patients, each with cats and dogs."""
    rows = animals(folder, 48)
    for number, row in enumerate(rows):
        row["patient"] = f"p{number // 4:02d}"
        row |= {name: values[number] for name, values in columns.items()}
    return {"manifest": write_csv(folder / "m.csv", rows), "modalities": {"note": "text"}, "num_workers": 0}


def patients(found: Splits) -> list[set[int]]:
    return [{int(id_[1:]) // 4 for id_ in part} for part in found.values()]


def test_manifests(tmp_path: Path) -> None:
    settings = people(tmp_path)
    for found in folds(4, Manifest, **settings):
        assert len(found["test"]) == 12
        assert sum(int(id_[1:]) % 2 for id_ in found["test"]) == 6
    for found in folds(4, Manifest, group="patient", **settings):
        groups = patients(found)
        assert [len(own) for own in groups] == [8, 1, 3]
        assert len(set.union(*groups)) == 12


def test_groups_of_manifests_without_folds(tmp_path: Path) -> None:
    found = splits(Manifest, group="patient", **people(tmp_path))
    groups = patients(found)
    assert [len(own) for own in groups] == [9, 1, 2]
    assert len(set.union(*groups)) == 12


def test_a_column_of_splits_may_not_divide_a_group(tmp_path: Path) -> None:
    settings = people(tmp_path, split=["train"] * 30 + ["test"] * 18)
    with pytest.raises(ValueError, match=r"m\.csv has the group 'p07' in both train and test"):
        splits(Manifest, group="patient", **settings)
    settings = people(tmp_path, split=["train"] * 28 + ["val"] * 8 + ["test"] * 12)
    assert [len(own) for own in patients(splits(Manifest, group="patient", **settings))] == [7, 2, 3]
    settings = people(tmp_path, split=["train"] * 36 + ["test"] * 12)
    groups = patients(splits(Manifest, group="patient", **settings))
    assert [len(own) for own in groups] == [8, 1, 3]
    assert len(set.union(*groups)) == 12


def test_test_rows_of_a_manifest_stay_out_of_all_folds(tmp_path: Path) -> None:
    settings = people(tmp_path, split=["train"] * 28 + ["val"] * 8 + ["test"] * 12)
    for found in folds(3, Manifest, group="patient", **settings):
        assert set.union(*patients(found)) == set(range(9))


def test_rows_without_a_group(tmp_path: Path) -> None:
    names = [None if number == 5 else f"p{number // 4}" for number in range(48)]
    settings = people(tmp_path, patient=names)
    with pytest.raises(BadRowError, match=r"m\.csv, line 7, column 'patient': expected a group \(data\.group=patient\)"):
        splits(Manifest, group="patient", **settings)
    found = splits(Manifest, group="patient", on_bad_row="skip", **settings)
    assert "a5" not in [id_ for part in found.values() for id_ in part]
    with pytest.raises(ValueError, match=r"data\.group: .* has no column 'speaker', only id, photo"):
        splits(Manifest, group="speaker", **settings)
