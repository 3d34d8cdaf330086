"""Spoken digits: tiny files named as the original, damaged as happens, and the real data where there is some.

Most tests have a tenth of the recordings, the first of every ten of a digit and speaker, since each file is opened and
checked: seconds for all 3,000.
"""

import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from digit_sets import digit_sets
from made_once import made_once

from perceiver.data import DataModule
from perceiver.data.datasets import spoken_digits
from perceiver.data.datasets.spoken_digits import ALL, SPEAKERS, SpokenDigits, download_recordings
from perceiver.modalities.preprocess import preprocess
from perceiver.samples.batch import Batch

# With shape checks, reading thousands of files takes seconds; other tests of recordings have them.
pytestmark = pytest.mark.usefixtures("unchecked")


TENTH = ALL[::10]


@pytest.fixture
def tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of 300 recordings, 60 of which are its test split."""
    monkeypatch.setattr(spoken_digits, "ALL", TENTH)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 recordings of a few samples each; what they hold says which they are."""
    root = tmp_path_factory.mktemp("original")
    folder = root / "free-spoken-digit-dataset" / "recordings"
    folder.mkdir(parents=True)
    for number, one in enumerate(TENTH):
        samples = np.full(4 + number // 5 % 5, number + 1, dtype=np.int16)
        soundfile.write(folder / one.name, samples, 8000)
    return root


@pytest.fixture
def original(made: Path, tenth: None) -> Path:
    """The recordings that the release of these tests has."""
    return made


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """The same files as links: a test may remove or replace them."""
    folder = tmp_path / "free-spoken-digit-dataset" / "recordings"
    folder.mkdir(parents=True)
    for path in (original / "free-spoken-digit-dataset" / "recordings").iterdir():
        (folder / path.name).hardlink_to(path)
    return tmp_path


def prepared(root: Path, **arguments: object) -> DataModule:
    settings = {"download": False, "validation_size": 60, **arguments}
    module = DataModule.of(SpokenDigits, root=root, **settings)  # type: ignore[arg-type]
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    return module


def ids(loader: object) -> list[str]:
    return [name for batch in loader for name in batch.ids]  # type: ignore[attr-defined]


def parts(name: str) -> tuple[str, str, int]:
    digit, speaker, index = name.removeprefix("spoken_digits/").split("_")
    return digit, speaker, int(index)


def test_the_official_test_split_and_a_stratified_validation_split(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With all 3,000 recordings."""
    root = made_once(tmp_path_factory, "digit_sets", digit_sets)
    module = prepared(root, validation_size=300)
    training, validation, test = ids(module.train_dataloader()), ids(module.val_dataloader()), ids(module.test_dataloader())
    assert (len(training), len(validation), len(test)) == (2400, 300, 300)
    assert len({*training, *validation, *test}) == 3000
    assert all(parts(name)[2] < 5 for name in test)
    assert set(Counter(parts(name)[:2] for name in validation).values()) == {5}
    assert len(Counter(parts(name)[:2] for name in validation)) == 60


def test_the_validation_split_follows_from_its_seed(original: Path) -> None:
    validation = ids(prepared(original).val_dataloader())
    assert ids(prepared(original).val_dataloader()) == validation
    assert ids(prepared(original, split_seed=1).val_dataloader()) != validation


def test_a_held_out_speaker_is_heard_in_the_test_only(original: Path) -> None:
    module = prepared(original, held_out_speaker="theo", validation_size=25)
    assert {parts(name)[1] for name in ids(module.test_dataloader())} == {"theo"}
    rest = [*ids(module.train_dataloader()), *ids(module.val_dataloader())]
    assert {parts(name)[1] for name in rest} == set(SPEAKERS) - {"theo"}
    assert len(rest) == len(set(rest)) == 250
    with pytest.raises(ValueError, match=r"data\.held_out_speaker: expected one of george, .*, got 'anna'"):
        prepared(original, held_out_speaker="anna")


def test_batches_are_ragged_and_normalised_like_predictions(original: Path) -> None:
    module = prepared(original, batch_size=60)
    (batch,) = module.test_dataloader()
    assert isinstance(batch, Batch)
    spec = module.spec["modalities"]["audio"]
    assert batch.inputs["audio"].shape == (60, 1, 8)
    for row, name in enumerate(batch.ids):
        file = original / "free-spoken-digit-dataset" / "recordings" / f"{name.removeprefix('spoken_digits/')}.wav"
        expected = preprocess(soundfile.read(file, dtype="int16"), spec=spec, name=name)
        torch.testing.assert_close(batch.inputs["audio"][row][:, batch.masks["audio"][row]], expected)
        assert batch.target[row] == int(parts(name)[0])


def test_spec(original: Path) -> None:
    module = prepared(original, sample_rate=16000)
    audio = module.spec["modalities"]["audio"]
    assert (audio["kind"], audio["shape"], audio["sample_rate"], audio["mean"]) == ("audio", [1, None], 16000, [0.0])
    assert module.spec["target"]["names"] == [str(digit) for digit in range(10)]
    # Resampled to twice the rate: twice as many samples.
    assert next(iter(module.test_dataloader())).inputs["audio"].shape[2] == 16
    with pytest.raises(ValueError, match=r"spec\.modalities\.audio\.sample_rate: SpokenDigits has 8000, .* has 16000"):
        prepared(original).spec = module.spec


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        DataModule.of(SpokenDigits, root=tmp_path / "nowhere", download=False).prepare_data()
    for part in ("data.root", str(tmp_path / "nowhere"), "0_george_0.wav", "2997 more"):
        assert part in str(caught.value)
    for remedy in ("PERCEIVER_DATA", "data.download=true"):
        assert remedy in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_one_absent_file(root: Path) -> None:
    (root / "free-spoken-digit-dataset" / "recordings" / "3_theo_10.wav").unlink()
    with pytest.raises(FileNotFoundError, match=r"but 3_theo_10\.wav are not available"):
        DataModule.of(SpokenDigits, root=root, download=False).prepare_data()


def test_a_recording_too_many(root: Path) -> None:
    soundfile.write(root / "free-spoken-digit-dataset" / "recordings" / "3_anna_7.wav", np.zeros(9), 8000)
    with pytest.raises(ValueError, match=r"only, got also 3_anna_7\.wav.*audio_folder"):
        DataModule.of(SpokenDigits, root=root, download=False).prepare_data()


@pytest.mark.parametrize(("content", "message"), [(b"text", "not a readable sound file"), (None, "is truncated")])
def test_damaged_files_are_reported_before_training(content: bytes | None, message: str, root: Path) -> None:
    path = root / "free-spoken-digit-dataset" / "recordings" / "9_lucas_20.wav"
    damaged = path.read_bytes()[:-4] if content is None else content
    path.unlink()
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"{path}: .*{message}"):
        DataModule.of(SpokenDigits, root=root, download=False).prepare_data()


@pytest.fixture(scope="session")
def archive(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What GitHub makes of a release: everything in one folder, the recordings among other files."""
    path = tmp_path_factory.mktemp("archive") / "v1.0.10.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        top = "free-spoken-digit-dataset-1.0.10"
        tar.add(made / "free-spoken-digit-dataset" / "recordings", f"{top}/recordings")
        tar.add(made / "free-spoken-digit-dataset" / "recordings" / "0_theo_0.wav", f"{top}/utils/other.wav")
    return path


def test_download_adds_what_is_absent(archive: Path, root: Path) -> None:
    folder = root / "free-spoken-digit-dataset" / "recordings"
    (folder / "3_theo_10.wav").unlink()
    own = folder / "3_theo_20.wav"
    before = own.stat().st_ino
    DataModule.of(SpokenDigits, root=root, url=archive.as_uri()).prepare_data()
    assert len(list(folder.iterdir())) == 300
    assert own.stat().st_ino == before
    assert [path.name for path in folder.parent.iterdir()] == ["recordings"]


def test_download_into_nothing(archive: Path, tenth: None, tmp_path: Path) -> None:
    module = DataModule.of(SpokenDigits, root=tmp_path / "new", url=archive.as_uri(), validation_size=60)
    module.prepare_data()
    module.setup("fit")
    assert len(module.val_dataloader().dataset) == 60  # type: ignore[arg-type]


def test_impossible_download_leaves_nothing(tmp_path: Path) -> None:
    module = DataModule.of(SpokenDigits, root=tmp_path / "new", url=(tmp_path / "nothing.tar.gz").as_uri())
    with pytest.raises(FileNotFoundError, match=r"(?s)data\.root: .* downloading them failed: .*PERCEIVER_DATA"):
        module.prepare_data()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "text", "incomplete"])
