"""Fusion: widths, order, subsets, learned padding."""

import pytest
import torch

from perceiver.encoders.fusion import Fusion
from perceiver.tokens.tokens import Tokens

AUTOENCODER = {"video": 435, "audio": 401, "label": 700}


def tokens(channels: int, grid: tuple[int, ...] = (3,), batch: int = 2) -> Tokens:
    return Tokens(parts=(torch.randn(batch, *grid, channels),), mask=torch.rand(batch, *grid) > 0.5)


def test_widths_of_the_multimodal_autoencoder() -> None:
    fusion = Fusion(channels=AUTOENCODER)
    assert fusion.channels == 704
    assert {name: vector.numel() for name, vector in fusion.padding.items()} == {"audio": 303, "label": 4, "video": 269}
    assert sum(parameter.numel() for parameter in fusion.parameters()) == 303 + 4 + 269


def test_all_come_out_in_sorted_order_and_of_one_width() -> None:
    fused = Fusion(channels=AUTOENCODER)({name: tokens(width) for name, width in AUTOENCODER.items()})
    assert list(fused) == ["audio", "label", "video"]
    assert {one.channels for one in fused.values()} == {704}


def test_padding_is_learned_last_and_a_broadcast_part() -> None:
    fusion = Fusion(channels={"a": 2, "b": 5}, padding=3)
    before = tokens(2, grid=(3, 4))
    after = fusion({"a": before})["a"]
    assert after.parts[0] is before.parts[0]
    assert after.mask is before.mask
    assert after.parts[1].shape == (1, 1, 1, 6)
    after.parts[1].square().sum().backward()
    assert torch.equal(fusion.padding["a"].grad, 2 * fusion.padding["a"])


def test_a_subset_gives_what_it_gives_among_all() -> None:
    fusion = Fusion(channels=AUTOENCODER)
    given = {name: tokens(width) for name, width in AUTOENCODER.items()}
    everything = fusion(given)
    for name in AUTOENCODER:
        alone = fusion({name: given[name]})
        assert list(alone) == [name]
        assert torch.equal(alone[name].dense(), everything[name].dense())


def test_modalities_of_one_width_are_told_apart() -> None:
    fusion = Fusion(channels={"left": 3, "right": 3})
    same = tokens(3)
    fused = fusion({"left": same, "right": same})
    assert fusion.channels == 7
    assert not torch.equal(fused["left"].dense(), fused["right"].dense())


def test_one_modality_passes_unchanged() -> None:
    fusion = Fusion(channels={"image": 9})
    only = tokens(9)
    assert fusion.channels == 9
    assert list(fusion.parameters()) == []
    assert fusion({"image": only})["image"] is only


def test_padding_starts_small() -> None:
    values = Fusion(channels={"a": 1, "b": 5000}, std=0.5).padding["a"]
    assert values.abs().max() <= 1.0
    assert 0.4 < values.std() < 0.5


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least one modality"):
        Fusion(channels={})
    for name in ("left.eye", "", "values", "type", "training", "forward"):
        with pytest.raises(ValueError, match=f"{name!r} cannot name a modality"):
            Fusion(channels={name: 1, "b": 2})
    with pytest.raises(ValueError, match=r"Fusion\.padding.*got 0"):
        Fusion(channels={"a": 1, "b": 2}, padding=0)
    with pytest.raises(ValueError, match=r"Fusion\.std: expected .*, got 0\.0"):
        Fusion(channels={"a": 1, "b": 2}, std=0.0)


def test_mask_tokens_replace_tokens() -> None:
    """In training at a rate; a rate of 1 always, of 0 never; every mask token has a gradient."""
    torch.manual_seed(0)
    fusion = Fusion(channels={"a": 3, "b": 2, "c": 2}, mask_rates={"a": 0.5, "b": 1.0, "c": 0.0})
    tokens = {name: Tokens(parts=(torch.randn(2, 50, width),)) for name, width in (("a", 3), ("b", 2), ("c", 2))}
    fused = fusion(tokens)
    replaced = (fused["a"].dense() == fusion.mask["a"]).all(dim=-1)
    assert 30 < replaced.sum() < 70
    assert (fused["b"].dense() == fusion.mask["b"]).all()
    torch.testing.assert_close(fused["c"].dense()[..., :2], tokens["c"].dense())
    sum(block.dense().sum() for block in fused.values()).backward()
    assert all(parameter.grad is not None for parameter in fusion.parameters())
    fused = fusion.eval()(tokens)
    torch.testing.assert_close(fused["a"].dense()[..., :3], tokens["a"].dense())
    assert (fused["b"].dense() == fusion.mask["b"]).all()


def test_mask_rates_are_probabilities_of_modalities() -> None:
    for rates in ({"z": 0.5}, {"a": 1.5}):
        with pytest.raises(ValueError, match=r"Fusion\.mask_rates: expected probabilities"):
            Fusion(channels={"a": 3, "b": 2}, mask_rates=rates)


def test_rates_of_a_call_replace_those_of_the_fusion() -> None:
    """A rate of 1 also stands in for a modality without tokens, by a single mask token per sample."""
    fusion = Fusion(channels={"a": 3, "b": 2, "c": 2}, mask_rates={"a": 0.0, "b": 0.0, "c": 0.5}).eval()
    given = {"a": Tokens(parts=(torch.randn(1, 4, 3),)), "c": Tokens(parts=(torch.randn(3, 4, 2),))}
    fused = fusion(given, mask_rates={"a": 1.0, "b": 1.0, "c": 0.5})
    assert list(fused) == ["a", "b", "c"]
    assert (fused["a"].dense() == fusion.mask["a"]).all()
    assert torch.equal(fused["b"].parts[0], fusion.mask["b"].expand(3, 1, -1))
    assert torch.equal(fused["c"].dense()[..., :2], given["c"].dense())
    assert list(fusion(given)) == ["a", "c"]
    assert list(fusion(given, mask_rates={"b": 0.5})) == ["a", "c"]
    with pytest.raises(ValueError, match=r"mask_rates: expected modalities among \['a', 'b', 'c'\], got .*'z'"):
        fusion(given, mask_rates={"z": 1.0})


def test_masks_outlive_mask_tokens() -> None:
    fusion = Fusion(channels={"a": 3, "b": 2}, mask_rates={"a": 1.0, "b": 0.0})
    given = {"a": tokens(3, grid=(4, 2)), "b": tokens(2)}
    fused = fusion(given)
    assert fused["a"].grid == (4, 2)
    assert all(fused[name].mask is given[name].mask for name in given)
