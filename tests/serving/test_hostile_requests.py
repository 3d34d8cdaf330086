"""Hostile files and values through `POST /predict`: nothing is run, no file is opened, time and memory are bounded."""

import base64
import io
import json
import os
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_data
import numpy as np
import pytest

pytest.importorskip("litserve")

import exported_models
from hostile_files import REFERENCES, SECRET, SECRET_NAME
from PIL import Image
from served import Door
from torch import Tensor

from perceiver.data.readers.images import read_image
from perceiver.exported.preprocess import preprocess
from perceiver.modalities import preprocess as training
from perceiver.modalities.media.framing import image_formats
from perceiver.serving.decoding import decode, load_readers
from perceiver.serving.limits import Limits, RefusedError
from perceiver.serving.models import TorchModel
from perceiver.serving.request import Body, Field, File

MAX_SECONDS, MAX_BYTES = 5, 10**9


def written(name: str, write: Callable[[Path], object]) -> Callable[[Path], bytes]:
    """The content of a file that `write` writes."""

    def content(folder: Path) -> bytes:
        write(folder / name)
        return (folder / name).read_bytes()

    return content


def postscript(folder: Path) -> bytes:
    """A program that Pillow would have Ghostscript run."""
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({folder / 'RAN'}) (w) file closefile showpage\n%%EOF\n"
    return program.encode()


def list_of_files(folder: Path) -> bytes:
    """A playlist of FFmpeg's that names a good recording."""
    secret = hostile_data.odd_wav(folder / "secret.wav", rate=8000)
    return hostile_data.playlist(folder / "bad.m4a", secret=secret).read_bytes()


FILES: dict[str, tuple[tuple[str, ...], Callable[[Path], bytes]]] = {
    "pickle": (("patches", "mel", "points", "series", "row", "text"), lambda to: hostile_data.touching_pickle(to / "RAN")),
    "pickled npy": (("points", "series"), lambda to: hostile_data.pickled_npy(to / "x.npy", to / "RAN").read_bytes()),
    "claiming npy": (("points", "series"), written("x.npy", hostile_data.claiming_npy)),
    "claiming flac": (("mel",), written("x.flac", hostile_data.claiming_flac)),
    "flac bomb": (("mel", "long"), written("x.flac", lambda path: hostile_data.flac_bomb(path, seconds=60))),
    "truncated m4a": (("mel",), written("x.m4a", hostile_data.truncated_m4a)),
    "odd rate": (("mel",), written("x.wav", lambda path: hostile_data.odd_wav(path, rate=2**31 - 1))),
    "playlist": (("mel", "long", "video"), list_of_files),
    "huge png": (("patches", "video"), written("x.png", hostile_data.huge_png)),
    "postscript": (("patches", "video"), postscript),
    "claiming ply": (("points",), written("x.ply", hostile_data.claiming_ply)),
    "pcd bomb": (("points",), written("x.pcd", hostile_data.pcd_bomb)),
    "deep json": (("row", "series", "points"), lambda folder: hostile_data.deep_json().encode()),
}  # fmt: skip
CASES = [(name, modality) for name, (modalities, _) in FILES.items() for modality in modalities]


@pytest.fixture(scope="module")
def door() -> Door:
    model = exported_models.classifier("patches", "mel", "row", "text", "points", "series", "video", "wave")
    assert model.spec is not None
    modalities = model.spec["modalities"]
    model.spec["modalities"] = {**modalities, "long": {**modalities["mel"], "max_seconds": None}}
    load_readers(modalities)
    made = Door(TorchModel(model, name="model", threads=None), limits=Limits(sound_seconds=10, request_seconds=MAX_SECONDS))
    assert made.post(json={"text": "a"}).status_code == 200  # which may compile the kernel of attention
    return made


