"""Means of valid tokens: against the mean of the multiplied-out tokens in float64."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from perceiver import Tokens
from perceiver.encoders.modulation import mean_of_valid


@given(seed=st.integers(0, 2**16), batch=st.sampled_from([1, 3]), masked=st.sampled_from(["no", "rows", "one", "own"]))
def test_means_of_factored_tokens_are_those_of_dense_ones(seed: int, batch: int, masked: str) -> None:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    parts = (random(batch, 4, 5, 3), random(1, 4, 1, 2), random(1, 1, 5, 2), random(1, 1, 1, 1))
    shape = {"rows": (batch, 4, 1), "one": (1, 4, 5), "own": (batch, 4, 5)}.get(masked)
    mask = None if shape is None else torch.rand(shape, generator=generator) < 0.3
    tokens = Tokens(parts=parts, mask=mask)
    mean, present = mean_of_valid(tokens)
    dense, valid = tokens.dense(), tokens.dense_mask()
    valid = torch.ones(dense.shape[:2], dtype=torch.bool) if valid is None else valid.expand(len(dense), -1)
    expected = torch.stack(
        [x[own].mean(dim=0) if own.any() else x.new_zeros(8) for x, own in zip(dense, valid, strict=True)]
    )
    torch.testing.assert_close(mean.expand_as(expected), expected, rtol=0, atol=1e-12)
    assert torch.equal(present.expand(len(dense), 1)[:, 0], valid.any(dim=1))
