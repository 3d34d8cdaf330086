"""Preprocessing: raw samples of every sort become the tensor that training saw."""

import io
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from PIL import Image
from torch import Tensor

from perceiver.modalities.arrays import scale
from perceiver.modalities.cells.values import is_missing, number_of_name, plain_text, value_text
from perceiver.modalities.media.framing import Frame
from perceiver.modalities.preprocess import normalise, preprocess
from perceiver.modalities.text import is_cut

RGB = {"kind": "image", "shape": [3, 4, 5], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "range": [0, 255]}
GREY = {"kind": "image", "shape": [1, 4, 5]}
SOUND = {"kind": "audio", "shape": [1, None], "sample_rate": 8000}
STEREO = {"kind": "audio", "shape": [2, None], "sample_rate": 8000}

pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
expected = torch.from_numpy(((pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]).transpose(2, 0, 1)).float()


def image(raw: Any, **changes: Any) -> Tensor:
    return preprocess(raw, spec={**RGB, **changes}, name="sample 3")


@pytest.mark.parametrize(
    "raw",
    [
        Image.fromarray(pixels),
        Image.fromarray(pixels).convert("RGBA"),
        pixels,
        pixels.astype(np.int64),
        pixels / 255,
        (pixels / 255).astype(np.float32),
        np.asfortranarray(pixels),
        pixels[::-1].copy()[::-1],
        np.asarray(Image.fromarray(pixels)),
        np.frombuffer(pixels.tobytes(), dtype=np.uint8).reshape(4, 5, 3),
        torch.from_numpy(pixels).permute(2, 0, 1),
        torch.from_numpy(pixels).permute(2, 0, 1) / 255,
        torch.from_numpy(pixels).permute(2, 0, 1).double() / 255,
    ],
    ids=lambda raw: type(raw).__name__,
)
def test_one_image_in_many_forms(raw: Any) -> None:
    x = image(raw)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)


def test_the_raw_array_is_left_as_it_was() -> None:
    raw = torch.rand(3, 4, 5)
    before = raw.clone()
    image(raw)
    assert torch.equal(raw, before)


def test_colours_become_grey_and_the_other_way() -> None:
    grey = preprocess(Image.fromarray(pixels), spec=GREY, name="x")
    torch.testing.assert_close(grey[0], torch.from_numpy(np.array(Image.fromarray(pixels).convert("L"))) / 255)
    plane = Image.fromarray(pixels[..., 0])
    torch.testing.assert_close(
        image(plane, mean=[0.0] * 3, std=[1.0] * 3), torch.from_numpy(pixels[..., 0] / 255).float().expand(3, -1, -1)
    )


@pytest.mark.parametrize("raw", [pixels[..., 0], torch.from_numpy(pixels[..., 0]), Image.fromarray(pixels[..., 0])])
def test_grey_images_get_a_channel(raw: Any) -> None:
    x = preprocess(raw, spec=GREY, name="x")
    assert x.shape == (1, 4, 5)
    torch.testing.assert_close(x[0], torch.from_numpy(pixels[..., 0]) / 255)


def test_other_ranges() -> None:
    raw = np.arange(20, dtype=np.uint8).reshape(4, 5) % 17
    x = preprocess(raw, spec={**GREY, "range": [0, 16]}, name="x")
    assert x.min() == 0
    assert x.max() == 1
    signed = preprocess(raw.astype(np.int16) - 8, spec={**GREY, "range": [-8, 8]}, name="x")
    assert torch.equal(signed, x)


def test_black_and_white_images() -> None:
    raw = pixels[..., 0] > 99
    for form in (raw, torch.from_numpy(raw), Image.fromarray(raw)):
        assert torch.equal(preprocess(form, spec=GREY, name="x")[0], torch.from_numpy(raw).float())


def test_images_of_any_size_are_framed_where_those_of_training_were() -> None:
    large = Image.fromarray(pixels).resize((50, 80))
    framed = Frame(size=[4, 5], crop_fraction=0.8)(large)
    assert torch.equal(image(large, crop_fraction=0.8), image(framed))
    with pytest.raises(ValueError, match="expected shape"):
        image(large)
    large.getexif()[0x0112] = 6
    assert torch.equal(
        image(large, crop_fraction=0.8), image(Frame(size=[4, 5], crop_fraction=0.8)(large.rotate(-90, expand=True)))
    )