@pytest.fixture(autouse=True)
def in_a_strangers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SECRET_NAME, SECRET)
    (tmp_path / "secret.txt").write_text(SECRET)

    def refused(*arguments: Any, **settings: Any) -> None:
        raise AssertionError(f"a request starts a program: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refused)
    monkeypatch.setattr(subprocess, "check_call", refused)
    monkeypatch.setattr(os, "system", refused)


@pytest.mark.parametrize("as_json", [False, True], ids=["form", "json"])
@pytest.mark.parametrize(("name", "modality"), CASES, ids=[" ".join(case) for case in CASES])
def test_a_hostile_file(name: str, modality: str, as_json: bool, door: Door, tmp_path: Path) -> None:
    content = FILES[name][1](tmp_path)
    text = base64.b64encode(content).decode()
    request = {"json": {modality: {"bytes": text}}} if as_json else {"files": {modality: ("../secret.txt", content)}}
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = door.post(**request)
    assert time.process_time() - begun < MAX_SECONDS
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MAX_BYTES
    assert not (tmp_path / "RAN").exists()
    cut = modality == "mel" and "flac" in name  # the model takes the beginning of a recording only
    assert answer.status_code in ((200,) if cut else (400, 413)), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"].startswith(f"modality {modality!r}"), answer.text
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("modality", ["patches", "mel", "points", "series", "video", "wave", "row", "text"])
@pytest.mark.parametrize("value", ["secret.txt", *REFERENCES[:3], {"path": "secret.txt"}, {"bytes": None, "path": "x"}])
def test_no_value_is_a_path_or_a_reference(value: Any, modality: str, door: Door) -> None:
    for given in (value, [value], {"values": [value], "times": [0.0]}, {"array": [value], "sampling_rate": 8000}):
        answer = door.post(json={modality: given})
        assert answer.status_code == (200 if modality == "text" and isinstance(given, str) else 400)
        assert SECRET not in answer.text


def test_no_reader_takes_postscript(tmp_path: Path) -> None:
    """Pillow has Ghostscript run it, where that is installed."""
    assert "EPS" not in image_formats()
    assert {"PNG", "JPEG", "GIF", "TIFF", "WEBP"} <= set(image_formats())
    (tmp_path / "x.png").write_bytes(postscript(tmp_path))
    model = exported_models.classifier("patches")
    for read in (lambda: read_image(tmp_path / "x.png"), lambda: model.predict({"patches": tmp_path / "x.png"})):
        with pytest.raises(ValueError, match="cannot identify image file"):
            read()
    with pytest.raises(ValueError, match="cannot identify image file"):
        preprocess(postscript(tmp_path), exported_models.MODALITIES["patches"], "x")


def test_frames_of_a_video_are_counted_before_they_are_decoded(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("RGB", (64, 64), (number, 0, 0)) for number in range(40)]
    file = io.BytesIO()
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:])
    small = Door(door.api.model, limits=Limits(pixels=64 * 64 * 39))  # type: ignore[arg-type]
    monkeypatch.setattr(Image.Image, "convert", lambda *arguments: pytest.fail("a frame was decoded"))
    answer = small.post(files={"video": ("x", file.getvalue())})
    assert answer.status_code == 413
    assert "in all frames together, got 163,840" in answer.json()["error"]


def test_sound_is_limited_unless_the_model_cuts_it(door: Door, tmp_path: Path) -> None:
    content = hostile_data.flac_bomb(tmp_path / "x.flac", seconds=11).read_bytes()
    answer = door.post(files={"long": ("x", content)})
    assert (answer.status_code, "at most 10 seconds of sound" in answer.text) == (413, True)
    answer = door.post(json={"long": {"array": [0.0] * 1100, "sampling_rate": 100}})
    assert answer.status_code == 413


def test_a_request_is_counted_while_it_comes(door: Door) -> None:
    small = Door(door.api.model, limits=Limits(request_bytes=1000))  # type: ignore[arg-type]

    async def chunks() -> Any:
        for _ in range(100):
            yield b"x" * 100

    assert small.post(content=b"x" * 1001, headers={"content-type": "application/json"}).status_code == 413
    assert small.post(content=chunks(), headers={"content-type": "application/json"}).status_code == 413
    form = {"content-type": "multipart/form-data; boundary=b"}
    assert small.post(content=chunks(), headers=form).status_code in (400, 413)
    assert small.post(json={"text": "a cat"}).status_code == 200


