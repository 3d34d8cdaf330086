"""Collation: padding and masks by hand, absent modalities, targets, errors that name the sample; batches move and pickle."""

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.samples.grounding import Phrase

MODALITIES = {"image": {"kind": "image"}, "points": {"kind": "points"}, "sound": {"kind": "audio"}}


def collate(**more: dict[str, Any]) -> Collate:
    return Collate(modalities={**MODALITIES, **more})


def test_equal_shapes_are_stacked_without_masks() -> None:
    images = torch.randn(3, 1, 4, 5)
    batch = collate()([Sample({"image": image}, target=row, id=f"s{row}") for row, image in enumerate(images)])
    assert torch.equal(batch.inputs["image"], images)  # type: ignore[arg-type]
    assert batch.masks == {}
    assert batch.target is not None
    assert batch.target.tolist() == [0, 1, 2]
    assert batch.ids == ["s0", "s1", "s2"]
    assert batch.size == 3


sizes = st.integers(1, 6)


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {}, optional={"image": st.tuples(sizes, sizes), "points": st.tuples(sizes), "sound": st.tuples(sizes)}
        ).filter(bool),
        min_size=1,
        max_size=4,
    )
)
def test_ragged_and_absent_modalities(rows: list[dict[str, tuple[int, ...]]]) -> None:
    """Against the batch written out element by element."""

    def tensor(name: str, grid: tuple[int, ...]) -> Tensor:
        return torch.rand(*grid, 2) + 1 if name == "points" else torch.rand(2, *grid) + 1

    samples = [Sample({name: tensor(name, grid) for name, grid in row.items()}) for row in rows]
    batch = collate()(samples)
    names = sorted(set().union(*rows))
    assert list(batch.inputs) == names
    for name in names:
        stacked, mask = batch.inputs[name], batch.masks.get(name)
        assert isinstance(stacked, Tensor)
        grids = [row.get(name) for row in rows]
        assert (mask is None) == (len(set(grids)) == 1)
        channels_last = stacked if name == "points" else stacked.movedim(1, -1)
        full = channels_last.shape[:-1]
        assert full == (len(rows), *np.max([grid for grid in grids if grid], axis=0))
        for row, grid in enumerate(grids):
            valid = torch.zeros(full[1:], dtype=torch.bool)
            valid[tuple(slice(n) for n in grid or (0,) * len(full[1:]))] = True
            if grid:
                x = samples[row].inputs[name]
                own = x if name == "points" else x.movedim(0, -1)
                assert torch.equal(channels_last[row][valid], own.reshape(-1, 2))
            assert (channels_last[row][~valid] == 0).all()
            if mask is not None:
                assert torch.equal(mask[row].expand(full[1:]), valid)


def test_a_modality_that_only_lacks_samples_gets_presence() -> None:
    batch = collate()(
        [Sample({"image": torch.ones(1, 2, 2), "points": torch.ones(3, 2)}), Sample({"points": torch.ones(3, 2)})]
    )
    assert list(batch.masks) == ["image"]
    assert batch.masks["image"].tolist() == [True, False]
    assert batch.size == 2


def test_kinds_of_plug_ins_say_their_channel_axis() -> None:
    modalities = {"first": {"kind": "depth", "channel_axis": 0}, "last": {"kind": "text", "channel_axis": -1}}
    batch = Collate(modalities=modalities)(
        [
            Sample({"first": torch.ones(2, 3), "last": torch.ones(3, 2)}),
            Sample({"first": torch.ones(2, 5), "last": torch.ones(5, 2)}),
        ]
    )
    assert batch.masks["first"].sum(1).tolist() == batch.masks["last"].sum(1).tolist() == [3, 5]
    assert Collate(modalities={"image": {"kind": "image", "channel_axis": None}}).channel_axes == {"image": 0}
    with pytest.raises(ValueError, match=r"spec\.modalities\.depth: kind 'depth'.*channel_axis"):
        Collate(modalities={"depth": {"kind": "depth"}})
    with pytest.raises(ValueError, match="channel_axis"):
        Collate(modalities={"depth": {"kind": "depth", "channel_axis": 1}})


def test_integers_keep_their_type() -> None:
    batch = collate()(
        [Sample({"points": torch.ones(2, 1, dtype=torch.int32)}), Sample({"points": torch.ones(3, 1, dtype=torch.int32)})]
    )
    assert batch.inputs["points"].dtype == torch.int32  # type: ignore[union-attr]


