"""The shape and type checks that conftest.py turns on are on, in every process that runs tests."""

import pytest
import torch
from jaxtyping import TypeCheckError

from perceiver.modalities.texts.text_bytes import decode_bytes


def test_shapes_and_types_are_checked() -> None:
    assert decode_bytes(torch.tensor([6])) == "\0"
    for ids in (torch.zeros(1, 2, dtype=torch.int64), torch.zeros(2), [6]):
        with pytest.raises(TypeCheckError):
            decode_bytes(ids)  # type: ignore[arg-type]
