"""Speech Commands: a tiny folder of the original layout, and what may be wrong with it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from perceiver.data import DataModule
from perceiver.data.datasets.speech_commands import WORDS, SpeechCommands


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four recordings of every word, the first on the validation list, the second on the testing list."""
    folder = tmp_path / "SpeechCommands" / "speech_commands_v0.02"
    random = np.random.default_rng(0)
    names = []
    for word in WORDS:
        (folder / word).mkdir(parents=True)
        for number in range(4):
            names.append(f"{word}/{number:08x}_nohash_0.wav")
            soundfile.write(folder / names[-1], 0.1 * random.normal(size=100 + number), 16000)
    (folder / "_background_noise_").mkdir()
    soundfile.write(folder / "_background_noise_" / "hum.wav", random.normal(size=900) * 0.1, 16000)
    (folder / "validation_list.txt").write_text("\n".join(names[0::4]) + "\n")
    (folder / "testing_list.txt").write_text("\n".join(names[1::4]) + "\n")
    return tmp_path


def folder_of(root: Path) -> Path:
    return root / "SpeechCommands" / "speech_commands_v0.02"


def test_the_official_lists_split(root: Path) -> None:
    module = DataModule.of(SpeechCommands, root=root, download=False, batch_size=100)
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    (training,), (validation,), (test,) = module.train_dataloader(), module.val_dataloader(), module.test_dataloader()
    assert (training.size, validation.size, test.size) == (70, 35, 35)
    for batch, numbers in ((training, "23"), (validation, "0"), (test, "1")):
        for name, label in zip(batch.ids, batch.target.tolist(), strict=True):
            _, word, file = name.split("/")
            assert WORDS[label] == word
            assert file[7] in numbers
    assert validation.ids[0] == "speech_commands/backward/00000000_nohash_0"
    assert training.inputs["audio"].shape == (70, 1, 103)
    assert sorted(set(training.masks["audio"].sum(1).tolist())) == [102, 103]
    spec = module.spec
    assert spec["num_classes"] == 35
    assert spec["target"]["names"] == sorted(WORDS)
    assert spec["modalities"]["audio"]["std"] == pytest.approx([0.1], rel=0.05)


def test_lists_agree_with_torchaudio(root: Path) -> None:
    from torchaudio.datasets import SPEECHCOMMANDS

    module = DataModule.of(SpeechCommands, root=root, download=False)
    training, validation = module.source.read_training()
    for split, subset in ((training, "training"), (validation, "validation"), (module.source.read_test(), "testing")):
        reference = SPEECHCOMMANDS(str(root), subset=subset)
        theirs = [reference.get_metadata(index) for index in range(len(reference._walker))]
        assert sorted(f"{word}/{Path(path).stem}" for path, _, word, *_ in theirs) == sorted(
            name.removeprefix("speech_commands/")
            for name in split.ids  # type: ignore[attr-defined]
        )


def test_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.root: expected Speech Commands .* is false.*PERCEIVER_DATA"):
        DataModule.of(SpeechCommands, root=tmp_path, download=False).prepare_data()


def test_impossible_download(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileNotFoundError, match=r"data\.root: expected Speech Commands in .*downloading it failed"):
        DataModule.of(SpeechCommands, root=tmp_path / "file").prepare_data()


def test_absent_and_other_words(root: Path) -> None:
    (folder_of(root) / "hello").mkdir()
    with pytest.raises(ValueError, match=r"expected folders of the 35 words, got also hello"):
        DataModule.of(SpeechCommands, root=root, download=False).prepare_data()
    shutil.rmtree(folder_of(root) / "cat")
    with pytest.raises(FileNotFoundError, match=r"it lacks the words cat"):
        DataModule.of(SpeechCommands, root=root, download=False).prepare_data()


def test_lists_of_absent_files(root: Path) -> None:
    (folder_of(root) / "dog" / "00000001_nohash_0.wav").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"testing_list\.txt: names 35 .* 1 are missing, such as dog/00000001_nohash_0\.wav"
    ):
        DataModule.of(SpeechCommands, root=root, download=False).prepare_data()
    (folder_of(root) / "testing_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"it lacks testing_list\.txt"):
        DataModule.of(SpeechCommands, root=root, download=False).prepare_data()