def test_deep_grey_images_become_colours_of_eight_bits() -> None:
    raw = np.arange(0, 60000, 3000, dtype=np.uint16).reshape(4, 5)
    x = image(Image.fromarray(raw), mean=[0.0] * 3, std=[1.0] * 3)
    torch.testing.assert_close(x, torch.from_numpy(raw / 65535).float().expand(3, -1, -1), atol=1 / 255, rtol=0)
    with pytest.raises(ValueError, match="sample 3: its pixels .* have no known range"):
        image(Image.fromarray(raw.astype(np.float32)))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_deep_images_keep_their_bits(dtype: type) -> None:
    raw: np.ndarray = np.arange(0, 60000, 3000, dtype=dtype).reshape(4, 5)
    for form in (raw, Image.fromarray(raw)):
        x = preprocess(form, spec={**GREY, "range": [0, 65535]}, name="x")
        torch.testing.assert_close(x[0], torch.from_numpy(raw / 65535).float())


def test_values_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"sample 3: expected integers in \[0, 16\], got values in \[\d+, \d+\]"):
        image(pixels, range=[0, 16])
    with pytest.raises(ValueError, match=r"sample 3: expected floating-point values in \[0, 1\].*Pass integers for raw"):
        image(pixels.astype(np.float32))
    with pytest.raises(ValueError, match=r"expected floating-point values"):
        image(torch.randn(3, 4, 5) * 10)


def test_nan_pixels_pass_for_collation_to_report() -> None:
    raw = torch.rand(3, 4, 5)
    raw[0, 1, 2] = float("nan")
    assert image(raw).isnan().sum() == 1


def test_wrong_sizes_say_what_training_saw() -> None:
    with pytest.raises(ValueError, match=r"sample 3: expected shape \(3, 4, 5\) as in training, got \(3, 5, 4\)"):
        image(pixels.transpose(1, 0, 2))
    with pytest.raises(ValueError, match=r"expected shape \(3, any, any\)"):
        image(np.zeros((4, 5, 4), dtype=np.uint8), shape=[3, None, None])
    with pytest.raises(ValueError, match="expected shape"):
        image(np.zeros((1, 4, 5, 3), dtype=np.uint8))


@pytest.mark.parametrize("raw", ["cat.png", None, 3, {"image": 1}, (np.zeros(9), 8000, "PCM")])
def test_other_things_are_type_errors(raw: Any) -> None:
    for modality in (RGB, SOUND, {"kind": "points", "shape": [None, 3]}):
        with pytest.raises(TypeError, match="sample 3: expected a tensor"):
            preprocess(raw, spec=modality, name="sample 3")


@pytest.mark.parametrize("raw", [[[1, 2, 3], [4]], np.array([None, 1])], ids=["ragged", "objects"])
def test_arrays_that_are_no_tensors(raw: Any) -> None:
    with pytest.raises(ValueError, match="sample 3: cannot be converted to a tensor"):
        preprocess(raw, spec={"kind": "points", "shape": [None, 3]}, name="sample 3")


def test_scaling_works_on_batches_as_on_samples() -> None:
    batch = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8)
    together = normalise(scale(batch, RGB), RGB)
    apart = torch.stack([preprocess(one, spec=RGB, name="x") for one in batch])
    assert torch.equal(together, apart)


def sound(raw: Any, **changes: Any) -> Tensor:
    return preprocess(raw, spec={**SOUND, **changes}, name="sample 3")


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(np.int16, -32768, 32767), (np.int32, -(2**31), 2**31 - 1), (np.uint8, 0, 255), (np.int8, -128, 127)],
)
def test_integer_sound_fills_the_range_of_its_type(dtype: type, low: int, high: int) -> None:
    middle = (low + high + 1) // 2
    x = sound(np.array([low, middle, high], dtype=dtype))
    assert x.dtype == torch.float32
    assert x[0, 0] == -1
    assert x[0, 1] == 0
    assert 0.99 < x[0, 2] <= 1


def test_sound_gets_a_channel_and_floats_pass() -> None:
    wave = torch.randn(50)
    assert torch.equal(sound(wave), wave[None])
    assert torch.equal(sound(wave.double().numpy()), wave[None])


