"""Folders of recordings: splits and classes, mixed formats and rates, workers, and what is wrong in a folder."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from containers_written import write_container
from lightning.pytorch import Trainer
from torch import Tensor, nn

from perceiver.data import DataModule
from perceiver.data.augmentation.audio import RandomNoise
from perceiver.data.folders.audio import AudioFolder
from perceiver.modalities.preprocess import preprocess

RATE = 8000


def tone(seconds: float, hertz: float, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Low and high tones of several lengths; a flac, a stereo file and one of another rate among them."""
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for name, hertz in (("high", 1500), ("low", 200)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                soundfile.write(folder / f"{number}.wav", tone(0.05 + 0.01 * number, hertz + 10 * number), RATE)
    stereo = np.stack([tone(0.05, 200), 0 * tone(0.05, 200)], axis=1)
    soundfile.write(tmp_path / "test" / "low" / "0.wav", stereo, RATE)
    soundfile.write(tmp_path / "test" / "low" / "1.wav", tone(0.05, 300, 16000), 16000)
    (tmp_path / "test" / "low" / "more").mkdir()
    soundfile.write(tmp_path / "test" / "low" / "more" / "a.flac", tone(0.05, 200), RATE)
    (tmp_path / "train" / "low" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "train" / ".hidden").mkdir()
    return tmp_path


def prepared(root: Path, **arguments: object) -> DataModule:
    module = DataModule.of(AudioFolder, root=root, **{"sample_rate": RATE, "batch_size": 100, **arguments})  # type: ignore[arg-type]
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    return module


def test_splits_classes_and_ragged_batches(root: Path) -> None:
    module = prepared(root)
    (training,), (validation,), (test,) = module.train_dataloader(), module.val_dataloader(), module.test_dataloader()
    assert (training.size, validation.size, test.size) == (12, 4, 7)
    assert module.spec["target"]["names"] == ["high", "low"]
    assert module.spec["num_classes"] == 2
    names = [f"{name}/{number}.wav" for name in ("high", "low") for number in range(3)]
    assert test.ids == [f"test/{name}" for name in [*names, "low/more/a.flac"]]
    assert test.target.tolist() == [0] * 3 + [1] * 4
    spec = module.spec["modalities"]["audio"]
    for row, name in enumerate(test.ids):
        samples, rate = soundfile.read(root / name, dtype="float32", always_2d=True)
        expected = preprocess((samples.T, rate), spec=spec, name=name)
        torch.testing.assert_close(test.inputs["audio"][row][:, test.masks["audio"][row]], expected)
    everything = training.inputs["audio"][training.masks["audio"][:, None]]
    assert everything.square().mean().sqrt().item() == pytest.approx(1, abs=1e-4)


def test_long_recordings_are_cut_at_random_in_training_only(root: Path) -> None:
    module = prepared(root, max_seconds=0.02)
    starts = set()
    for _ in range(5):
        (batch,) = module.train_dataloader()
        assert batch.inputs["audio"].shape == (12, 1, 160)
        order = sorted(range(12), key=batch.ids.__getitem__)
        starts.add(tuple(batch.inputs["audio"][order, 0, 0].tolist()))
    assert len(starts) == 5
    (first,), (second,) = module.val_dataloader(), module.val_dataloader()
    assert torch.equal(first.inputs["audio"], second.inputs["audio"])
    assert not first.inputs["audio"][:, 0, 0].any()  # tones begin at zero


def test_workers_draw_differently_and_repeatably(root: Path) -> None:
    def epoch() -> Tensor:
        torch.manual_seed(5)
        module = prepared(root, num_workers=1, augment={"noise": RandomNoise(snr_decibels=(0, 0))})
        loader = module.train_dataloader()
        assert loader.persistent_workers
        return torch.cat([batch.inputs["audio"] for batch in loader])

    first = epoch()
    assert torch.equal(first, epoch())
    assert not prepared(root).train_dataloader().persistent_workers


def test_a_checkpoint_can_be_tested_without_training_data(root: Path) -> None:
    stored = prepared(root).spec
    for split in ("train", "val"):
        shutil.rmtree(root / split)
    shutil.rmtree(root / "test" / "high")
    module = DataModule.of(AudioFolder, root=root, sample_rate=RATE)
    module.prepare_data()
    module.spec = stored
    module.setup("test")
    assert {int(label) for batch in module.test_dataloader() for label in batch.target} == {1}
    assert module.spec == stored


@pytest.mark.parametrize("content", [b"", b"no sound"])
def test_files_without_sound_are_reported_before_training(content: bytes, root: Path) -> None:
    path = root / "test" / "high" / "1.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path}: not a readable sound file"):
        DataModule.of(AudioFolder, root=root, sample_rate=RATE).prepare_data()
    DataModule.of(AudioFolder, root=root, sample_rate=RATE, check_files=False).prepare_data()


