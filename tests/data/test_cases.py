"""Small files in the forms that real tools write, each with its right value; see the README beside them."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image

from perceiver.data import DataModule, SegmentationFolder
from perceiver.data.folders.images import ImageFolder
from perceiver.data.manifest import Manifest
from perceiver.data.manifest.cells import array_of, read_cell
from perceiver.data.manifest.rows import BadRowError
from perceiver.data.manifest.video import read_video
from perceiver.data.readers.audio import check_recording, read_recording
from perceiver.data.readers.images import ImageFileError
from perceiver.modalities.preprocess import preprocess


@pytest.fixture(scope="module")
def cases(repository: Path) -> Path:
    folder = repository.parent / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip(f"no files at {folder}")
    return folder


def manifest(path: Path, modalities: dict[str, Any] | None, **settings: Any) -> DataModule:
    made = DataModule.of(Manifest, manifest=path, modalities=modalities, num_workers=0, **{"needs_test": False, **settings})
    made.prepare_data()
    return made


def trained(path: Path, modalities: dict[str, Any], **settings: Any) -> DataModule:
    made = manifest(path, modalities, **settings)
    made.setup("fit")
    return made


def inputs(made: DataModule) -> list[dict[str, Any]]:
    made.setup("predict")
    rows = made.predict_dataloader().dataset
    return [rows[index].inputs for index in range(len(rows))]  # type: ignore[arg-type]


def table(*columns: str, **settings: Any) -> dict[str, Any]:
    return {"x": {"kind": "table", "columns": list(columns), **settings}}


def test_a_damaged_image_is_refused_everywhere(cases: Path, tmp_path: Path) -> None:
    damaged = cases / "damaged.png"
    good = Image.new("RGB", (8, 8), "red")
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(4):
                good.save(tmp_path / split / name / f"{number}.png")
    (tmp_path / "train" / "a" / "0.png").write_bytes(damaged.read_bytes())
    folder = DataModule.of(ImageFolder, root=tmp_path, size=(8, 8), num_workers=0)
    with pytest.raises(ImageFileError, match=r"0\.png: not a valid image"):
        folder.setup("fit")

    rows = [f"{damaged},a", *(f"train/{'ab'[number % 2]}/{1 + number % 3}.png,{'ab'[number % 2]}" for number in range(20))]
    path = tmp_path / "m.csv"
    path.write_text("\n".join(["photo,label", *rows]))
    made = manifest(path, {"photo": {"kind": "image", "size": [8, 8]}}, split_seed=1)
    with pytest.raises(BadRowError, match=r"damaged\.png: not a valid image"):
        read_row(made, 0)
    skipping = manifest(path, {"photo": {"kind": "image", "size": [8, 8]}}, on_bad_row="skip", test_fraction=0.0)
    with pytest.raises(ValueError, match="are a single colour"):
        skipping.setup("fit")  # the good ones are all red
    assert any("damaged.png" in message for message in skipping.source.skipped)

    spec = {"kind": "image", "shape": [3, 8, 8], "range": [0, 255], "crop_fraction": 1.0}
    with Image.open(damaged) as image, pytest.raises(Exception, match=r"."):
        preprocess(image, spec=spec, name="x")


def read_row(made: DataModule, row: int) -> Any:
    from perceiver.data.manifest.rows import ManifestRows, RowIds

    made.source._columns()
    table_, [modality] = made.source._columns(), made.source._modalities()
    return ManifestRows(
        table=table_,
        rows=[row],
        modalities=[modality],
        specs={modality.name: modality.spec},
        folder=made.source.root,
        ids=RowIds(table=table_, column=None),
    )[0]


@pytest.mark.parametrize("kind", ["columns", "categories"])
def test_categories_are_the_same_in_both_files(kind: str, cases: Path, tmp_path: Path) -> None:
    patient = {"patient": {"kind": "table", "columns": ["ward", "age"], **({} if kind == "columns" else {kind: ["ward"]})}}
    spec = trained(cases / "categories_train.csv", patient).spec
    text = (cases / "categories_new.csv").read_text()
    (tmp_path / "dotted.csv").write_text("\n".join(_dotted(line) for line in text.splitlines()))
    found = []
    for path in (cases / "categories_new.csv", tmp_path / "dotted.csv"):
        made = manifest(path, None)
        made.spec = spec
        found.append(inputs(made))
    assert len(found[0]) == 10
    for one, other in zip(*found, strict=True):
        for key, value in one["patient"].items():
            assert torch.equal(value, other["patient"][key])
        assert bool(one["patient"]["present"].all())
        assert bool((one["patient"]["categories"] > 0).all())


def _dotted(line: str) -> str:
    row, ward, age = line.split(",")
    return line if row == "id" else f"{row},{ward}.0,{age}"


def test_unknown_categories_and_empty_columns_are_logged(
    cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = trained(cases / "categories_train.csv", table("age", categories=["ward"])).spec
    (tmp_path / "m.csv").write_text("id,ward,age\n0,3,\n1,1,\n2,0,\n")
    made = manifest(tmp_path / "m.csv", None)
    made.spec = spec
    with caplog.at_level(logging.WARNING):
        read = inputs(made)
    assert "column 'ward': 1 of 3 cells have 1 values unseen in training, such as '3'" in caplog.text
    assert "column 'age': is empty in all 3 rows" in caplog.text
    assert [row["x"]["categories"].tolist() for row in read] == [[0], [2], [1]]


def test_categories_of_version_0_1_keep_their_meaning(cases: Path) -> None:
    spec = {"kind": "table", "columns": ["ward"], "numbers": [], "mean": [], "std": [], "category_sizes": [4]}
    for known, value, number in (
        (["0.0", "1.0"], "1", 2),
        (["0.0", "1.0"], "1.0", 2),
        (["1", "1.0", "true"], "1.0", 2),
        (["1", "1.0", "true"], 1.0, 1),
        (["1", "1.0", "true"], True, 3),
        (["1", "1.0", "true"], "2", 0),
    ):
        read = preprocess({"ward": value}, spec={**spec, "categories": {"ward": known}}, name="x")
        assert isinstance(read, dict)
        assert read["categories"].tolist() == [number], (known, value)


def test_decimal_commas_are_numbers(cases: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        made = trained(cases / "decimal_comma.csv", table("weight"))
    spec = made.spec["modalities"]["x"]
    assert (spec["numbers"], spec["categories"]) == (["weight"], {})
    read = preprocess({"weight": "40,5"}, spec={**spec, "mean": [0.0], "std": [1.0]}, name="x")
    assert isinstance(read, dict)
    assert read["numbers"].tolist() == [40.5]
    assert "column 'weight': read as numbers (decimal: ,), 0 of" in caplog.text


def test_question_marks_are_missing_numbers(cases: Path) -> None:
    spec = trained(cases / "question_marks.csv", table("hp")).spec["modalities"]["x"]
    assert (spec["numbers"], spec["categories"]) == (["hp"], {})
    read = preprocess({"hp": "?"}, spec=spec, name="x")
    assert isinstance(read, dict)
    assert read["present"].tolist() == [False]


def test_an_index_without_a_name_is_left_out(cases: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        made = trained(cases / "pandas_index.csv", table("age"))
    assert len(made.source._columns()) == 40
    assert "pandas_index.csv: columns without a name are left out: 1" in caplog.text


def test_quotes_of_tab_separated_texts_are_characters(cases: Path) -> None:
    made = trained(cases / "common_voice_like.tsv", {"x": {"kind": "text", "column": "sentence"}})
    texts = [made.source._columns().cell(row, "sentence") for row in range(len(made.source._columns()))]
    assert len(texts) == 40
    assert '"start only' in texts
    assert 'the end"' in texts


def test_days_without_hyphens(cases: Path) -> None:
    read = read_cell("series_yyyymmdd.csv", spec={"kind": "timeseries", "names": ["v"]}, folder=cases)
    assert np.diff(read["times"]).tolist() == [86400.0, 86400.0]


def test_lines_that_end_in_carriage_returns(cases: Path) -> None:
    read = read_cell("series_cr.csv", spec={"kind": "timeseries", "names": ["v"]}, folder=cases)
    assert read["times"].tolist() == [0, 1]
    assert read["values"].tolist() == [[1], [2]]


def test_points(cases: Path) -> None:
    points = {"kind": "points"}
    assert array_of("points_decimal_comma.csv", cases, spec=points).tolist() == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
    with pytest.raises(ValueError, match=r"points_gap\.csv, row 2, 'y': expected a number"):
        array_of("points_gap.csv", cases, spec=points)


def test_videos_of_phones_are_turned(cases: Path) -> None:
    pytest.importorskip("av")
    frame = read_video(cases / "rot90.mp4", num_frames=1)[0]
    assert frame.size == (32, 64)
    # Red is left of blue in the file, and is on top when that is turned clockwise.
    assert frame.getpixel((16, 2))[0] > 200  # type: ignore[index]
    assert frame.getpixel((16, 61))[2] > 200  # type: ignore[index]


def test_sound_from_a_pipe(cases: Path) -> None:
    path = cases / "soxpipe.wav"
    samples, rate = read_recording(path)
    assert (samples.shape, rate) == ((2, (path.stat().st_size - 44) // 4), 44100)
    assert check_recording(path) == (samples.shape[1], 44100)


def test_integers_have_the_scale_of_a_recording(cases: Path, tmp_path: Path) -> None:
    path = cases / "int16_audio.parquet"
    columns = pq.read_schema(path).names
    audio = next(name for name in columns if name not in ("label", "id", "split"))
    made = trained(path, {"x": {"kind": "audio", "column": audio, "sample_rate": 8000}}, max_seconds=None)
    spec = made.spec["modalities"]["x"]
    raw = made.source._columns().cell(0, audio)
    soundfile.write(tmp_path / "a.wav", raw.astype(np.int16), 8000, subtype="PCM_16")
    expected = preprocess(read_recording(tmp_path / "a.wav"), spec=spec, name="x")
    assert isinstance(expected, torch.Tensor)
    for form in (raw, raw.astype(np.int64), [int(one) for one in raw]):
        torch.testing.assert_close(preprocess(np.asarray(form), spec=spec, name="x"), expected)  # prediction
        trained_on = preprocess(read_cell(form, spec=spec, folder=None), spec=spec, name="x")
        torch.testing.assert_close(trained_on, expected)
    old = {key: value for key, value in spec.items() if key != "integer_bits"}
    assert read_cell(raw, spec=old, folder=None).dtype == np.float32


def test_masks_of_0_and_255(cases: Path) -> None:
    made = DataModule.of(SegmentationFolder, root=cases / "masks255", size=(8, 8), num_workers=0, batch_size=4)
    made.setup("fit")
    assert made.spec["target"]["mask_values"] == [0, 255]
    assert min(made.spec["target"]["counts"]) > 0
    tested = DataModule.of(SegmentationFolder, root=cases / "masks255", size=(8, 8), num_workers=0, batch_size=4)
    tested.spec = made.spec
    tested.setup("test")
    batch = next(iter(tested.test_dataloader()))
    assert batch.target is not None
    assert set(batch.target.unique().tolist()) == {0, 1}