def test_stereo_is_mixed_where_the_model_is_mono() -> None:
    wave = torch.randn(2, 50)
    torch.testing.assert_close(sound(wave), wave.mean(0, keepdim=True))
    assert torch.equal(preprocess(wave, spec=STEREO, name="x"), wave)
    assert torch.equal(preprocess(wave[0], spec=STEREO, name="x"), wave[:1].expand(2, -1))


def test_samples_first_is_not_mixed_down() -> None:
    with pytest.raises(ValueError, match=r"sample 3: expected \(channels, samples\), got \(50, 2\); transpose"):
        sound(torch.randn(50, 2))


def test_sound_of_another_rate_is_resampled() -> None:
    seconds = np.arange(16000) / 16000
    wave = np.sin(2 * np.pi * 440 * seconds).astype(np.float32)
    x = sound((wave, 16000))
    assert x.shape == (1, 8000)
    target = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    np.testing.assert_allclose(x[0, 100:-100].numpy(), target[100:-100], atol=1e-2)
    assert torch.equal(sound((wave, 8000)), torch.from_numpy(wave)[None])


def test_sound_is_normalised_per_channel() -> None:
    wave = torch.randn(2, 50)
    x = preprocess(wave, spec={**STEREO, "mean": [1.0, 2.0], "std": [2.0, 4.0]}, name="x")
    torch.testing.assert_close(x, (wave - torch.tensor([[1.0], [2.0]])) / torch.tensor([[2.0], [4.0]]))


def test_points_are_normalised_per_channel() -> None:
    raw = np.random.default_rng(0).normal(size=(7, 3))
    modality = {"kind": "points", "shape": [None, 3], "mean": [1.0, 2.0, 3.0], "std": [1.0, 2.0, 4.0]}
    x = preprocess(raw, spec=modality, name="x")
    torch.testing.assert_close(x, torch.from_numpy((raw - [1, 2, 3]) / [1, 2, 4]).float())


def test_kinds_of_plug_ins_pass_as_float32() -> None:
    x = preprocess([[1, 2], [3, 4]], spec={"kind": "depth"}, name="x")
    assert x.dtype == torch.float32
    assert x.tolist() == [[1, 2], [3, 4]]


def test_point_sets_are_moved_into_the_unit_sphere_where_training_had_them_there() -> None:
    raw = np.random.default_rng(0).normal(size=(30, 4)) * [1, 2, 3, 1] + [5, 6, 7, 8]
    modality = {"kind": "points", "shape": [None, 4], "unit_sphere": True}
    x = preprocess(raw, spec=modality, name="x")
    centred = raw[:, :3] - raw[:, :3].mean(0)
    np.testing.assert_allclose(x[:, :3], centred / np.linalg.norm(centred, axis=1).max(), atol=1e-6)
    np.testing.assert_allclose(x[:, 3], raw[:, 3], rtol=1e-6)
    one = preprocess(raw[:1], spec=modality, name="x")
    assert one[0, :3].tolist() == [0, 0, 0]


SERIES: dict[str, Any] = {"kind": "timeseries", "num_values": 2, "mean": [1.0, 1e6], "std": [2.0, 0.5]}


def series(raw: Any, **changes: Any) -> dict[str, Tensor]:
    x = preprocess(raw, spec={**SERIES, **changes}, name="sample 3")
    assert isinstance(x, dict)
    return x


def test_time_series_are_normalised_and_missing_values_are_zero() -> None:
    values = np.array([[1, 1e6 + 0.25], [np.nan, 1e6], [5, np.nan]])
    x = series({"values": values, "times": [0, 0.5, 3]})
    assert x["values"].tolist() == [[0, 0.5], [0, 0], [2, 0]]
    assert x["values"].dtype == torch.float32
    assert x["times"].dtype == torch.float64
    assert x["times"].tolist() == [0, 0.5, 3]
    assert x["present"].tolist() == [[True, True], [False, True], [True, False]]
    assert set(series({"values": np.ones((3, 2)), "times": [0, 1, 2]})) == {"values", "times"}
    masked = series({"values": np.ones((1, 2)), "times": [0], "present": [[True, False]]})
    assert masked["present"].tolist() == [[True, False]]
    assert masked["values"][0, 1] == 0