def test_recordings_without_samples_and_truncated_ones(root: Path) -> None:
    path = root / "train" / "high" / "1.wav"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=rf"{path}: is truncated"):
        DataModule.of(AudioFolder, root=root, sample_rate=RATE).prepare_data()
    soundfile.write(path, np.zeros(0), RATE)
    with pytest.raises(ValueError, match=rf"{path}: has no samples"):
        DataModule.of(AudioFolder, root=root, sample_rate=RATE).prepare_data()


def test_other_files(root: Path) -> None:
    path = root / "val" / "high" / "labels.csv"
    path.write_text("a,b")
    with pytest.raises(ValueError, match=rf"{path}: expected a sound file, one of \.wav, .* Convert it or move it"):
        DataModule.of(AudioFolder, root=root, sample_rate=RATE).prepare_data()


def test_absent_and_empty_folders(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.root: expected folders train and test in .*nowhere"):
        DataModule.of(AudioFolder, root=tmp_path / "nowhere", sample_rate=RATE).prepare_data()
    (root / "train" / "middle").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"{root / 'train' / 'middle'}: expected recordings of this class"):
        DataModule.of(AudioFolder, root=root, sample_rate=RATE).prepare_data()
    shutil.rmtree(root / "train" / "middle")
    shutil.rmtree(root / "test")
    with pytest.raises(FileNotFoundError, match=r"data\.root: .* test is missing\. .*test=false"):
        DataModule.of(AudioFolder, root=root, sample_rate=RATE).prepare_data()
    module = DataModule.of(AudioFolder, root=root, sample_rate=RATE, needs_test=False)
    module.prepare_data()
    module.setup("fit")
    shutil.rmtree(root / "val" / "low")
    shutil.rmtree(root / "val" / "high")
    with pytest.raises(FileNotFoundError, match=rf"one folder of recordings per class in {root / 'val'}, got none"):
        DataModule.of(AudioFolder, root=root, sample_rate=RATE, needs_test=False).prepare_data()


def test_without_validation_folder_some_of_training_is(root: Path) -> None:
    shutil.rmtree(root / "val")
    module = prepared(root, validation_fraction=0.34)
    (training,), (validation,) = module.train_dataloader(), module.val_dataloader()
    assert torch.bincount(validation.target).tolist() == [2, 2]
    assert len({*training.ids, *validation.ids}) == 12
    assert next(iter(prepared(root, validation_fraction=0.34, split_seed=1).val_dataloader())).ids != validation.ids
    for fraction in (0, 1):
        with pytest.raises(ValueError, match=r"data\.validation_fraction: expected a share between 0 and 1"):
            prepared(root, validation_fraction=fraction)


@pytest.mark.parametrize("split", ["val", "test"])
def test_classes_that_training_has_not(split: str, root: Path) -> None:
    shutil.copytree(root / split / "low", root / split / "middle")
    with pytest.raises(ValueError, match=rf"{root / split / 'middle'}: class 'middle' is not one of the 2 training classes"):
        prepared(root)


def test_a_single_class(root: Path) -> None:
    for split in ("train", "val", "test"):
        shutil.rmtree(root / split / "low")
    with pytest.raises(ValueError, match=r"AudioFolder: expected two or more classes, got \['high'\]"):
        prepared(root)


def test_stored_classes_hold(root: Path) -> None:
    stored = prepared(root).spec
    for split in ("train", "val", "test"):
        shutil.copytree(root / split / "low", root / split / "middle")
    module = DataModule.of(AudioFolder, root=root, sample_rate=RATE)
    module.spec = stored
    with pytest.raises(ValueError, match=r"expected folders of the stored classes \['high', 'low'\], got"):
        module.setup("fit")


