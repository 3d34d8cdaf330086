"""The page of a model that generates: a sheet for what was filled in, or one clear error."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")

from PIL import Image
from prompted_models import prompted

from perceiver.model import Perceiver
from perceiver.serving.demo.generation import answer
from perceiver.serving.demo.page import build_page
from perceiver.serving.limits import Limits
from perceiver.serving.request import Field


def answered(model: Perceiver, prompt: str | None, **settings: Any) -> list[dict[str, Any]]:
    """What the message, the samples and the regions of words become."""
    parts: dict[str, Any] = {} if prompt is None else {"text": Field(prompt)}
    chosen = {"num_samples": 2, "guidance": 3.0, "steps": 1, "seed": 0, **settings}
    return answer(model, parts, limits=Limits(), **chosen)


def test_a_prompt_becomes_a_sheet_and_maps_of_its_words() -> None:
    message, image, regions = answered(prompted(), "a 7")
    assert message["visible"] is False
    assert isinstance(image["value"], Image.Image)
    assert isinstance(regions["value"], Image.Image)
    _, without, regions = answered(prompted(), None)
    assert without["value"].size == image["value"].size, "no condition is a condition, too"
    assert regions["visible"] is False


@pytest.mark.parametrize("prompt", ["a " * 30, ".a" * 30, "a" * 600])
def test_words_of_a_long_prompt_are_not_left_out_one_by_one(prompt: str) -> None:
    message, image, regions = answered(prompted(), prompt)
    assert message["visible"] is False
    assert isinstance(image["value"], Image.Image)
    assert regions["visible"] is False


def test_a_text_beyond_the_limit_is_an_error() -> None:
    model = prompted()
    assert model.spec is not None
    model.spec["modalities"]["text"]["max_length"] = None
    message, *_ = answered(model, "a" * (2**16 + 1))
    assert "at most 65,536 bytes" in message["value"]


def test_the_same_seed_the_same_sheet() -> None:
    model = prompted()
    one, other, third = (np.asarray(answered(model, "a 7", seed=seed)[1]["value"]) for seed in (0, 0, 1))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_guidance_is_left_out_for_models_without_it() -> None:
    message, *_ = answered(prompted(condition_dropout=0.0), "a 7")
    assert message["visible"] is False


def test_an_error_is_shown_as_text() -> None:
    message, image, regions = answered(prompted(), "<b>", steps=0)
    assert "steps: expected at least 1, got 0" in message["value"]
    assert image["visible"] is regions["visible"] is False


def test_without_a_spec_of_the_image() -> None:
    model = prompted()
    assert model.spec is not None
    del model.spec["modalities"]["image"]
    with pytest.raises(ValueError, match="has no 'image' in its spec"):
        build_page(model, name="x", limits=Limits())
