"""The decoder of one class; the logits themselves are compared to transformers' in test_encoder.py."""

import pytest
import torch

from perceiver.decoders import ClassificationDecoder


def decoder(**changes: object) -> ClassificationDecoder:
    return ClassificationDecoder(**{"latent_channels": 8, "num_classes": 3, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [{}, {"query_channels": 10}, {"num_heads": 2}, {"qk_channels": 6, "v_channels": 4, "num_heads": 2}, {"widening": 3}],
)
def test_shapes(changes: dict[str, int]) -> None:
    assert decoder(**changes)(torch.randn(2, 5, 8)).shape == (2, 3)


def test_order_of_latents_does_not_matter() -> None:
    head, latents = decoder(), torch.randn(2, 5, 8)
    torch.testing.assert_close(head(latents), head(latents.flip(1)))


def test_samples_do_not_see_one_another() -> None:
    head, latents = decoder(), torch.randn(3, 5, 8)
    torch.testing.assert_close(head(latents)[1], head(latents[1:2])[0])


def test_query_residual_adds_the_query() -> None:
    with_residual, without = decoder(), decoder(query_residual=False)
    without.load_state_dict(with_residual.state_dict())
    latents = torch.randn(2, 5, 8)
    assert not torch.allclose(with_residual(latents), without(latents))
    torch.nn.init.zeros_(with_residual.query)
    torch.nn.init.zeros_(without.query)
    torch.testing.assert_close(with_residual(latents), without(latents))


def test_query_is_learned_and_starts_small() -> None:
    head = decoder(query_channels=1000, query_std=0.5)
    assert head.query.abs().max() <= 1.0
    assert 0.4 < head.query.std() < 0.5
    head(torch.randn(2, 5, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_dropout_acts_in_training_only() -> None:
    latents = torch.randn(2, 5, 8)
    for name in ("dropout", "attention_dropout"):
        head = decoder(**{name: 0.5})
        assert not torch.equal(head(latents), head(latents))
        assert torch.equal(head.eval()(latents), head(latents))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"ClassificationDecoder\.num_classes.*got 0"):
        decoder(num_classes=0)
    with pytest.raises(ValueError, match="multiple of num_heads = 3"):
        decoder(num_heads=3)
