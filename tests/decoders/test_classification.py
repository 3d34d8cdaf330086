"""The decoder of one class; the logits themselves are compared to transformers' in test_encoder.py."""

import pytest
import torch

from perceiver.decoders import ClassificationDecoder, LearnedQueries, PerClassDecoder, QueryDecoder


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


def test_each_output_is_that_of_its_query_alone() -> None:
    head, latents = PerClassDecoder(latent_channels=8, num_classes=4, query_channels=6, num_heads=2), torch.randn(3, 5, 8)
    outputs = head(latents)
    assert outputs.shape == (3, 4)
    state = head.decoder.state_dict()
    for place in range(4):
        queries = LearnedQueries(grid=[1], channels=6)
        single = QueryDecoder(latent_channels=8, queries=queries, output_channels=1, num_heads=2, query_residual=True)
        single.load_state_dict({**state, "queries.queries": state["queries.queries"][place : place + 1]})
        torch.testing.assert_close(single(latents)[:, 0, 0], outputs[:, place])


def test_labels_read_latents_of_their_own() -> None:
    """Label i says whether latent i, which its first channels name, is positive in the last one."""
    head = PerClassDecoder(latent_channels=8, num_classes=4)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    names = torch.eye(4, 7).expand(256, 4, 7)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        signs = (torch.rand(256, 4) < 0.5).float()
        return torch.cat([names, 2 * signs[..., None] - 1], dim=-1), signs

    for _ in range(150):
        latents, target = draw()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(latents), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    latents, target = draw()
    right = ((head(latents) > 0) == (target > 0)).float().mean(dim=0)
    assert float(right.min()) > 0.95


def test_without_outputs() -> None:
    with pytest.raises(ValueError, match=r"PerClassDecoder\.num_classes: expected at least 1, got 0"):
        PerClassDecoder(latent_channels=8, num_classes=0)
