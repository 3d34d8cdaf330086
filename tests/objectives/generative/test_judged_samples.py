"""Judged samples: what is generated, counted, grouped and compared, with a judge that reads the brightness of images."""

from typing import Any

import pytest
import torch
from prompted_models import prompted
from torch import Tensor

from perceiver.data.synthetic.prompts.groups import DigitPromptGroups
from perceiver.data.synthetic.prompts.texts import text_batch
from perceiver.objectives import FlowMatching, JudgedSamples, Judgement
from perceiver.objectives.generative import judged_samples
from perceiver.objectives.metrics.frechet import FrechetDistance
from perceiver.samples.batch import Batch
from perceiver.training import Task

TEXTS = ["seven", "7", "the digit two", "one more than six"]
"""Prompts of a seven and a two: the second and the last are held out."""


class Brightness:
    """An image of a digit has its brightness, in tenths."""

    channels = 2
    measures = ("prompt_accuracy", "is_light")

    def __call__(self, images: Tensor, batch: Batch) -> Judgement:
        assert batch.target is not None
        mean = images.mean(dim=(1, 2, 3))
        right = (mean * 10).round() == batch.target
        features = torch.stack([mean, mean.square()], dim=1)
        light = batch.target > 5
        return Judgement(
            features=features, right={"prompt_accuracy": right, "is_light": mean > 0.5}, asked={"is_light": light}
        )

    def training_images(self) -> Tensor:
        return torch.linspace(0, 1, 50)[:, None, None, None].expand(-1, 1, 8, 8)


