"""Sound of MP4, WebM, Ogg FLAC and other containers: content, not suffix; windows, truncated files, and hostile content."""

import io
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from containers_written import write_container
from hostile_data import flac_bomb
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver.data.manifest.cells import check_cell, read_cell
from perceiver.data.manifest.content import FileContent
from perceiver.data.readers import audio
from perceiver.data.readers.audio import check_recording, read_recording
from perceiver.data.readers.containers import sound as container_sound
from perceiver.data.readers.containers.demuxers import demuxer_of, opened

RATE = 48000
TIMES = np.arange(RATE // 2) / RATE
SOUND = np.stack([0.4 * np.sin(2 * np.pi * 440 * TIMES), 0.2 * np.sin(2 * np.pi * 1000 * TIMES)]).astype(np.float32)
FORMATS = {
    "alac.m4a": ("alac", "ipod", 1e-4),
    "aac.m4a": ("aac", "ipod", None),
    "aac.mp4": ("aac", "mp4", None),
    "opus.webm": ("libopus", "webm", None),
    "flac.ogg": ("flac", "ogg", 1e-4),
    "flac.mka": ("flac", "matroska", 1e-4),
    "pcm.avi": ("pcm_s16le", "avi", 1e-4),
    "aac.aac": ("aac", "adts", None),
    "wv.wv": ("wavpack", "wv", 1e-2),  # 8 bits
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("containers")
    for name, (codec, form, _) in FORMATS.items():
        write_container(made / name, SOUND, rate=RATE, codec=codec, form=form)
    return made


@pytest.mark.parametrize("name", FORMATS)
def test_sound_is_read_to_its_end(name: str, folder: Path, tmp_path: Path) -> None:
    misnamed = tmp_path / "a.wav"
    misnamed.write_bytes((folder / name).read_bytes())
    samples, rate = read_recording(misnamed)
    assert rate == RATE
    assert samples.shape[0] == 2
    assert abs(samples.shape[1] - SOUND.shape[1]) <= 3 * 1024
    tolerance = FORMATS[name][2]
    if tolerance is not None:
        np.testing.assert_allclose(samples, SOUND, atol=tolerance)
    else:  # lossy, delayed by the encoder
        spectrum = np.abs(np.fft.rfft(samples[:, 4000:20000] * np.hanning(16000)))
        assert (spectrum.argmax(axis=1) * RATE / 16000).tolist() == pytest.approx([440, 1000], abs=4)
        power = np.square(samples[:, 8000:20000]).mean(axis=1)
        assert power.tolist() == pytest.approx([0.08, 0.02], rel=0.05)
    count, checked = check_recording(misnamed)
    assert checked == rate
    assert abs(count - samples.shape[1]) < RATE // 10


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_files_are_refused(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(ValueError, match=r"a\.x: "):
            read_recording(FileContent(content[: int(share * len(content))], name="a.x"))


def test_windows(folder: Path) -> None:
    """A window is a part of the whole, at random positions that reach its end."""
    path = folder / "flac.ogg"
    whole, _ = read_recording(path)
    starts = set()
    for seed in range(12):
        torch.manual_seed(seed)
        window, _ = read_recording(path, max_seconds=0.1, random_start=True)
        assert window.shape == (2, RATE // 10)
        offsets = np.lib.stride_tricks.sliding_window_view(whole[0], RATE // 10)
        (found,) = np.flatnonzero((offsets == window[0]).all(axis=1))[:1]
        starts.add(int(found))
    assert len(starts) > 6
    np.testing.assert_array_equal(read_recording(path, max_seconds=0.1)[0], whole[:, : RATE // 10])
    np.testing.assert_array_equal(read_recording(path, max_seconds=9)[0], whole)


def test_without_av(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (read_recording, check_recording):
        with pytest.raises(ImportError, match=r"aac\.m4a: sound files of this format need PyAV: pip install av"):
            call(folder / "aac.m4a")
    with pytest.raises(ValueError, match="not a readable sound file"):
        read_recording(FileContent(b"no sound at all", name="a.m4a"))


def test_cells(folder: Path) -> None:
    facts = {"kind": "audio", "shape": [1, None], "sample_rate": 8000, "max_seconds": 0.2}
    check_cell("aac.m4a", spec=facts, folder=folder)
    samples, rate = read_cell("aac.m4a", spec=facts, folder=folder)
    assert (samples.shape, rate) == ((2, 9600), RATE)


def test_videos_without_sound(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"a\.mp4: has no sound track"):
        read_recording(tmp_path / "a.mp4")


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{file}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {file}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlists_open_nothing(kind: str, folder: Path) -> None:
    """FFmpeg would read the file that they name."""
    content = PLAYLISTS[kind].format(file=folder / "aac.aac").encode()
    with pytest.raises(ValueError, match="not a readable sound file"):
        read_recording(FileContent(content, name="a.mp4"))
    with pytest.raises(ValueError, match="not that of a known container"), opened(io.BytesIO(content), purpose="videos"):
        pass
    assert demuxer_of(io.BytesIO(content)) is None


def test_bombs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_sound, "most_values", lambda size: 2**20)
    monkeypatch.setattr(audio, "most_values", lambda size: 2**20)
    for name in ("a.flac", "a.ogg"):
        path = flac_bomb(tmp_path / name, seconds=60)
        assert path.stat().st_size < 40_000
        with pytest.raises(ValueError, match=rf"{name}: expands to more than .* Set max_seconds, or cut it"):
            read_recording(path)
        assert read_recording(path, max_seconds=1)[0].shape == (2, RATE)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_damaged_files_give_a_clear_error_or_sound(folder: Path, data: st.DataObject) -> None:
    content = bytearray((folder / data.draw(st.sampled_from(sorted(FORMATS)))).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(content) - 1, 4000)))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    message, samples = "", None
    try:
        samples, _ = read_recording(FileContent(bytes(content), name="a.bin"))
    except ValueError as error:
        message = str(error)
    assert message.startswith("a.bin: ") if samples is None else samples.ndim == 2
