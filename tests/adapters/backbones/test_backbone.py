"""Backbones: masks through strides, samples alone and in batches, frozen and learning networks, bad output."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceiver import Fourier
from perceiver.adapters import Backbone
from perceiver.adapters.backbones.axes import RowsAndColumns, Times, Words
from perceiver.adapters.backbones.feature_cache import FeatureCache
from perceiver.adapters.backbones.network import DescribedNetwork
from perceiver.testing import adapter_checks
from perceiver.training.optimizer import parameter_groups, with_rates


def convolutions() -> nn.Module:
    """Two convolutions that halve each side, with a batch norm in between."""
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1))


def backbone(**settings: Any) -> Backbone:
    network = DescribedNetwork(module=convolutions(), channels=8, strides=(4, 4))
    return Backbone(network=network, axes=RowsAndColumns(), position=Fourier(num_bands=2, resolution=(4, 4)), **settings)


CASES = [
    (setting, check)
    for setting in ({"frozen": True}, {"frozen": False}, {"frozen": True, "embed_channels": 5})
    for check in adapter_checks(
        lambda setting=setting: backbone(**setting), lambda: torch.rand(3, 3, 13, 18), grid_axes=(2, 3)
    )
    # Frozen features have no trainable parameter, but are no positions: autocast holds for them.
    if setting != {"frozen": True} or check.name != "bfloat16_autocast"
]


@pytest.mark.parametrize(("setting", "check"), CASES, ids=lambda case: str(getattr(case, "name", case)))
def test_conformance(setting: dict[str, Any], check: Callable[[], None]) -> None:
    check()


def test_samples_alone_are_bit_equal() -> None:
    adapter, images = backbone().eval(), torch.rand(5, 3, 24, 20)
    together = adapter(images).parts[0]
    for row in range(5):
        assert torch.equal(adapter(images[row : row + 1]).parts[0][0], together[row])


def test_masks_follow_strides() -> None:
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[0, :8, :9] = True  # two rows and three columns of 4 x 4
    tokens = backbone()(torch.rand(2, 3, 16, 16), mask)
    assert tokens.mask is not None
    assert tokens.mask.shape == (2, 2, 3)
    assert tokens.mask[0].all()
    assert not tokens.mask[1].any()
    rows = tokens.parts[1]
    assert rows[0, :, 0, 0].tolist() == [-1, 1], "relative to the valid size"


def test_frozen_networks_learn_nothing_and_others_at_their_rate() -> None:
    frozen = backbone(embed_channels=4)
    assert {name.split(".")[0] for name, one in frozen.named_parameters() if one.requires_grad} == {"embed"}
    assert not frozen.train().network.training
    model = nn.ModuleDict({"backbone": backbone(frozen=False, lr_multiplier=0.1), "rest": nn.Linear(3, 3)})
    assert not model.train()["backbone"].network.module[1].training, "batch norms keep the statistics of the pretraining"
    assert model["backbone"].network.module[0].training
    groups = parameter_groups(model)
    assert [group.get("lr_multiplier", 1) for group in groups] == [1, 1, 0.1, 0.1]
    optimizer = with_rates(torch.optim.AdamW(groups, lr=1.0))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1, 1, 0.1, 0.1])
    assert with_rates(optimizer).param_groups[-1]["lr"] == pytest.approx(0.1), "applied once"
    taken = {parameter for group in groups[2:] for parameter in group["params"]}
    assert taken == set(model["backbone"].network.parameters())


def test_gradients_reach_inputs_of_frozen_networks() -> None:
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    backbone()(images).dense().sum().backward()
    assert images.grad is not None
    assert bool(images.grad.any())


class Output(nn.Module):
    """A network with any output."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda x: x.mean(dim=(2, 3)),
            r"expected a feature map or a sequence \(batch, 3, \*grid\), .* got a tensor of shape",
        ),
        (lambda x: {"features": x}, "as the output of DescribedNetwork, got dict. Cut the network before its pooling"),
        (lambda x: x[:, :2], r"expected 3 channels, .* got shape \(2, 2, 8, 8\). Set channels"),
        (lambda x: x[:1], "got a tensor of shape"),
        (lambda x: x @ x.new_zeros(3, 3), r"DescribedNetwork rejects an input of shape \(2, 3, 8, 8\)"),
    ],
)
def test_output_that_is_neither_map_nor_sequence(make: Callable[[Tensor], Any], said: str) -> None:
    network = DescribedNetwork(module=Output(make), channels=3, strides=(1, 1))
    adapter = Backbone(
        network=network, axes=RowsAndColumns(), position=Fourier(num_bands=1, resolution=(8, 8)), frozen=False
    )
    with pytest.raises(ValueError, match=said):
        adapter(torch.rand(2, 3, 8, 8))


def test_constructor_errors() -> None:
    position = Fourier(num_bands=1, resolution=(8, 8))
    with pytest.raises(ValueError, match="describe any other module by"):
        Backbone(network=nn.Conv2d(3, 8, 3), axes=RowsAndColumns(), position=position)
    with pytest.raises(ValueError, match="strides: expected a whole number"):
        DescribedNetwork(module=nn.Identity(), channels=8, strides=(0,))
    with pytest.raises(ValueError, match="lr_multiplier"):
        backbone(lr_multiplier=0.0)
    with pytest.raises(ValueError, match="expected a frozen network"):
        backbone(frozen=False).use_cache(FeatureCache("nowhere"))
    with pytest.raises(ValueError, match=r"or ids \(batch, length\), got \(2, 0\)"):
        backbone()(torch.zeros(2, 0))


def test_coordinates_of_times_and_words() -> None:
    device = torch.device("cpu")
    [times] = Times(step_seconds=0.5, duration_seconds=2.0)((4,), mask=None, device=device)
    assert times.flatten().tolist() == [-0.75, -0.25, 0.25, 0.75]
    [words] = Words(reference_length=5)((3,), mask=None, device=device)
    assert words.flatten().tolist() == [-1.0, -0.5, 0.0]
    with pytest.raises(ValueError, match="reference_length"):
        Words(reference_length=1)
