"""Digits with prompts: splits, specs, what is fixed and what is drawn anew, and errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from image_sets import idx_set

from perceiver.data import ClassPrompts, DataModule, DigitPrompts, Digits
from perceiver.data.synthetic.prompts.language import parse
from perceiver.modalities.texts.text_bytes import decode_bytes
from perceiver.samples.batch import Batch


def source(root: Path, **settings: Any) -> DigitPrompts:
    if not (root / "MNIST").exists():
        idx_set(root / "MNIST" / "raw")
    small = {"validation_images": 10, "validation_prompts": 8, "test_prompts": 16, "training_canvases": 24}
    return DigitPrompts(root=root, download=False, **{**small, **settings})


def prompts(batch: Batch) -> list[str]:
    ids, mask = batch.inputs["text"], batch.masks.get("text")
    assert isinstance(ids, torch.Tensor)
    valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    return [decode_bytes(row[own]) for row, own in zip(ids, valid, strict=True)]


def assert_normalised(data: DataModule, *, tolerance: float = 1e-3) -> None:
    """Check mean 0 and standard deviation 1, as the velocities of `perceiver.VelocityHead` presume."""
    images = torch.cat([batch.inputs["image"] for batch in data.train_dataloader()])
    assert abs(float(images.mean())) < tolerance
    assert abs(float(images.std(correction=0)) - 1) < tolerance


def test_one_digit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = DataModule(source(tmp_path, held_out_share=1.0), batch_size=8)
    data.setup("fit")
    spec = data.spec
    assert spec["modalities"]["image"]["shape"] == [1, 28, 28]
    assert spec["modalities"]["text"]["kind"] == "text"
    assert (spec["target"]["kind"], spec["num_classes"]) == ("classes", 10)
    batch = next(iter(data.train_dataloader()))
    image = batch.inputs["image"]
    assert isinstance(image, torch.Tensor)
    assert image.shape == (8, 1, 28, 28)
    assert_normalised(data)
    assert batch.target is not None
    for text, label in zip(prompts(batch), batch.target.tolist(), strict=True):
        asked = parse(text)
        assert asked is not None
        assert (asked.digits, asked.held_out) == ((label,), False)
    training = data.split("train")
    assert len({prompts(training.__getitems__([0]))[0] for _ in range(20)}) > 3, "drawn anew"
    unaltered = data.source.unaltered(training)
    assert prompts(unaltered.__getitems__([0, 1])) == prompts(unaltered.__getitems__([0, 1]))
    assert not any(parse(text).held_out for text in prompts(data.split("val").__getitems__(range(8))))  # type: ignore[union-attr]
    held_out = data.split("test")
    assert all(parse(text).held_out for text in prompts(held_out.__getitems__(range(len(held_out)))))  # type: ignore[union-attr]
    sample = held_out[1]
    assert int(sample.target) == int(held_out.labels[1])  # type: ignore[arg-type]
    assert sample.id.startswith("mnist/test/")
    with pytest.raises(IndexError):
        held_out[len(held_out)]


def test_a_few_labelled_images(tmp_path: Path) -> None:
    data = DataModule(source(tmp_path), batch_size=4, num_labelled=20)
    data.setup("fit")
    assert len(data.split("train")) == 20


@pytest.mark.parametrize(("num_digits", "canvas"), [(1, 40), (2, None), (2, 44)])
def test_canvases(num_digits: int, canvas: int | None, tmp_path: Path) -> None:
    data = DataModule(source(tmp_path, num_digits=num_digits, canvas=canvas, held_out_share=0.0), batch_size=8)
    data.setup("fit")
    side = canvas or 40
    torch.manual_seed(0)
    assert_normalised(data, tolerance=0.2)  # canvases drawn anew
    assert data.spec["modalities"]["image"]["shape"] == [1, side, side]
    assert data.spec["target"] == {}
    batch = next(iter(data.train_dataloader()))
    image = batch.inputs["image"]
    assert isinstance(image, torch.Tensor)
    assert image.shape == (8, 1, side, side)
    assert batch.target is not None
    assert batch.target.shape == (8, 6)
    [first, again] = [data.split("val").__getitems__(range(8)) for _ in range(2)]
    assert torch.equal(first.inputs["image"], again.inputs["image"])
    assert prompts(first) == prompts(again)
    unaltered = data.source.unaltered(data.split("train"))
    assert torch.equal(unaltered[3].inputs["image"], unaltered[3].inputs["image"])  # type: ignore[arg-type]
    data.setup("test")
    assert len(data.split("test")) == 16
    with pytest.raises(IndexError):
        unaltered[24]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_digits": 3}, "data.num_digits: expected 1 or 2, got 3"),
        ({"canvas": 32}, "data.canvas: expected 28, or 40 or more pixels, got 32"),
        ({"num_digits": 2, "canvas": 28}, "data.canvas: expected 40 or more pixels, got 28"),
        ({"test_prompts": 0}, "data.test_prompts: expected 1 or more, got 0"),
        ({"held_out_share": 1.5}, "data.held_out_share: expected a share from 0 to 1, got 1.5"),
    ],
)
def test_errors(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        source(tmp_path, **settings)


def test_names_of_classes_as_prompts() -> None:
    data = DataModule(ClassPrompts(source=Digits(), templates=["the {name}", "{name}"], test_prompts=50), batch_size=16)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.target is not None
    for text, label in zip(prompts(batch), batch.target.tolist(), strict=True):
        assert text in (f"the {label}", str(label))
    assert data.spec["target"]["names"] == [str(digit) for digit in range(10)]
    assert_normalised(data)
    data.setup("test")
    assert len(data.split("test")) == 50
    unaltered = data.source.unaltered(data.split("train"))
    assert prompts(unaltered.__getitems__([7])) == prompts(unaltered.__getitems__([7]))


def test_errors_of_class_prompts() -> None:
    with pytest.raises(ValueError, match=r"data.templates: expected texts with \{name\}"):
        ClassPrompts(source=Digits(), templates=["a picture"])
    with pytest.raises(ValueError, match="data.validation_prompts: expected 1 or more, got 0"):
        ClassPrompts(source=Digits(), validation_prompts=0)


def test_a_stored_spec_is_taken(tmp_path: Path) -> None:
    data = DataModule(source(tmp_path), batch_size=8)
    data.setup("fit")
    stored = data.spec
    other = DataModule(source(tmp_path), batch_size=8)
    other.spec = stored
    other.setup("test")
    assert other.spec == stored
    wrong = DataModule(source(tmp_path, num_digits=2), batch_size=8)
    with pytest.raises(ValueError, match="modalities.image.shape"):
        wrong.spec = stored
