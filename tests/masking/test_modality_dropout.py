"""Modality dropout: how often what is lost, that nobody loses everything, and that nothing else changes."""

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from perceiver.masking.modality_dropout import ModalityDropout
from perceiver.tokens.masks import presence

COUNT = 20_000


def some_inputs(batch: int = COUNT) -> dict[str, Any]:
    """Three modalities, one of them of two tensors."""
    numbers = {"numbers": torch.zeros(batch, 2), "present": torch.ones(batch, 2) > 0}
    return {"sound": torch.zeros(batch, 1, 4), "image": torch.zeros(batch, 1, 2, 2), "table": numbers}


def seen(inputs: dict[str, Any], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """`(B,)` by modality: who has it."""
    there = {name: presence(x, masks.get(name)) for name, x in inputs.items()}
    batch = inputs["sound"].shape[0]
    return {name: torch.ones(batch, dtype=torch.bool) if own is None else own for name, own in there.items()}


def near(count: int, total: int, probability: float) -> None:
    """Within five standard deviations of a binomial distribution."""
    assert abs(count - total * probability) <= 5 * math.sqrt(total * probability * (1 - probability)) + 1e-9


def test_modalities_are_lost_at_their_rates() -> None:
    """With one modality that is never lost, nobody is about to lose the last one: the rates are exact, and independent."""
    rates = {"sound": 0.3, "table": 0.6}
    inputs = some_inputs()
    left = seen(inputs, ModalityDropout(rates=rates)(inputs, {}))
    assert left["image"].all()
    for name, rate in rates.items():
        near(int((~left[name]).sum()), COUNT, rate)
    near(int((~left["sound"] & ~left["table"]).sum()), COUNT, 0.3 * 0.6)


def test_the_last_one_stays_and_each_may_be_it() -> None:
    rates = {"image": 0.9, "sound": 0.8, "table": 0.5}
    inputs = some_inputs()
    left = seen(inputs, ModalityDropout(rates=rates)(inputs, {}))
    assert torch.stack(list(left.values())).any(dim=0).all()
    everything = 0.9 * 0.8 * 0.5
    for name, rate in rates.items():
        near(int((~left[name]).sum()), COUNT, rate - everything / 3)
        alone = left[name] & ~torch.stack([own for other, own in left.items() if other != name]).any(dim=0)
        others = math.prod(own for other, own in rates.items() if other != name)
        near(int(alone.sum()), COUNT, (1 - rate) * others + everything / 3)


def test_what_a_sample_lacks_counts_for_nothing() -> None:
    """A third has no image, a third neither image nor sound, of these some nothing; some tables have no cell."""
    inputs = some_inputs()
    third = torch.arange(COUNT) % 3
    masks = {
        "image": (third == 0)[:, None, None].expand(-1, 2, 2).clone(),
        "sound": third < 2,
        "table": torch.arange(COUNT) % 2 == 0,
    }
    masks["image"][:, 0] = False  # what is left of an image is valid
    inputs["table"]["present"][torch.arange(COUNT) % 4 == 0] = False
    before = seen(inputs, masks)
    rates = {"image": 0.5, "sound": 0.5, "table": 0.5}
    given = {name: mask.clone() for name, mask in masks.items()}
    new = ModalityDropout(rates=rates)(inputs, masks)
    assert all(torch.equal(masks[name], given[name]) for name in masks), "the caller's masks stay"
    after = seen(inputs, new)
    for name in before:
        assert not (after[name] & ~before[name]).any(), "nothing appears"
    some = torch.stack(list(before.values())).any(dim=0)
    assert 0 < int((~some).sum()) < COUNT
    assert torch.equal(torch.stack(list(after.values())).any(dim=0), some)
    for name, own in before.items():
        only = own & ~torch.stack([one for other, one in before.items() if other != name]).any(dim=0)
        assert after[name][only].all()
    two = before["image"] & before["sound"] & ~before["table"]
    near(int((~after["image"])[two].sum()), int(two.sum()), 0.5 - 0.25 / 2)
    kept = after["image"]
    assert torch.equal(new["image"][kept], masks["image"][kept]), "elements stay as they were"
    assert not new["image"][~kept].any()


def test_evaluation_changes_nothing() -> None:
    dropout, inputs = ModalityDropout(rates={"image": 0.9, "sound": 0.9}).eval(), some_inputs(5)
    masks = {"sound": torch.rand(5, 4) > 0.5}
    state = torch.get_rng_state()
    new = dropout(inputs, masks)
    assert new.keys() == masks.keys()
    assert new["sound"] is masks["sound"]
    assert dropout(inputs) == {}
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rates", [None, {}, {"image": 0.0}, {"video": 0.5}])
def test_without_rates_nothing_is_drawn(rates: dict[str, float] | None) -> None:
    state = torch.get_rng_state()
    assert ModalityDropout(rates=rates)(some_inputs(5), {}) == {}
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_of_one_modality_keeps_it() -> None:
    assert ModalityDropout(rates={"image": 0.9})({"image": torch.zeros(50, 1, 2, 2)}) == {}


def test_the_seed_decides() -> None:
    dropout, inputs = ModalityDropout(rates={"image": 0.5, "sound": 0.5}), some_inputs(100)

    def drawn(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        masks: dict[str, Tensor] = dropout(inputs, {})
        return masks

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_are_probabilities(rate: float) -> None:
    with pytest.raises(ValueError, match=r"ModalityDropout\.rates: expected probabilities .* for 'image'"):
        ModalityDropout(rates={"image": rate})


def test_it_has_no_state_and_can_be_copied() -> None:
    dropout = ModalityDropout(rates={"image": 0.25})
    assert dropout.state_dict() == {}
    assert pickle.loads(pickle.dumps(dropout)).rates == {"image": 0.25}
    assert "0.25" in repr(dropout)
