"""Files that claim or expand to far more than they hold: each is a bad row, named, and skipped where that is asked for."""

import base64
import gzip
import json
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hostile_data
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from manifest_cases import write_csv, write_json_lines
from PIL import Image

from perceiver.data import DataModule, Manifest
from perceiver.data.manifest import BadRowError, read_table, video
from perceiver.data.manifest.video import read_video
from perceiver.data.readers.audio import read_recording
from perceiver.data.readers.bounded.json_files import parse_json
from perceiver.data.readers.images import ImageFileError, read_image
from perceiver.modalities.preprocess import preprocess
from perceiver.targets.predict import prepare


def good_cells(kind: str, folder: Path, count: int) -> list[str]:
    cells = []
    for number in range(count):
        if kind == "audio":
            hostile_data.odd_wav(folder / f"{number}.wav", rate=8000, count=800)
            cells.append(f"{number}.wav")
        elif kind == "image":
            Image.new("RGB", (4, 4), (20 * number, 9, 9)).save(folder / f"{number}.png")
            cells.append(f"{number}.png")
        else:
            cells.append(f"[[{number}, 1, 2], [3, 4, 5]]")
    return cells


def cell_of(case: str, folder: Path) -> str:
    if case == "deep JSON":
        return hostile_data.deep_json()
    if case.endswith(" in a struct"):
        name = cell_of(case.removesuffix(" in a struct"), folder)
        return json.dumps({"bytes": base64.b64encode((folder / name).read_bytes()).decode(), "path": "../../secret"})
    if case == "struct without bytes":
        return json.dumps({"bytes": None, "path": "../../$HOME/secret"})
    path = {
        "claiming array": lambda: hostile_data.claiming_npy(folder / "bad.npy"),
        "pickled array": lambda: hostile_data.pickled_npy(folder / "bad.npy", folder / "marker"),
        "claiming recording": lambda: hostile_data.claiming_flac(folder / "bad.flac"),
        "rate of 1 Hz": lambda: hostile_data.odd_wav(folder / "bad.wav", rate=1),
        "lying PLY": lambda: hostile_data.claiming_ply(folder / "bad.ply"),
        "PCD bomb": lambda: hostile_data.pcd_bomb(folder / "bad.pcd"),
        "truncated m4a": lambda: hostile_data.truncated_m4a(folder / "bad.m4a"),
        "list of files": lambda: hostile_data.playlist(folder / "bad.m4a", secret=folder / "0.wav"),
        "huge image": lambda: hostile_data.huge_png(folder / "bad.png"),
    }[case]()
    return path.name


@pytest.mark.parametrize(
    ("case", "kind", "message"),
    [
        ("claiming array", "points", r"bad\.npy: .*its header claims float64 \(100000000000, 3\)"),
        ("pickled array", "points", r"bad\.npy: .*it contains Python objects, not numbers"),
        ("deep JSON", "points", r"nested more than \d+ deep"),
        ("claiming recording", "audio", r"bad\.flac: (cannot be decoded|is truncated)"),
        ("rate of 1 Hz", "audio", r"expected a sample rate of 8 to 8192000 Hz for resampling to 8000 Hz, got 1 Hz"),
        ("claiming array in a struct", "points", r"its header claims float64 \(100000000000, 3\)"),
        ("pickled array in a struct", "points", r"it contains Python objects, not numbers"),
        ("claiming recording in a struct", "audio", r"secret: (cannot be decoded|is truncated)"),
        ("huge image in a struct", "image", r"secret: .*DecompressionBombError|secret: is too large to be decoded safely"),
        ("struct without bytes", "image", r"no such file: \S*/\$HOME/secret"),
        ("lying PLY", "points", r"bad\.ply: is truncated: its header claims 360,000,000 bytes or more, but only 12 follow"),
        ("PCD bomb", "points", r"bad\.pcd: is truncated: its header claims 30,000,000 points"),
        ("truncated m4a", "audio", r"bad\.m4a: cannot be decoded: it is truncated"),
        ("list of files", "audio", r"bad\.m4a: not a readable sound file"),
        ("huge image", "image", r"bad\.png: .*DecompressionBombError|bad\.png: is too large to be decoded safely"),
    ],
)
def test_a_hostile_file_is_a_bad_row(case: str, kind: str, message: str, tmp_path: Path) -> None:
    cells = [*good_cells(kind, tmp_path, 11), cell_of(case, tmp_path)]
    rows = [{"x": cell, "label": "ab"[number % 2]} for number, cell in enumerate(cells)]
    settings: dict[str, Any] = {
        "manifest": write_csv(tmp_path / "m.csv", rows), "modalities": {"x": kind}, "num_workers": 0,
        "image_size": (4, 4), "sample_rate": 8000, "max_seconds": None, "test_fraction": 0.1,
    }  # fmt: skip
    data = DataModule.of(Manifest, on_bad_row="skip", **settings)
    data.setup()
    (skipped,) = data.source.skipped
    assert re.search(rf"m\.csv, line 13, column 'x': .*({message})", skipped), skipped
    assert not (tmp_path / "marker").exists()
    with pytest.raises(BadRowError, match=message):
        read_all(DataModule.of(Manifest, **settings))