def test_regular_series_need_no_times() -> None:
    assert series(np.ones((3, 2)), step_seconds=0.5)["times"].tolist() == [0, 0.5, 1]
    assert series([1, 2], num_values=1, mean=[0.0], std=[1.0], step_seconds=1)["values"].shape == (2, 1)
    with pytest.raises(ValueError, match="sample 3: expected times, because the spec has no step_seconds"):
        series(np.ones((3, 2)))


def test_series_are_sorted_by_time_and_instants_become_seconds() -> None:
    times = np.array(["2026-01-01T00:00:02", "2026-01-01T00:00:00.5"], dtype="datetime64[ms]")
    x = series({"values": [[3, 1e6], [1, 1e6]], "times": times})
    assert (x["times"] - x["times"][0]).tolist() == [0, 1.5]
    assert x["values"][:, 0].tolist() == [0, 1]


def test_steps_of_the_same_time_become_one() -> None:
    values = [[7, np.nan], [1, 1e6], [np.nan, 1e6 + 1], [3, np.nan], [np.nan, np.nan]]
    x = series({"values": values, "times": [9, 2, 2, 2, 5]})
    assert x["times"].tolist() == [2, 5, 9]
    assert x["values"].tolist() == [[0.5, 1], [0, 0], [3, 0]]
    assert x["present"].tolist() == [[True, True], [False, False], [True, False]]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"values": np.ones((2, 3)), "times": [0, 1]}, r"sample 3: expected values of shape \(any, 2\).* got \(2, 3\)"),
        ({"values": np.ones((0, 2)), "times": []}, "expected values of shape"),
        ({"values": np.ones((2, 2)), "times": [0]}, r"expected times of shape \(2,\), one per step, got \(1,\)"),
        ({"values": np.ones((2, 2)), "times": [0, np.nan]}, "1 of 2 times are NaN"),
        ({"values": np.ones((1, 2)), "times": np.array(["NaT"], dtype="datetime64[s]")}, "1 of 1 times are missing"),
        ({"values": np.ones((2, 2)), "times": [0, 1], "present": [True]}, "expected present of shape"),
        ({"vals": np.ones((2, 2))}, r"expected values, times and optionally present, got \['vals'\]"),
        ({"times": [0, 1]}, r"expected values, times and optionally present, got \['times'\]"),
        ({"values": np.ones((1, 2)), "times": [0], "unit": 1}, r"optionally present, got \['times', 'unit', 'values'\]"),
    ],
)
def test_errors_of_series(raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        series(raw)


TABLE: dict[str, Any] = {
    "kind": "table", "numbers": ["age", "mass"], "mean": [40.0, 70.0], "std": [10.0, 1.0],
    "categories": {"sex": ["f", "m"], "code": ["1", "2"]},
}  # fmt: skip


def table(raw: Any) -> dict[str, Tensor]:
    x = preprocess(raw, spec=TABLE, name="sample 3")
    assert isinstance(x, dict)
    return x


def test_tables() -> None:
    x = table({"age": 50, "mass": "70.5", "sex": "m", "code": 2.0})
    assert x["numbers"].tolist() == [1, 0.5]
    assert x["categories"].tolist() == [2, 2]
    assert x["categories"].dtype == torch.int64
    assert x["present"].tolist() == [True] * 4
    for missing in (None, float("nan"), "", " ", np.float32("nan")):
        x = table({"age": missing, "mass": 70, "sex": missing})
        assert x["numbers"].tolist() == [0, 0]
        assert x["categories"].tolist() == [0, 0]
        assert x["present"].tolist() == [False, True, False, False]
    x = table({"sex": "other", "code": np.int64(1)})
    assert x["categories"].tolist() == [0, 1]
    assert x["present"].tolist() == [False, False, True, True]


def test_tables_without_one_of_the_sorts() -> None:
    only = {"kind": "table", "numbers": [], "mean": [], "std": [], "categories": {"sex": ["f"]}}
    x = preprocess({"sex": "f"}, spec=only, name="x")
    assert {name: tuple(part.shape) for name, part in x.items()} == {"numbers": (0,), "categories": (1,), "present": (1,)}  # type: ignore[union-attr]
    numbers = {"kind": "table", "numbers": ["a"], "mean": [0.0], "std": [1.0], "categories": {}}
    assert preprocess({"a": 2}, spec=numbers, name="x")["categories"].shape == (0,)  # type: ignore[call-overload, union-attr]


@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        ({"age": "old"}, ValueError, "sample 3, column 'age': expected a number, got 'old'"),
        ({"age": "inf"}, ValueError, "sample 3, column 'age': expected a finite number"),
        (
            {"height": 3},
            ValueError,
            r"sample 3: expected columns among \['age', 'mass', 'sex', 'code'\], got also \['height'\]",
        ),
        ([3, 4], TypeError, "sample 3: expected a dict from column to value, got list"),
    ],
)
def test_errors_of_tables(raw: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        table(raw)


WORDS: dict[str, Any] = {"kind": "text", "shape": [None], "vocabulary_size": 262}


def test_text_is_its_bytes_or_its_ids() -> None:
    x = preprocess("Grüße", spec=WORDS, name="x")
    assert isinstance(x, Tensor)
    assert x.dtype == torch.int64
    assert bytes((x - 6).tolist()).decode() == "Grüße"
    assert preprocess("Grüße", spec={**WORDS, "max_length": 2}, name="x").tolist() == x[:2].tolist()  # type: ignore[union-attr]
    assert preprocess([0, 2], spec={**WORDS, "vocabulary_size": 3}, name="x").tolist() == [0, 2]  # type: ignore[union-attr]
    for ids in ([1, 2], np.array([1, 2], dtype=np.int32), torch.tensor([1, 2])):
        assert preprocess(ids, spec={**WORDS, "vocabulary_size": 3}, name="x").tolist() == [1, 2]  # type: ignore[union-attr]


def test_long_texts_are_refused_where_the_spec_says_so() -> None:
    spec = {**WORDS, "max_length": 3, "truncate": False}
    assert preprocess("Grü"[:2], spec=spec, name="x").tolist() == [77, 120]  # type: ignore[union-attr]
    for raw in ("Grü", [6, 7, 8, 9]):
        with pytest.raises(ValueError, match=r"x: expected a text of at most max_length = 3 ids, got 4 ids\. Shorten it"):
            preprocess(raw, spec=spec, name="x")
        assert len(preprocess(raw, spec={**spec, "truncate": True}, name="x")) == 3  # type: ignore[arg-type]


def test_long_texts_of_a_network_s_tokenizer() -> None:
    """It cuts texts itself, before the last special id."""
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[CLS]": 0, "[SEP]": 1, "a": 2}, unk_token="a"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $0 [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    library = {"kind": "library", "json": words.to_str(), "max_length": 4}
    spec = {"kind": "text", "shape": [None], "vocabulary_size": 3, "max_length": 4, "tokenizer": library}
    assert preprocess("a a a", spec=spec, name="x").tolist() == [0, 2, 2, 1]  # type: ignore[union-attr]
    assert [is_cut(text, spec) for text in ("a a", "a a a")] == [False, True]
    assert preprocess("a a", spec={**spec, "truncate": False}, name="x").tolist() == [0, 2, 2, 1]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="at most max_length = 4 ids, got more"):
        preprocess("a a a", spec={**spec, "truncate": False}, name="x")


