"""The heads' kit: every check fails for a head that is broken in just that respect, and for no other."""

import re

import pytest
import torch
from kit_failures import failures
from torch import Tensor, nn

from perceiver.testing import Check, check_head, head_checks


class Mean(nn.Module):
    """A linear map of the mean; its subclasses are broken."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(6, 3)

    def forward(self, latents: Tensor) -> Tensor:
        output: Tensor = self.output(latents.mean(dim=1))
        return output


class OneAxisTooMany(Mean):
    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents)[..., None]


class RowsDiffer(Mean):
    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents) + torch.arange(len(latents))[:, None]


class CountsEvaluations(Mean):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, latents: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(latents)


class ReadsTheFirst(Mean):
    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents[:, :1])


class Unused(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(3))


class Hard(Mean):
    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents).detach()


class HiddenState(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.randn(3)

    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents) + self.offset


class HoldsALambda(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.scale = lambda x: x


class Rounds(Mean):
    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents) + 1000 - 1000


BROKEN: list[tuple[str, type[nn.Module], str]] = [
    ("output_shape", OneAxisTooMany, r"\(1, 3\) for latents \(1, 5, 6\), got shape \(1, 3, 1\)"),
    ("batch_independence", RowsDiffer, "sample 1 in the batch and alone"),
    ("determinism_in_evaluation", CountsEvaluations, "a changed 'seen'"),
    ("gradients_to_every_parameter", ReadsTheFirst, "every latent of every sample"),
    ("gradients_to_every_parameter", Unused, "'unused' in training, got None"),
    ("gradients_to_every_parameter", Hard, "got one without gradient"),
    ("state_dict_round_trip", HiddenState, "not in plain attributes"),
    ("pickle_round_trip", HoldsALambda, "lambdas"),
    ("bfloat16_autocast", Rounds, "within 10% of float32"),
]


def checks(make: type[nn.Module]) -> list[Check]:
    return head_checks(make, latent_channels=6, output_shape=(3,))


def test_a_sound_head_passes() -> None:
    check_head(Mean, latent_channels=6, output_shape=(3,))


@pytest.mark.parametrize(("name", "broken", "words"), BROKEN, ids=[broken.__name__ for _, broken, _ in BROKEN])
def test_a_broken_head_fails_its_check_only(name: str, broken: type[nn.Module], words: str) -> None:
    failed = failures(checks(broken))
    assert list(failed) == [name], failed
    assert re.match(rf"{name}: expected .*got .*; .*\w", failed[name]), failed[name]
    assert re.search(words, failed[name]), failed[name]


def test_every_check_has_a_broken_head() -> None:
    assert {name for name, _, _ in BROKEN} == {str(check) for check in checks(Mean)}


def test_a_head_without_parameters_needs_gradients_to_latents_only() -> None:
    check_head(lambda: nn.AdaptiveAvgPool2d((1, 6)), latent_channels=6, output_shape=(1, 6))


def test_the_report_names_the_head() -> None:
    with pytest.raises(AssertionError, match=r"^head Unused fails 1 of 7 checks:\n- gradients_to_every_parameter: "):
        check_head(Unused, latent_channels=6, output_shape=(3,))
