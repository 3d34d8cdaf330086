"""The conformance kit of kinds of modality: the contract on which data, models and checkpoints rely.

`modality_checks` lists the checks, `check_modality` runs them all. By name:

- `made_without_arguments`: an instance has no state, and its class can be found by its canonical name.
- `declared_channel_axis`: `channel_axis` is 0, -1 or None, or a dict of these by the names of a sample's tensors.
- `plain_spec`: entries of the spec from settings and statistics are plain data and survive a round trip through JSON.
- `cells_are_read`: a manifest's cells become raw samples, always the same for the same cell.
- `deterministic`: preprocessing does not depend on the random state, and does not change raw sample or spec.
- `shapes_of_the_spec`: samples are tensors laid out as `channel_axis` declares, with the spec's `shape`, if any.
- `normalisation_inverts`: samples for a spec with `mean` and `std` equal those for a spec without, normalised once.
- `collation_pads_and_masks`: samples of different lengths form a batch that contains each sample and masks the padding.
- `nan_refused_or_masked`: NaN in a raw sample never becomes a valid number.
- `error_names_the_sample`: ValueError or TypeError, beginning with the given name, for an object that is not a raw sample.
- `drawing`: `drawing` returns None or a `perceiver.plots.Drawing`.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceiver.checkpoints.trusted_classes import resolve, spelling
from perceiver.modalities.kinds import KINDS
from perceiver.modalities.modality import Axis, Modality
from perceiver.modalities.preprocess import unnormalised
from perceiver.modalities.spec import ModalitySpec
from perceiver.runtime.plain import plain, refuse_special_keys
from perceiver.samples.batch import Sample
from perceiver.samples.collate import Collate
from perceiver.testing.check import Check, require, run_checks

Raw = Callable[[], Sequence[Any]]


def modality_checks(
    kind: type[Modality],
    make_raw: Raw,
    *,
    settings: Mapping[str, Any] | None = None,
    entries: Mapping[str, Any] | None = None,
    cells: Sequence[Any] = (),
) -> list[Check]:
    """Return the checks of a kind; see the head of this file.

    Args:
        kind: the class.
        make_raw: function that returns at least two different raw samples, as `Perceiver.predict` takes them; of different
            lengths if the kind allows it.
        settings: settings as in `data.modalities`, if the defaults do not suffice.
        entries: further entries of the spec that `spec` and `statistics` of the kind do not provide.
        cells: cells of a manifest for `Modality.read`; empty: `read` is not checked.
    """
    case = _Case(kind, make_raw, dict(settings or {}), dict(entries or {}), list(cells))
    return [Check(name, partial(run, case)) for name, run in _CHECKS.items() if cells or name != "cells_are_read"]


def check_modality(
    kind: type[Modality],
    make_raw: Raw,
    *,
    settings: Mapping[str, Any] | None = None,
    entries: Mapping[str, Any] | None = None,
    cells: Sequence[Any] = (),
) -> None:
    """Run all checks of a kind. Arguments as in `modality_checks`.

    Raises:
        AssertionError: with the name, the expected and actual results and a hint for each check that failed.
    """
    checks = modality_checks(kind, make_raw, settings=settings, entries=entries, cells=cells)
    run_checks(checks, subject=f"modality {kind.__name__}")


@dataclass(frozen=True)
class _Case:
    """The kind under test and its inputs."""

    kind: type[Modality]
    make_raw: Raw
    settings: dict[str, Any]
    entries: dict[str, Any]
    cells: list[Any] = field(default_factory=list)

    def raw(self) -> list[Any]:
        """Return the raw samples, always the same."""
        torch.manual_seed(0)
        return list(self.make_raw())

    def spec(self, *, statistics: bool = True) -> dict[str, Any]:
        """Return the spec of the modality, without or with statistics of the training samples."""
        kind = self.kind()
        word = next((word for word, known in KINDS.items() if type(known) is self.kind), spelling(self.kind))
        spec = {"kind": word, **kind.spec({**kind.settings, **self.settings}), **self.entries}
        if not statistics:
            return {key: value for key, value in spec.items() if key not in ("mean", "std")}
        samples = (kind.preprocess(raw, spec, "sample") for raw in self.raw())
        return {**spec, **kind.statistics(samples, spec)}

    def samples(self, spec: ModalitySpec) -> list[dict[str, Tensor]]:
        """Return preprocessed raw samples by the names of their tensors; a single tensor has the name ""."""
        return [_parts(self.kind().preprocess(raw, spec, "sample")) for raw in self.raw()]

    def axes(self) -> dict[str, Axis]:
        axis = self.kind.channel_axis
        return dict(axis) if isinstance(axis, Mapping) else {"": axis}


def _parts(x: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return x if isinstance(x, dict) else {"": x}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(x.nan_to_num(), other[part].nan_to_num()) and x.dtype == other[part].dtype for part, x in one.items()
    )


def _made_without_arguments(case: _Case) -> None:
    require(
        Modality in case.kind.__bases__,
        f"expected a class derived directly from perceiver.modalities.Modality, got bases {case.kind.__bases__}.",
    )
    resolve(spelling(case.kind), path="kind", base=Modality)
    require(
        type(pickle.loads(pickle.dumps(case.kind()))) is case.kind and not vars(case.kind()),
        f"expected an instance without state, got {vars(case.kind())}; keep all facts of a modality in its spec.",
    )


def _declared_channel_axis(case: _Case) -> None:
    require(
        hasattr(case.kind, "channel_axis") and all(type(axis) in (int, type(None)) for axis in case.axes().values()),
        "expected the class attribute channel_axis: 0, -1 or None, or a dict of these by the names of a sample's tensors.",
    )
    require(
        set(case.axes().values()) <= {0, -1, None},
        f"expected channels first (0), last (-1) or none (None), got channel_axis = {case.kind.channel_axis}.",
    )


def _plain_spec(case: _Case) -> None:
    spec = case.spec()
    try:
        refuse_special_keys(plain(spec, path="spec"), path="spec")
    except ValueError as error:
        raise AssertionError(f"expected plain data in the spec: {error}; use tolist() and item().") from error
    require(
        json.loads(json.dumps(spec)) == spec,
        f"expected the spec to be the same after a round trip through JSON, got {spec}; use lists, and finite numbers.",
    )
    reserved = {"kind", "column"} & set(case.kind().spec({**case.kind.settings, **case.settings}))
    require(not reserved, f"expected a spec without {', '.join(sorted(reserved))}, which the data module adds.")
    require(spec == case.spec(), "expected the same statistics for the same samples; do not use random numbers.")


def _cells_are_read(case: _Case) -> None:
    kind, spec = case.kind(), case.spec()
    for cell in case.cells:
        first, second = (_parts(kind.preprocess(kind.read(deepcopy(cell), spec), spec, "sample")) for _ in range(2))
        require(_same(first, second), "expected read to return the same raw sample for the same cell.")


def _deterministic(case: _Case) -> None:
    kind, spec = case.kind(), case.spec()
    for raw, untouched in zip(case.raw(), case.raw(), strict=True):
        before = deepcopy(spec)
        torch.manual_seed(1)
        first = _parts(kind.preprocess(raw, spec, "sample"))
        torch.manual_seed(2)
        second = _parts(kind.preprocess(raw, spec, "sample"))
        fresh = _parts(kind.preprocess(untouched, spec, "sample"))
        require(
            _same(first, second),
            "expected preprocess to return the same result twice; augmentation belongs to the data module.",
        )
        require(spec == before, "expected preprocess to leave the spec unchanged.")
        require(_same(first, fresh), "expected preprocess to leave the raw sample unchanged; work on a copy.")


def _shapes_of_the_spec(case: _Case) -> None:
    spec, axes = case.spec(), case.axes()
    samples = case.samples(spec)
    shape = spec.get("shape")
    channels: dict[str, set[int]] = {part: set() for part in axes}
    for sample in samples:
        require(
            set(sample) <= set(axes) and bool(sample) and all(isinstance(x, Tensor) and x.ndim for x in sample.values()),
            f"expected tensors {sorted(axes)} as in channel_axis, got {sorted(sample)}.",
        )
        for part, x in sample.items():
            axis = axes[part]
            require(
                x.dtype in (torch.float32, torch.float64, torch.int64, torch.bool),
                f"expected float32, float64 (times), int64 or bool, got {x.dtype}.",
            )
            if axis is not None:
                channels[part].add(x.shape[axis])
        if shape is not None and "" in sample:
            got = sample[""].shape
            fits = len(shape) == len(got) and all(want in (None, size) for want, size in zip(shape, got, strict=True))
            require(fits, f"expected samples of the spec's shape {shape}, None for free sizes, got {tuple(got)}.")
    for part, counts in channels.items():
        require(
            len(counts) <= 1,
            f"expected one number of channels along axis {axes[part]} {f'of {part!r} ' if part else ''}for all samples, got "
            f"{sorted(counts)}; see channel_axis.",
        )


def _normalisation_inverts(case: _Case) -> None:
    spec = case.spec()
    if "mean" not in spec or set(case.axes()) != {""}:
        return
    require(
        len(spec["mean"]) == len(spec["std"]) and all(std > 0 for std in spec["std"]),
        f"expected a mean and a std above 0 for each channel, got {spec['mean']} and {spec['std']}.",
    )
    plain_samples = case.samples(case.spec(statistics=False) | {key: spec[key] for key in ("shape",) if key in spec})
    for sample, before in zip(case.samples(spec), plain_samples, strict=True):
        torch.testing.assert_close(
            unnormalised(sample[""], spec),
            before[""].to(torch.float32),
            rtol=1e-3,
            atol=1e-3 * max(spec["std"]),
            msg=lambda found: f"expected samples normalised once by the spec's mean and std; see normalise. {found}",
        )


def _collation_pads_and_masks(case: _Case) -> None:
    spec, axes = case.spec(), case.axes()
    samples = [case.kind().preprocess(raw, spec, "sample") for raw in case.raw()]
    batch = Collate(modalities={"x": spec})([Sample(inputs={"x": x}, id=str(row)) for row, x in enumerate(samples)])
    mask = batch.masks.get("x")
    for row, sample in enumerate(samples):
        for part, x in _parts(sample).items():
            stacked: Any = batch.inputs["x"]
            padded = (stacked[part] if part else stacked)[row]
            require(
                torch.equal(padded[tuple(slice(size) for size in x.shape)], x),
                f"expected the batch to hold sample {row} unchanged, at the start of each axis of the grid.",
            )
            axis = axes[part]
            grid = x.shape if axis is None else x.shape[1:] if axis == 0 else x.shape[:-1]
            count = padded.numel() if mask is None else int(mask[row].sum())
            require(
                mask is None or mask.ndim == 1 or count == torch.Size(grid).numel(),
                f"expected {torch.Size(grid).numel()} valid elements of sample {row}, got {count}; the tensors of a "
                "sample share one grid, and channel_axis is its channel axis.",
            )


def _nan_refused_or_masked(case: _Case) -> None:
    kind, spec = case.kind(), case.spec()
    for raw in case.raw():
        spoilt = _with_nan(raw)
        if spoilt is None:
            continue
        try:
            sample = _parts(kind.preprocess(spoilt, spec, "sample"))
        except (ValueError, TypeError):
            continue
        left = any(x.is_floating_point() and not bool(x.isfinite().all()) for x in sample.values())
        masked = any(x.dtype == torch.bool and not bool(x.all()) for x in sample.values())
        require(
            left or masked,
            "expected NaN in a raw sample to be refused, left in place (collation refuses it) or masked by a boolean "
            "tensor, got numbers only; leave it to the caller to fill gaps.",
        )


def _with_nan(raw: Any) -> Any:
    """Return the raw sample with a NaN in its first floating-point array; None without such an array."""
    if isinstance(raw, Tensor) and raw.is_floating_point() and raw.numel():
        spoilt = raw.clone()
        spoilt.view(-1)[0] = torch.nan
        return spoilt
    if isinstance(raw, np.ndarray) and raw.dtype.kind == "f" and raw.size:
        array = raw.copy()
        array.flat[0] = np.nan
        return array
    if isinstance(raw, list) and raw and all(isinstance(value, float) for value in raw):
        return [float("nan"), *raw[1:]]
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            replaced = float("nan") if isinstance(value, float) else _with_nan(value)
            if replaced is not None:
                return {**raw, key: replaced}
    return None


def _error_names_the_sample(case: _Case) -> None:
    kind, spec = case.kind(), case.spec()
    try:
        kind.preprocess(object(), spec, "sample 7")
    except (ValueError, TypeError) as error:
        require(
            str(error).startswith("sample 7"), f"expected an error that begins with the given name 'sample 7', got {error}"
        )
    except Exception as error:
        raise AssertionError(f"expected ValueError or TypeError for a bare object, got {type(error).__name__}.") from error
    else:
        raise AssertionError(
            "expected ValueError or TypeError for a bare object, got a sample; check the type of the input."
        )


def _drawing(case: _Case) -> None:
    from perceiver.plots.drawings import Drawing  # imported late, because it loads the plotting library

    drawing = case.kind().drawing(case.spec(), None)
    require(
        drawing is None or isinstance(drawing, Drawing),
        f"expected None, or an object with size, projection, sample and attention, got {type(drawing).__name__}.",
    )


_CHECKS: dict[str, Callable[[_Case], None]] = {
    run.__name__.removeprefix("_"): run
    for run in (
        _made_without_arguments,
        _declared_channel_axis,
        _plain_spec,
        _cells_are_read,
        _deterministic,
        _shapes_of_the_spec,
        _normalisation_inverts,
        _collation_pads_and_masks,
        _nan_refused_or_masked,
        _error_names_the_sample,
        _drawing,
    )
}
