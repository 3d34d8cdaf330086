"""Hiding tokens: how many, which, and in blocks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceiver.masking.random import RandomMasking, chosen
from perceiver.tokens.tokens import Tokens


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.floats(0.05, 0.95))
def test_a_share_of_each_samples_valid_tokens(lengths: list[int], rate: float) -> None:
    mask = torch.arange(12)[None] < torch.tensor(lengths)[:, None]
    hidden = RandomMasking(rate=rate)(Tokens(parts=(torch.zeros(1, 12, 1),), mask=mask), batch=len(lengths))
    assert not (hidden & ~mask).any()
    for length, count in zip(lengths, hidden.sum(dim=1).tolist(), strict=True):
        assert count == (0 if length < 2 else min(max(1, round(length * rate)), length - 1))


def test_every_token_is_as_likely_and_samples_differ() -> None:
    hidden = RandomMasking(rate=0.25)(Tokens(parts=(torch.zeros(1, 4, 4, 1),)), batch=4000)
    assert hidden.flatten(1).sum(dim=1).unique().tolist() == [4]
    assert ((hidden.float().mean(dim=0) - 0.25).abs() < 0.04).all()


def test_blocks_are_hidden_together() -> None:
    hidden = RandomMasking(rate=0.5, block=[2, 3])(Tokens(parts=(torch.zeros(1, 4, 6, 1),)), batch=50)
    blocks = hidden.reshape(50, 2, 2, 2, 3).permute(0, 1, 3, 2, 4).flatten(3).float().mean(dim=-1)
    assert set(blocks.flatten().tolist()) == {0.0, 1.0}
    ragged = RandomMasking(rate=0.5, block=[4])(Tokens(parts=(torch.zeros(1, 10, 1),)), batch=20)
    assert ragged.sum(dim=1).unique().tolist() == [5]


def test_places_of_what_is_hidden() -> None:
    hidden = torch.tensor([[True, False, True, True], [False, False, True, False]])
    index, real = chosen(hidden, at_most=None)
    assert index.shape == (2, 3)
    assert index[0].tolist() == [0, 2, 3]
    assert index[1][real[1]].tolist() == [2]
    few, real = chosen(hidden, at_most=1)
    assert few.shape == (2, 1)
    assert real.all()
    assert hidden.gather(1, few).all()


@pytest.mark.parametrize(
    "arguments", [{"rate": 0.0}, {"rate": 1.0}, {"rate": 0.5, "block": []}, {"rate": 0.5, "block": [0]}]
)
def test_wrong_settings(arguments: dict[str, float | list[int]]) -> None:
    with pytest.raises(ValueError, match="RandomMasking"):
        RandomMasking(**arguments)  # type: ignore[arg-type]


def test_blocks_of_another_rank() -> None:
    with pytest.raises(ValueError, match=r"each of the 2 axes .* \(4, 6\), got \[3\]"):
        RandomMasking(rate=0.5, block=[3])(Tokens(parts=(torch.zeros(1, 4, 6, 1),)), batch=1)