@pytest.mark.parametrize("modality", ["points", "mel", "series", "patches"])
def test_a_long_text_among_numbers_is_not_copied_for_each_of_them(modality: str, door: Door) -> None:
    """NumPy pads texts to the longest: 100,000 entries of 4 MB."""
    many: list[Any] = [*["x"] * 100_000, "y" * 10**6]
    for value in (many, [[1, 2], many]):
        begun = time.process_time()
        answer = door.post(json={modality: value})
        assert (answer.status_code, "got texts in lists" in answer.text) == (400, True), answer.text
        assert time.process_time() - begun < MAX_SECONDS


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_only_the_kept_beginning_of_a_sound_is_resampled(library: str) -> None:
    """At 8 Hz, two million samples would become eight gigabytes at 8 kHz."""
    spec = {"kind": "audio", "shape": [1, None], "sample_rate": 8000, "max_seconds": 0.5}

    def prepared(sound: Any, spec: dict[str, Any]) -> Any:
        return training.preprocess(sound, spec=spec, name="x") if library == "torch" else preprocess(sound, spec, "x")[None]

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert prepared((np.zeros(2_000_000, dtype=np.float32), 8), spec).shape == (1, 4000)
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MAX_BYTES
    with pytest.raises(ValueError, match="expected shape"):  # channels are checked before, too
        prepared((np.zeros((900, 1000), dtype=np.float32), 8), {**spec, "shape": [2, None], "max_seconds": None})


@pytest.mark.parametrize("rate", [8, 11, 8001, 44100, 999_983])
@pytest.mark.parametrize("seconds", [0.0001, 0.05])
def test_what_is_cut_before_resampling_changes_nothing(rate: int, seconds: float) -> None:
    spec = {"kind": "audio", "shape": [1, None], "sample_rate": 8000, "max_seconds": None}
    for extra in range(2):
        sound = np.random.default_rng(extra).normal(size=round(3 * seconds * rate) + 20 + extra).astype(np.float32) / 5
        whole = training.preprocess((sound, rate), spec=spec, name="x")
        assert isinstance(whole, Tensor)
        kept = whole[:, : max(1, round(seconds * 8000))].numpy()
        cut = {**spec, "max_seconds": seconds}
        np.testing.assert_allclose(training.preprocess((sound, rate), spec=cut, name="x"), kept, rtol=0, atol=1e-5)
        np.testing.assert_allclose(preprocess((sound, rate), cut, "x")[None], kept, rtol=0, atol=2e-5)


def test_texts_are_limited_unless_the_model_cuts_them() -> None:
    limits = Limits(text_bytes=8, request_bytes=100)
    free = {"kind": "text", "shape": [None], "vocabulary_size": 262, "max_length": None}
    for parts in (
        Body(json.dumps({"x": "é" * 5}).encode()),
        Body(json.dumps({"x": [1] * 9}).encode()),
        {"x": File(b"a" * 9)},
        {"x": Field("a" * 9)},
    ):
        for spec in (free, {**free, "max_length": 9}):
            with pytest.raises(RefusedError, match=r"at most 8 bytes or ids, got (9|10)\. .* --max-text-bytes") as caught:
                decode(parts, {"x": spec}, limits)
            assert caught.value.status == 413
        assert len(decode(parts, {"x": {**free, "max_length": 8}}, limits)["x"]) in (5, 9)
    assert decode({"x": Field("é" * 4)}, {"x": free}, limits) == {"x": "é" * 4}
    with pytest.raises(RefusedError, match="at most 100 bytes, got 101") as caught:
        decode({"x": Field("9" * 101)}, {"x": {"kind": "table"}}, limits)
    assert caught.value.status == 413
