"""Evaluation mode, restored part by part."""

import pytest
import torch
from torch import nn

from perceiver.runtime.evaluating import evaluating


def test_every_part_has_its_mode_again() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.5)))
    module[1].eval()
    before = [part.training for part in module.modules()]
    with evaluating(module):
        assert not any(part.training for part in module.modules())
        assert not torch.is_grad_enabled()
    assert [part.training for part in module.modules()] == before == [True, True, False, False]
    with pytest.raises(KeyError), evaluating(module):
        raise KeyError
    assert [part.training for part in module.modules()] == before
    assert torch.is_grad_enabled()
