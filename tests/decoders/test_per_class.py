"""A query for each output: each is the general decoder's, alone; and labels that need different latents are learned."""

import pytest
import torch

from perceiver.decoders import LearnedQueries, PerClassDecoder, QueryDecoder


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
