"""Moving digits with the tones of their keys: what is seen and heard, splits, and that draws can be repeated."""

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from perceiver.data import DataModule, DialedDigits
from perceiver.data.synthetic.dialed_clips import COLUMNS, KEYS, ROWS, Clip
from perceiver.testing.check import Check
from perceiver.testing.data_module import data_module_checks

SMALL: dict[str, Any] = {"num_frames": 3, "canvas": [10, 12], "clips_per_digit": 2, "batch_size": 50}
CLIP = Clip(num_frames=6, canvas=(12, 15), frames_per_second=25.0, sample_rate=4000, max_speed=2.0, noise=0.0)


def prepared(**settings: Any) -> DataModule:
    module = DataModule.of(DialedDigits, **{**SMALL, **settings})
    module.setup("fit")
    module.setup("test")
    return module


@pytest.mark.parametrize(
    "check",
    [
        *data_module_checks(lambda: DataModule.of(DialedDigits, **SMALL)),
        *data_module_checks(lambda: DataModule.of(DialedDigits, missing={"audio": 0.4})),
    ],
    ids=str,
)
def test_the_public_kit(check: Check) -> None:
    check()


def test_the_digit_moves_and_bounces_within_the_canvas() -> None:
    """Its ink stays as it is, and the centre of its ink moves by the speed, except where an edge throws it back."""
    digit = torch.from_numpy(load_digits().images[3]).float()[None] / 16
    draws = torch.tensor([[0.25, 0.75, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    video = CLIP.video(digit, draws)[0, 0]
    assert video.shape == (6, 12, 15)
    torch.testing.assert_close(video.sum(dim=(1, 2)), digit.sum().expand(6))
    rows, columns = torch.arange(12.0), torch.arange(15.0)
    places = torch.stack([(video.sum(dim=2) @ rows), (video.sum(dim=1) @ columns)], dim=1) / digit.sum()
    own = torch.stack([(digit[0].sum(dim=1) @ torch.arange(8.0)), (digit[0].sum(dim=0) @ torch.arange(8.0))]) / digit.sum()
    # From row 1 by one row a frame to row 4, the last, and back; from column 3.5 by two a frame to the first and back.
    expected = torch.tensor([[1, 3.5], [2, 1.5], [3, 0.5], [4, 2.5], [3, 4.5], [2, 6.5]])
    torch.testing.assert_close(places - own, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("digit", range(10))
def test_the_tones_are_those_of_the_key(digit: int) -> None:
    draws = torch.full((1, Clip.NUM_DRAWS), 0.5)
    sound = CLIP.sound(torch.tensor([digit]), draws, torch.zeros(1, CLIP.num_samples))[0, 0]
    assert CLIP.num_samples == 960
    spectrum = torch.fft.rfft(sound, n=4000).abs()  # one hertz from one to the next
    low, high = int(spectrum[600:1075].argmax()) + 600, int(spectrum[1075:1600].argmax()) + 1075
    row, column = KEYS[digit]
    assert (abs(low - ROWS[row]) < 6, abs(high - COLUMNS[column]) < 6) == (True, True)
    assert ["123", "456", "789", " 0 "][row][column] == str(digit)
    begin = 0.15 * 959 / 4000
    assert bool((sound[: int(begin * 4000)] == 0).all())
    assert 0.2 < float(sound.abs().max()) <= 0.5


def test_training_clips_are_made_anew_and_repeat_with_the_seed() -> None:
    module = prepared(num_workers=0)

    def epoch(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        loader = module.train_dataloader()
        return [batch.inputs[name] for batch in loader for name in ("audio", "video")]

    first, again, other = epoch(0), epoch(0), epoch(1)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    torch.manual_seed(0)
    loader = module.train_dataloader()
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    place = loader.state_dict()  # type: ignore[attr-defined]
    torch.manual_seed(0)
    resumed = module.train_dataloader()
    resumed.load_state_dict(place)  # type: ignore[attr-defined]
    assert torch.equal(next(iter(resumed)).inputs["video"], next(batches).inputs["video"])


def test_spec_and_batches() -> None:
    module = prepared()
    spec = module.spec["modalities"]
    assert spec["video"]["shape"] == [1, 3, 10, 12]
    assert spec["audio"]["shape"] == [1, 480]
    batches = list(module.train_dataloader())
    video, audio = (torch.cat([batch.inputs[name] for batch in batches]) for name in ("video", "audio"))
    assert len(video) == 2 * 1257
    for x in (video, audio):
        assert abs(float(x.mean())) < 0.05
        assert abs(float(x.std()) - 1) < 0.05


def test_missing_samples_are_the_same_in_every_epoch_and_none_in_validation() -> None:
    module = prepared(missing={"audio": 0.5, "video": 0.3})
    absent = []
    for _ in range(2):
        ids = set()
        for batch in module.train_dataloader():
            there = batch.masks["audio"]
            assert not bool(batch.inputs["audio"][~there].any())
            assert bool((there | batch.masks["video"]).all())
            ids |= {name for name, one in zip(batch.ids, there.tolist(), strict=True) if not one}
        absent.append(ids)
    assert absent[0] == absent[1]
    assert math.isclose(len(absent[0]) / 2514, 0.5 - 0.15 / 2, abs_tol=0.04)
    assert all(not batch.masks for loader in (module.val_dataloader(), module.test_dataloader()) for batch in loader)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"canvas": [6, 12]}, "data.canvas: expected at least 8 rows and columns"),
        ({"sample_rate": 2000}, "data.sample_rate: expected more than 2954 hertz"),
        ({"clips_per_digit": 0}, "data.clips_per_digit: expected 1 or more, got 0"),
        ({"noise": -1.0}, "noise of at least 0"),
        ({"missing": {"smell": 0.5}}, "data.missing.smell"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataModule.of(DialedDigits, **{**SMALL, **settings})
