"""Sheets of generated samples: rows, titles, and models that generate nothing."""

from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from plots_cases import model as classifier
from prompted_models import prompted

from perceiver import generate_samples
from perceiver.data import ClassPrompts, DataModule, Digits
from perceiver.plots import GeneratedSheet, sheet_of
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
    torch.testing.assert_close(images(figure)[0].float(), true[0, 0] / 2 + 0.5)
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