@pytest.mark.parametrize("targets", [[0.5, 1.5], [torch.tensor([1, 0]), torch.tensor([0, 1])], [np.int64(3), np.int64(4)]])
@pytest.mark.usefixtures("unchecked")
def test_targets_of_many_kinds(targets: list[Any]) -> None:
    batch = collate()([Sample({"image": torch.ones(1, 2, 2)}, target=target) for target in targets])
    assert batch.target is not None
    assert torch.equal(batch.target, torch.stack([torch.as_tensor(target) for target in targets]))


def test_no_targets_for_prediction() -> None:
    assert collate()([Sample({"image": torch.ones(1, 2, 2)})] * 2).target is None


NAN, INF = torch.full((1, 2, 2), float("nan")), torch.full((1, 2, 3), float("inf"))
GOOD = Sample({"image": torch.ones(1, 2, 2)}, target=0, id="good")


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ([], "at least one sample"),
        ([GOOD, Sample({}, target=0, id="x")], r"'x'.*\['image', 'points', 'sound'\], got \[\]"),
        ([GOOD, Sample({"imgae": NAN}, id="x")], r"'x'.*got \['imgae'\]"),
        ([GOOD, Sample({"image": NAN}, target=0, id="x")], "'x', modality 'image': 4 of 4 values are NaN"),
        ([GOOD, Sample({"image": INF}, target=0, id="x")], "'x', modality 'image': 6 of 6 values are NaN or infinite"),
        ([GOOD, Sample({"points": NAN[0]}, target=0, id="x")], "'x', modality 'points': 4 of 4"),
        (
            [GOOD, Sample({"points": torch.ones(0, 3)}, target=0, id="x")],
            r"'x', modality 'points': is empty, shape \(0, 3\)",
        ),
        ([GOOD, Sample({"image": torch.ones(3, 2, 2)}, target=0, id="x")], r"'x', modality 'image': shape \(3, 2, 2\)"),
        ([GOOD, Sample({"image": torch.ones(2, 2)}, target=0, id="x")], r"'x', modality 'image': shape \(2, 2\)"),
        ([Sample({"image": torch.tensor(1.0)}, target=0, id="x")], r"'x', modality 'image': shape \(\)"),
        (
            [GOOD, Sample({"image": torch.ones(1, 3, 3).double()}, target=0, id="x")],
            "'x', modality 'image': dtype torch.float64",
        ),
        ([GOOD, Sample({"image": torch.ones(1, 2, 2)}, id="x")], "'x': has no target"),
    ],
)
def test_errors_name_sample_and_modality(samples: list[Sample], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        collate()(samples)


def test_padding_is_not_mistaken_for_bad_values() -> None:
    batch = collate()([Sample({"points": torch.ones(4, 2)}), Sample({"points": torch.ones(1, 2)})])
    assert isinstance(batch.inputs["points"], Tensor)
    assert batch.inputs["points"].isfinite().all()


def some_batch() -> Batch:
    return Batch(
        inputs={"image": torch.ones(2, 1, 2, 2), "table": {"numbers": torch.ones(2, 3), "times": torch.zeros(2, 3)}},
        masks={"image": torch.tensor([True, False])},
        target=torch.tensor([1, 2]),
        ids=["a", "b"],
    )


def leaves(batch: Batch) -> list[Tensor]:
    tensors: list[Tensor] = []
    for x in batch.inputs.values():
        tensors += [x] if isinstance(x, Tensor) else list(x.values())
    tensors += batch.masks.values()
    return tensors if batch.target is None else [*tensors, batch.target]


def test_moves_every_tensor() -> None:
    moved = some_batch().to("meta")
    assert len(leaves(moved)) == 5
    assert all(x.is_meta for x in leaves(moved))
    assert moved.ids == ["a", "b"]
    assert Batch(inputs={"image": torch.ones(2, 1)}).to("meta").target is None


def test_pins_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CUDA really; without, that it asks every tensor for it."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(Tensor, "pin_memory", lambda x: x + 0 if x.dtype != torch.bool else x.to(torch.uint8))
        pinned = some_batch().pin_memory()
        assert all(not any(x is y for y in leaves(some_batch())) for x in leaves(pinned))
        assert pinned.masks["image"].dtype == torch.uint8
        return
    assert all(x.is_pinned() for x in leaves(some_batch().pin_memory()))


def test_pickles_and_size_of_nested_inputs() -> None:
    copied = pickle.loads(pickle.dumps(some_batch()))
    assert all(torch.equal(x, y) for x, y in zip(leaves(copied), leaves(some_batch()), strict=True))
    assert Batch(inputs={"table": {"numbers": torch.ones(7, 3)}}).size == 7


def test_serves_a_data_loader() -> None:
    samples = [Sample({"points": torch.ones(row + 1, 2)}, target=row, id=str(row)) for row in range(4)]
    copied = pickle.loads(pickle.dumps(collate()))
    loader: DataLoader[Any] = DataLoader(samples, batch_size=2, collate_fn=copied)  # type: ignore[arg-type]
    batches = list(loader)
    assert [batch.ids for batch in batches] == [["0", "1"], ["2", "3"]]
    assert batches[1].masks["points"].tolist() == [[True, True, True, False], [True] * 4]


KINDS = {
    "text": {"kind": "text"},
    "clip": {"kind": "video"},
    "vitals": {"kind": "timeseries"},
    "patient": {"kind": "table"},
}


def series(steps: int, *, present: bool = False) -> dict[str, Tensor]:
    values = {"values": torch.rand(steps, 2) + 1, "times": torch.arange(steps, dtype=torch.float64) + 0.1}
    return {**values, "present": torch.rand(steps, 2) > 0.5} if present else values


def test_text_has_no_channels() -> None:
    batch = Collate(modalities=KINDS)([Sample({"text": torch.arange(6, 9)}), Sample({"text": torch.arange(4)})])
    assert isinstance(batch.inputs["text"], Tensor)
    assert batch.inputs["text"].dtype == torch.int64
    assert batch.inputs["text"].tolist() == [[6, 7, 8, 0], [0, 1, 2, 3]]
    assert batch.masks["text"].tolist() == [[True, True, True, False], [True] * 4]


def test_videos_may_differ_in_time_and_size() -> None:
    batch = Collate(modalities=KINDS)([Sample({"clip": torch.ones(3, 2, 4, 5)}), Sample({"clip": torch.ones(3, 6, 4, 3)})])
    assert batch.inputs["clip"].shape == (2, 3, 6, 4, 5)  # type: ignore[union-attr]
    assert batch.masks["clip"].sum(dim=(1, 2, 3)).tolist() == [2 * 4 * 5, 6 * 4 * 3]


@pytest.mark.parametrize("lengths", [(3, 5, 2), (4, 4, 4)])
@pytest.mark.parametrize("with_present", [(False, False, False), (True, True, True), (True, False, True)])
@pytest.mark.parametrize("absent", [False, True])
def test_time_series(lengths: tuple[int, ...], with_present: tuple[bool, ...], absent: bool) -> None:
    """Against each sample cut out of the batch again; the longest one has nothing missing and does not say so."""
    samples = [Sample({"vitals": series(n, present=p)}) for n, p in zip(lengths, with_present, strict=True)]
    if absent:
        samples.insert(1, Sample({"text": torch.arange(2)}))
    batch = Collate(modalities=KINDS)(samples)
    stacked, mask = batch.inputs["vitals"], batch.masks.get("vitals")
    assert isinstance(stacked, dict)
    assert sorted(stacked) == (["present", "times", "values"] if any(with_present) else ["times", "values"])
    assert stacked["times"].dtype == torch.float64
    ragged = len(set(lengths)) > 1
    if not (ragged or absent):
        assert mask is None
    else:
        assert mask is not None
        assert mask.shape == ((len(samples), max(lengths)) if ragged else (len(samples),))
    for row, sample in enumerate(samples):
        if "vitals" not in sample.inputs:
            assert mask is not None
            assert not mask[row].any()
            assert all(not part[row].any() for part in stacked.values())
            continue
        own = sample.inputs["vitals"]
        assert isinstance(own, dict)
        steps = len(own["times"])
        if mask is not None and ragged:
            assert mask[row].tolist() == [True] * steps + [False] * (max(lengths) - steps)
        for part in stacked:
            expected = own.get(part, torch.ones(steps, 2, dtype=torch.bool))
            assert torch.equal(stacked[part][row][:steps], expected)
            if part != "present" or part in own:
                assert not stacked[part][row][steps:].any()


def test_tables_have_presence_only() -> None:
    row = {"numbers": torch.rand(2), "categories": torch.tensor([1]), "present": torch.tensor([True, False, True])}
    numbers_only = {
        "numbers": torch.rand(2),
        "categories": torch.zeros(0, dtype=torch.int64),
        "present": torch.ones(2).bool(),
    }
    batch = Collate(modalities=KINDS)([Sample({"patient": row}), Sample({"text": torch.arange(3)})])
    assert isinstance(batch.inputs["patient"], dict)
    assert {name: tuple(x.shape) for name, x in batch.inputs["patient"].items()} == {
        "numbers": (2, 2),
        "categories": (2, 1),
        "present": (2, 3),
    }
    assert batch.masks["patient"].tolist() == [True, False]
    without = Collate(modalities=KINDS)([Sample({"patient": numbers_only})] * 2)
    assert without.inputs["patient"]["categories"].shape == (2, 0)  # type: ignore[call-overload, index]
    assert without.masks == {}


def test_kinds_of_plug_ins_with_several_tensors_or_no_channels() -> None:
    axes = {"codes": "none", "features": -1}
    collate = Collate(
        modalities={"events": {"kind": "events", "channel_axis": axes}, "x": {"kind": "x", "channel_axis": "none"}}
    )
    batch = collate(
        [Sample({"events": {"codes": torch.ones(n), "features": torch.ones(n, 4)}, "x": torch.ones(n, n)}) for n in (2, 3)]
    )
    assert batch.masks["events"].sum(1).tolist() == [2, 3]
    assert batch.masks["x"].sum(dim=(1, 2)).tolist() == [4, 9]
    with pytest.raises(ValueError, match=r"spec\.modalities\.events: .*channel_axis"):
        Collate(modalities={"events": {"kind": "events", "channel_axis": {"codes": 3}}})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([{"values": torch.ones(3, 2), "times": torch.ones(4)}], r"'s0', modality 'vitals': expected tensors of one grid"),
        ([{"values": torch.ones(3, 2), "tmes": torch.ones(3)}], r"'s0', .*some of values, times, present, got .*'tmes'"),
        ([torch.ones(3, 2)], r"'s0', .*expected a dict with .*, got a tensor of shape \(3, 2\)"),
        ([{}], r"'s0', .*expected a dict"),
        ([series(3), {"values": torch.ones(2, 2)}], r"'s1', .*has no 'times'"),
        ([series(3), {**series(2), "values": torch.ones(2, 3)}], r"'s1', .*'values': shape \(2, 3\) does not match"),
        ([series(0)], r"'s0', .*'values': is empty"),
        ([series(3), {**series(3), "times": torch.ones(3)}], r"'s1', .*'times': dtype torch.float32"),
        ([series(2), {**series(2), "values": torch.tensor([[1, float("nan")]] * 2)}], r"'s1', .*'values': 2 of 4 values"),
    ],
)
def test_errors_of_several_tensors(values: list[Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Collate(modalities=KINDS)([Sample({"vitals": one}, id=f"s{row}") for row, one in enumerate(values)])


def test_a_dict_where_a_tensor_is_expected() -> None:
    with pytest.raises(ValueError, match=r"'x', modality 'text': expected a tensor, got a dict with \['times', 'values'\]"):
        Collate(modalities=KINDS)([Sample({"text": series(2)}, id="x")])


def test_dense_targets_are_padded_and_say_where_they_are() -> None:
    classes = [torch.randint(0, 5, size) for size in ((2, 3), (4, 1))]
    seen = torch.tensor([[True], [False], [True], [True]])
    samples = [
        Sample({"image": torch.ones(1, 2, 3)}, target=classes[0], id="a"),
        Sample({"image": torch.ones(1, 4, 1)}, target=classes[1], id="b", target_mask=seen),
    ]
    batch = collate()(samples)
    assert batch.target is not None
    assert batch.target_mask is not None
    assert batch.target.shape == batch.target_mask.shape == (2, 4, 3)
    assert torch.equal(batch.target[0, :2], classes[0])
    assert torch.equal(batch.target[1, :, :1], classes[1])
    assert batch.target_mask.sum(dim=(1, 2)).tolist() == [6, 3]
    assert torch.equal(batch.target_mask[1, :, :1], seen)
    fields = [replace(one, target=torch.randn(2, *classes[row].shape), target_mask=None) for row, one in enumerate(samples)]
    flow = collate()(fields)
    assert flow.target is not None
    assert flow.target_mask is not None
    assert flow.target.shape == (2, 2, 4, 3)
    assert torch.equal(flow.target[1, :, :, :1], fields[1].target)  # type: ignore[arg-type]
    assert flow.target_mask.sum(dim=(1, 2)).tolist() == [6, 4]
    assert flow.to("cpu").target_mask is not None
    alike = collate()([replace(samples[0], id=name) for name in "ab"])
    assert alike.target_mask is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": torch.zeros(3, 4, 1)}, r"sample 'b': its target, torch\.float32 \(3, 4, 1\), does not match"),
        ({"target": torch.zeros(2, 4, 1, dtype=torch.float64)}, r"sample 'b': its target, torch\.float64"),
        ({"target_mask": torch.ones(4, 2, dtype=torch.bool)}, r"sample 'b': expected a boolean target_mask \(4, 1\)"),
        ({"target_mask": torch.ones(4, 1)}, r"sample 'b': expected a boolean target_mask"),
    ],
)
def test_dense_targets_that_do_not_go_together(changed: dict[str, Any], message: str) -> None:
    image = torch.ones(1, 2, 3)
    first = Sample({"image": image}, target=torch.zeros(2, 2, 3), target_mask=torch.ones(2, 3, dtype=torch.bool), id="a")
    second = Sample({"image": image}, target=torch.zeros(2, 4, 1), id="b")
    with pytest.raises(ValueError, match=message):
        collate()([first, replace(second, **changed)])


