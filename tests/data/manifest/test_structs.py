"""Files and sound in structs, as `datasets` writes them to Parquet, and the same in JSON."""

import base64
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from manifest_cases import write_csv, write_json_lines
from PIL import Image

from perceiver.data import DataModule, Manifest
from perceiver.data.manifest import BadRowError, read_table
from perceiver.data.manifest.cells import cell_content, check_cell, read_cell
from perceiver.data.manifest.content import FileContent, unpacked
from perceiver.data.shards.records import Decode, encode

RATE = 8000
AUDIO = {"kind": "audio", "shape": [1, None], "sample_rate": RATE, "max_seconds": None, "integer_bits": 16}
IMAGE = {"kind": "image", "shape": [3, 4, 4], "crop_fraction": 1.0}
VIDEO = {"kind": "video", "shape": [3, 2, 4, 4], "crop_fraction": 1.0}


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, format="PNG")
    return file.getvalue()


def gif(*shades: int) -> bytes:
    file = io.BytesIO()
    first, *rest = (Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in shades)
    first.save(file, format="GIF", save_all=True, append_images=rest)
    return file.getvalue()


def wav(wave: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def tone(number: int) -> Any:
    return (0.5 * np.sin(np.arange(400 + number) / (5 + number))).astype(np.float32)


def rows() -> list[dict[str, Any]]:
    return [
        {
            "photo": {"bytes": png(20 * n), "path": None if n % 2 else f"../../{n}.png"},
            "clip": {"bytes": gif(10 * n, 20 * n), "path": f"{n}.gif"},
            "frames": [{"bytes": png(10 * n), "path": None}, {"bytes": png(20 * n), "path": None}],
            "file": {"bytes": wav(tone(n)), "path": "a.mp3"},
            "sound": {"array": tone(n), "sampling_rate": RATE, "path": None},
            "label": "ab"[n % 2],
        }
        for n in range(12)
    ]


MODALITIES: dict[str, Any] = {
    "photo": {"kind": "image", "size": [4, 4]},
    "clip": {"kind": "video", "size": [4, 4], "num_frames": 2},
    "frames": {"kind": "video", "size": [4, 4], "num_frames": 2},
    "file": "audio",
    "sound": "audio",
}


def as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_json(one) for one in value]
    if isinstance(value, bytes):
        return base64.encodebytes(value).decode()
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json", "csv"])
def test_structs_train_predict_and_go_into_shards(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{form}"
    if form == "parquet":
        columns = {name: [row[name] for row in rows()] for name in rows()[0]}
        pq.write_table(pa.table(columns), path)
    elif form == "csv":
        write_csv(path, [{k: json.dumps(as_json(v)) if k in MODALITIES else v for k, v in row.items()} for row in rows()])
    elif form == "jsonl":
        write_json_lines(path, as_json(rows()))
    else:
        path.write_text(json.dumps(as_json(rows())))
    modalities = {name: one for name, one in MODALITIES.items() if form != "csv" or name != "frames"}
    data = DataModule.of(Manifest, manifest=path, modalities=modalities, sample_rate=RATE, num_workers=0, needs_test=False)
    data.setup("fit")
    spec = data.spec["modalities"]
    samples = data.split("train")
    decode = Decode(modalities=list(modalities), specs=spec, target=data.spec["target"])
    for index in range(len(samples)):
        sample = samples[index]
        n = int(sample.id) - 1
        x: Any = {
            name: value * torch.tensor(spec[name]["std"]).reshape(-1, *[1] * (value.ndim - 1))
            for name, value in sample.inputs.items()
        }  # type: ignore[union-attr]
        for name in modalities:
            if spec[name]["kind"] != "audio":
                x[name] = x[name] + torch.tensor(spec[name]["mean"]).reshape(-1, *[1] * (x[name].ndim - 1))
        assert round(float(x["photo"][0, 0, 0]) * 255) == 20 * n
        for name in {"clip", "frames"} & set(modalities):
            assert [round(float(one) * 255) for one in x[name][0, :, 0, 0]] == [10 * n, 20 * n]
        np.testing.assert_allclose(x["file"][0], tone(n), atol=1e-6)
        np.testing.assert_allclose(x["sound"][0], tone(n), atol=1e-6)
        packed = decode(encode(samples, index, target=data.spec["target"]))
        assert all(torch.equal(packed.inputs[name], sample.inputs[name]) for name in modalities)  # type: ignore[arg-type]


def test_a_path_beside_bytes_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(png(200))
    (tmp_path / "data").mkdir()
    value = {"bytes": png(40), "path": "../secret"}
    check_cell(value, spec=IMAGE, folder=tmp_path / "data")
    assert read_cell(value, spec=IMAGE, folder=tmp_path / "data").getpixel((0, 0)) == (40, 0, 0)
    content = unpacked(value)
    assert isinstance(content, FileContent)
    assert str(content) == "secret", "the name without its folder"
    with pytest.raises(ValueError, match="secret"):
        read_cell({"bytes": b"none", "path": "../secret"}, spec=IMAGE, folder=tmp_path / "data")


def test_a_path_without_bytes_follows_the_rule_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "[1].png").write_bytes(png(60))
    for facts in (IMAGE, AUDIO, VIDEO):
        for path in ("$HOME/[1].png", "~/[1].png"):
            with pytest.raises(FileNotFoundError, match="no such file: "):
                read_cell({"bytes": None, "path": path}, spec=facts, folder=tmp_path)
        with pytest.raises(ValueError, match="expected file content or a value"):
            read_cell({"path": "[1].png"}, spec=facts, folder=None)  # as from a shard
    assert read_cell({"path": "[1].png"}, spec=IMAGE, folder=tmp_path).getpixel((0, 0)) == (60, 0, 0)
    assert cell_content({"bytes": None, "path": None}, spec=IMAGE) is None
    assert cell_content({"array": None, "sampling_rate": None}, spec=AUDIO) is None