def read_all(data: DataModule) -> None:
    data.setup()
    for batches in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        list(batches)


def test_deep_json_in_lines_and_labels(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "m.jsonl", [{"x": number, "label": "a"} for number in range(3)])
    path.write_text(path.read_text() + f'{{"x": {hostile_data.deep_json()}}}\n{{"x": {hostile_data.deep_json(100)}}}\n')
    assert list(read_table(path).problems) == [3, 4]
    assert all("nested more than 64 deep" in problem for problem in read_table(path).problems.values())
    rows = [{"note": f"t{n}", "tags": "a;b" if n else hostile_data.deep_json()} for n in range(12)]
    data = DataModule.of(
        Manifest,
        manifest=write_csv(tmp_path / "m.csv", rows), modalities={"note": "text"}, target="tags", target_kind="labels",
        on_bad_row="skip", num_workers=0,
    )  # fmt: skip
    data.setup("fit")
    assert ["nested more than 64 deep" in message for message in data.source.skipped] == [True]


def test_depth_of_json() -> None:
    assert parse_json("[[1, {}]]", max_depth=2) == [[1, {}]]
    assert parse_json(b'{"a": [1]}', max_depth=2) == {"a": [1]}
    for text in ("[[[1]]]", '{"a": {"b": [0]}}'):
        with pytest.raises(ValueError, match="nested more than 2 deep"):
            parse_json(text, max_depth=2)


def sound(rate: int, wanted: int) -> torch.Tensor:
    """Two seconds of a tone, at most 4000 samples."""
    count = min(2 * rate, 4000)
    wave = np.sin(2 * np.pi * rate / 40 * np.arange(count) / rate).astype(np.float32)
    x = preprocess((wave, rate), spec={"kind": "audio", "shape": [1, None], "sample_rate": wanted}, name="x")
    assert isinstance(x, torch.Tensor)
    return x


@pytest.mark.parametrize("rate", [8001, 96001, 999_983, 16_001])
def test_odd_sample_rates_take_a_small_filter(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., torch.Tensor] = torchaudio.functional.resample
    seen: list[Fraction] = []

    def spy(x: torch.Tensor, orig: int, new: int, **settings: Any) -> torch.Tensor:
        ratio = Fraction(new, orig)
        assert ratio.numerator * ratio.denominator <= 2**22, "the filter would take gigabytes"
        seen.append(ratio)
        return original(x, orig, new, **settings)

    monkeypatch.setattr(torchaudio.functional, "resample", spy)
    got = sound(rate, 16_000)
    assert got.shape[1] == pytest.approx(4000 * 16_000 / rate, rel=1e-3, abs=1.5)
    for ratio in seen:
        assert float(ratio) == pytest.approx(16_000 / rate, rel=1e-3)
    if rate < 16_000:
        # The tone of 8001 / 40 Hz is still there.
        spectrum = torch.fft.rfft(got[0]).abs()
        assert int(spectrum.argmax()) * 16_000 / got.shape[1] == pytest.approx(rate / 40, abs=2)


