"""Raw samples: what counts as one, what is read from files, and errors that name the sample."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from perceiver.targets.predict import predict

IMAGE = {"kind": "image", "shape": [3, 4, 5]}
GREY = {"kind": "image", "shape": [1, 4, 5]}
SOUND = {"kind": "audio", "shape": [1, None], "sample_rate": 100}
POINTS = {"kind": "points", "shape": [None, 3]}
SERIES = {"kind": "timeseries", "num_values": 2, "step_seconds": 1.0}
TEXT = {"kind": "text", "vocabulary_size": 262}


def batches(samples: Any, modality: Mapping[str, Any], batch_size: int = 8) -> list[Tensor]:
    """The inputs of the forward passes that predictions take."""
    seen: list[Tensor] = []

    def forward(inputs: Mapping[str, Any], masks: Mapping[str, Tensor]) -> Tensor:
        x = inputs["it"]
        seen.append(x if isinstance(x, Tensor) else x["values"])
        return torch.zeros(len(seen[-1]), 1)

    spec = {"modalities": {"it": modality}, "target": {"kind": "classes", "names": ["a"]}}
    predictions = predict(forward, spec, samples, batch_size=batch_size)
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
        (png(PIXELS)[:-30], IMAGE, r"sample 0, modality 'it': cannot read \d+ bytes as image"),
        (b"\xff", TEXT, r"cannot read 1 bytes as text \(UnicodeDecodeError"),
        (Path("it.wav"), SOUND, r"expected an array or a tensor, got it\.wav\. Only data modules read files of kind"),
        (np.ones((4, 5, 2), dtype=np.uint8), IMAGE, r"sample 0, modality 'it': .*shape"),
    ],
)
def test_errors_name_the_sample(samples: Any, modality: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        batches(samples, modality)


def test_a_string_is_no_file_and_a_number_no_sample(tmp_path: Path) -> None:
    """Strings come from requests and tables: they are never opened."""
    (tmp_path / "it.png").write_bytes(png(PIXELS))
    with pytest.raises((TypeError, ValueError), match="sample 0, modality 'it'"):
        batches(str(tmp_path / "it.png"), IMAGE)
    with pytest.raises(TypeError, match="expected a sample or an iterable of samples, got int"):
        batches(3, IMAGE)
