"""Emoji from names: the held-out compositions are not in training, and their parts are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from emoji_set import COLOURS, emoji_set

from perceiver.data import DataModule, EmojiPrompts
from perceiver.data.datasets.emoji_prompts import compositions, smaller
from perceiver.modalities.texts.text_bytes import decode_bytes
from perceiver.objectives.judges import EmojiJudge
from perceiver.samples.batch import Batch

NAMES = [f"{COLOURS[number % 4]} {number // 4}" for number in range(40)]
"""Each place in four colours."""


def german(name: str) -> str:
    return name.replace(" ", " Fleck ")


def names(batch: Batch) -> list[str]:
    ids, mask = batch.inputs["text"], batch.masks.get("text")
    assert isinstance(ids, torch.Tensor)
    valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    return [decode_bytes(row[own]) for row, own in zip(ids, valid, strict=True)]


def test_what_is_held_out(tmp_path: Path) -> None:
    source = EmojiPrompts(root=emoji_set(tmp_path), size=16, repeats=2)
    training, validation, test = source.split()
    assert sorted([*training, *validation, *test]) == list(range(40))
    held_out = [NAMES[number] for number in (*validation, *test)]
    assert (len(validation), len(test)) == (2, 8)
    assert sorted(name.partition(" ")[2] for name in held_out) == [str(place) for place in range(10)]
    known = [NAMES[number].partition(" ") for number in training]
    for name in held_out:
        first, _, rest = name.partition(" ")
        assert first in [one for one, _, _ in known]
        assert rest in [one for _, _, one in known]
    assert compositions([*NAMES, "red car"])["0"] == [0, 1, 2, 3]
    assert "car" not in compositions([*NAMES, "red car"])

    data = DataModule(source, batch_size=6)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.target is not None
    assert names(batch) == [NAMES[number] for number in batch.target.tolist()]
    assert set(batch.target.tolist()) <= set(training)
    data.setup("test")
    samples = data.split("test")
    assert [int(samples[index].target) for index in range(16)] == test * 2
    assert len({samples[index].id for index in range(16)}) == 16
    image = samples[0].inputs["image"]
    assert isinstance(image, torch.Tensor)
    assert image.shape == (3, 16, 16)
    with pytest.raises(IndexError):
        samples[16]
    assert data.spec["target"] == {}


def test_languages_are_drawn_in_training_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = EmojiPrompts(root=emoji_set(tmp_path), languages=["de", "en"])
    training, validation = source.read_training()
    found = {names(training.__getitems__([0]))[0] for _ in range(20)}
    assert found == {NAMES[training.numbers[0]], german(NAMES[training.numbers[0]])}
    assert {names(validation.__getitems__([0]))[0] for _ in range(5)} == {german(NAMES[validation.numbers[0]])}
    unaltered = source.unaltered(training)
    assert {names(unaltered.__getitems__([0]))[0] for _ in range(5)} == {german(NAMES[training.numbers[0]])}


def test_pictures_become_means() -> None:
    pictures = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4) * 4
    expected = torch.nn.functional.avg_pool2d(pictures.float(), 2)
    assert torch.equal(smaller(pictures, 2).float(), expected.round())
    assert torch.equal(smaller(pictures, 4), pictures)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 40}, "data.size: expected a divisor of 64, got 40"),
        ({"repeats": 0}, "data.repeats: expected 1 or more, got 0"),
        ({"languages": []}, "data.languages: expected one language or more"),
        ({"languages": ["xx"]}, "data.languages: expected some of en, de, got xx"),
    ],
)
def test_errors(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        EmojiPrompts(root=emoji_set(tmp_path), **settings).prepare()


def test_the_judge_finds_pictures_by_pixels(tmp_path: Path) -> None:
    source = EmojiPrompts(root=emoji_set(tmp_path), size=32)
    judge = EmojiJudge(root=tmp_path)
    batch = source.read_training()[0].__getitems__(range(8))
    image = batch.inputs["image"]
    assert isinstance(image, torch.Tensor)
    found = judge(image, batch)
    assert bool(found.right["prompt_accuracy"].all())
    assert found.features.shape == (8, judge.channels)
    # Darker everywhere: brightness does not count.
    assert bool(judge(image - 0.1, batch).right["prompt_accuracy"].all())
    swapped = judge(image.flip(0), batch)
    assert not bool(swapped.right["prompt_accuracy"].any())
    assert judge.training_images().shape == (30, 3, 32, 32)
    with pytest.raises(ValueError, match="expected the number of an emoji"):
        judge(image, Batch(inputs={"image": image}))
    with pytest.raises(ValueError, match=r"judge.hand: expected one of noto, twemoji, got 'other'"):
        EmojiJudge(root=tmp_path, hand="other")


def test_pictures_that_show_nothing_find_no_emoji() -> None:
    """A blank picture is as similar to each emoji; NaN to none."""
    judge = EmojiJudge(root="nowhere")
    judge.__dict__["_gallery"] = torch.randn(50, 3 * 256)
    blank = torch.tensor([0.0, 0.37, 1.0, torch.nan])[:, None, None, None].expand(-1, 3, 32, 32)
    found = judge(blank, Batch(inputs={}, target=torch.arange(4)))
    assert not any(bool(right.any()) for right in found.right.values())