def batch() -> Batch:
    target = torch.tensor([7, 7, 2, 7])
    ids, mask = text_batch(TEXTS)
    assert mask is not None
    image = (target / 10)[:, None, None, None].expand(-1, 1, 8, 8) * 2 - 1
    return Batch(inputs={"image": image, "text": ids}, masks={"text": mask}, target=target, ids=list("abcd"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of a generator in place of the model: with guidance it paints 7, 7, 4 and 1 tenths, without always 7."""
    calls: list[dict[str, Any]] = []

    def generate(model: Any, conditions: Any, **settings: Any) -> Tensor:
        calls.append({"conditions": conditions, **settings})
        count = settings["num_samples"]
        tenths = torch.tensor([7.0, 7.0, 4.0, 1.0])[:count] if settings["guidance"] > 1 else torch.full((count,), 7.0)
        return (tenths / 10)[:, None, None, None].expand(-1, 1, 8, 8) * 2 - 1

    monkeypatch.setattr(judged_samples, "generate", generate)
    return calls


def test_results(asked: list[dict[str, Any]]) -> None:
    judged = JudgedSamples(judge=Brightness(), num_samples=6, guidance=2.0, groups=DigitPromptGroups(), seed=3)
    metrics = judged.metrics()
    for number, count in enumerate((4, 4, 3)):
        judged.update(prompted(), batch(), metrics, modality="image", count=count, number=number)
    # Four images, then two of the second batch, none of the third; each guided and unguided, with the same noise.
    assert [(one["num_samples"], one["guidance"]) for one in asked] == [(4, 2.0), (4, 1.0), (2, 2.0), (2, 1.0)]
    noises = [[torch.randn(3, generator=own) for own in one["generator"]] for one in asked]
    for one, other in ((0, 1), (0, 2)):
        assert all(torch.equal(*pair) for pair in zip(noises[one], noises[other], strict=False)), "by the ids"
    assert not torch.equal(noises[0][0], noises[0][1])
    assert set(asked[0]["conditions"]) == {"text"}
    found = {name: float(value) for name, value in judged.results(metrics).items()}
    assert found["judge_accuracy"] == 1
    # Not held out: the first and the third of four, the first of two.
    assert found["prompt_accuracy"] == pytest.approx(2 / 3)
    assert found["prompt_accuracy/unguided"] == pytest.approx(2 / 3)
    assert found["prompt_accuracy/held_out"] == pytest.approx(2 / 3)
    assert found["prompt_accuracy/held_out/unguided"] == 1
    assert (found["prompt_accuracy/word"], found["prompt_accuracy/digit"]) == (1, 0)
    assert found["is_light"] == 1, "only sevens are asked"
    assert "prompt_accuracy/article" not in found, "no such prompt"
    assert found["nearest_training_ratio"] > 0
    assert set(found) <= set(judged.result_names(metrics))

    metric = FrechetDistance(channels=2)
    for tenths, real in (([7, 4, 7], False), ([7, 2] * 3, True)):
        mean = torch.tensor(tenths) / 10
        metric.update(torch.stack([mean, mean.square()], dim=1), real=real)
    assert found["frechet_distance"] == pytest.approx(float(metric.compute()), abs=1e-5)


def test_the_test_alone_is_judged(asked: list[dict[str, Any]]) -> None:
    objective = FlowMatching(judged=JudgedSamples(judge=Brightness(), num_samples=4, unguided=False))
    model = prompted()
    task = Task(model=model, objective=objective, optimizer=torch.optim.SGD)  # type: ignore[arg-type]
    assert "val/loss" in task.logged_names()
    assert not [name for name in task.logged_names() if "accuracy" in name]
    validation, test = objective.metrics(model), objective.test_metrics(model)
    for metrics in (validation, test):
        objective.evaluate(model, objective.check(model, batch()), metrics)
    assert list(objective.results(validation)) == ["loss"]
    assert len(asked) == 1
    found = objective.results(test)
    assert {"loss", "prompt_accuracy", "frechet_distance", "judge_accuracy"} <= set(found)
    assert not [name for name in found if "unguided" in name]
    assert set(found) <= set(objective.result_names(test))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"task.judged.num_samples: expected 2 or more, got 1"):
        JudgedSamples(judge=Brightness(), num_samples=1)


def test_it_runs_with_a_model() -> None:
    """The generated images are those of the model, in [0, 1]."""
    torch.manual_seed(0)
    judged = JudgedSamples(judge=Brightness(), num_samples=4, steps=1)
    results = []
    for _ in range(2):
        metrics = judged.metrics()
        judged.update(prompted(), batch(), metrics, modality="image", count=4, number=0)
        results.append({name: float(value) for name, value in judged.results(metrics).items()})
        assert 0 <= results[-1]["frechet_distance"] < 2


class Precise(Brightness):
    """Notes the types of what it computes."""

    def __init__(self) -> None:
        self.types: set[torch.dtype] = set()

    def __call__(self, images: Tensor, batch: Batch) -> Judgement:
        self.types |= {images.dtype, (images[:, 0] @ images[:, 0]).dtype, torch.ones(1).dtype}
        return super().__call__(images, batch)


def results(given: Batch, *, size: int, judge: Brightness, count: int = 100) -> dict[str, float]:
    judged = JudgedSamples(judge=judge, num_samples=count, steps=1, unguided=False, groups=DigitPromptGroups())
    metrics = judged.metrics()
    torch.manual_seed(0)
    model = prompted()
    for number, start in enumerate(range(0, given.size, size)):
        rows = given.rows(slice(start, start + size))
        judged.update(model, rows, metrics, modality="image", count=rows.size, number=number)
    return {name: float(value) for name, value in judged.results(metrics).items()}


def test_results_do_not_depend_on_the_size_of_batches() -> None:
    whole, parts = (results(batch(), size=size, judge=Brightness()) for size in (4, 3))
    assert whole == pytest.approx(parts, rel=1e-4)


def test_the_judge_works_in_full_precision() -> None:
    judge = Precise()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results(batch(), size=4, judge=judge)
    assert judge.types == {torch.float32}


def test_samples_without_an_image_are_left_out_and_parts_of_images_refused() -> None:
    given = batch()
    given.masks["image"] = torch.tensor([True, False, True, True])
    assert results(given, size=4, judge=Brightness()) == pytest.approx(
        results(batch().rows([0, 2, 3]), size=4, judge=Brightness())
    )
    given.masks["image"] = torch.ones(4, 8, 8, dtype=torch.bool)
    given.masks["image"][1, 4:] = False
    with pytest.raises(ValueError, match=r"task.judged: expected images 'image' of one size"):
        results(given, size=4, judge=Brightness())


def test_images_that_are_not_finite_are_wrong(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Credulous(Brightness):
        def __call__(self, images: Tensor, batch: Batch) -> Judgement:
            judged = super().__call__(images, batch)
            return Judgement(features=judged.features, right=dict.fromkeys(self.measures, images[:, 0, 0, 0] > -1), asked={})

    monkeypatch.setattr(judged_samples, "generate", lambda *_, shape_of, **__: torch.full_like(shape_of, torch.nan))
    found = results(batch(), size=4, judge=Credulous())
    assert found["prompt_accuracy"] == 0
    assert not {"frechet_distance", "nearest_training", "nearest_training_ratio"} & set(found)
    assert "2 of 2 generated and 0 of 2 real samples" in caplog.text