@pytest.mark.parametrize("rates", [(44_100, 16_000), (22_050, 16_000), (11_025, 32_000), (8_000, 48_000), (96_000, 250)])
def test_usual_sample_rates_are_resampled_as_before(rates: tuple[int, int]) -> None:
    rate, wanted = rates
    count = min(2 * rate, 4000)
    wave = np.sin(2 * np.pi * rate / 40 * np.arange(count) / rate).astype(np.float32)
    assert torch.equal(sound(rate, wanted), torchaudio.functional.resample(torch.from_numpy(wave)[None], rate, wanted))


def test_rates_that_are_out_of_reach() -> None:
    for rate in (0, 15, 16_000 * 1025):
        with pytest.raises(ValueError, match=rf"x: expected a sample rate of 16 to 16384000 Hz .*, got {rate} Hz"):
            preprocess(
                (np.zeros(40, np.float32), rate),
                spec={"kind": "audio", "shape": [1, None], "sample_rate": 16_000},
                name="x",
            )


def test_long_recordings_are_read_in_blocks(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (2**20 + 77, 2)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", samples, 8000, subtype="FLOAT")
    got, rate = read_recording(tmp_path / "x.wav")
    assert rate == 8000
    assert np.array_equal(got, samples.T)


@pytest.mark.parametrize("case", ["claiming array", "pickled array", "claiming recording", "rate of 1 Hz", "huge image"])
def test_a_hostile_file_in_a_prediction(case: str, tmp_path: Path) -> None:
    path = tmp_path / cell_of(case, tmp_path)
    modality: dict[str, Any] = {
        ".npy": {"kind": "points", "shape": [None, 3]}, ".png": {"kind": "image", "shape": [3, 4, 4]},
    }.get(path.suffix, {"kind": "audio", "shape": [1, None], "sample_rate": 8000})  # fmt: skip
    for value in (path, str(path), path.read_bytes()):
        with pytest.raises(ValueError, match="sample 0, modality 'x': "):
            prepare(value, {"x": modality}, number=0)
    assert not (tmp_path / "marker").exists()


def test_a_bomb_among_compressed_tables(tmp_path: Path) -> None:
    path = tmp_path / "m.csv.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(80):
            file.write(bytes(2**20))
    assert path.stat().st_size < 2**17
    with pytest.raises(ValueError, match=r"m\.csv\.gz: expands from \S+ to more than 67,108,864 bytes"):
        DataModule.of(Manifest, manifest=path, modalities={"x": "text"}).prepare_data()


def test_images_that_are_too_large(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"x\.png: too large to decode safely: Image size \(3600000000 pixels\)"):
        read_image(hostile_data.huge_png(tmp_path / "x.png"))


def test_parquet_row_groups_that_are_too_large(tmp_path: Path) -> None:
    """One text, written once for all rows: the file has little, the table two hundred times as much."""
    path = hostile_data.repeating_parquet(tmp_path / "m.parquet", value_bytes=2**17)
    assert path.stat().st_size < 2**18
    table = read_table(path, max_row_group_bytes=2**23)
    assert len(table.problems) == len(table) == 200
    assert table.cell(0, "note") is None
    assert table.where(0) + table.problems[0] == (
        f"{path}, row 1: is in row group 0 of more than 8,388,608 bytes, expected at most 8,388,608; write smaller row "
        "groups, or raise data.max_row_group_bytes"
    )
    table = read_table(path, max_row_group_bytes=2**10)
    assert ": is in row group 0 of 13" in table.problems[199]
    data = DataModule.of(Manifest, manifest=path, modalities={"note": "text"}, max_row_group_bytes=2**22, num_workers=0)
    with pytest.raises(BadRowError, match=r"row 1: is in row group 0"):
        data.setup("fit")
    with pytest.raises(ValueError, match=r"data\.max_row_group_bytes: expected 1 or more, got 0"):
        DataModule.of(Manifest, manifest=path, max_row_group_bytes=0)


def test_other_row_groups_are_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([pa.field("note", pa.string()), pa.field("n", pa.int64(), nullable=False)])
    with pq.ParquetWriter(tmp_path / "m.parquet", schema) as writer:
        for text in ("a", "b" * 2**20, "c"):
            writer.write_table(pa.table({"note": [text] * 3, "n": [1, 2, 3]}, schema=schema))
    table = read_table(tmp_path / "m.parquet", max_row_group_bytes=2**20)
    assert list(table.problems) == [3, 4, 5]
    assert [table.cell(row, "note") for row in (0, 2, 3, 6, 8)] == ["a", "a", None, "c", "c"]
    assert [table.cell(row, "n") for row in range(9)] == [1, 2, 3, None, None, None, 1, 2, 3]
    assert not read_table(tmp_path / "m.parquet").problems


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.array([b"good", b"\xff\xfe", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"note": text, "label": ["a", "b", "a"]}), tmp_path / "m.parquet")
    table = read_table(tmp_path / "m.parquet")
    problems = table.problems
    assert list(problems) == [1]
    assert [table.cell(row, "note") for row in range(3)] == ["good", None, "fine"]
    assert problems[1].startswith(", column 'note': cannot be decoded: 'utf-8' codec can't decode byte 0xff")


