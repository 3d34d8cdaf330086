"""The summary of a model: its numbers are those of the model, and nothing changes by it."""

import torch
from plots_cases import model
from torch.utils.flop_counter import FlopCounterMode

import perceiver


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