@pytest.mark.parametrize(
    ("raw", "size", "message"),
    [
        ("a", 1000, "sample 3: expected token ids, because the model has a vocabulary of 1000"),
        ("", 262, "sample 3: expected a text, or its ids as a non-empty integer array"),
        ([0.5], 262, "non-empty integer array"),
        ([[1]], 262, "non-empty integer array"),
        ([3], 3, "sample 3: expected ids from 0 to 2, got 3 to 3"),
        ([-1], 3, "sample 3: expected ids from 0 to 2"),
    ],
)
def test_errors_of_text(raw: Any, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preprocess(raw, spec={**WORDS, "vocabulary_size": size}, name="sample 3")


def test_videos_in_many_forms() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    modality = {**RGB, "kind": "video", "shape": [3, None, 4, 5]}
    each = torch.stack([image(frame) for frame in frames], dim=1)
    forms = (frames, frames / 255, torch.from_numpy(frames).permute(3, 0, 1, 2), [Image.fromarray(one) for one in frames])
    for form in forms:
        x = preprocess(form, spec=modality, name="x")
        assert isinstance(x, Tensor)
        assert x.shape == (3, 6, 4, 5)
        torch.testing.assert_close(x, each, rtol=1e-5, atol=1e-5)
    grey = {"kind": "video", "shape": [1, None, 4, 5]}
    assert preprocess(frames[..., 0], spec=grey, name="x").shape == (1, 6, 4, 5)  # type: ignore[union-attr]
    large = [Image.fromarray(one).resize((50, 40)) for one in frames]
    assert preprocess(large, spec={**modality, "crop_fraction": 1.0}, name="x").shape == (3, 6, 4, 5)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"sample 3: expected shape \(3, any, 4, 5\)"):
        preprocess(frames[:, :2], spec=modality, name="sample 3")
    with pytest.raises(ValueError, match="expected frames of one size"):
        preprocess([large[0], forms[3][0]], spec={**modality, "shape": [3, None, None, None]}, name="x")  # type: ignore[index]


