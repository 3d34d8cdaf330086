"""Weight decay reaches maps only."""

import pytest
import torch
from torch import nn

from perceiver.training.optimizer import parameter_groups


class Everything(nn.Module):
    """One parameter of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.LayerNorm(4)
        self.embedding = nn.Embedding(5, 4)
        self.latents = nn.Parameter(torch.zeros(6, 4))
        self.padding = nn.ParameterDict({"image": nn.Parameter(torch.zeros(2))})
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.shared = self.linear


def test_only_maps_decay() -> None:
    model = Everything()
    decayed, undecayed = parameter_groups(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"linear.weight", "conv.weight"}
    assert {names[id(p)] for p in undecayed["params"]} == {
        "linear.bias",
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "embedding.weight",
        "latents",
        "padding.image",
    }
    assert "weight_decay" not in decayed, "the optimizer's own value holds there"
    assert undecayed["weight_decay"] == 0.0


def test_decay_moves_maps_and_nothing_else() -> None:
    model = Everything()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    torch.optim.SGD(parameter_groups(model), lr=0.1, weight_decay=0.5).step()
    assert model.linear.weight[0, 0].item() == pytest.approx(0.95)
    assert model.latents[0, 0].item() == 1.0
    assert model.norm.weight[0].item() == 1.0


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="requires_grad"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False))
