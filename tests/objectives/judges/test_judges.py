"""Judges of classes and of canvases: what is right, what is counted, and what they are trained on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from image_sets import idx_set
from torch import nn

from perceiver.data import MNIST, DigitPrompts, Digits
from perceiver.data.synthetic.captions.language import RELATIONS
from perceiver.data.synthetic.prompts.language import PLACES
from perceiver.objectives.judges import CanvasJudge, ClassJudge, ImageJudge, digit_judge, digits
from perceiver.objectives.judges.canvases import SIDES, _sides, crowded, places_of
from perceiver.samples.batch import Batch


def test_classes_of_real_digits() -> None:
    """Trained on 1,257 images, it reads the others."""
    judge = ClassJudge(source=Digits(), name="digits", epochs=6)
    assert isinstance(judge, ImageJudge)
    test = Digits().read_test()
    batch = test.__getitems__(range(len(test)))
    image = batch.inputs["image"]
    assert isinstance(image, torch.Tensor)
    found = judge(image, batch)
    assert found.features.shape == (360, judge.channels)
    assert float(found.right["prompt_accuracy"].float().mean()) > 0.9
    swapped = judge(image.flip(0), batch)
    assert float(swapped.right["prompt_accuracy"].float().mean()) < 0.4
    assert judge.training_images().shape == (1257, 1, 8, 8)
    with pytest.raises(ValueError, match="expected a class number"):
        judge(image, Batch(inputs={"image": image}))


class Fixed(nn.Module):
    """Answers in place of a network."""

    def __init__(self, **answers: Any) -> None:
        super().__init__()
        self.answers = {name: torch.as_tensor(one) for name, one in answers.items()}

    def forward(self, images: torch.Tensor) -> Any:
        sizes = {"count": 4, **dict.fromkeys(SIDES, 10), **{f"{name}_large": 2 for name in SIDES}}
        rows = len(images)
        logits = {
            name: nn.functional.one_hot(self.answers.get(name, torch.zeros(rows, dtype=torch.int64)), size).float()
            for name, size in sizes.items()
        }
        return torch.zeros(rows, 128), logits


def judged(target: list[list[int]], images: torch.Tensor | None = None, **answers: Any) -> dict[str, list[bool]]:
    judge = CanvasJudge(source=MNIST(root="nowhere", download=False), canvas=40)
    judge.__dict__["network"] = Fixed(**answers)
    pixels = torch.zeros(len(target), 1, 40, 40) if images is None else images
    found = judge(pixels, Batch(inputs={"image": pixels}, target=torch.tensor(target)))
    return {name: (one & found.asked.get(name, torch.ones_like(one))).tolist() for name, one in found.right.items()}


def test_two_digits_in_their_relation() -> None:
    """A three and a large seven: the three to the left and above, where it says so."""
    same = {"count": [2] * 6, "left": [3] * 6, "right": [7] * 6, "top": [3] * 6, "bottom": [7] * 6}
    sizes = {"left_large": [0] * 6, "right_large": [1] * 6, "top_large": [0] * 6, "bottom_large": [1] * 6}
    left, right, above, below = range(4)
    assert RELATIONS[below] == "below"
    target = [
        [3, 7, -1, -1, -1, left],
        [7, 3, 1, 0, -1, right],
        [3, 7, 0, -1, -1, above],
        [7, 3, 0, -1, -1, below],
        [7, 3, -1, -1, -1, left],
        [3, 8, -1, -1, -1, left],
    ]
    found = judged(target, **same, **sizes)
    assert found["prompt_accuracy"] == [True, True, True, True, False, False]
    assert found["digit_accuracy"] == [True, True, True, True, True, False]
    assert found["size_accuracy"] == [False, True, True, False, False, False]
    crowd = judged(target, **{**same, "count": [3, 1, 0, 2, 2, 2]})
    assert crowd["prompt_accuracy"] == [False, False, False, True, False, False]


def test_one_digit_at_its_place() -> None:
    images = torch.zeros(9, 1, 45, 45)
    for place in range(9):
        row, column = 15 * (place // 3), 15 * (place % 3)
        images[place, 0, row + 4 : row + 11, column + 4 : column + 11] = 1.0
    assert places_of(images).tolist() == list(range(len(PLACES)))
    assert places_of(torch.zeros(1, 1, 45, 45)).tolist() == [-1]
    target = [[5, -1, -1, -1, place, -1] for place in (0, 1, 2, 3, 4, 5, 6, 7, 0)]
    target[3] = [5, -1, -1, -1, -1, -1]
    found = judged(target, images, count=[1] * 9, left=[5] * 8 + [5], left_large=[1] * 9)
    assert found["prompt_accuracy"] == [True] * 8 + [False]
    assert found["size_accuracy"] == [False] * 9, "no prompt names a size"
    assert judged(target, images, count=[1] * 9, left=[4] * 9)["prompt_accuracy"] == [False] * 9


def test_what_the_judge_of_canvases_is_trained_on(tmp_path: Path) -> None:
    """Its answers, taken for those of a network, find each canvas of the data right."""
    idx_set(tmp_path / "MNIST" / "raw")
    mnist = MNIST(root=tmp_path, download=False, validation_size=10)
    judge = CanvasJudge(source=mnist, canvas=40)
    torch.manual_seed(0)
    images, answers = crowded(*judge._painters, 400)
    assert images.shape == (400, 1, 40, 40)
    assert set(answers["count"].tolist()) == {0, 1, 2, 3}
    for name in SIDES:
        assert bool((answers[name][answers["count"] % 3 == 0] == -1).all())
        assert bool((answers[name][answers["count"] == 1] >= 0).all())
    assert float(images[answers["count"] == 0].max()) == 0

    source = DigitPrompts(root=tmp_path, num_digits=2, test_prompts=60, validation_images=10, download=False)
    canvases = source.read_test()
    painter = canvases.painter  # type: ignore[union-attr]
    exact = _sides(painter, canvases.canvases, single=False)  # type: ignore[union-attr, arg-type]
    batch = canvases.__getitems__(range(60))
    assert batch.target is not None
    known = {name: one.clamp(min=0) for name, one in exact.items()}
    found = judged(batch.target.tolist(), count=[2] * 60, **known)
    assert found["prompt_accuracy"] == [True] * 60
    with pytest.raises(ValueError, match="expected a target"):
        judge(images, Batch(inputs={"image": images}, target=torch.zeros(400)))


def test_training_images_of_canvases(tmp_path: Path) -> None:
    idx_set(tmp_path / "MNIST" / "raw")
    judge = CanvasJudge(source=MNIST(root=tmp_path, download=False, validation_size=10), canvas=40)
    [painter] = {judge._painters[1].num_digits}
    assert painter == 2
    images = judge.training_images()
    assert images.shape == (20_000, 1, 40, 40)
    assert torch.equal(images[:4], judge.training_images()[:4])


def test_the_judge_that_fits_the_data(tmp_path: Path) -> None:
    one = digit_judge(root="nowhere", folder=str(tmp_path), download=False)
    assert isinstance(one, ClassJudge)
    assert one.file == tmp_path / "mnist.pt"
    for settings, canvas, number in (({"num_digits": 2}, 40, 2), ({"canvas": 44}, 44, 1)):
        judge = digit_judge(root="nowhere", folder=str(tmp_path), download=False, **settings)
        assert isinstance(judge, CanvasJudge)
        assert (judge.canvas, judge.num_digits, judge.file) == (canvas, number, tmp_path / f"mnist_canvas_{canvas}.pt")
    assert digit_judge(root="nowhere", folder=None, num_digits=2).file is None


def test_the_distance_of_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In features that are the brightness and its square."""

    class Brightness:
        channels = 2

        @staticmethod
        def network(images: torch.Tensor) -> Any:
            mean = images.mean(dim=(1, 2, 3))
            return torch.stack([mean, mean.square()], dim=1), {}

    monkeypatch.setattr(digits, "digit_judge", lambda **settings: Brightness())
    images = torch.rand(300, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert digits.digit_distance(images, images) == pytest.approx(0, abs=1e-6)
    mean = images.mean(dim=(1, 2, 3)).double()
    # A constant has no covariance: the distance is that of the means and the trace of the other covariance.
    features = torch.stack([mean, mean.square()], dim=1)
    apart = (features.mean(dim=0) - 1).square().sum() + features.var(dim=0).sum()
    assert digits.digit_distance(torch.ones(50, 1, 4, 4), images) == pytest.approx(float(apart), abs=1e-4)