def test_only_the_chosen_frames_of_an_animation_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile_data.long_animation(tmp_path / "x.gif")
    every = read_video(path, num_frames=None)
    convert, calls = Image.Image.convert, []

    def counting(image: Image.Image, *arguments: Any, **settings: Any) -> Image.Image:
        calls.append(image)
        return convert(image, *arguments, **settings)

    monkeypatch.setattr(Image.Image, "convert", counting)
    chosen = read_video(path, num_frames=4)
    assert len(calls) == 4
    assert len(every) == 40
    for number, frame in zip((0, 13, 26, 39), chosen, strict=True):
        assert np.array_equal(np.asarray(frame), np.asarray(every[number]))
    assert len(read_video(path, num_frames=50)) == 50


class Frame:
    """A frame as PyAV decodes it."""

    def __init__(self, number: int, turned: list[int]) -> None:
        self.number = number
        self.turned = turned

    def to_image(self) -> Image.Image:
        self.turned.append(self.number)
        return Image.new("RGB", (2, 2), (self.number, 0, 0))


class Container:
    """A video of 200 frames as PyAV opens it, which says that it has `packets`; `turned` are those turned into images."""

    def __init__(self, packets: int, turned: list[int]) -> None:
        self.packets = packets
        self.turned = turned

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def demux(self, *, video: int) -> Iterator[Any]:
        yield from (SimpleNamespace(size=5) for _ in range(self.packets))
        yield SimpleNamespace(size=0)

    def decode(self, *, video: int) -> Iterator[Frame]:
        yield from (Frame(number, self.turned) for number in range(200))


@pytest.mark.parametrize("packets", [200, 203, 150, 0])
def test_only_the_chosen_frames_of_a_video_are_kept(packets: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned: list[int] = []
    monkeypatch.setattr(video, "opened", lambda path, **settings: Container(packets, turned))
    frames = read_video(tmp_path / "x.mp4", num_frames=4)
    assert [frame.getpixel((0, 0))[0] for frame in frames] == [0, 66, 133, 199]  # type: ignore[index]
    assert len(turned) <= 8
    assert len(read_video(tmp_path / "x.mp4", num_frames=None)) == 200


def test_a_video_whose_table_claims_a_billion_entries(tmp_path: Path) -> None:
    """FFmpeg refuses to allocate it, with a MemoryError that would read as if this machine had too little memory."""
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        frames = [av.VideoFrame.from_ndarray(np.full((16, 16, 3), 40 * number, np.uint8)) for number in range(3)]
        for frame in [*frames, None]:
            for packet in stream.encode(frame):
                container.mux(packet)
    content = bytearray(path.read_bytes())
    place = content.index(b"stts") + 8
    content[place : place + 4] = (0x3FFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mp4: not a decodable video .*a table in it claims more entries"):
        read_video(path, num_frames=1)