@pytest.mark.parametrize(("argument", "value"), [("batch_size", 0), ("num_workers", -1), ("sample_rate", 0)])
def test_errors_name_the_argument(argument: str, value: int, root: Path) -> None:
    with pytest.raises(ValueError, match=rf"data\.{argument}: expected"):
        prepared(root, **{argument: value})


def test_spec_before_setup(root: Path) -> None:
    with pytest.raises(RuntimeError, match=r'call prepare_data\(\) and setup\("fit"\) first'):
        _ = DataModule.of(AudioFolder, root=root, sample_rate=RATE).spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": {"image": {}}}, r"spec\.modalities: AudioFolder has \['audio'\], .* has \['image'\]"),
        ({"target": {"names": ["a", "b"]}}, r"spec\.target\.names: AudioFolder has \['high', 'low'\]"),
        (
            {"modalities": {"audio": {"kind": "audio", "shape": [2, None], "sample_rate": RATE}}},
            r"spec\.modalities\.audio\.shape: AudioFolder has \[1, None\], .* has \[2, None\]",
        ),
    ],
)
def test_spec_of_other_data_is_refused(change: dict[str, object], message: str, root: Path) -> None:
    module = prepared(root)
    with pytest.raises(ValueError, match=message):
        module.spec = {**module.spec, **change}


@pytest.mark.filterwarnings("ignore:You have overridden `on_before_batch_transfer`")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_a_tiny_perceiver_tells_low_from_high(root: Path) -> None:
    """The data module through Lightning's eyes, with a real model."""
    from perceiver import Encoder, Fourier, Perceiver, PooledHead
    from perceiver.adapters import LogMelFrames
    from perceiver.objectives import classification
    from perceiver.training import Task

    audio = LogMelFrames(
        sample_rate=RATE,
        num_mels=16,
        window_seconds=0.02,
        hop_seconds=0.01,
        duration_seconds=0.1,
        position=Fourier(num_bands=2, resolution=[10]),
        std=4.0,
    )
    encoder = Encoder(token_channels=audio.channels, num_latents=4, latent_channels=16, num_self_heads=2)
    head: nn.Module = PooledHead(latent_channels=16, num_classes=2)
    model = Perceiver(adapters={"audio": audio}, encoder=encoder, head=head)
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    task = Task(model=model, objective=classification(num_classes=2), optimizer=optimizer)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=15,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, datamodule=DataModule.of(AudioFolder, root=root, sample_rate=RATE, batch_size=12))
    assert trainer.callback_metrics["val/accuracy"] == 1


def test_a_flat_folder_is_predicted_for(root: Path, tmp_path: Path) -> None:
    stored = prepared(root).spec
    new = tmp_path / "new"
    (new / "more").mkdir(parents=True)
    shutil.copy(root / "test" / "low" / "0.wav", new / "b.wav")
    write_container(new / "more" / "a.webm", tone(0.1, 300, 48000)[None], rate=48000, codec="libopus")
    (new / "notes.md").write_text("x")
    (new / "c.wav").write_bytes(b"x")

    def flat(**settings: object) -> DataModule:
        module = DataModule.of(AudioFolder, root=new, sample_rate=RATE, batch_size=9, **settings)  # type: ignore[arg-type]
        module.spec = stored
        module.prepare_data()
        return module

    with pytest.raises(ValueError, match=r"c\.wav: not a readable sound file"):
        flat()
    (batch,) = flat(on_bad_row="skip").predict_dataloader()
    assert batch.ids == ["b.wav", "more/a.webm"]
    assert batch.target is None
    assert batch.masks["audio"].sum(dim=1).tolist()[1] == pytest.approx(0.1 * RATE, abs=200)


def test_damaged_recordings_are_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = root / "test" / "high" / "1.wav"
    path.write_bytes(path.read_bytes()[:-20])
    (root / "train" / "high" / "notes.md").write_text("x")
    with pytest.raises(ValueError, match=r"notes\.md: expected a sound file"):
        prepared(root)
    module = prepared(root, on_bad_row="skip")
    assert "skipped 1 of 7 samples" in caplog.text
    assert f"{path}: is truncated" in caplog.text
    assert "skipped 1 files whose names are not those of recordings, such as high/notes.md" in caplog.text
    assert "test/high/1.wav" not in next(iter(module.test_dataloader())).ids