def test_downloads_are_checked(damage: str, archive: Path, original: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tar.gz"
    if damage == "incomplete":
        with tarfile.open(broken, "w:gz") as tar:
            tar.add(original / "free-spoken-digit-dataset" / "recordings" / "0_theo_0.wav", "x/recordings/0_theo_0.wav")
    else:
        broken.write_bytes(archive.read_bytes()[:5000] if damage == "cut" else b"not found")
    with pytest.raises(FileNotFoundError, match="downloading them failed"):
        DataModule.of(SpokenDigits, root=tmp_path / "new", url=broken.as_uri()).prepare_data()
    assert not (tmp_path / "new").exists()


def test_members_of_an_archive_cannot_leave_the_folder(tmp_path: Path) -> None:
    evil = tmp_path / "evil.tar"
    (tmp_path / "x.wav").write_bytes(b"")
    with tarfile.open(evil, "w") as tar:
        tar.add(tmp_path / "x.wav", "../../recordings/escaped.wav")
    target = tmp_path / "inside" / "recordings"
    with pytest.raises(FileNotFoundError, match="recordings"):
        download_recordings(target, url=evil.as_uri())
    assert not list(tmp_path.rglob("escaped.wav"))


def test_real_data(data_root: Path) -> None:
    if not (data_root / "free-spoken-digit-dataset" / "recordings").is_dir():
        pytest.skip(f"no free-spoken-digit-dataset/recordings in {data_root}")
    module = prepared(data_root, batch_size=300, validation_size=300)
    (test,) = module.test_dataloader()
    assert torch.bincount(test.target).tolist() == [30] * 10
    lengths = test.masks["audio"].sum(1) / 8000
    assert lengths.min() >= 0.14
    assert lengths.max() <= 2.3
    training = torch.cat([batch.inputs["audio"][batch.masks["audio"][:, None]] for batch in module.val_dataloader()])
    assert training.std().item() == pytest.approx(1, abs=0.2)
