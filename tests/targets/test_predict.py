"""Raw samples: what counts as one, what is read from files, and errors that name the sample."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import plug_in_kinds
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from perceiver.targets.files import is_file, read_file
from perceiver.targets.predict import predict, prepare

IMAGE = {"kind": "image", "shape": [3, 4, 5]}
GREY = {"kind": "image", "shape": [1, 4, 5]}
SOUND = {"kind": "audio", "shape": [1, None], "sample_rate": 100}
POINTS = {"kind": "points", "shape": [None, 3]}
SERIES = {"kind": "timeseries", "num_values": 2, "step_seconds": 1.0}
TEXT = {"kind": "text", "vocabulary_size": 262}
VIDEO = {"kind": "video", "shape": [3, 2, 4, 5]}
TABLE = {"kind": "table", "numbers": ["age"], "categories": {"sex": ["f", "m"]}}


def batches(samples: Any, modality: Mapping[str, Any], batch_size: int = 8, **settings: Any) -> list[Tensor]:
    """The inputs of the forward passes that predictions take."""
    seen: list[Tensor] = []

    def forward(inputs: Mapping[str, Any], masks: Mapping[str, Tensor]) -> Tensor:
        x = inputs["it"]
        seen.append(x if isinstance(x, Tensor) else next(iter(x.values())))
        return torch.zeros(len(seen[-1]), 1)

    spec = {"modalities": {"it": modality}, "target": {"kind": "classes", "names": ["a"]}}
    predictions = predict(forward, spec, samples, batch_size=batch_size, **settings)
    assert len(predictions) == sum(map(len, seen))
    return seen


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)


def test_one_image_in_any_form(tmp_path: Path) -> None:
    (tmp_path / "it.png").write_bytes(png(PIXELS))
    forms: list[Any] = [PIXELS, Image.fromarray(PIXELS), torch.from_numpy(PIXELS).permute(2, 0, 1), tmp_path / "it.png"]
    expected = torch.from_numpy(PIXELS / 255).float().permute(2, 0, 1)[None]
    for raw in [*forms, png(PIXELS), bytearray(png(PIXELS))]:
        for samples in (raw, {"it": raw}, [raw], iter([{"it": raw}])):
            [x] = batches(samples, IMAGE)
            torch.testing.assert_close(x, expected)


@pytest.mark.parametrize(
    ("modality", "one", "several"),
    [
        (IMAGE, (4, 5, 3), (2, 4, 5, 3)),
        (GREY, (4, 5), (2, 4, 5)),
        (GREY, (4, 5, 1), (2, 4, 5, 1)),
        (GREY, (4, 5, 1), (2, 4, 5)),
        (SOUND, (30,), (2, 30)),
        (SOUND, (1, 30), (2, 1, 30)),
        (POINTS, (7, 3), (2, 7, 3)),
        (SERIES, (6, 2), (2, 6, 2)),
    ],
)
def test_arrays_are_one_sample_or_several(modality: dict[str, Any], one: tuple[int, ...], several: tuple[int, ...]) -> None:
    assert [len(x) for x in batches(np.ones(one, dtype=np.float32), modality)] == [1]
    assert [len(x) for x in batches(np.ones(several, dtype=np.float32), modality)] == [2]
    assert [len(x) for x in batches(list(np.ones(several, dtype=np.float32)), modality, batch_size=1)] == [1, 1]


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "it.txt").write_bytes("grün".encode())
    for one in ("grün", tmp_path / "it.txt", "grün".encode()):
        [x] = batches(one, TEXT)
        assert x.tolist() == [[6 + byte for byte in "grün".encode()]]
    assert [x.shape for x in batches(torch.ones(2, 5, dtype=torch.int64), TEXT)] == [(2, 5)]
    assert [x.shape for x in batches(torch.ones(5, dtype=torch.int64), TEXT)] == [(1, 5)]
    assert [x.shape for x in batches(["ab", "cd"], TEXT)] == [(2, 2)]


@pytest.mark.parametrize(
    ("samples", "modality", "text"),
    [
        (b"GIF89a", IMAGE, r"sample 0, modality 'it': cannot read 6 bytes as image \(UnidentifiedImageError"),
        ([PIXELS, Path("none.png")], IMAGE, r"sample 1, modality 'it': cannot read none\.png as image \(FileNotFoundError"),
        ("none.png", IMAGE, r"sample 0, modality 'it': cannot read none\.png as image \(FileNotFoundError"),
        ("/dev/zero", IMAGE, "it is not a regular file"),
        ("/dev/zero", SOUND, "no such file: /dev/zero"),
        (png(PIXELS)[:-30], IMAGE, r"sample 0, modality 'it': cannot read \d+ bytes as image"),
        (b"\xff", TEXT, r"cannot read 1 bytes as text \(UnicodeDecodeError"),
        (Path("it.wav"), SOUND, r"cannot read it\.wav as audio \(FileNotFoundError: no such file: it\.wav"),
        (b"RIFF", SOUND, r"cannot read 4 bytes as audio \(ValueError: content of a cell: not a readable sound file"),
        (b"1 2 3\n4 5", POINTS, "cannot read 9 bytes as points"),
        (b"{", TABLE, "cannot read 1 bytes as table"),
        (np.ones((4, 5, 2), dtype=np.uint8), IMAGE, r"sample 0, modality 'it': .*shape"),
    ],
)
def test_errors_name_the_sample(samples: Any, modality: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        batches(samples, modality)


def test_a_service_opens_no_file(tmp_path: Path) -> None:
    """Samples from requests: strings and paths are refused, bytes are read."""
    (tmp_path / "it.png").write_bytes(png(PIXELS))
    for one in (tmp_path / "it.png", str(tmp_path / "it.png")):
        with pytest.raises(ValueError, match="sample 0, modality 'it': expected a value or the bytes of a file"):
            batches(one, IMAGE, open_files=False)
    assert len(batches(png(PIXELS), IMAGE, open_files=False)) == 1
    assert len(batches("a text", TEXT, open_files=False)) == 1


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 100, format="WAV", subtype="FLOAT")
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


CLOUD = np.arange(12.0).reshape(4, 3)
FRAMES = np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
WAVE = np.linspace(-0.5, 0.5, 30, dtype=np.float32)
STEPS = np.arange(6.0).reshape(3, 2)
ROW = {"age": 3, "sex": "f"}


@pytest.mark.parametrize(
    ("modality", "value", "contents"),
    [
        (SOUND, WAVE, {"it.wav": wav(WAVE)}),
        (SOUND, (WAVE, 100), {}),
        (SOUND, WAVE.tolist(), {}),
        (VIDEO, FRAMES, {"it.npy": npy(FRAMES)}),
        (VIDEO, [Image.fromarray(frame) for frame in FRAMES], {}),
        (POINTS, CLOUD, {"it.npy": npy(CLOUD), "it.xyz": "\n".join(" ".join(map(str, p)) for p in CLOUD).encode()}),
        (POINTS, CLOUD.tolist(), {}),
        (SERIES, STEPS, {"it.csv": b"a,b\n0,1\n2,3\n4,5\n"}),
        (SERIES, {"values": STEPS, "times": [0.0, 1.0, 2.0]}, {"it.csv": b"time,a,b\n0,0,1\n1,2,3\n2,4,5\n"}),
        ({**SERIES, "names": ["b", "a"]}, STEPS[:, ::-1].copy(), {"it.csv": b"a,b\n0,1\n2,3\n4,5\n"}),
        (TABLE, ROW, {"it.json": b'{"age": 3, "sex": "f"}'}),
    ],
)
def test_one_sample_of_every_kind_as_value_path_and_bytes(
    modality: dict[str, Any], value: Any, contents: dict[str, bytes], tmp_path: Path
) -> None:
    expected = prepare({"it": value}, {"it": modality}, number=0).inputs["it"]
    forms = [value, {"it": value}, [{"it": value}], [value, value]]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        forms += [tmp_path / name, str(tmp_path / name), content, bytearray(content), {"it": str(tmp_path / name)}]
    for form in forms:
        found = batches(form, modality)
        count = 2 if isinstance(form, list) and form == [value, value] else 1
        assert sum(map(len, found)) == count
        for one in found[0]:
            torch.testing.assert_close(one, expected if isinstance(expected, Tensor) else next(iter(expected.values())))


def test_a_table_of_one_row(tmp_path: Path) -> None:
    (tmp_path / "it.csv").write_text("age,sex\n3,f\n")
    assert batches(tmp_path / "it.csv", TABLE)[0].tolist() == [[3]]
    (tmp_path / "it.csv").write_text("age,sex\n3,f\n4,m\n")
    with pytest.raises(ValueError, match="expected a table of one row, got 2; for more, use mode=predict"):
        batches(tmp_path / "it.csv", TABLE)


def test_unknown_categories_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    batches([ROW, {"age": 1, "sex": "x"}, {"it": {"age": 1, "sex": "y"}}, {"age": 2}], TABLE)
    assert caplog.messages == [
        "predict, modality 'it', column 'sex': 2 of 3 cells have 2 values unseen in training, such as 'x'; the model "
        "treats them as missing. Known values: f, m."
    ]
    caplog.clear()
    batches(ROW, TABLE)
    assert not caplog.messages


def test_cut_texts_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    texts = ["abcdefg", "abcd", [6, 7, 8, 9, 10], {"it": "abc"}]
    assert [len(x) for x in batches(texts, {**TEXT, "max_length": 4}, batch_size=1)] == [1] * 4
    assert len(caplog.messages) == 1
    assert "predict, modality 'it': 2 of 4 texts have more than max_length = 4 ids" in caplog.text
    caplog.clear()
    batches(texts, TEXT)
    batches(texts[1], {**TEXT, "max_length": 4})
    assert not caplog.messages
    with pytest.raises(ValueError, match="sample 1, modality 'it': expected a text of at most max_length = 4 ids, got 5"):
        batches(texts[1:], {**TEXT, "max_length": 4, "truncate": False})


def test_a_number_is_no_sample() -> None:
    with pytest.raises(TypeError, match="expected a sample or an iterable of samples, got int"):
        batches(3, IMAGE)


TWO = {"image": IMAGE, "words": TEXT}


def test_samples_that_do_not_fit_the_modalities() -> None:
    with pytest.raises(ValueError, match=r"sample 3: expected a dict with any of \['image', 'words'\], got str"):
        prepare("a text", TWO, number=3)
    with pytest.raises(ValueError, match=r"sample 3: expected any of the modalities \['image', 'words'\], got also \['w'\]"):
        prepare({"w": "a text"}, TWO, number=3)
    with pytest.raises(ValueError, match=r"sample 3: expected any of the modalities \['words'\], got also \['image'\]"):
        prepare({"words": "a", "image": PIXELS}, {"words": TEXT}, number=3)


def test_prepared_samples_are_named_and_observed() -> None:
    seen: list[tuple[str, Any]] = []
    sample = prepare({"words": "ab"}, TWO, number=3, seen=lambda name, value: seen.append((name, value)))
    assert (sample.id, list(sample.inputs), sample.target, seen) == ("3", ["words"], None, [("words", "ab")])
    assert list(prepare("ab", {"words": TEXT}, number=0).inputs) == ["words"]


def test_a_dict_may_be_the_value_of_the_only_modality() -> None:
    """Also if a column has the name of the modality."""
    row = {"kind": "table", "numbers": ["it"], "categories": {"sex": ["f", "m"]}}
    assert batches({"it": 5.0}, row)[0].tolist() == [[5.0]]
    assert batches({"it": {"it": 5.0}}, row)[0].tolist() == [[5.0]]
    assert batches({"it": 5.0, "sex": "f"}, row)[0].tolist() == [[5.0]]
    steps = {"values": STEPS, "times": [0.0, 1.0, 2.0]}
    assert batches({"it": steps}, SERIES)[0].shape == batches(steps, SERIES)[0].shape == (1, 3, 2)
    named = {"modalities": {"values": SERIES}, "target": {"kind": "classes", "names": ["a"]}}
    found: list[Any] = []

    def forward(inputs: Mapping[str, Any], masks: Mapping[str, Tensor]) -> Tensor:
        found.append(inputs["values"]["values"].shape)
        return torch.zeros(1, 1)

    predict(forward, named, {"values": STEPS}, batch_size=1)
    assert found == [(1, 3, 2)]


def test_predictions_need_a_target_and_a_batch_size() -> None:
    for spec in (None, {}, {"modalities": {"it": IMAGE}}):
        with pytest.raises(ValueError, match="predict: expected a model whose spec has class names"):
            predict(lambda inputs, masks: torch.zeros(1, 1), spec, PIXELS, batch_size=1)
    with pytest.raises(ValueError, match="predict: expected batch_size of at least 1, got 0"):
        batches(PIXELS, IMAGE, batch_size=0)
    assert [len(x) for x in batches([PIXELS] * 5, IMAGE, batch_size=2)] == [2, 2, 1]
    assert batches([], IMAGE) == []


@pytest.mark.parametrize(
    ("modality", "one", "several"),
    [
        ({"kind": "text", "vocabulary_size": 262}, [1, 2, 3], [[1, 2, 3], [4, 5]]),
        ({"kind": "timeseries", "num_values": 1, "step_seconds": 1.0}, [1.0, 2.0], [[[1.0], [2.0]], [[3.0]]]),
        ({"kind": "depth", "shape": [2, 2], "channel_axis": "none"}, [[1, 2], [3, 4]], [[[1, 2], [3, 4]]] * 2),
        (GREY, np.ones((4, 5)).tolist(), np.ones((2, 4, 5)).tolist()),
        (SOUND, [0.5, 0.25, True], [[0.5, 0.25], [0.5]]),
    ],
)
def test_lists_of_numbers_are_one_sample_or_several(modality: dict[str, Any], one: Any, several: Any) -> None:
    assert sum(map(len, batches(one, modality))) == 1
    assert sum(map(len, batches(several, modality))) == len(several)


def test_a_pair_of_sound_and_rate_is_one_sample() -> None:
    assert batches((WAVE, 100), SOUND)[0].shape == batches((WAVE, np.int64(100)), SOUND)[0].shape == (1, 1, 30)
    assert batches([(WAVE, 100), (WAVE, 100)], SOUND)[0].shape == (2, 1, 30)
    assert batches((WAVE, WAVE), SOUND)[0].shape == (2, 1, 30)
    assert batches([WAVE, WAVE, WAVE], SOUND)[0].shape == (3, 1, 30)
    stereo = {**SOUND, "shape": [2, None]}
    assert batches(np.ones((2, 30), dtype=np.float32), stereo)[0].shape == (1, 2, 30)


def test_kinds_of_plug_ins_take_files_or_values() -> None:
    """A text that is a value is no path."""
    values, files, numbers = ({"kind": f"plug_in_kinds.{name}"} for name in ("Bases", "Counts", "Wind"))
    assert [plug_in_kinds.Bases.cells, plug_in_kinds.Counts.cells, plug_in_kinds.Wind.cells] == ["values", "files", "values"]
    for value in ("acgt", Path("it.txt"), b"acgt"):
        assert not is_file(value, values)
        assert not is_file(value, numbers)
        assert is_file(value, files)
        assert is_file(value, {"kind": "depth"})
        assert is_file(value, IMAGE)
        assert is_file(value, TEXT) == (value != "acgt")
    assert not is_file(PIXELS, IMAGE)


def test_a_missing_library_is_no_damaged_file() -> None:
    with (
        mock.patch("perceiver.targets.files._decoded", side_effect=ImportError("pip install av")),
        pytest.raises(ImportError, match="pip install av"),
    ):
        read_file(b"RIFF", SOUND, where="sample 0")


def test_samples_of_several_modalities() -> None:
    spec = {"modalities": TWO, "target": {"kind": "classes", "names": ["a"]}}
    seen: list[Any] = []

    def forward(inputs: Mapping[str, Any], masks: Mapping[str, Tensor]) -> Tensor:
        seen.append({name: len(x) for name, x in inputs.items()})
        return torch.zeros(2, 1)

    samples = [{"image": PIXELS, "words": "ab"}, {"words": "cd"}]
    for given in (samples, tuple(samples), iter(samples)):
        assert len(predict(forward, spec, given, batch_size=2)) == 2
    assert seen == [{"image": 2, "words": 2}] * 3


def test_flat_images_of_one_channel_are_several() -> None:
    """The channel may be omitted: a height of 1 is no channel."""
    assert sum(map(len, batches(np.ones((2, 1, 5), dtype=np.float32), {"kind": "image", "shape": [1, 1, 5]}))) == 2
