"""Whether Triton kernels can run on a device. Nothing here imports Triton."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types of inputs; arithmetic and sums are float32."""

OLDEST = (8, 0)
"""Least compute capability for which the kernels' resources are checked (Ampere)."""


@dataclass(frozen=True)
class Availability:
    """Whether the kernels can run, and why (not), in a few words for tables."""

    usable: bool
    reason: str


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on tensors in the CPU's memory (`TRITON_INTERPRET=1`)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def availability(device: torch.device) -> Availability:
    """Return whether the kernels can run on a device. Never raises, and never synchronises with the device."""
    if os.environ.get("PERCEIVER_TRITON", "1") == "0":
        return Availability(False, "switched off by PERCEIVER_TRITON=0")
    if device.type == "cpu" and interpreted():
        return Availability(_installed(), "Triton's interpreter" if _installed() else "Triton is not installed")
    if device.type != "cuda":
        return Availability(False, f"no Triton code for {device.type}")
    if torch.version.hip is not None:
        return Availability(False, "no Triton code for AMD GPUs")
    if not _installed():
        return Availability(False, "Triton is not installed")
    capability = torch.cuda.get_device_capability(device)
    name = ".".join(map(str, capability))
    if capability < OLDEST:
        return Availability(False, f"no Triton code for compute capability {name}")
    return Availability(True, f"Triton, compute capability {name}")


def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
