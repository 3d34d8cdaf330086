"""The adapters' kit: every check fails for an adapter that is broken in just that respect, and for no other."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit_failures import failures
from torch import Tensor, nn

from perceiver import Fourier, Tokens
from perceiver.testing import adapter_checks, check_adapter
from perceiver.tokens.masks import extents, grid_mask, zero_masked
from perceiver.tokens.positions import grid_coordinates, time_coordinates

pytestmark = pytest.mark.usefixtures("unchecked")


def readings() -> Tensor:
    return torch.randn(3, 9, 2)


class Sensor(nn.Module):
    """Readings (B, T, 2), one every minute; its subclasses are broken."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 3)
        self.position = Fourier(num_bands=2, resolution=(10,))
        self.channels = 3 + self.position.channels

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        self.check(x)
        mask = self.validity(x, mask)
        x = self.clean(x, mask)
        return Tokens(parts=(self.content(x), *self.where(x, mask)), mask=mask)

    def check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[2] != 2:
            raise ValueError(f"Sensor: expected (batch, time, 2), got {tuple(x.shape)}.")

    def validity(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        return grid_mask(mask, batch=x.shape[0], grid=x.shape[1:2])

    def clean(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return zero_masked(x, None if mask is None else mask[..., None])

    def content(self, x: Tensor) -> Tensor:
        content: Tensor = self.embed(x)
        return content

    def where(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        return self.position([time_coordinates(x.shape[1], step_seconds=60, duration_seconds=600)])


class OneChannelTooMany(Sensor):
    def __init__(self) -> None:
        super().__init__()
        self.channels += 1


class ChannelsUnsaid(Sensor):
    def __init__(self) -> None:
        super().__init__()
        del self.channels


class Clock(Sensor):
    """An adapter that outputs when a value was measured, and not the value."""

    def __init__(self) -> None:
        super().__init__()
        del self.embed
        self.channels = self.position.channels

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        self.check(x)
        mask = self.validity(x, mask)
        return Tokens(parts=self.where(x, mask), mask=mask)


class ExpandedPositions(Sensor):
    def where(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(part.expand(len(x), -1, -1) for part in super().where(x, mask))


class CopiedPositions(Sensor):
    def where(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(part.repeat(len(x), 1, 1) for part in super().where(x, mask))


class PresenceForgotten(Sensor):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        tokens = super().forward(x, mask)
        return Tokens(parts=tokens.parts) if mask is not None and mask.ndim == 1 else tokens


class NeverEmpty(Sensor):
    """Keeps one token of a sample that has none, so that a softmax finds something."""

    def validity(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        valid = super().validity(x, mask)
        if mask is not None and mask.ndim == 2 and valid is not None:
            valid = valid.clone()
            valid[:, 0] = True
        return valid


class StretchedOverPadding(Sensor):
    def where(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        return self.position(grid_coordinates((x.shape[1],)))


class RowsDiffer(Sensor):
    def content(self, x: Tensor) -> Tensor:
        return super().content(x) + torch.arange(len(x))[:, None, None]


class OnlyTheEndIsCleaned(Sensor):
    """Smooths readings over their neighbours, hidden ones between valid ones included."""

    def clean(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            inside = torch.arange(x.shape[1]) < extents(mask)[0][:, None]
            x = torch.where(inside[..., None], x, 0.0)
        return F.avg_pool1d(x.mT, 3, stride=1, padding=1).mT


class CountsEvaluations(Sensor):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def content(self, x: Tensor) -> Tensor:
        self.seen += 1
        return super().content(x)


class Unused(Sensor):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(3))


class DeadWeight(Sensor):
    def __init__(self) -> None:
        super().__init__()
        self.dead = nn.Parameter(torch.zeros(3))

    def content(self, x: Tensor) -> Tensor:
        return super().content(x) + 0 * self.dead


class ReturnsEarly(Sensor):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        tokens = super().forward(x, mask)
        if mask is not None and not mask.any():
            return Tokens(parts=(torch.zeros(3, 9, self.channels),), mask=tokens.mask)
        return tokens


class HiddenState(Sensor):
    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.randn(3)

    def content(self, x: Tensor) -> Tensor:
        return super().content(x) + self.offset


class HoldsALambda(Sensor):
    def __init__(self) -> None:
        super().__init__()
        self.scale = lambda x: x


class PositionsInAutocast(Sensor):
    def __init__(self) -> None:
        super().__init__()
        self.channels = 3 + 4

    def where(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        time = time_coordinates(x.shape[1], step_seconds=60, duration_seconds=600)
        return ((time @ torch.tensor([[1.0, 2.0, 3.0, 5.0]])).sin(),)


class TakesAnyShape(Sensor):
    def check(self, x: Tensor) -> None:
        pass


class SaysNothing(Sensor):
    def check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[2] != 2:
            raise ValueError("wrong shape")


class TakesAnyMask(Sensor):
    def validity(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        if mask is None:
            return None
        return mask.bool() if mask.ndim == 2 else mask.bool()[:, None].expand(x.shape[:2])


class OtherDense(Tokens):
    """Multiplies out in an order of its own."""

    def dense(self) -> Tensor:
        return super().dense().roll(1, dims=-1)


class OwnTokens(Sensor):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        tokens = super().forward(x, mask)
        return OtherDense(parts=tokens.parts, mask=tokens.mask)


BROKEN: list[tuple[str, type[nn.Module], str]] = [
    ("declared_channels", OneChannelTooMany, r"OneChannelTooMany\.channels = 8.*got 9"),
    ("declared_channels", ChannelsUnsaid, "got None"),
    ("tokens_of_the_batch", Clock, r"tokens of 3 samples.*\(1, 9, 5\)"),
    ("parts_stay_small", ExpandedPositions, r"part 1 of shape \(3, 9, 5\), constant along axis 0"),
    ("parts_stay_small", CopiedPositions, r"part 1 of shape \(3, 9, 5\), constant along axis 0"),
    ("mask_of_presence", PresenceForgotten, r"\[9, 9, 0\].*got \[9, 9, 9\]"),
    ("mask_of_elements", NeverEmpty, r"\[9, 9, 0\].*got \[9, 9, 1\]"),
    ("alone_equals_padded", StretchedOverPadding, "padded by 1 masked elements.*positions from the valid size"),
    ("batch_independence", RowsDiffer, "sample 1 in the batch and alone"),
    ("masked_content_never_matters", OnlyTheEndIsCleaned, "scattered mask.*zero_masked"),
    ("determinism_in_evaluation", CountsEvaluations, "a changed 'seen'"),
    ("gradients_to_every_parameter", Unused, "'unused' if all is valid, got None"),
    ("gradients_to_every_parameter", DeadWeight, "'dead' if all is valid, got zeros only"),
    ("gradients_to_every_parameter", ReturnsEarly, "if all samples are absent, got an output that depends on no"),
    ("state_dict_round_trip", HiddenState, "not in plain attributes"),
    ("pickle_round_trip", HoldsALambda, "lambdas"),
    ("bfloat16_autocast", PositionsInAutocast, r"part 1, \(1, 9, 4\).*got torch.bfloat16"),
    ("error_on_wrong_shape", TakesAnyShape, r"for shape \(3, 9, 2, 1\) instead of \(3, 9, 2\), got RuntimeError"),
    ("error_on_wrong_shape", SaysNothing, "an error that names shape .*got 'wrong shape'"),
    ("error_on_wrong_mask", TakesAnyMask, r"mask of shape \(4,\) for 3 samples on the grid \(9,\), got RuntimeError"),
    ("dense_equals_factored", OwnTokens, "the same result of dense and factored cross-attention"),
]


def test_a_sound_adapter_passes() -> None:
    check_adapter(Sensor, readings, grid_axes=(1,))


@pytest.mark.parametrize(("name", "broken", "words"), BROKEN, ids=[broken.__name__ for _, broken, _ in BROKEN])
def test_a_broken_adapter_fails_its_check_only(name: str, broken: type[nn.Module], words: str) -> None:
    failed = failures(adapter_checks(broken, readings, grid_axes=(1,)))
    assert list(failed) == [name], failed
    assert re.match(rf"{name}: expected .*got .*; .*\w", failed[name], re.DOTALL), failed[name]
    assert re.search(words, failed[name], re.DOTALL), failed[name]
    assert "\n" not in failed[name]


def test_every_check_has_a_broken_adapter() -> None:
    assert {name for name, _, _ in BROKEN} == {str(check) for check in adapter_checks(Sensor, readings, grid_axes=(1,))}


class Dropped(Sensor):
    def content(self, x: Tensor) -> Tensor:
        return F.dropout(super().content(x), training=True)


class DenseArray(nn.Module):
    """What other libraries' adapters return."""

    channels = 2

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        return x


def test_the_report_names_all_that_failed() -> None:
    with pytest.raises(AssertionError) as raised:
        check_adapter(Dropped, readings, grid_axes=(1,))
    head, *lines = str(raised.value).splitlines()
    assert re.fullmatch(r"adapter Dropped fails \d+ of 16 checks:", head)
    named = [line.split(":")[0].removeprefix("- ") for line in lines]
    assert "determinism_in_evaluation" in named
    assert "batch_independence" in named
    assert "declared_channels" not in named


def test_something_else_than_tokens() -> None:
    failed = failures(adapter_checks(DenseArray, readings, grid_axes=(1,)))
    assert "expected forward to return perceiver.Tokens, got Tensor" in failed["declared_channels"]


class Columns(nn.Module):
    """Two tensors, no grid of raw elements: one token per column."""

    channels = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.table = nn.Embedding(5, 4)

    def forward(self, x: dict[str, Tensor], mask: Tensor | None = None) -> Tokens:
        numbers, categories = x["numbers"], x["categories"]
        if numbers.shape[1:] != (3,) or categories.shape[1:] != (2,):
            raise ValueError(f"Columns: expected (batch, 3), (batch, 2); got {numbers.shape}, {categories.shape}.")
        mask = grid_mask(mask, batch=len(numbers), grid=())
        whole = None if mask is None else mask[:, None]
        tokens = (zero_masked(numbers, whole)[..., None] * self.weight, self.table(zero_masked(categories, whole)))
        return Tokens(parts=(torch.cat(tokens, dim=1),), mask=None if whole is None else whole.expand(-1, 5))


class Careless(Columns):
    """Looks up ids that a mask hides."""

    def forward(self, x: dict[str, Tensor], mask: Tensor | None = None) -> Tokens:
        super().forward(x, mask)
        self.table(x["categories"])
        return super().forward(x, mask)


def columns() -> dict[str, Tensor]:
    return {"numbers": torch.randn(4, 3), "categories": torch.randint(0, 5, (4, 2))}


def test_dicts_of_tensors_without_a_grid() -> None:
    checks = adapter_checks(Columns, columns, grid_axes={})
    assert "alone_equals_padded" not in map(str, checks)
    assert failures(checks) == {}
    failed = failures(adapter_checks(Careless, columns, grid_axes={}))
    assert sorted(failed) == ["gradients_to_every_parameter", "masked_content_never_matters"]
    assert "IndexError" in failed["masked_content_never_matters"]


class Stations(nn.Module):
    """Several tensors on one grid of times, which each sample counts from its own start."""

    def __init__(self) -> None:
        super().__init__()
        self.position = Fourier(num_bands=2, resolution=(10,))
        self.channels = 2 + self.position.channels

    def forward(self, x: dict[str, Tensor], mask: Tensor | None = None) -> Tokens:
        values, times = x["values"], x["times"]
        if values.ndim != 3 or values.shape[2] != 2 or times.ndim != 2:
            raise ValueError(f"Stations: expected (batch, time, 2), (batch, time); got {values.shape}, {times.shape}.")
        mask = grid_mask(mask, batch=len(values), grid=values.shape[1:2])
        values = zero_masked(values, None if mask is None else mask[..., None])
        first = times[:, :1] if mask is None else times.gather(1, mask.int().argmax(dim=1, keepdim=True))
        since = zero_masked(times - first, mask)
        return Tokens(parts=(values, *self.position([since.float()[..., None]])), mask=mask)


def test_several_tensors_on_one_grid() -> None:
    def series() -> dict[str, Tensor]:
        return {"values": torch.randn(3, 7, 2), "times": torch.rand(3, 7, dtype=torch.float64).cumsum(dim=1)}

    check_adapter(Stations, series, grid_axes={"values": (1,), "times": (1,)})
