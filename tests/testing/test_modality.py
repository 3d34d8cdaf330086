"""The kit of kinds of modality: every check fails for a kind that is broken in just that respect, and for no other."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from kit_failures import failures
from torch import Tensor

from perceiver.modalities import Modality, ModalitySpec, channel_statistics
from perceiver.testing import check_modality, modality_checks


def recordings() -> list[Any]:
    draw = np.random.default_rng(0)
    return [draw.normal(3.0, 2.0, size=(2, steps)) for steps in (5, 7)]


class Sensor:
    """Recordings `(2, T)`; kinds made of it are broken."""

    channel_axis: Any = 0

    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"shape": [2, None]}

    def statistics(self, samples: Iterable[Tensor], spec: ModalitySpec) -> dict[str, Any]:
        return dict(channel_statistics(samples, channel_axis=0))


class Whole(Sensor, Modality):
    """Not broken."""


class Stateful(Sensor, Modality):
    def __init__(self) -> None:
        self.seen = 0


class OddAxis(Sensor, Modality):
    channel_axis = False


class Tensors(Sensor, Modality):
    def statistics(self, samples: Iterable[Tensor], spec: ModalitySpec) -> dict[str, Any]:
        return {**super().statistics(samples, spec), "longest": torch.tensor(7)}


class NoisyCells(Sensor, Modality):
    def read(self, cell: Any, spec: ModalitySpec) -> Any:
        return cell + torch.rand(()).item()


class ChangesTheSpec(Sensor, Modality):
    def preprocess(self, raw: Any, spec: Any, name: str) -> Any:
        spec["seen"] = True
        return super().preprocess(raw, spec, name)


class OtherShape(Sensor, Modality):
    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"shape": [3, None]}

    def preprocess(self, raw: Any, spec: ModalitySpec, name: str) -> Any:
        return self.normalise(self.tensor(raw, spec, name), spec)


class NormalisesTwice(Sensor, Modality):
    def preprocess(self, raw: Any, spec: ModalitySpec, name: str) -> Any:
        x = super().preprocess(raw, spec, name)
        assert isinstance(x, Tensor)
        return self.normalise(x, spec)


class DoubleWhereLong(Sensor, Modality):
    def preprocess(self, raw: Any, spec: ModalitySpec, name: str) -> Any:
        x = super().preprocess(raw, spec, name)
        assert isinstance(x, Tensor)
        return x.double() if x.shape[1] > 5 else x


class FillsGaps(Sensor, Modality):
    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        return super().tensor(raw, spec, name).nan_to_num()


class NamelessError(Sensor, Modality):
    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        return super().tensor(raw, spec, "value")


class WordForADrawing(Sensor, Modality):
    def drawing(self, spec: ModalitySpec, adapter: Any) -> Any:
        return "lines"


BROKEN: list[tuple[type[Modality], str, str]] = [
    (Stateful, "made_without_arguments", "without state, got {'seen': 0}"),
    (OddAxis, "declared_channel_axis", "expected the class attribute channel_axis"),
    (Tensors, "plain_spec", "plain data in the spec: .*longest"),
    (NoisyCells, "cells_are_read", "same raw sample for the same cell"),
    (ChangesTheSpec, "deterministic", "leave the spec unchanged"),
    (OtherShape, "shapes_of_the_spec", r"spec's shape \[3, None\], .* got \(2, 5\)"),
    (NormalisesTwice, "normalisation_inverts", "normalised once"),
    (DoubleWhereLong, "collation_pads_and_masks", "dtype torch.float64"),
    (FillsGaps, "nan_refused_or_masked", "got numbers only"),
    (NamelessError, "error_names_the_sample", "begins with the given name 'sample 7', got value"),
    (WordForADrawing, "drawing", "got str"),
]


def test_a_whole_kind_passes() -> None:
    check_modality(Whole, recordings, cells=recordings())


@pytest.mark.parametrize(("kind", "check", "message"), BROKEN, ids=[check for _, check, _ in BROKEN])
def test_a_broken_kind_fails_one_check(kind: type[Modality], check: str, message: str) -> None:
    failed = failures(modality_checks(kind, recordings, cells=recordings()))
    assert set(failed) == {check}
    with pytest.raises(AssertionError, match=f"modality {kind.__name__} fails 1 of 11 checks:\n- {check}: .*{message}"):
        check_modality(kind, recordings, cells=recordings())


def test_every_check_is_broken_once() -> None:
    assert {check for _, check, _ in BROKEN} == {str(check) for check in modality_checks(Whole, recordings, cells=[1])}
    assert "cells_are_read" not in {str(check) for check in modality_checks(Whole, recordings)}
