"""Data sets of strangers: scripts and pickles do not run, paths stay in the folder, damaged files are named."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hf_cases import arrow, library, parquet_set, rows_of
from hostile_files import SECRET, SECRET_NAME
from hydra_runs import QUIET, run

from perceiver.data import DataModule
from perceiver.data.manifest import BadRowError

datasets: Any = library()

from perceiver.data.hf import HuggingFace  # noqa: E402

SMALL: dict[str, Any] = {"image_size": [8, 8], "batch_size": 4}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return rows_of(tmp_path_factory.mktemp("files"))


def read(path: Path, **settings: Any) -> DataModule:
    data = DataModule.of(HuggingFace, path=path, **{**SMALL, **settings})
    data.prepare_data()
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        list(loader)
    return data


PLACES = ("/etc/hostname", "../outside/0.png", "C:\\secret.png", "\\\\server\\share\\x.png", "link/0.png")


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_paths_stay_in_the_folder(place: str, as_text: bool, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """In a struct, and in a column of text that the user calls images."""
    outside = tmp_path / "outside"
    outside.mkdir()
    photo = next(row["photo"] for row in rows if row["photo"])
    (outside / "0.png").write_bytes(photo["bytes"])
    types = datasets.Features(
        {"photo": datasets.Value("string") if as_text else datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    path = tmp_path / "set"
    path.mkdir()
    (path / "link").symlink_to(outside)
    (path / "good.png").write_bytes(photo["bytes"])

    def cell(name: str) -> Any:
        return name if as_text else {"bytes": None, "path": name}

    own = [{"photo": cell("good.png"), "label": number % 2} for number in range(12)]
    parquet_set(path, {"train": [*own, {"photo": cell(place), "label": 0}]}, types)
    given: dict[str, Any] = {"modalities": {"photo": "image"}, "needs_test": False}
    with pytest.raises(
        BadRowError, match=r"row 13, column 'photo': .*is outside of .*set, where the files of this data set"
    ):
        read(path, **given)
    data = read(path, on_bad_row="skip", **given)
    assert len(data.source.left_out) == 1
    streaming = {"streaming": True}
    with pytest.raises(BadRowError, match="is outside of"):
        read(path, **streaming, **given)


def script_alone(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    path.mkdir()
    (path / "set.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    return "is a loading script, which is not run: data is never code"


def script_beside_data(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    script_alone(path, marker, rows)
    parquet_set(path, {"train": rows})
    return ""


def pickled_schema(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    """A type of Arrow that is a pickle, which versions of pyarrow before 14.0.1 load."""

    class Touch:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {marker}",)

    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Touch())}
    fields = [pa.field("note", pa.string(), metadata=extension), pa.field("label", pa.int64())]
    path.mkdir()
    schema = pa.schema(fields)
    table = pa.Table.from_pylist([{"note": f"n{number}", "label": number % 2} for number in range(20)], schema=schema)
    with pa.OSFile(str(path / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        writer.write_table(table)
    return ""


def pickles(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    path.mkdir()

    class Touch:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {marker}",)

    (path / "train.pkl").write_bytes(pickle.dumps(Touch()))
    return "expected Parquet or Arrow files, images or sound, or a folder of save_to_disk"


def description_that_names_code(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    """Metadata of columns whose types are functions and references."""
    types = {
        "note": {"_type": "os.system", "command": f"touch {marker}"},
        "label": {"_type": "Path", "names": [f"${SECRET_NAME}"]},
    }
    table = arrow(rows).select(["note", "label"])
    metadata = {b"huggingface": json.dumps({"info": {"features": types}}).encode()}
    path.mkdir()
    pq.write_table(table.replace_schema_metadata(metadata), path / "train.parquet")
    return ""


def truncated_parquet(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    file = parquet_set(path, {"train": rows}) / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    return "train-00000-of-00001.parquet: not a readable Parquet file"


def truncated_arrow(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    datasets.Dataset(arrow(rows)).save_to_disk(path)
    (file,) = path.glob("*.arrow")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return "not a readable Arrow file"


def offsets_out_of_range(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    """Texts that begin and end far outside of the file."""
    offsets = pa.py_buffer(b"".join(number.to_bytes(4, "little") for number in (0, 2**30, 3, 4)))
    column = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abcd")])
    table = pa.Table.from_arrays([column, pa.array([0, 1, 0])], names=["note", "label"])
    path.mkdir()
    with pa.OSFile(str(path / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return "data.arrow: not a readable Arrow file"


def compressed_arrow(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    """A file that takes a thousand times its size."""
    table = pa.table({"note": ["x" * 10_000] * 200, "label": [0, 1] * 100})
    path.mkdir()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema, options=options) as writer:
        writer.write_table(table)
    return "its buffers are compressed, unlike those that datasets writes"


def state_that_leaves(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    """A list of files that names one elsewhere."""
    datasets.Dataset(arrow(rows)).save_to_disk(path)
    (file,) = path.glob("*.arrow")
    shutil.move(file, path.parent / "secret.arrow")
    state = json.loads((path / "state.json").read_text())
    state["_data_files"] = [{"filename": "../secret.arrow"}]
    (path / "state.json").write_text(json.dumps(state))
    return "state.json: expected the names of Arrow files in"


def splits_that_leave(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    path.mkdir()
    (path / "dataset_dict.json").write_text(json.dumps({"splits": ["../../other"]}))
    return "dataset_dict.json: expected the names of splits"


def deep_state(path: Path, marker: Path, rows: list[dict[str, Any]]) -> str:
    path.mkdir()
    (path / "state.json").write_text("[" * 100_000)
    return "state.json: "


SETS = (
    script_alone,
    script_beside_data,
    pickled_schema,
    pickles,
    description_that_names_code,
    truncated_parquet,
    truncated_arrow,
    offsets_out_of_range,
    compressed_arrow,
    state_that_leaves,
    splits_that_leave,
    deep_state,
)
"""Each writes a data set to a folder, and returns words of the error that it must give; empty: it is read as data."""


@pytest.mark.parametrize("make", SETS, ids=lambda make: make.__name__)
def test_a_hostile_set(make: Any, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SECRET_NAME, SECRET)
    path, marker = tmp_path / "set", tmp_path / "RAN"
    words = make(path, marker, rows)
    if words:
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            read(path, needs_test=False)
        assert words in str(caught.value)
    else:
        data = read(path, needs_test=False, modalities={"note": "text"}, target="label")
        assert SECRET not in json.dumps(data.spec)
    assert not marker.exists()
    assert "set" not in sys.modules


@pytest.mark.parametrize("make", [script_alone, truncated_parquet, state_that_leaves], ids=lambda make: make.__name__)
def test_one_clear_error_on_the_command_line(make: Any, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "set"
    words = make(path, tmp_path / "RAN", rows)
    ended = run(
        "data=hf", f"data.path={path}", "data.num_workers=0", "logger=none", *QUIET, f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert ended.code == 1
    assert words in ended.error
    assert "Traceback" not in ended.err
