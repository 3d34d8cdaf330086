"""The order of training samples, and that loading can stop and go on anywhere."""

import pickle
import random
from collections.abc import Sequence
from itertools import islice
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer

from perceiver.data.loading.order import TrainingLoader, TrainingOrder, balanced_weights, training_order
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate


class Noisy:
    """Samples that draw when they are asked for."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Sample:
        return Sample(inputs={"points": torch.rand(2, 3)}, target=index, id=str(index))


def noisy_collate(samples: Sequence[Sample]) -> Batch:
    batch = Collate(modalities={"points": {"kind": "points"}})(samples)
    assert isinstance(batch.inputs["points"], torch.Tensor)
    batch.inputs["points"] = batch.inputs["points"] + torch.rand(())
    return batch


def loader(*, num_workers: int = 0, batch_size: int = 3, seed: int = 0) -> TrainingLoader:
    order = TrainingOrder(size=10, seed=seed)
    return TrainingLoader(Noisy(), collate=noisy_collate, order=order, batch_size=batch_size, num_workers=num_workers)


def contents(batches: Any) -> list[tuple[list[str], list[float]]]:
    return [(list(batch.ids), batch.inputs["points"].flatten().tolist()) for batch in batches]


def test_processes_deal_out_the_order_of_one() -> None:
    whole = TrainingOrder(size=10, seed=3)
    parts = [TrainingOrder(size=10, seed=3, rank=rank, world_size=4) for rank in range(4)]
    for order in (whole, *parts):
        order.set_epoch(2)
    alone = list(whole)
    assert sorted(alone) == list(range(10))
    dealt = [index for group in zip(*parts, strict=True) for index in group]
    assert dealt == alone + alone[:2], "filled up to equal numbers"


def test_the_order_follows_from_seed_and_epoch() -> None:
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        order = TrainingOrder(size=10, seed=seed)
        order.set_epoch(epoch)
        orders.append(list(order))
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_batches_do_not_depend_on_what_was_drawn_before() -> None:
    first = contents(loader())
    torch.rand(100)
    before = torch.get_rng_state()
    assert contents(loader()) == first
    assert torch.equal(torch.get_rng_state(), before), "nor does loading change what is drawn after it"
    assert len({values[0] for _, values in first}) == len(first) == 4


def test_batches_do_not_depend_on_loader_processes() -> None:
    alone, helped = loader(), loader(num_workers=2)
    for _ in range(2):
        assert contents(alone) == contents(helped)


def test_an_epoch_follows_another() -> None:
    batches = loader()
    first, second = contents(batches), contents(batches)
    assert first != second
    batches.sampler.set_epoch(0)  # type: ignore[attr-defined]
    assert contents(batches) == first


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_epoch_is_continued(num_workers: int) -> None:
    stopped = loader()
    whole = contents(loader())
    part = islice(iter(stopped), 2)
    assert contents(part) == whole[:2]
    state = stopped.state_dict()
    assert state == {"epoch": 0, "batches": 2, "samples": 6}
    again = loader(num_workers=num_workers)
    again.load_state_dict(state)
    assert len(again) == 4
    assert contents(again) == whole[2:]
    assert again.state_dict()["batches"] == 4
    assert len(contents(again)) == 4, "the next epoch is a whole one"


def test_batches_of_another_size_go_on_at_the_whole_batch_before() -> None:
    again = loader(batch_size=4)
    again.load_state_dict({"epoch": 0, "batches": 2, "samples": 6})
    ids = [name for names, _ in contents(again) for name in names]
    assert ids == [str(index) for index in list(TrainingOrder(size=10, seed=0))[4:]]


def test_a_finished_epoch_is_not_repeated() -> None:
    again = loader()
    again.load_state_dict({"epoch": 0, "batches": 4, "samples": 12})
    again.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert len(contents(again)) == 4


def test_epochs_of_any_length() -> None:
    """Longer than the data: orders one after another; shorter: a part of an order."""
    long = TrainingOrder(size=4, seed=0, per_epoch=10)
    drawn = list(long)
    assert len(drawn) == len(long) == 10
    assert sorted(drawn[:4]) == sorted(drawn[4:8]) == [0, 1, 2, 3]
    assert drawn[:4] == list(TrainingOrder(size=4, seed=0)), "the first order is that of a usual epoch"
    short = TrainingOrder(size=10, seed=0, per_epoch=3)
    parts = []
    for epoch in range(12):
        short.set_epoch(epoch)
        parts.append(tuple(short))
    assert {len(set(part)) for part in parts} == {3}
    assert set().union(*parts) == set(range(10))
    dealt = [list(TrainingOrder(size=4, seed=0, rank=rank, world_size=2, per_epoch=10)) for rank in range(2)]
    assert [index for pair in zip(*dealt, strict=True) for index in pair] == drawn
    weighted = TrainingOrder(size=4, seed=0, weights=torch.tensor([0.0, 1, 0, 0]), per_epoch=9)
    assert list(weighted) == [1] * 9


def test_a_long_epoch_is_continued() -> None:
    def long() -> TrainingLoader:
        order = TrainingOrder(size=10, seed=0, per_epoch=25)
        return TrainingLoader(Noisy(), collate=noisy_collate, order=order, batch_size=5, num_workers=0)

    whole, again = contents(long()), long()
    assert [len(ids) for ids, _ in whole] == [5] * 5
    again.load_state_dict({"epoch": 0, "batches": 3, "samples": 15})
    assert contents(again) == whole[3:]


def test_every_class_that_occurs_has_the_same_share() -> None:
    labels = [0] * 90 + [2] * 10
    order = TrainingOrder(size=100, seed=0, weights=balanced_weights(labels))
    drawn = []
    for epoch in range(20):
        order.set_epoch(epoch)
        drawn += list(order)
    assert len(drawn) == 2000
    assert 0.45 < (torch.tensor(labels)[torch.tensor(drawn)] == 2).float().mean() < 0.55


def test_tensors_are_labels_too() -> None:
    weights = balanced_weights(torch.tensor([0, 1, 1]))
    assert torch.equal(weights, balanced_weights([0, 1, 1]))
    assert weights.tolist() == [1.0, 0.5, 0.5]


def test_the_seed_of_a_trainer_is_that_of_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a trainer it is drawn; with one it is Lightning's, and 0 if processes could have different ones."""
    module = LightningDataModule()
    torch.manual_seed(1)
    first, second = (training_order(range(5), module=module).seed for _ in range(2))
    torch.manual_seed(1)
    assert training_order(range(5), module=module).seed == first != second
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(2**63 + 7)
    weights = torch.ones(5)
    order = training_order(range(5), module=module, weights=weights)
    assert (order.seed, order.rank, order.num_replicas, len(order.dataset), order.weights) == (7, 0, 1, 5, weights)  # type: ignore[arg-type]
    with mock.patch.object(Trainer, "world_size", 2), mock.patch.object(Trainer, "global_rank", 1):
        order = training_order(range(5), module=module)
        assert (order.seed, order.rank, order.num_replicas) == (0, 1, 2)
        monkeypatch.setenv("PL_GLOBAL_SEED", "12")
        assert training_order(range(5), module=module).seed == 12


