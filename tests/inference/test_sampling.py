"""Samples from raw conditions: the same as by hand, one for each condition, and one clear error for each mistake."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generating_models import model as model_of_texts
from PIL import Image
from prompted_models import prompted

from perceiver import generate_samples
from perceiver.generation.flow import generate
from perceiver.modalities.text_bytes import encode_bytes


def test_a_prompt_is_what_its_bytes_are() -> None:
    torch.manual_seed(0)
    model = prompted()
    made = generate_samples(model, {"text": "a 7"}, num_samples=3, guidance=3.0, steps=2, seed=5)
    generator = torch.Generator().manual_seed(5)
    text = encode_bytes("a 7").expand(3, -1)
    expected = generate(model, {"text": text}, guidance=3.0, steps=2, generator=generator)
    torch.testing.assert_close(made.values, expected / 2 + 0.5)
    assert (made.modality, made.num_samples, made.conditions) == ("image", 3, [{"text": "a 7"}])
    [image, *_] = made.images()
    assert np.array_equal(np.asarray(image), (made.values[0, 0].clamp(0, 1) * 255).round().byte().numpy())


def test_lists_are_several_conditions_and_batches_change_nothing() -> None:
    torch.manual_seed(0)
    model = prompted()
    conditions = {"text": ["a seven", "3"]}
    whole, parts = (
        generate_samples(model, conditions, num_samples=2, guidance=2.0, steps=2, seed=1, batch_size=size) for size in (4, 3)
    )
    assert [whole.condition(number)["text"] for number in range(4)] == ["a seven", "a seven", "3", "3"]
    torch.testing.assert_close(whole.values, parts.values)
    one = generate_samples(model, {"text": "a seven"}, num_samples=2, guidance=2.0, steps=2, seed=1)
    # Padding to a longer text changes nothing.
    torch.testing.assert_close(one.values, whole.values[:2])
    assert not torch.allclose(one.values[0], one.values[1])


def test_without_conditions() -> None:
    made = generate_samples(prompted(), num_samples=2, steps=1, guidance=3.0, seed=0)
    assert made.values.shape == (2, 1, 8, 8)
    assert made.conditions == [{}]


def test_inpainting(tmp_path: Path) -> None:
    """The light half of the mask stays; the rest is generated."""
    original = np.full((8, 8), 4, dtype=np.uint8)
    keep = np.zeros((8, 8), dtype=np.uint8)
    keep[:, :4] = 255
    Image.fromarray(keep).save(tmp_path / "keep.png")
    arguments: dict[str, Any] = {"num_samples": 2, "steps": 2, "seed": 0}
    made = generate_samples(prompted(), {"text": "3"}, init=original, keep=str(tmp_path / "keep.png"), **arguments)
    torch.testing.assert_close(made.values[..., :4], torch.full((2, 1, 8, 4), 0.25))
    assert not torch.allclose(made.values[..., 4:], torch.full((2, 1, 8, 4), 0.25), atol=0.05)
    again = generate_samples(prompted(), {"text": "3"}, init=original, keep=keep > 0, **arguments)
    torch.testing.assert_close(again.values[..., :4], made.values[..., :4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conditions": {"txt": "a 7"}}, r"conditions: expected any of \['text'\].*got txt"),
        ({"conditions": {"image": "a 7"}}, r"conditions: expected any of \['text'\].*got image"),
        ({"conditions": {"text": []}}, r"conditions: expected lists of one length.*'text': 0"),
        ({"conditions": {"text": ""}}, r"sample 0, modality 'text': expected a text"),
        ({"num_samples": 0}, "num_samples, batch_size: expected at least 1 each, got 0"),
        ({"init": np.zeros((4, 4, 4, 4))}, "init: sample 0, modality 'image'"),
        ({"keep": "mask.png", "open_files": False}, "keep: expected an array, got 'mask.png', which names a file"),
        ({"shape": (2, 8, 8)}, "shape_of: .*cannot make samples of shape"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_samples(prompted(), **{"steps": 1, **arguments})


def test_errors_of_models() -> None:
    with pytest.raises(ValueError, match="guidance: expected 1, got 3.0: the model was trained with conditions in every"):
        generate_samples(prompted(condition_dropout=0.0), {"text": "7"}, guidance=3.0)
    with pytest.raises(ValueError, match="model: expected one that generates samples, trained with task=flow_matching"):
        generate_samples(model_of_texts("latents"), {"text": "7"})
    without = prompted()
    without.spec = None
    with pytest.raises(ValueError, match="model: expected a spec"):
        generate_samples(without, {"text": "7"})
    made = generate_samples(prompted(), steps=1)
    other = type(made)(values=made.values, conditions=[{}], num_samples=1, modality="image", spec={"kind": "points"})
    with pytest.raises(ValueError, match="images: expected generated images, got samples of kind 'points'"):
        other.images()
