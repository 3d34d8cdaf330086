"""Sheets of generated samples: rows, titles, and models that generate nothing."""

from collections.abc import Iterator

import pytest
import torch
from matplotlib.figure import Figure
from plots_cases import model as classifier
from prompted_models import prompted

from perceiver import generate_samples
from perceiver.data import ClassPrompts, DataModule, Digits
from perceiver.inspection import WordInfluence
from perceiver.plots import GeneratedSheet, confusion_figure, drawing_of, sheet, sheet_of, word_regions
from perceiver.plots.generative import generated
from perceiver.plots.rendering import png_of
from perceiver.plots.training.comparison import compared_curves
from perceiver.samples.batch import Batch


def batches() -> Iterator[Batch]:
    data = DataModule(ClassPrompts(source=Digits(), templates=["the digit {name}"]), batch_size=2)
    data.setup("fit")
    return iter(data.val_dataloader())


def texts(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for axes in figure.axes for text in axes.texts]


def images(figure: Figure) -> list[torch.Tensor]:
    return [torch.as_tensor(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def test_validation_prompts_with_their_true_images_first() -> None:
    found = GeneratedSheet(num_conditions=3, num_samples=2, steps=1)(prompted(), batches())
    figure = found["generated"]
    assert all(text.startswith("the digit ") for text in texts(figure))
    assert (len(texts(figure)), len(images(figure))) == (3, 9)
    true = next(batches()).inputs["image"]
    assert isinstance(true, torch.Tensor)
    # By the spec of the model.
    torch.testing.assert_close(images(figure)[0].float(), (true[0, 0] / 2 + 0.5).clamp(0, 1))
    # The same noise for each condition and epoch.
    again = GeneratedSheet(num_conditions=3, num_samples=2, steps=1)(prompted(), batches())["generated"]
    assert len(images(again)) == 9


def test_chosen_prompts() -> None:
    prompts = ["a 7", "the digit three in words that do not fit into a line"]
    for dropout in (0.1, 0.0):
        model = prompted(condition_dropout=dropout)
        found = GeneratedSheet(conditions={"text": prompts}, num_samples=3, steps=1)(model, batches())
        assert texts(found["generated"]) == prompts
        assert len(images(found["generated"])) == 6


def test_other_models_have_no_sheet() -> None:
    assert GeneratedSheet()(classifier("image"), batches()) == {}
    made = generate_samples(prompted(), num_samples=2, steps=1)
    assert texts(sheet_of(made)) == [""]


def test_of_many_rows_and_samples_the_first_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("_MOST_ROWS", 4), ("_MOST_COLUMNS", 4), ("_MOST_SAMPLES", 8)):
        monkeypatch.setattr(generated, name, most)
    drawing = drawing_of({"kind": "image"}, None)
    rows = [(str(row), list(torch.zeros(5, 1, 2, 2))) for row in range(6)]
    figure = sheet(rows, drawing=drawing)
    assert (texts(figure), len(images(figure))) == (["0", "1"], 8)
    assert figure.get_supxlabel() == "the first 2 of 6 rows and 4 of 5 samples"
    figure = sheet([(title, samples[:1]) for title, samples in rows], drawing=drawing)
    assert (len(texts(figure)), len(images(figure))) == (4, 4)
    assert figure.get_supxlabel() == "the first 4 of 6 rows and 1 of 1 samples"
    assert sheet([(title, samples[:4]) for title, samples in rows[:2]], drawing=drawing).get_supxlabel() == ""


@pytest.mark.parametrize("text", ["a $x^$ b", "$\\foo$", "1 $ and 2 $"])
def test_texts_are_not_mathematics(text: str) -> None:
    sample = torch.zeros(1, 2, 2)
    influence = WordInfluence(words=[text], times=[0.0], maps=torch.zeros(1, 1, 2, 2), samples=sample[None])
    curves = {"val/loss": [(1.0, 0.5), (2.0, 0.4)]}
    figures = [
        sheet([(text, [sample])], drawing=drawing_of({"kind": "image"}, None)),
        word_regions(influence),
        confusion_figure(torch.eye(2), [text, "b"], title="x"),
        compared_curves({text: curves, "b": curves}),
    ]
    for figure in figures:
        assert figure is not None
        assert png_of(figure)