def test_rows_and_bytes_of_every_tensor() -> None:
    batch = some_batch()
    assert batch.num_bytes == 4 * (8 + 6 + 6) + 2 + 16
    own = batch.rows(slice(1, 2))
    assert (own.size, own.ids, own.target.tolist()) == (1, ["b"], [2])  # type: ignore[union-attr]
    assert [len(x) for x in leaves(own)] == [1] * 5
    masked = Batch(inputs={"image": torch.ones(2, 1)}, target=torch.zeros(2, 3), target_mask=torch.eye(2, 3) > 0)
    assert masked.rows(slice(1, 2)).target_mask.tolist() == [[False, True, False]]  # type: ignore[union-attr]
    assert masked.to("meta").target_mask.is_meta  # type: ignore[union-attr]


def test_groundings_stay_with_their_samples() -> None:
    phrase = Phrase(start=0, end=3, modality="image", box=((0, 2), (1, 3)))
    samples = [Sample({"image": torch.ones(1, 2, 3)}, id=name) for name in "abc"]
    assert collate()(samples).groundings is None
    samples[1] = replace(samples[1], grounding=(phrase,))
    batch = collate()(samples)
    assert batch.groundings == [(), (phrase,), ()]
    assert batch.rows(slice(1, 3)).groundings == [(phrase,), ()]
    assert pickle.loads(pickle.dumps(batch.to("meta"))).groundings == batch.groundings


