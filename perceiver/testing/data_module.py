"""Conformance checks of data modules and their sources, on which runs, tasks and `Perceiver.predict` rely.

`data_module_checks` lists the checks, `check_data_module` runs them all. By name:

- `spec_is_plain_and_complete`: `spec` exists after `setup("fit")`, with plain values for YAML and checkpoints, a kind for
  every modality, and a target from which predictions can be made; without labels it has no `target`.
- `batches_match_spec`: training, validation and test yield `Batch`es with the modalities and shapes of the spec, masks
  `(B,)` or `(B, *raw grid)`, finite valid content, and an id for each sample.
- `targets_in_range`: class numbers are below the number of classes, labels and probabilities in [0, 1], values finite,
  dense targets where valid; without labels there are no targets.
- `splits_are_disjoint`: no sample is in two splits.
- `deterministic_evaluation`: validation and test always have the same samples in the same order with the same content.
- `test_split_stays_unread`: `setup("fit")` and the loaders of the other splits do not read the test split.
- `stored_spec_is_used`: a spec that was set overrides the spec from the data, for fitting and testing.
- `foreign_spec_is_refused`: setting the spec of other data raises ValueError.
- `workers_give_the_same_batches`: loader processes do not change batches.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from perceiver.modalities.texts.tokenizers import START, tokenizer_of
from perceiver.samples.batch import Batch
from perceiver.samples.collate import Collate
from perceiver.targets.kinds import KINDS
from perceiver.testing.check import Check, require, run_checks

_SPLITS = ("train", "val", "test")


def data_module_checks(
    make_data_module: Callable[[], Any], *, test_readers: Sequence[str] = ("read_test",), max_batches: int = 4
) -> list[Check]:
    """Return the checks of a data module, by name; see the module docstring.

    Args:
        make_data_module: returns a new data module at each call, with the same arguments: `perceiver.data.DataModule` of a
            source, or another LightningDataModule. Small data suffices.
        test_readers: methods of it or its source that read the test split, besides `test_dataloader` and
            `predict_dataloader`.
        max_batches: number of batches to check per split.
    """
    case = _Case(make_data_module, tuple(test_readers), max_batches)
    return [Check(name, partial(run, case)) for name, run in _CHECKS.items()]


def check_data_module(
    make_data_module: Callable[[], Any], *, test_readers: Sequence[str] = ("read_test",), max_batches: int = 4
) -> None:
    """Run all checks of a data module. Arguments as in `data_module_checks`.

    Raises:
        AssertionError: names the failed checks, with expectation, result and a hint for each.
    """
    checks = data_module_checks(make_data_module, test_readers=test_readers, max_batches=max_batches)
    module = make_data_module()
    run_checks(checks, subject=f"data module {type(getattr(module, 'source', module)).__name__}")


@dataclass(frozen=True)
class _Case:
    """The data module under test."""

    make: Callable[[], Any]
    test_readers: tuple[str, ...]
    max_batches: int
    shared: list[Any] = field(default_factory=list)

    def fitted(self) -> Any:
        """Return a data module that is set up for training."""
        module = self.make()
        module.prepare_data()
        module.setup("fit")
        return module

    def ready(self) -> Any:
        """Return a data module that is set up for all stages, shared by all checks to read the data only once."""
        if not self.shared:
            module = self.fitted()
            module.setup("test")
            self.shared.append(module)
        return self.shared[0]

    def loader(self, module: Any, split: str) -> DataLoader[Any]:
        """Return the loader of a split."""
        loader = getattr(module, f"{split}_dataloader")()
        require(
            isinstance(loader, DataLoader),
            f"expected {split}_dataloader() to return a torch DataLoader, got {type(loader).__name__}.",
        )
        return loader  # type: ignore[no-any-return]

    def batches(self, module: Any, split: str) -> Iterator[Batch]:
        """Iterate over the first batches of a split."""
        count = 0
        for count, batch in enumerate(islice(self.loader(module, split), self.max_batches), start=1):  # noqa: B007
            require(
                isinstance(batch, Batch),
                f"expected {split}_dataloader() to yield perceiver.Batch, got {type(batch).__name__}; give the DataLoader "
                "collate_fn=perceiver.Collate(modalities=spec['modalities']).",
            )
            yield batch
        require(count > 0, f"expected batches from {split}_dataloader(), got none; see its split, batch_size and drop_last.")


def _spec(module: Any) -> dict[str, Any]:
    spec = getattr(module, "spec", None)
    require(
        isinstance(spec, dict),
        f"expected {type(module).__name__}.spec to be a dict after prepare_data() and setup('fit'), got "
        f"{type(spec).__name__}; the run puts it into the config and the checkpoint.",
    )
    assert isinstance(spec, dict)
    return spec


def _spec_is_plain_and_complete(case: _Case) -> None:
    spec = _spec(case.ready())
    _require_plain(spec, "spec")
    modalities = spec.get("modalities")
    require(
        isinstance(modalities, dict) and bool(modalities),
        f"expected spec['modalities'] to be a dict of modalities, got {modalities!r}.",
    )
    assert isinstance(modalities, dict)
    for name, entry in modalities.items():
        require(
            isinstance(entry, dict) and isinstance(entry.get("kind"), str),
            f"expected spec['modalities'][{name!r}] to name a kind, got {entry!r}; the kind chooses adapter/<kind>.yaml.",
        )
    _channel_axes(modalities)
    if "target" not in spec:
        return
    target = spec["target"]
    require(
        isinstance(target, dict) and target.get("kind") in KINDS,
        f"expected spec['target'] to name a kind, one of {', '.join(KINDS)}, got {target!r}.",
    )
    assert isinstance(target, dict)
    if target["kind"] == "text":
        size = target.get("vocabulary_size")
        require(
            type(size) is int and tokenizer_of(target.get("tokenizer")).vocabulary_size == size,
            f"expected spec['target']['vocabulary_size'] to be that of spec['target']['tokenizer'], got {size!r}; see "
            "perceiver.targets.text.text_target.",
        )
        return
    names = target.get("names")
    require(
        isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names),
        f"expected spec['target']['names'] to be a list of strings, got {names!r}; they name the predictions.",
    )
    assert isinstance(names, list)
    require(len(set(names)) == len(names), f"expected distinct names in spec['target']['names'], got {names}.")
    if target["kind"] in ("classes", "segmentation"):
        require(
            len(names) >= 2 and spec.get("num_classes") == len(names),
            f"expected spec['num_classes'] to be the number of class names, two or more, got {spec.get('num_classes')!r} "
            f"for {names}.",
        )


def _require_plain(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for key, entry in value.items():
            require(type(key) is str, f"expected string keys in {path}, got {key!r}; YAML and checkpoints hold the spec.")
            _require_plain(entry, f"{path}[{key!r}]")
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _require_plain(entry, f"{path}[{index}]")
    else:
        require(
            value is None or type(value) in (bool, int, float, str),
            f"expected plain values in the spec (dict, list, str, int, float, bool, None), got {type(value).__name__} at "
            f"{path}; convert it, e.g. with .tolist().",
        )


def _batches_match_spec(case: _Case) -> None:
    module = case.ready()
    modalities = _spec(module)["modalities"]
    axes = _channel_axes(modalities)
    for split in _SPLITS:
        for batch in case.batches(module, split):
            require(
                bool(batch.inputs) and set(batch.inputs) <= set(modalities) and set(batch.masks) <= set(batch.inputs),
                f"expected {split} batches of the modalities {sorted(modalities)} and masks of those only, got inputs "
                f"{sorted(batch.inputs)} and masks {sorted(batch.masks)}.",
            )
            for name, x in batch.inputs.items():
                where = f"{split} batch, {name!r}"
                if isinstance(x, Tensor):
                    _require_shape(x, modalities[name].get("shape"), size=batch.size, where=where)
                    _require_mask(x, batch.masks.get(name), axes[name], where=where)
                else:
                    for key, tensor in x.items():
                        _require_shape(tensor, None, size=batch.size, where=f"{where}, {key!r}")
            require(
                len(batch.ids) == batch.size and all(isinstance(one, str) and one for one in batch.ids),
                f"expected an id for each of {batch.size} samples of a {split} batch, got {batch.ids[:3]}…; give "
                "every perceiver.Sample an id, which messages and tables of predictions use.",
            )


def _require_shape(x: Tensor, shape: Sequence[int | None] | None, *, size: int, where: str) -> None:
    """Check the number of samples in the batch, and their shape in the spec."""
    own = tuple(x.shape[1:]) if shape is None else tuple(shape)
    fits = x.ndim == len(own) + 1 and all(one in (None, n) for one, n in zip(own, x.shape[1:], strict=False))
    require(
        fits and x.shape[0] == size,
        f"expected {size} samples of shape {own} (None: any size) in a {where}, as ids and spec['modalities'] "
        f"declare, got {tuple(x.shape)}.",
    )


def _require_mask(x: Tensor, mask: Tensor | None, channel_axis: int | None, *, where: str) -> None:
    """Check that a mask is `(B,)` or `(B, *raw grid)`, and that valid content is finite."""
    visible = x
    if mask is not None:
        size, shape = len(x), tuple(x.shape[1:])
        grid = shape if channel_axis is None else shape[1:] if channel_axis == 0 else shape[:-1]
        require(
            mask.dtype == torch.bool and tuple(mask.shape) in ((size,), (size, *grid)),
            f"expected a boolean mask ({size},) or {(size, *grid)} in a {where}, got {mask.dtype} {tuple(mask.shape)}; True "
            "is valid.",
        )
        if mask.ndim == 1:
            mask = mask.reshape(-1, *[1] * len(shape))
        elif channel_axis is not None:
            mask = mask.unsqueeze(1 if channel_axis == 0 else -1)
        visible = torch.where(mask, x, x.new_zeros(()))
    require(
        bool(visible.isfinite().all()),
        f"expected finite values wherever the mask says valid in a {where}, got NaN or infinity; mask missing values.",
    )


def _channel_axes(modalities: Mapping[str, Any]) -> dict[str, Any]:
    """Return the channel axis of each modality in collation; its other axes are the raw grid."""
    try:
        return dict(Collate(modalities=modalities).channel_axes)
    except ValueError as error:
        raise AssertionError(f"expected modalities that perceiver.Collate can batch, got ValueError: {error}") from error


def _targets_in_range(case: _Case) -> None:
    module = case.ready()
    spec = _spec(module)
    if "target" not in spec:
        _require_no_targets(case, module)
        return
    kind = spec["target"]["kind"]
    count = spec["target"]["vocabulary_size"] if kind == "text" else len(spec["target"]["names"])
    for split in _SPLITS:
        for batch in case.batches(module, split):
            target = batch.target
            require(
                target is not None, f"expected targets in {split} batches, got None; give every perceiver.Sample a target."
            )
            assert target is not None
            if kind == "classes" and not target.is_floating_point():
                fits = tuple(target.shape) == (batch.size,) and bool(((target >= 0) & (target < count)).all())
                expected = f"class numbers ({batch.size},) from 0 to {count - 1}"
            elif kind == "segmentation":
                valid = _target_mask(batch, target.shape[1:], split)
                fits = not target.is_floating_point() and target.ndim > 1
                fits = fits and bool(((target >= 0) & (target < count))[valid].all())
                expected = f"class numbers ({batch.size}, *grid) from 0 to {count - 1} wherever target_mask says valid"
            elif kind == "text":
                valid = _target_mask(batch, target.shape[1:], split)
                fits = target.ndim == 2 and not target.is_floating_point() and bool((target[:, 0] == START).all())
                fits = fits and bool(((target >= 0) & (target < count))[valid].all())
                expected = f"ids ({batch.size}, length) below {count}, the start id {START} first,"
            elif kind in ("field", "flow"):
                valid = _target_mask(batch, target.shape[2:], split)
                fits = target.is_floating_point() and target.ndim > 2 and target.shape[1] == count
                fits = fits and bool(target.movedim(1, -1)[valid].isfinite().all())
                expected = f"values ({batch.size}, {count}, *grid), finite wherever target_mask says valid,"
            elif kind == "values":
                fits = target.numel() == batch.size * count and bool(target.isfinite().all())
                expected = f"finite values {(batch.size, count)}"
            else:
                fits = tuple(target.shape) == (batch.size, count) and bool(((target >= 0) & (target <= 1)).all())
                expected = f"numbers from 0 to 1, {(batch.size, count)}"
            finite = target.double().nan_to_num()
            require(
                fits,
                f"expected {expected} as targets of a {split} batch, got {target.dtype} {tuple(target.shape)} from "
                f"{finite.min():g} to {finite.max():g}; number the names of spec['target'] from 0.",
            )


def _require_no_targets(case: _Case, module: Any) -> None:
    for split in _SPLITS:
        for batch in case.batches(module, split):
            require(
                batch.target is None,
                f"expected no targets in {split} batches, since the spec has none, got some; declare them in "
                "spec['target'].",
            )


def _target_mask(batch: Batch, grid: Sequence[int], split: str) -> Tensor:
    """Return where a dense target is valid."""
    mask, shape = batch.target_mask, (batch.size, *grid)
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    require(
        mask.dtype == torch.bool and tuple(mask.shape) == shape,
        f"expected a boolean target_mask {shape} in a {split} batch like the grid of its target, got {mask.dtype} "
        f"{tuple(mask.shape)}; True is valid.",
    )
    return mask


def _splits_are_disjoint(case: _Case) -> None:
    module = case.ready()
    ids = {split: {one for batch in case.batches(module, split) for one in batch.ids} for split in _SPLITS}
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        both = sorted(ids[first] & ids[second])
        require(
            not both,
            f"expected no sample in two splits, got {both[:3]} in {first} and {second}; split by id, before shuffling.",
        )


def _deterministic_evaluation(case: _Case) -> None:
    torch.manual_seed(1)
    again = case.fitted()
    again.setup("test")
    for split in ("val", "test"):
        expected = list(case.batches(case.ready(), split))
        for module in (case.ready(), again):
            _require_same(
                expected,
                list(case.batches(module, split)),
                what=f"the same {split} batches every time",
                where="do not shuffle or augment",
            )


def _require_same(expected: Sequence[Batch], got: Sequence[Batch], *, what: str, where: str) -> None:
    ids, others = ([one for batch in batches for one in batch.ids] for batches in (expected, got))
    require(ids == others, f"expected {what}, got samples {others[:3]}… instead of {ids[:3]}…; {where} there.")
    for one, other in zip(expected, got, strict=True):
        same = one.inputs.keys() == other.inputs.keys() and one.masks.keys() == other.masks.keys()
        pairs = [(_flat(one), _flat(other))] if same else []
        require(
            same and all(_equal(a, b) for firsts, seconds in pairs for a, b in zip(firsts, seconds, strict=True)),
            f"expected {what}, got other content for {one.ids[:3]}…; {where} there.",
        )


def _flat(batch: Batch) -> list[Tensor]:
    """Return all tensors of a batch, in a fixed order."""
    tensors = [x for x in (batch.target, batch.target_mask) if x is not None]
    for name in sorted(batch.inputs):
        x = batch.inputs[name]
        tensors += [x] if isinstance(x, Tensor) else [x[key] for key in sorted(x)]
    return [*tensors, *(batch.masks[name] for name in sorted(batch.masks))]


def _equal(x: Tensor, y: Tensor) -> bool:
    same = x.shape == y.shape and x.dtype == y.dtype
    return same and bool(((x == y) | ((x != x) & (y != y))).all())


def _test_split_stays_unread(case: _Case) -> None:
    module = case.make()
    module.prepare_data()  # may check whether files exist
    read: list[str] = []
    for owner in (module, getattr(module, "source", None)):
        for name in (*case.test_readers, "test_dataloader", "predict_dataloader"):
            if callable(getattr(owner, name, None)):
                # On the instance, to record calls by the class itself.
                setattr(owner, name, partial(_noted, getattr(owner, name), name, read))
    module.setup("fit")
    for split in ("train", "val"):
        list(case.batches(module, split))
    require(
        not read,
        f"expected the test split to stay unread while fitting, got a call of {', '.join(dict.fromkeys(read))}(); read it "
        "in setup('test').",
    )


def _noted(method: Callable[..., Any], name: str, read: list[str], *arguments: Any, **options: Any) -> Any:
    read.append(name)
    return method(*arguments, **options)


def _stored_spec_is_used(case: _Case) -> None:
    original = case.ready()
    stored = deepcopy(_spec(original))
    changed = [name for name, entry in stored["modalities"].items() if entry.get("std") is not None]
    for name in changed:
        entry = stored["modalities"][name]
        entry["std"] = [2 * value for value in entry["std"]] if isinstance(entry["std"], list) else 2 * entry["std"]
    for stage in ("fit", "test"):
        module = case.make()
        module.prepare_data()
        _set(module, stored)
        module.setup(stage)
        require(
            _spec(module) == stored,
            f"expected the spec that was set to hold after setup({stage!r}), got a different spec; in setup, make a "
            "spec only if none was set.",
        )
        split = "val" if stage == "fit" else "test"
        before, after = next(case.batches(original, split)), next(case.batches(module, split))
        for name in changed:
            if name in before.inputs:
                same = all(
                    _equal(a, b) for a, b in zip(_floats(before.inputs[name]), _floats(after.inputs[name]), strict=True)
                )
                require(
                    not same,
                    f"expected {name!r} of {split} batches to be normalised by the std of the spec that was set "
                    "(twice that of the data), got unchanged content; normalise by self.spec.",
                )


def _floats(x: Tensor | Mapping[str, Tensor]) -> list[Tensor]:
    tensors = [x] if isinstance(x, Tensor) else [x[key] for key in sorted(x)]
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def _set(module: Any, spec: Mapping[str, Any]) -> None:
    try:
        module.spec = deepcopy(dict(spec))
    except AttributeError as error:
        raise AssertionError(
            f"expected {type(module).__name__}.spec to take the spec of a checkpoint, got AttributeError: {error}; "
            "add a setter to the property: testing and resuming use the stored spec."
        ) from error


def _foreign_spec_is_refused(case: _Case) -> None:
    own = _spec(case.ready())
    name = next(iter(own["modalities"]))
    foreign = deepcopy(own)
    foreign["modalities"] = {f"not_{name}": foreign["modalities"].pop(name), **foreign["modalities"]}
    module = case.make()
    try:
        _set(module, foreign)
    except ValueError:
        return
    raise AssertionError(
        f"expected ValueError for the spec of data whose modalities are {sorted(foreign['modalities'])}, got none; in "
        "the setter of spec, compare it with the known facts of this data, and report expected and actual values."
    )


def _workers_give_the_same_batches(case: _Case) -> None:
    module = case.ready()
    for split in ("val", "test"):
        loader = case.loader(module, split)
        passes = []
        for num_workers in (0, 2):
            with warnings.catch_warnings():
                # On a single-core machine, two workers are slow but correct.
                warnings.filterwarnings("ignore", message="This DataLoader will create")
                again: DataLoader[Any] = DataLoader(
                    loader.dataset,
                    batch_sampler=loader.batch_sampler,
                    collate_fn=loader.collate_fn,
                    num_workers=num_workers,
                )
                passes.append(list(islice(again, case.max_batches)))
        _require_same(
            *passes,
            what=f"the same {split} batches with and without loader processes",
            where="keep open files, counters and random numbers out of the data set",
        )


_CHECKS: dict[str, Callable[[_Case], None]] = {
    run.__name__.removeprefix("_"): run
    for run in (
        _spec_is_plain_and_complete,
        _batches_match_spec,
        _targets_in_range,
        _splits_are_disjoint,
        _deterministic_evaluation,
        _test_split_stays_unread,
        _stored_spec_is_used,
        _foreign_spec_is_refused,
        _workers_give_the_same_batches,
    )
}