def test_structs_of_texts_series_and_tables_are_values() -> None:
    series = {"time": [0, 1], "values": [1, 2]}
    assert cell_content(series, spec={"kind": "timeseries"}) == series
    for facts in ({"kind": "text", "files": False}, {"kind": "table"}):
        assert cell_content({"path": "x"}, spec=facts) == {"path": "x"}


def test_sound_of_structs_is_resampled_scaled_and_cut() -> None:
    whole = (tone(0) * 2**15).astype(np.int16)
    samples, rate = read_cell({"array": whole, "sampling_rate": 16000.0}, spec=AUDIO, folder=None)
    assert (rate, samples.dtype) == (16000, np.int16)
    short = {**AUDIO, "max_seconds": 0.01}
    samples, _ = read_cell({"array": tone(0).tolist(), "sampling_rate": RATE}, spec=short, folder=None)
    assert len(samples) == 80
    starts = {float(read_cell({"array": tone(0), "sampling_rate": RATE}, spec=short, folder=None, training=True)[0][0])
              for _ in range(5)}  # fmt: skip
    assert len(starts) > 1


@pytest.mark.parametrize(
    ("facts", "value", "message"),
    [
        (IMAGE, {"bytes": "%%%", "path": None}, "expected bytes as text in base 64"),
        (IMAGE, {"bytes": 3, "path": None}, "got bytes of type int"),
        (IMAGE, {"bytes": None, "path": 3}, "got a path of type int"),
        (IMAGE, {"bytes": b"", "path": None}, "content of a cell: not a valid image"),
        (IMAGE, '{"bytes": 1', "no such file: "),
        (IMAGE, '{"bytes": }', "expected a path, or JSON"),
        (IMAGE, {"array": [1], "sampling_rate": 8000}, "expected"),
        (AUDIO, {"array": [0.1], "sampling_rate": 0}, "sampling_rate: expected a whole number of hertz, got 0"),
        (AUDIO, {"array": [0.1], "sampling_rate": float("inf")}, "sampling_rate"),
        (AUDIO, {"array": [0.1], "sampling_rate": True}, "sampling_rate"),
        (AUDIO, {"array": "../secret.wav", "sampling_rate": 8000}, "which is a path"),
        (AUDIO, {"array": [], "sampling_rate": 8000}, "expected finite samples"),
        (AUDIO, {"bytes": b"none", "path": "x.wav"}, r"x\.wav: not a readable sound file"),
        (VIDEO, {"bytes": b"none", "path": None}, "not a decodable video|pip install av"),
        (VIDEO, [{"bytes": b"none"}], "not a valid image"),
    ],
)
def test_structs_that_are_invalid(facts: dict[str, Any], value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError, ImportError), match=message):
        read_cell(value, spec=facts, folder=tmp_path)
    with suppress(ValueError, OSError, ImportError):  # the head of a file may look intact
        check_cell(value, spec=facts, folder=tmp_path)


def test_an_invalid_struct_is_a_bad_row(tmp_path: Path) -> None:
    made = as_json(rows())
    made[3]["photo"] = {"bytes": "%%%"}
    path = write_json_lines(tmp_path / "m.jsonl", made)
    settings: dict[str, Any] = {"manifest": path, "modalities": {"photo": MODALITIES["photo"]}, "num_workers": 0}
    with pytest.raises(BadRowError, match=r"m\.jsonl, line 4, column 'photo': expected bytes as text in base 64"):
        DataModule.of(Manifest, **settings).setup("fit")
    data = DataModule.of(Manifest, on_bad_row="skip", **settings)
    data.setup("fit")
    assert len(data.source.skipped) == 1


def test_structs_of_parquet_are_arrays_where_they_hold_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [{"array": [[1, 2], [3, 4]], "n": 1}, None]}), tmp_path / "m.parquet")
    table = read_table(tmp_path / "m.parquet")
    assert table.cell(0, "x")["array"].tolist() == [[1, 2], [3, 4]]
    assert isinstance(table.cell(0, "x")["array"], np.ndarray)
    assert table.cell(1, "x") is None