def test_batches_move_into_shared_memory() -> None:
    batch = some_batch()
    assert not any(x.is_shared() for x in leaves(batch))
    shared = batch.share_memory()
    assert all(x.is_shared() for x in leaves(shared))
    assert shared.ids == batch.ids


def test_flags_with_channels_first_are_padded_to_the_grid_of_the_values() -> None:
    """Samples without the tensor count as True everywhere; samples with it may be shorter."""
    axes = {"values": 0, "present": 0}
    collate = Collate(modalities={"it": {"kind": "readings", "channel_axis": axes}})
    short = {"values": torch.ones(2, 3), "present": torch.tensor([[True, False, True], [False, True, True]])}
    batch = collate([Sample({"it": short}), Sample({"it": {"values": torch.ones(2, 5)}})])
    parts = batch.inputs["it"]
    assert isinstance(parts, dict)
    assert parts["values"].shape == parts["present"].shape == (2, 2, 5)
    assert parts["present"][0].tolist() == [[True, False, True, False, False], [False, True, True, False, False]]
    assert bool(parts["present"][1].all())
    assert batch.masks["it"].tolist() == [[True] * 3 + [False] * 2, [True] * 5]


def test_only_some_modalities() -> None:
    present = torch.tensor([True, False])
    batch = Batch(inputs={"a": torch.rand(2, 3), "b": {"x": torch.rand(2, 1)}}, masks={"a": present}, ids=["p", "q"])
    left = batch.only(["a"])
    assert torch.equal(left.masks["a"], present)
    assert left.masks["b"].tolist() == [False, False]
    assert left.inputs is batch.inputs
    assert "b" not in batch.masks