def test_long_sound_is_cut_where_training_cut_it() -> None:
    assert sound(torch.randn(100), max_seconds=0.01).shape == (1, 80)
    assert sound((np.zeros(400, np.float32), 16000), max_seconds=0.01).shape == (1, 80)


def test_the_range_of_floating_point_values_has_a_tolerance() -> None:
    assert torch.equal(scale(torch.tensor([-9e-5, 1 + 9e-5]), {}), torch.tensor([-9e-5, 1 + 9e-5]))
    assert scale(torch.tensor([-1e-4, 1 + 1e-4], dtype=torch.float64), {}).shape == (2,), "the tolerance itself is within it"
    for wrong in (-2e-4, 1 + 2e-4, 1.5, -0.5):
        with pytest.raises(ValueError, match="expected floating-point values"):
            scale(torch.tensor([0.5, wrong]), {})
    assert scale(torch.tensor([0, 255]), {}).tolist() == [0, 1]
    for wrong in (-1, 256):
        with pytest.raises(ValueError, match=r"expected integers in \[0, 255\]"):
            scale(torch.tensor([wrong]), {})
    for dtype in (torch.uint8, torch.float32, torch.bool):
        assert scale(torch.zeros(0, dtype=dtype), {}).shape == (0,)


def test_integer_sound_keeps_every_bit() -> None:
    for dtype in (np.int16, np.uint8, np.int8):
        limits = np.iinfo(dtype)
        raw = np.arange(limits.min, limits.max + 1, dtype=np.int64).astype(dtype)
        half = 2 ** (limits.bits - 1)
        expected = (raw.astype(np.float64) + (0 if limits.min else -half)) / half
        assert np.array_equal(sound(raw)[0].numpy(), expected.astype(np.float32))


def test_lists_of_integers_have_sixteen_bits() -> None:
    assert sound([-32768, 0, 32767]).tolist() == [[-1, 0, 32767 / 32768]]
    assert sound(torch.zeros(0, dtype=torch.int64)).shape == (1, 0)
    for wrong in (-32769, 32768):
        with pytest.raises(ValueError, match="sample 3: expected 16-bit integers, got values from"):
            sound([0, wrong])


def test_shapes_of_sound() -> None:
    assert preprocess(torch.zeros(2, 2), spec=STEREO, name="x").shape == (2, 2)  # type: ignore[union-attr]
    assert preprocess(torch.zeros(2, 0), spec=STEREO, name="x").shape == (2, 0)  # type: ignore[union-attr]
    assert sound(torch.zeros(2, 0)).shape == (1, 0)
    with pytest.raises(ValueError, match=r"got \(50, 1\); transpose it"):
        sound(torch.zeros(50, 1))
    for wrong, spec in ((torch.zeros(3, 9), STEREO), (torch.zeros(1, 1, 9), STEREO), (torch.zeros(1, 1, 9), SOUND)):
        with pytest.raises(ValueError, match="x: expected shape"):
            preprocess(wrong, spec=spec, name="x")
    assert sound(torch.zeros(9), max_seconds=1e-9).shape == (1, 1)


