"""What a word changes: the velocity with and without it, by hand; the path is that of generation."""

import pytest
import torch
from generating_models import model as model_of_texts
from matplotlib.figure import Figure
from prompted_models import prompted

from perceiver import generate_samples
from perceiver.inspection import WordInfluence, word_influence
from perceiver.modalities.texts.text_bytes import encode_bytes
from perceiver.plots import word_regions


def test_it_is_the_difference_that_a_word_makes() -> None:
    torch.manual_seed(0)
    model = prompted()
    found = word_influence(model, "a  seven", steps=2, seed=3)
    assert found.words == ["a", "seven"]
    assert found.times == [0.0, 0.5]
    assert found.maps.shape == (2, 2, 8, 8)
    # At the first step the sample is the noise. Leaving the word out is the same as never having had its bytes.
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    text, time = encode_bytes("a  seven")[None], torch.zeros(1)
    mask = torch.ones_like(text, dtype=torch.bool)
    mask[0, 3:] = False
    with torch.no_grad():
        inputs = {"image": noise, "text": text}
        whole, without = (
            model.head.raw(model.adapters, noise, model.velocity(inputs, masks, time=time).values)
            for masks in ({}, {"text": mask})
        )
    torch.testing.assert_close(found.maps[1, 0], (whole - without).abs()[0, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.samples[0], (noise + whole)[0] / 2 + 0.5, atol=1e-5, rtol=1e-4)


def test_the_path_is_that_of_generation() -> None:
    torch.manual_seed(0)
    model = prompted()
    made = generate_samples(model, {"text": "a 7"}, steps=3, seed=1)
    found = word_influence(model, "a 7", steps=3, seed=1)
    # In the last step the estimate is the sample, which is clamped.
    torch.testing.assert_close(found.samples[-1].clamp(0, 1), made.values[0], atol=1e-5, rtol=1e-4)


def test_errors() -> None:
    with pytest.raises(ValueError, match="model: expected one of task=flow_matching"):
        word_influence(model_of_texts("latents"), "a")
    with pytest.raises(ValueError, match=r"modality: expected a text among \['text'\], got 'image'"):
        word_influence(prompted(), "a", modality="image")
    with pytest.raises(ValueError, match="prompt: expected one word or more"):
        word_influence(prompted(), "   ")


def test_the_figure_has_a_row_for_each_word() -> None:
    found = word_influence(prompted(), "a large seven", steps=4)
    figure = word_regions(found, num_steps=2)
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 2 * 4
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert [label for label in labels if label] == ["a", "large", "seven"]
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["t = 0.00", "t = 0.75"]
    sound = WordInfluence(words=["a"], times=[0.0], maps=torch.ones(1, 1, 5), samples=torch.ones(1, 1, 5))
    with pytest.raises(ValueError, match="word_regions: expected maps"):
        word_regions(sound)
