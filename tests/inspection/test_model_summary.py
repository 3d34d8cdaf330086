"""The summary of a model: its numbers are those of the model, and nothing changes by it."""

import pytest
import torch
from exported_models import text_generating_model
from plots_cases import model
from torch.utils.flop_counter import FlopCounterMode

import perceiver
from perceiver.generation import Decoding


def test_summary() -> None:
    made = model("image").train()
    image = {"image": torch.randn(4, 3, 9, 8)}
    state = torch.get_rng_state()
    found = perceiver.summary(made, image)
    assert made.training
    assert torch.equal(torch.get_rng_state(), state)
    assert found.parameters == sum(parameter.numel() for parameter in made.parameters())
    assert sum(part.parameters for part in found.parts) == found.parameters
    assert [part.name for part in found.parts] == ["adapters.image", "fusion", "encoder", "head"]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        made.eval()({"image": image["image"][:1]})
    assert found.flops == counter.get_total_flops()
    assert "Estimated FLOPs, forward, one sample" in str(found)
    assert f"{found.parameters:,}" in str(found)


def test_operations_of_text_generation() -> None:
    """They depend on the ids that a text has."""
    made, text = text_generating_model(), {"text": torch.full((2, 5), 70)}
    short, long = (perceiver.summary(made, text, target_ids=torch.ones(2, size, dtype=torch.int64)).flops for size in (2, 9))
    assert short is not None
    assert long is not None
    assert 0 < short < long
    unknown = perceiver.summary(made, text)
    assert unknown.flops is None
    assert "target_ids" in unknown.not_counted


def test_text_generation_is_explained_word_by_word() -> None:
    made = text_generating_model()
    made.head.decoding = Decoding(max_length=4)
    made.head.bias.data[6 + ord("x")] = 100.0  # type: ignore[operator]
    found = perceiver.explain(made, "abc de", output=0)
    assert found.prediction.text == "xxx"
    assert found.tokens["text"].shape == (6,)
    assert float(found.tokens["text"].sum()) == pytest.approx(1.0, abs=1e-5)
    assert [word.text for word in found.prediction.alignment.sources["text"]] == ["abc", "de"]
