"""Batches of similar length: every sample once, bounded tokens, the same number in every epoch, for any processes."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver.data import DataModule, Digits
from perceiver.data.loading.order import TrainingLoader, TrainingOrder


class Lengths(list[int]):
    """Samples that are their own number, with lengths."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__(range(len(lengths)))
        self.lengths = lengths


def batches(
    lengths: list[int], *, tokens: int, rank: int = 0, world: int = 1, epoch: int = 0, start: int = 0
) -> list[list[int]]:
    order = TrainingOrder(size=len(lengths), seed=3, rank=rank, world_size=world)
    loader = TrainingLoader(
        Lengths(lengths),
        collate=list,
        order=order,
        batch_size=4,
        batch_tokens=tokens,
        num_workers=0,  # type: ignore[arg-type]
    )
    order.set_epoch(epoch)
    if start:
        loader.load_state_dict({"epoch": epoch, "samples": start * loader._batches.batch_size * world})
    return [list(batch) for batch in loader]  # type: ignore[call-overload]


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60), extra=st.integers(0, 100), world=st.integers(1, 3))
def test_every_sample_once_within_the_bound(lengths: list[int], extra: int, world: int) -> None:
    tokens = max(lengths) + extra
    ranks = [batches(lengths, tokens=tokens, rank=rank, world=world) for rank in range(world)]
    assert len({len(own) for own in ranks}) == 1
    found = Counter(tuple(batch) for own in ranks for batch in own)
    assert sorted(number for batch in found for number in batch) == list(range(len(lengths)))
    assert sum(found.values()) - len(found) < world  # batches repeat only to give all processes equally many
    for batch in found:
        assert len(batch) * max(lengths[number] for number in batch) <= tokens
    assert len(batches(lengths, tokens=tokens, world=world, epoch=1)) == len(ranks[0])


@given(
    lengths=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), min_size=1, max_size=60), extra=st.integers(0, 900)
)
def test_both_lengths_stay_within_the_bound(lengths: list[tuple[int, int]], extra: int) -> None:
    tokens = max(max(pair) for pair in lengths) + extra
    found = batches(lengths, tokens=tokens)  # type: ignore[arg-type]
    assert sorted(number for batch in found for number in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) * max(max(lengths[number]) for number in batch) <= tokens
    assert len(batches(lengths, tokens=tokens, epoch=1)) == len(found)  # type: ignore[arg-type]


def test_little_padding_of_either_length() -> None:
    generator = random.Random(0)
    lengths = [(length, max(1, length + generator.randint(-4, 4))) for length in generator.choices(range(5, 40), k=2000)]
    found = batches(lengths, tokens=800)  # type: ignore[arg-type]
    for side in (0, 1):
        padded = sum(len(batch) * max(lengths[number][side] for number in batch) for batch in found)
        assert sum(pair[side] for pair in lengths) > 0.85 * padded


def test_orders_differ_between_epochs_and_resume_at_a_batch() -> None:
    lengths = [1 + number % 30 for number in range(300)]
    first, second = (batches(lengths, tokens=120, epoch=epoch) for epoch in (0, 1))
    assert first != second
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    assert batches(lengths, tokens=120, epoch=1, start=5) == second[5:]


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_tokens: expected at least 9, the length of the longest"):
        batches([3, 9], tokens=8)
    with pytest.raises(ValueError, match=r"data\.batch_tokens: expected 1 or more"):
        DataModule(Digits(), batch_tokens=0)
    data = DataModule(Digits(), batch_tokens=100)
    with pytest.raises(ValueError, match=r"data\.batch_tokens: expected null, since the samples of Digits have no lengths"):
        data.train_dataloader()
