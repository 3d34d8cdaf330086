"""Samples from raw conditions: the same as by hand, one for each condition, and one clear error for each mistake."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generating_models import model as model_of_texts
from PIL import Image
from prompted_models import prompted

from perceiver import Fourier, Fusion, Interface, Perceiver, VelocityHead, generate_samples
from perceiver.adapters import ImagePatches, Vector
from perceiver.generation.flow import generate
from perceiver.modalities.texts.text_bytes import encode_bytes


def test_a_prompt_is_what_its_bytes_are() -> None:
    torch.manual_seed(0)
    model = prompted()
    made = generate_samples(model, {"text": "a 7"}, num_samples=3, guidance=3.0, steps=2, seed=5)
    generator = torch.Generator().manual_seed(5)
    text = encode_bytes("a 7").expand(3, -1)
    expected = generate(model, {"text": text}, guidance=3.0, steps=2, generator=generator)
    torch.testing.assert_close(made.values, (expected / 2 + 0.5).clamp(0, 1))
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


def test_samples_do_not_depend_on_the_size_of_batches() -> None:
    """Also where torch's normal numbers would: it draws those of more than 16 elements in sixteens."""
    image = ImagePatches(image_channels=1, patch=3, position=Fourier(num_bands=2, resolution=(3, 3)))
    model = of_classes(image, size=9)
    whole, parts = (generate_samples(model, num_samples=5, steps=1, seed=0, batch_size=size).values for size in (5, 2))
    torch.testing.assert_close(whole, parts)


def of_classes(image: ImagePatches, *, size: int) -> Perceiver:
    """A model of task.label=label, whose classes are no modality of the data."""
    torch.manual_seed(0)
    adapters = {"image": image, "label": Vector(vector_channels=3)}
    fusion = Fusion(channels={name: int(adapter.channels) for name, adapter in adapters.items()})
    encoder = Interface(token_channels=fusion.channels, num_latents=4, latent_channels=32, state_channels=16)
    head = VelocityHead(state_channels=16, adapters=adapters, condition_dropout=0.1)
    spec = {
        "modalities": {"image": {"kind": "image", "shape": [1, size, size], "mean": [0.5], "std": [0.5]}},
        "target": {"kind": "classes", "names": ["cat", "dog", "2"], "counts": [1] * 3},
    }
    head.output.weight.data.normal_(std=0.5)
    return Perceiver(adapters=adapters, encoder=encoder, head=head, fusion=fusion, spec=spec)


def test_classes_are_conditions_by_name_or_number() -> None:
    model = of_classes(ImagePatches(image_channels=1, patch=4, position=Fourier(num_bands=2, resolution=(2, 2))), size=8)
    made = generate_samples(model, {"label": ["dog", 1, "2"]}, steps=2, seed=0, guidance=2.0, batch_size=1)
    generator = torch.Generator().manual_seed(0)
    labels = torch.eye(3)[[1, 1, 2]]
    expected = generate(model, {"label": labels}, steps=2, guidance=2.0, generator=generator)
    torch.testing.assert_close(made.values, (expected / 2 + 0.5).clamp(0, 1))
    assert float(made.values.min()) == 0, "what is beyond the range is cut"
    message = r"conditions\['label'\]: expected a class, cat, dog, 2, or a number from 0 to 2, got"
    for wrong in ("mouse", 3, -1, True, 1.0):
        with pytest.raises(ValueError, match=message):
            generate_samples(model, {"label": wrong}, steps=1)
    with pytest.raises(ValueError, match=r"conditions: expected any of \['label'\].*got labe"):
        generate_samples(model, {"labe": 1}, steps=1)


def test_prompts_that_are_cut_are_told(caplog: pytest.LogCaptureFixture) -> None:
    model = prompted()
    assert model.spec is not None
    model.spec["modalities"]["text"] |= {"max_length": 4, "truncate": True}
    generate_samples(model, {"text": ["the digit seven", "a 7"]}, num_samples=3, steps=1)
    assert "generate_samples, modality 'text': 1 of 2 texts have more than max_length = 4 ids" in caplog.text
