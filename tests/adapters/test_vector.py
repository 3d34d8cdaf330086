"""Vectors as single tokens."""

import pytest
import torch

from perceiver.adapters import Vector


def test_one_token_for_each_vector() -> None:
    x = torch.randn(3, 5)
    tokens = Vector(vector_channels=5)(x, torch.tensor([True, False, True]))
    assert tokens.grid == (1,)
    torch.testing.assert_close(tokens.dense()[:, 0], x * torch.tensor([[1.0], [0.0], [1.0]]))
    assert tokens.dense_mask() is not None


def test_errors(unchecked: None) -> None:
    adapter = Vector(vector_channels=5)
    with pytest.raises(ValueError, match=r"expected \(batch, 5\), got shape \(3,\).*one_hot"):
        adapter(torch.zeros(3))
    with pytest.raises(TypeError, match="expected floating point, got torch.int64"):
        adapter(torch.zeros(3, 5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"Vector\.vector_channels: .* got 0"):
        Vector(vector_channels=0)