def test_small_sets_fill_many_processes() -> None:
    """The order is repeated until all have equally many, more than once if need be."""
    parts = [TrainingOrder(size=2, seed=3, rank=rank, world_size=7) for rank in range(7)]
    alone = list(TrainingOrder(size=2, seed=3))
    assert [list(part) for part in parts] == [[index] for index in (alone * 4)[:7]]


def test_a_position_is_that_of_all_processes() -> None:
    order = TrainingOrder(size=10, seed=0, rank=1, world_size=2)
    batches = TrainingLoader(Noisy(), collate=noisy_collate, order=order, batch_size=2, num_workers=0)
    assert len(batches) == 3
    assert len(list(islice(batches, 2))) == 2
    assert batches.state_dict() == {"epoch": 0, "batches": 2, "samples": 8}
    again = TrainingLoader(Noisy(), collate=noisy_collate, order=TrainingOrder(size=10, seed=0), batch_size=2, num_workers=0)
    again.load_state_dict(batches.state_dict())
    assert len(list(again)) == 1
    assert (batches.timeout, batches.persistent_workers, loader(num_workers=1).persistent_workers) == (0, False, True)


def test_draws_of_ranks_and_epochs_differ() -> None:
    drawn = set()
    for rank, epoch in ((0, 0), (1, 0), (0, 1)):
        order = TrainingOrder(size=10, seed=0, rank=rank, world_size=2)
        order.set_epoch(epoch)
        batches = TrainingLoader(Noisy(), collate=noisy_collate, order=order, batch_size=5, num_workers=0)
        drawn |= {tuple(values) for _, values in contents(batches)}
    assert len(drawn) == 3


def test_python_and_numpy_are_seeded_too() -> None:
    """By their global generators, which are left as they were."""

    class Drawing(Noisy):
        def __getitem__(self, index: int) -> Sample:
            return Sample(inputs={"points": torch.tensor([[random.random(), np.random.rand(), 0.0]])}, id=str(index))  # noqa: NPY002

    def draw() -> list[Any]:
        order = TrainingOrder(size=10, seed=0)
        return contents(TrainingLoader(Drawing(), collate=noisy_collate, order=order, batch_size=5, num_workers=0))

    first, before = draw(), (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]  # noqa: NPY002
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]  # noqa: NPY002
    random.random()
    np.random.rand()  # noqa: NPY002
    assert draw() == first


def test_batches_reach_loader_processes_with_their_seed() -> None:
    [first, *_] = batches = list(loader().batch_sampler)  # type: ignore[arg-type]
    copied = pickle.loads(pickle.dumps(first))
    assert (type(copied), list(copied), copied.seed) == (type(first), list(first), first.seed)  # type: ignore[attr-defined]
    assert len({batch.seed for batch in batches}) == 4  # type: ignore[attr-defined]
    samples = loader().dataset
    torch.manual_seed(5)
    assert samples.__getitems__([3])[0].target == samples[3].target == 3  # type: ignore[attr-defined]
    assert (len(samples), torch.initial_seed()) == (10, 5), "indices without a seed set none"  # type: ignore[arg-type]


def test_every_iteration_is_the_next_epoch() -> None:
    batches = loader()
    for epoch in range(3):
        assert batches.sampler.epoch == epoch  # type: ignore[attr-defined]
        assert len(list(batches)) == 4
        assert batches.state_dict() == {"epoch": epoch, "batches": 4, "samples": 12}