def test_resampling_between_awkward_rates() -> None:
    """A filter of too many coefficients is replaced by that of the nearest simple ratio; a ratio past 1024 is refused."""
    wave = torch.randn(1, 16008)
    resample = torchaudio.functional.resample
    near = Fraction(2000, 2083).limit_denominator(
        2000
    )  # 2000 * (2083 + 16) coefficients exceed 2**22, 2000 * (2081 + 16) do not
    simple = {16001: (2, 1), 4001: (1, 2), 8001: (1, 1), 8332: (near.denominator, near.numerator)}
    exact = {16008: (2001, 1000), 8324: (2081, 2000), 8: (1, 1000)}
    for rate, ratio in {**simple, **exact}.items():
        short = wave[:, : 16008 if rate > 8 else 4]
        assert torch.equal(sound((short, rate)), resample(short, *ratio)), rate
    assert sound((wave, 8000 * 1024)).shape == (1, 16)
    for rate in (8000 * 1024 + 1, 7, 0, -8000):
        with pytest.raises(ValueError, match=rf"sample 3: expected a sample rate of 8 to 8192000 Hz .*, got {rate} Hz"):
            sound((wave, rate))
    assert sound((wave[:, :3], 1), sample_rate=100).shape == (1, 300)
    with pytest.raises(ValueError, match="expected a sample rate of 1 to 102400 Hz .*, got 0 Hz"):
        sound((wave, 0), sample_rate=100)


def test_settings_of_the_spec_that_are_missing_are_named() -> None:
    with pytest.raises(ValueError, match="x: the spec has no 'num_values', which kind 'timeseries' needs; it has kind"):
        preprocess([1, 2], spec={"kind": "timeseries"}, name="x")


def test_series_of_one_value_may_omit_its_axis() -> None:
    one = {"num_values": 1, "mean": [0.0], "std": [1.0]}
    x = series({"values": [1, 2], "times": [0, 1], "present": [True, False]}, **one)
    assert x["present"].tolist() == [[True], [False]]
    with pytest.raises(ValueError, match="expected values of shape"):
        series([1, 2], step_seconds=1)


