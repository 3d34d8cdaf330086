"""Reading recordings: tiny files of several formats, whole and damaged in the ways that happen."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from perceiver.data.readers.audio import (
    Recordings,
    audio_spec,
    check_recording,
    loudness,
    read_recording,
)
from perceiver.data.readers.containers.headers import mp3_frames
from perceiver.modalities.preprocess import preprocess

RATE = 8000


def tone(seconds: float = 0.2, *, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def recordings(*paths: Path, sample_rate: int = RATE, audio_channels: int = 1, **options: object) -> Recordings:
    return Recordings(
        paths=list(paths),
        labels=list(range(len(paths))),
        ids=[path.stem for path in paths],
        spec=audio_spec(sample_rate=sample_rate, audio_channels=audio_channels),
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("suffix", "tolerance"), [("wav", 1e-4), ("flac", 1e-4), ("ogg", 0.05), ("mp3", 0.1)])
def test_formats(suffix: str, tolerance: float, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(), RATE)
    samples, rate = read_recording(path)
    assert rate == RATE
    assert samples.dtype == np.float32
    assert samples.shape[0] == 1
    assert samples.shape[1] >= 1600
    if suffix != "mp3":  # whose coder adds a delay
        np.testing.assert_allclose(samples[0, :1600], tone(), atol=tolerance)


def test_a_recording_takes_the_way_of_prediction(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    stereo = np.stack([tone(rate=16000), -0.2 * tone(rate=16000)], axis=1)
    soundfile.write(path, stereo, 16000, subtype="FLOAT")
    sample = recordings(path)[0]
    spec = audio_spec(sample_rate=RATE, audio_channels=1)
    expected = preprocess((stereo.T, 16000), spec=spec, name="x")
    torch.testing.assert_close(sample.inputs["audio"], expected, rtol=0, atol=0)
    assert (sample.target, sample.id) == (0, "a")


def test_stereo_is_mixed_down_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    stereo = np.stack([tone(), tone(hertz=300)], axis=1)
    soundfile.write(path, stereo, RATE, subtype="FLOAT")
    torch.testing.assert_close(recordings(path)[0].inputs["audio"], torch.from_numpy(stereo.mean(1))[None])
    torch.testing.assert_close(recordings(path, audio_channels=2)[0].inputs["audio"], torch.from_numpy(stereo.T))
    soundfile.write(path, tone(), RATE)
    repeated = recordings(path, audio_channels=2)[0].inputs["audio"]
    torch.testing.assert_close(repeated, torch.from_numpy(tone()).expand(2, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("rate", [4000, 11025, 44100])
def test_other_rates_are_resampled(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(rate=rate), rate, subtype="FLOAT")
    sound = recordings(path)[0].inputs["audio"]
    assert sound.shape == (1, 1600)
    np.testing.assert_allclose(sound[0, 200:-200].numpy(), tone()[200:-200], atol=1e-2)


def test_long_recordings_are_cut_at_the_end_or_at_random(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.arange(4000, dtype=np.float32) / 4000, RATE, subtype="FLOAT")
    beginning = recordings(path, max_seconds=0.1)[0].inputs["audio"]
    np.testing.assert_allclose(beginning[0].numpy(), np.arange(800) / 4000, atol=1e-6)
    cut = recordings(path, max_seconds=0.1, random_start=True)
    parts = [cut[0].inputs["audio"][0] for _ in range(20)]
    assert len({float(part[0]) for part in parts}) > 5
    for part in parts:
        np.testing.assert_allclose(part.diff().numpy(), 1 / 4000, atol=1e-6)
    assert recordings(path, max_seconds=0.5, random_start=True)[0].inputs["audio"].shape == (1, 4000)
    with pytest.raises(ValueError, match=r"data\.max_seconds: expected a positive number or null, got 0"):
        recordings(path, max_seconds=0)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nothing\.wav"):
        read_recording(tmp_path / "nothing.wav")


@pytest.mark.parametrize("content", [b"", b"no sound at all, but text", b"RIFF"])
def test_files_without_sound(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path}: not a readable sound file: .*Replace the file"):
        read_recording(path)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize("cut", [2, 100, 3000])
def test_truncated_wav(cut: int, subtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), RATE, subtype=subtype)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with pytest.raises(
        ValueError, match=rf"{path}: is truncated: its header says {len(whole)} bytes, but there are {len(whole) - cut}"
    ):
        check_recording(path)


def test_truncated_flac(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(size=20000) * 0.1, RATE)
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(ValueError, match=rf"{path}: (is truncated|cannot be decoded)"):
        read_recording(path)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_wav_written_to_a_pipe_has_no_size_in_its_header(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + size.to_bytes(4, "little") + whole[8:])
    assert read_recording(path)[0].shape == (1, 1600)


def test_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(0, np.float32), RATE)
    with pytest.raises(ValueError, match=rf"{path}: has no samples"):
        check_recording(path)


def test_samples_that_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    samples = tone()
    samples[[3, 7]] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        soundfile.write(path, samples, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=rf"{path}: 2 of 1600 samples are NaN or infinite"):
        read_recording(path)


def test_loudness_is_the_root_mean_square_of_all_samples(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sounds = [generator.normal(size=(length, 2)) * [0.1, 0.2] for length in (50, 400, 9)]
    for index, sound in enumerate(sounds):
        soundfile.write(tmp_path / f"{index}.wav", sound, RATE, subtype="FLOAT")
    split = recordings(*[tmp_path / f"{index}.wav" for index in range(3)], audio_channels=2)
    spec = loudness(split)
    assert spec["mean"] == [0.0, 0.0]
    np.testing.assert_allclose(spec["std"], np.sqrt((np.concatenate(sounds) ** 2).mean(0)), rtol=1e-5)
    some = loudness(split, at_most=2)
    np.testing.assert_allclose(some["std"], np.sqrt((np.concatenate(sounds[::2]) ** 2).mean(0)), rtol=1e-5)


def test_silence_everywhere(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), RATE)
    with pytest.raises(ValueError, match="all training recordings are silent"):
        loudness(recordings(tmp_path / "a.wav"))


@pytest.mark.parametrize("name", ["sample_rate", "audio_channels"])
def test_the_spec_is_checked(name: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.{name}: expected 1 or more, got 0"):
        audio_spec(**{"sample_rate": 8000, "audio_channels": 1, name: 0})


@pytest.mark.parametrize("form", ["AIFF", "AU", "W64", "CAF", "RF64", "WAV", "FLAC", "OGG"])
def test_truncated_files_of_every_format(form: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 60_000), RATE, format=form)
    content = file.getvalue()
    assert read_recording(io.BytesIO(content))[0].shape == (1, 60_000)
    for share in (0.5, 0.99):
        with pytest.raises(ValueError, match=r"truncated|cannot be decoded|not a readable sound file"):
            read_recording(io.BytesIO(content[: int(share * len(content))]))


def test_tags_may_be_cut_behind_whole_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), RATE)
    content = path.read_bytes() + b"LIST\x20\0\0\0INFO"
    path.write_bytes(content[:4] + (len(content) + 20).to_bytes(4, "little") + content[8:])
    assert read_recording(path)[0].shape == (1, len(tone()))


def test_mp3_by_another_name_and_without_a_stated_length(tmp_path: Path) -> None:
    count = 200_000
    sound = 0.3 * np.sin(np.arange(count) / 20)
    sound[count // 2 :] += 0.2 * np.random.default_rng(0).normal(size=count // 2)
    file = io.BytesIO()
    soundfile.write(file, sound, 44100, format="MP3", bitrate_mode="VARIABLE")
    content = file.getvalue()
    (tmp_path / "a.wav").write_bytes(content)
    assert read_recording(tmp_path / "a.wav")[0].shape == (1, count)
    with pytest.raises(ValueError, match="is truncated"):
        read_recording(io.BytesIO(content[: len(content) // 2]))
    first = content.find(b"\xff\xfb")
    _, frames, stated = mp3_frames(content)
    assert stated
    bare = content[first + 417 :]  # without the frame that states the length
    assert mp3_frames(bare)[1:] == (frames - 1, False)
    assert soundfile.info(io.BytesIO(bare)).frames < count / 2  # an estimate
    assert abs(read_recording(io.BytesIO(bare))[0].shape[1] - count) < 3 * 1152
