"""What cells hold or name: files and values of each kind, and what is wrong with them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from perceiver.data.manifest.cells import check_cell, read_cell
from perceiver.modalities.preprocess import preprocess

IMAGE = {"kind": "image", "shape": [3, 4, 5], "crop_fraction": 1.0}
AUDIO = {"kind": "audio", "shape": [1, None], "sample_rate": 8000, "max_seconds": None}
TEXT = {"kind": "text", "shape": [None], "vocabulary_size": 262, "files": False}
VIDEO = {"kind": "video", "shape": [3, 4, 6, 6], "crop_fraction": 1.0}
POINTS = {"kind": "points", "shape": [None, 3]}


def read(value: Any, spec: dict[str, Any], folder: Path = Path(), *, training: bool = False) -> Any:
    check_cell(value, spec=spec, folder=folder)
    return read_cell(value, spec=spec, folder=folder, training=training)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "LA"])
def test_images_of_every_mode_become_colours_of_one_size(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (10, 8), (200, 200, 200)).convert(mode)
    image.save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    x = preprocess(read("a.tif" if mode == "CMYK" else "a.png", IMAGE, tmp_path), spec=IMAGE, name="x")
    assert x.shape == (3, 4, 5)  # type: ignore[union-attr]
    assert abs(float(x.mean()) - (200 / 255 if mode != "1" else 1)) < (0.3 if mode == "1" else 0.02)  # type: ignore[union-attr]
    grey = {**IMAGE, "shape": [1, 4, 5]}
    assert preprocess(
        read_cell("a.tif" if mode == "CMYK" else "a.png", spec=grey, folder=tmp_path), spec=grey, name="x"
    ).shape == (1, 4, 5)  # type: ignore[union-attr]


def test_images_in_cells(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for value in (pixels.tolist(), pixels, (pixels / 255).tolist(), content, {"bytes": content, "path": None}):
        assert np.array_equal(np.asarray(read(value, IMAGE)), pixels)
    assert read([[0, 255]], IMAGE).size == (2, 1)
    for value, message in (
        ([[0, 256]], "from 0 to 255"),
        ([[0.5, -1]], "fractions"),
        ([1], "height"),
        (b"x", "not a valid"),
    ):
        with pytest.raises(ValueError, match=message):
            read_cell(value, spec=IMAGE, folder=tmp_path)


def test_sound_of_mixed_rates_and_channels(tmp_path: Path) -> None:
    seconds = np.arange(1600) / 16000
    wave = 0.5 * np.sin(2 * np.pi * 440 * seconds)
    soundfile.write(tmp_path / "stereo.wav", np.stack([wave, 0 * wave], axis=1), 16000)
    soundfile.write(tmp_path / "mono.flac", wave[::2], 8000)
    stereo = preprocess(read("stereo.wav", AUDIO, tmp_path), spec=AUDIO, name="x")
    mono = preprocess(read("mono.flac", AUDIO, tmp_path), spec=AUDIO, name="x")
    assert stereo.shape == mono.shape == (1, 800)  # type: ignore[union-attr]
    np.testing.assert_allclose(2 * stereo[0, 50:-50], mono[0, 50:-50], atol=0.01)  # type: ignore[index]
    inline = preprocess(read(wave[::2].tolist(), AUDIO), spec=AUDIO, name="x")
    np.testing.assert_allclose(inline[0], wave[::2], atol=1e-6)  # type: ignore[index]
    assert np.array_equal(read("[0, 0.5]", AUDIO), np.float32([0, 0.5]))


def test_long_sound_is_cut_at_random_in_training_only(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.linspace(-0.9, 0.9, 800), 8000)
    spec = {**AUDIO, "max_seconds": 0.01}
    starts = {float(read("a.wav", spec, tmp_path, training=True)[0][0, 0]) for _ in range(5)}
    assert len(starts) > 1
    samples, _ = read("a.wav", spec, tmp_path)
    assert samples.shape == (1, 80)
    assert samples[0, 0] == pytest.approx(-0.9, abs=1e-3)


def test_text(tmp_path: Path) -> None:
    assert read("Grüße", TEXT) == "Grüße"
    assert read(7, TEXT) == "7"
    assert read([6, 7], TEXT).tolist() == [6, 7]
    (tmp_path / "a.txt").write_text("\ufeffGrüße", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"Gr\xfc\xdfe")
    (tmp_path / "c.txt").write_text(" \n")
    files = {**TEXT, "files": True}
    assert read("a.txt", files, tmp_path) == "Grüße"
    with pytest.raises(ValueError, match=r"b\.txt: is not UTF-8: byte 2 is 0xfc"):
        read("b.txt", files, tmp_path)
    with pytest.raises(ValueError, match=r"c\.txt: is empty"):
        read("c.txt", files, tmp_path)


@pytest.mark.parametrize("form", ["folder", "npy", "gif"])
def test_videos(form: str, tmp_path: Path) -> None:
    frames = np.repeat(np.arange(0, 240, 30, dtype=np.uint8)[:, None, None, None], 8 * 10 * 3, axis=1).reshape(8, 8, 10, 3)
    if form == "folder":
        (tmp_path / "v").mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(tmp_path / "v" / f"{number:03}.png")
    elif form == "npy":
        np.save(tmp_path / "v", frames)
    else:
        first, *rest = (Image.fromarray(frame) for frame in frames)
        first.save(tmp_path / "v.gif", save_all=True, append_images=rest)
    name = "v" if form == "folder" else f"v.{form}"
    x = preprocess(read(name, VIDEO, tmp_path), spec=VIDEO, name="x")
    assert x.shape == (3, 4, 6, 6)  # type: ignore[union-attr]
    np.testing.assert_allclose(x[0, :, 0, 0] * 255, [0, 60, 150, 210], atol=3)  # type: ignore[index, operator]
    assert len(read_cell(name, spec={**VIDEO, "shape": [3, None, 6, 6]}, folder=tmp_path)) == 8
    assert len(read_cell(name, spec={**VIDEO, "shape": [3, 20, 6, 6]}, folder=tmp_path)) == 20


def test_points_and_other_numbers(tmp_path: Path) -> None:
    points = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "a.npy", points)
    (tmp_path / "b.csv").write_text("x,y,z\n0,1,2\n3,4,5\n")
    (tmp_path / "c.xyz").write_text("# made by hand\n0 1 2\n3 4 5\n")
    for value in ("a.npy", "b.csv", "c.xyz", points.tolist(), "[[0, 1, 2], [3, 4, 5]]", points):
        assert np.array_equal(read(value, POINTS, tmp_path), points)
    assert read([1, 2], {"kind": "thermometer", "shape": [None]}).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("value", "spec", "message"),
    [
        ("none.png", IMAGE, r"no such file: .*none\.png"),
        ("none.wav", AUDIO, r"no such file"),
        ("none", VIDEO, r"no such file"),
        ("bad.png", IMAGE, r"bad\.png: not a readable image"),
        ("bad.wav", AUDIO, r"bad\.wav: not a readable sound file"),
        ("bad.npy", VIDEO, r"bad\.npy: not a readable array"),
        ("empty", VIDEO, r"expected a video's frames"),
        (3, VIDEO, "expected the path of a video, got 3"),
        ("bad.txt", POINTS, r"bad\.txt: expected numbers in rows of equal length"),
        ("bad.npy", POINTS, r"bad\.npy: expected numbers in rows"),
        ([[1, 2], [3]], POINTS, "expected numbers in lists of equal length"),
        ([1, 2], POINTS, r"expected a list of points, .* of shape \(2,\)"),
        ("[1, ", POINTS, r"expected a path, or JSON, got '\[1, '"),
        ([[1, float("nan"), 2]], POINTS, "expected one or more finite numbers"),
        (["a"], AUDIO, "expected numbers"),
        ([], AUDIO, "expected finite samples"),
    ],
)
def test_errors(value: Any, spec: dict[str, Any], message: str, tmp_path: Path) -> None:
    for name in ("bad.png", "bad.wav", "bad.npy"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_text("1 2\n3\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(value, spec, tmp_path)


def test_the_head_of_a_file_is_read_only(tmp_path: Path) -> None:
    Image.new("RGB", (90, 90)).save(tmp_path / "a.bmp")
    path = tmp_path / "a.bmp"
    path.write_bytes(path.read_bytes()[:500])
    check_cell("a.bmp", spec=IMAGE, folder=tmp_path)
    with pytest.raises(ValueError, match=r"a\.bmp: not a valid image"):
        read_cell("a.bmp", spec=IMAGE, folder=tmp_path)


def test_video_files_need_av(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match="not a decodable video"):
        read_cell("a.mp4", spec=VIDEO, folder=tmp_path)
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (check_cell, read_cell):
        with pytest.raises(ImportError, match="pip install av"):
            call("a.mp4", spec=VIDEO, folder=tmp_path)
