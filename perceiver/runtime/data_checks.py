"""Checks of values in tensors that never make the processor wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def is_any(wrong: Tensor, *, message: str) -> bool:
    """Return whether any element is True, if that is known without waiting for a device.

    Tensors in main memory are checked at once. A GPU checks its own later and ends the process with the message: asking for
    the result in each step would keep it from running ahead. Nothing is checked while compiling.

    Args:
        wrong: boolean tensor of any shape.
        message: names the fault, for devices other than CPUs.

    Examples:
        >>> import torch
        >>> from perceiver.runtime.data_checks import is_any
        >>> is_any(torch.tensor([3, 9]) > 7, message="ids: 7 is the largest")
        True
    """
    if torch.compiler.is_compiling():
        return False
    if wrong.device.type == "cpu":
        return bool(wrong.any())
    if wrong.device.type == "cuda":
        torch._assert_async(wrong.any().logical_not(), message)
    return False
