"""The network of a judge: it learns, its file is found again, and other files are errors."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perceiver.objectives.judges import network
from perceiver.objectives.judges.network import FEATURES, JudgeNetwork, Lesson, judge_network, trained

LESSON = Lesson(name="corners", image_channels=1, size=10, questions={"corner": 2, "spare": 3}, images=256, epochs=2)


def draw(numbers: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Light in the upper left or the lower right half; the second question has no answers."""
    labels = numbers % 2
    images = torch.rand(len(numbers), 1, 10, 10) * 0.2
    images[labels == 0, :, :5, :5] += 0.7
    images[labels == 1, :, 5:, 5:] += 0.7
    return images, {"corner": labels, "spare": torch.full_like(labels, -1)}


def test_it_learns_the_same_each_time() -> None:
    state = torch.get_rng_state()
    one, other = (trained(LESSON, draw, batch_size=32) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    images, answers = draw(torch.arange(64))
    features, logits = one(images)
    assert features.shape == (64, FEATURES)
    assert (logits["corner"].argmax(dim=1) == answers["corner"]).float().mean() > 0.95
    assert torch.equal(features, other(images)[0])
    assert not one.training
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_the_file_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "judges" / "corners.pt"
    first = judge_network(LESSON, draw, file=file)
    monkeypatch.setattr(network, "trained", lambda *args: pytest.fail("it is in the file"))
    again = judge_network(LESSON, draw, file=file)
    images, _ = draw(torch.arange(8))
    assert torch.equal(first(images)[0], again(images)[0])
    other = Lesson(name="corners", image_channels=1, size=10, questions={"corner": 2, "spare": 3}, images=256, epochs=3)
    with pytest.raises(ValueError, match=r"corners.pt: expected a judge of .*'epochs': 3.*Delete the file"):
        judge_network(other, draw, file=file)
    file.write_bytes(b"no judge")
    with pytest.raises(ValueError, match=r"corners.pt: expected the file of a judge"):
        judge_network(LESSON, draw, file=file)


@pytest.mark.parametrize("size", [8, 10, 28, 29, 40])
def test_sizes(size: int) -> None:
    judge = JudgeNetwork(image_channels=3, size=size, questions={"class": 4}).eval()
    _, logits = judge(torch.rand(2, 3, size, size))
    assert logits["class"].shape == (2, 4)


def test_shifts_move_images_and_keep_their_place_in_the_batch() -> None:
    torch.manual_seed(0)
    images = torch.zeros(50, 2, 9, 9)
    images[:, 0, 4, 4] = torch.arange(50) + 1.0
    moved = network._shifted(images, most=2)
    assert torch.equal(moved.sum(dim=(2, 3)), images.sum(dim=(2, 3)))
    places = moved[:, 0].flatten(1).argmax(dim=1)
    assert {int(place) for place in places} <= {row * 9 + column for row in range(2, 7) for column in range(2, 7)}
    assert len(set(places.tolist())) > 10


def test_it_learns_the_same_within_a_training_in_bfloat16() -> None:
    expected = trained(LESSON, draw, batch_size=32).state_dict()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = trained(LESSON, draw, batch_size=32).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
