"""The page of a model that generates: its function returns a sheet, or one clear error."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")

from PIL import Image
from prompted_models import prompted

from perceiver.demo.page import build_page
from perceiver.model import Perceiver
from perceiver.serving.limits import Limits


def pressed(model: Perceiver, *values: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What the message, the samples and the regions of words become after Generate."""
    page = build_page(model, name="a <b>", limits=Limits())
    [function] = [one.fn for one in page.fns.values() if one.fn is not None]
    message, image, regions = function(*values)
    return message, image, regions


def test_a_prompt_becomes_a_sheet() -> None:
    message, image, regions = pressed(prompted(), 3, 2.0, 1, 0, "a 7")
    assert message["visible"] is False
    assert isinstance(image["value"], Image.Image)
    assert isinstance(regions["value"], Image.Image)
    _, again, regions = pressed(prompted(), 3, 2.0, 1, 0, "")
    assert regions["visible"] is False
    assert again["value"].size == image["value"].size, "no condition is a condition, too"


def test_the_same_seed_the_same_sheet() -> None:
    model = prompted()
    one, other, third = (pressed(model, 2, 3.0, 1, seed, "a 7")[1]["value"] for seed in (0, 0, 1))
    assert np.array_equal(np.asarray(one), np.asarray(other))
    assert not np.array_equal(np.asarray(one), np.asarray(third))


def test_guidance_is_left_out_for_models_without_it() -> None:
    message, *_ = pressed(prompted(condition_dropout=0.0), 1, 3.0, 1, 0, "a 7")
    assert message["visible"] is False


def test_without_a_spec_of_the_image() -> None:
    model = prompted()
    assert model.spec is not None
    del model.spec["modalities"]["image"]
    with pytest.raises(ValueError, match="has no 'image' in its spec"):
        build_page(model, name="x", limits=Limits())