def test_series_without_statistics_or_in_order_are_unchanged() -> None:
    values = np.array([[3.0, 4.0], [1.0, 2.0]])
    x = preprocess({"values": values, "times": [0, 1]}, spec={"kind": "timeseries", "num_values": 2}, name="x")
    assert x["values"].tolist() == values.tolist()  # type: ignore[call-overload, index]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"), (1.0, "1"), ("1", "1"), ("1.00", "1"), ("-7.0", "-7"), ("1.50", "1.50"), ("01.0", "01.0"), (2.5, "2.5"),
        (True, "True"), ("true", "True"), ("FALSE", "False"), (np.True_, "True"), ("Rest", "Rest"), ("no", "no"),
        (np.int64(3), "3"), (np.float32(3), "3"), (b"gr\xc3\xbcn", "grün"), (b"\xff", "\ufffd"), (" a ", "a"),
    ],
)  # fmt: skip
def test_categories_are_the_same_however_they_are_written(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_missing_cells() -> None:
    for value in (None, "", "  ", float("nan"), np.float64("nan"), np.float32("nan")):
        assert is_missing(value)
    for value in (0, 0.0, False, "0", "nan", "a", b"", np.float32(1)):
        assert not is_missing(value)


def test_names_of_version_0_1_are_found_first() -> None:
    assert [number_of_name(value, ["a", "1", "1.0"]) for value in ("1", "1.0", 1, "1.00", "b")] == [1, 2, 1, 1, None]


def test_colour_conversions_depend_on_the_range() -> None:
    """Images of 8 bits are converted to the spec's colours; others only if they were framed."""
    grey, colour = Image.fromarray(pixels[..., 0]), Image.fromarray(pixels)
    sixteen = {"kind": "image", "shape": [3, 4, 5], "range": [0, 16]}
    assert preprocess(Image.fromarray(pixels // 16), spec=sixteen, name="x").shape == (3, 4, 5)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="x: expected shape"):
        preprocess(Image.fromarray(pixels[..., 0] // 16), spec=sixteen, name="x")
    framed = preprocess(colour, spec={**GREY, "crop_fraction": 1.0}, name="x")
    assert torch.equal(framed, preprocess(colour.convert("L"), spec=GREY, name="x"))  # type: ignore[arg-type]
    deep = Image.fromarray(np.full((4, 5), 4095, dtype=np.uint16))
    assert (preprocess(deep, spec={**GREY, "crop_fraction": 1.0, "deep_range": [0, 4095]}, name="x") == 1).all()  # type: ignore[union-attr]
    assert preprocess(grey, spec={**RGB, "mean": [0.0] * 3, "std": [1.0] * 3}, name="x").shape == (3, 4, 5)  # type: ignore[union-attr]


def test_small_and_whole_point_sets_are_scaled() -> None:
    unit = {"kind": "points", "shape": [None, 3], "unit_sphere": True}
    for raw in (np.array([[1, 2, 3], [4, 5, 9]]), np.array([[1, 2, 3], [4, 5, 9]]) * 1e-3):
        x = preprocess(raw, spec=unit, name="x")
        assert isinstance(x, Tensor)
        torch.testing.assert_close(torch.linalg.vector_norm(x, dim=1), torch.ones(2))
    far = np.array([[1e9, 0, 0], [1e9 + 1, 0, 0]])
    assert preprocess(far, spec=unit, name="x")[:, 0].tolist() == [-1, 1], "centred in float64"  # type: ignore[index]
    with pytest.raises(ValueError, match=r"x: expected shape \(any, 3\) as in training, got \(3,\)"):
        preprocess(np.zeros(3), spec=unit, name="x")


def test_damaged_deep_images_are_an_error() -> None:
    """An array made from an image that is not loaded may be empty."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (64, 64), dtype=np.uint16)).save(file, "PNG")
    content = file.getvalue()
    with Image.open(io.BytesIO(content[: len(content) // 2])) as damaged, pytest.raises(OSError, match=r"."):
        preprocess(damaged, spec={"kind": "image", "shape": [1, 64, 64], "range": [0, 65535]}, name="x")


def test_plain_texts() -> None:
    forms = (np.float32(3), np.float64(3), 3.0, 3, "3", b"3", np.int8(3))
    assert [plain_text(value) for value in forms] == ["3"] * 7
    assert [plain_text(value) for value in ("3.0", 2.5, np.True_, " a b ")] == ["3.0", "2.5", "True", "a b"]


def test_dates_in_tables() -> None:
    spec = {
        "kind": "table", "numbers": ["day", "mass"], "categories": {},
        "dates": {"day": {"written": "%d.%m.%Y", "unit": "days"}},
        "written": {"mass": {"decimal": ",", "thousands": "", "unit": "kg"}},
    }  # fmt: skip
    x = preprocess({"day": "30.01.2020", "mass": "1,5 kg"}, spec=spec, name="x")
    assert x["numbers"].tolist() == [18291, 1.5]  # type: ignore[call-overload, index]
    for cell, message in (("2020-01-30", "a date"), (5, "a date")):
        with pytest.raises(ValueError, match=f"x, column 'day': expected {message}, got {cell!r}"):
            preprocess({"day": cell}, spec=spec, name="x")
    for cell, message in ((float("inf"), "a finite number"), ("heavy", "a number"), (True, "a number")):
        with pytest.raises(ValueError, match=f"x, column 'mass': expected {message}, got {cell!r}"):
            preprocess({"mass": cell}, spec=spec, name="x")


@pytest.mark.parametrize(
    ("times", "values", "expected"),
    [
        ([0, 0, 1], [1, 3, 5], ([0, 1], [2, 5])),
        ([0, 2, 1], [1, 3, 5], ([0, 1, 2], [1, 5, 3])),
        ([0, 1, 1], [1, 3, 5], ([0, 1], [1, 4])),
        ([0, 1, 2], [1, 3, 5], ([0, 1, 2], [1, 3, 5])),
    ],
)
def test_orders_of_steps(times: list[float], values: list[float], expected: tuple[list[float], list[float]]) -> None:
    x = series({"values": values, "times": times, "present": [[True]] * 3}, num_values=1, mean=[0.0], std=[1.0])
    assert (x["times"].tolist(), x["values"][:, 0].tolist()) == expected
