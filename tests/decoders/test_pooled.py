"""Pooled heads."""

import pytest
import torch

from perceiver.decoders.pooled import PooledHead


def test_logits_are_a_linear_map_of_the_mean() -> None:
    head, latents = PooledHead(latent_channels=6, num_classes=3), torch.randn(2, 5, 6)
    expected = latents.mean(1) @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(head(latents), expected)


def test_order_of_latents_does_not_matter() -> None:
    head, latents = PooledHead(latent_channels=6, num_classes=3), torch.randn(2, 5, 6)
    torch.testing.assert_close(head(latents), head(latents.flip(1)))


def test_dropout_acts_in_training_only() -> None:
    head, latents = PooledHead(latent_channels=6, num_classes=3, dropout=0.5), torch.randn(2, 5, 6)
    assert not torch.equal(head(latents), head(latents))
    assert torch.equal(head.eval()(latents), head(latents))


def test_starts_with_zero_bias_and_unit_variance() -> None:
    head = PooledHead(latent_channels=400, num_classes=300)
    assert (head.output.bias == 0).all()
    assert abs(head.output.weight.std().item() * 20 - 1) < 0.02


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"PooledHead\.num_classes.*got 0"):
        PooledHead(latent_channels=6, num_classes=0)
