"""Linear layers that use oneDNN's matrix product where it is faster than torch's float32 `F.linear`.

On x86 CPUs torch multiplies float32 matrices with MKL, whose kernels are not tuned for AMD processors. The oneDNN inside
torch generates code for the actual processor, and its large products are faster there. The product is a private operator
of torch, so nothing here relies on it. `F.linear` is used if the operator is missing or fails a trial against `F.linear`,
if `PERCEIVER_ONEDNN=0` is set, for other processors, devices and types, and under autocast, compilation, export and
torch.func.
"""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import flop_registry, register_flop_formula

WORTH_ONEDNN, NARROWEST = 2**26, 256
"""Least multiply-adds per thread (rows * inputs * outputs), and least numbers of inputs and outputs, for oneDNN.

A oneDNN call costs 13 us more than an MKL call. MKL's time over oneDNN's for single products on a Zen 4 core, forward and
gradient of the inputs (rows x inputs x outputs):

    2**20   256 x 64 x 64      0.76 0.70     64 x 128 x 128    0.75 0.72
    2**22   256 x 128 x 128    0.94 0.94     64 x 256 x 256    0.93 0.94
    2**24   1024 x 128 x 128   1.04 1.07     256 x 256 x 256   1.04 1.05     16 x 1024 x 1024    1.23 1.15
    2**26   4096 x 128 x 128   1.05 1.13     256 x 512 x 512   1.05 1.08     1024 x 261 x 261    1.18 1.24
    2**28   4096 x 256 x 256   1.17 1.21     1024 x 512 x 512  1.10 1.11     4096 x 261 x 261    1.91 1.69
    2**30   4096 x 512 x 512   1.16 1.18     1024 x 1024 x 1024  1.10 1.10   256 x 1024 x 3072   1.26 1.11

Of 64 products from 2**24 on, three were slower (0.90 to 0.99) with oneDNN restricted to AVX2, as on older processors; of 54
with two threads, one was (0.96). Six self-attention layers, forward and training, MKL's time over oneDNN's, interleaved,
several runs (the same code against itself: 0.97 to 1.01):

                            one thread                        two threads
    512 x 1024, batch 1     1.08 to 1.11, 1.05 to 1.07        1.09 to 1.17, 1.04 to 1.08
    256 x 512, batch 4      1.06, 1.03                        1.05 to 1.07, 1.02 to 1.03
    128 x 256, batch 16     1.05 to 1.06, 1.04                1.02 to 1.05, 1.01 to 1.03

With 128 channels the result was mixed for every limit between 2**24 and 2**26, hence the least width:

    64 x 128, batch 64      1.03 to 1.06, 1.03 to 1.05        0.97 to 1.02, 1.00
    32 x 128, batch 64      0.98 to 1.03, 0.99 to 1.03        0.95 to 1.02, 0.97 to 1.03
"""

WIDE, FEW_ROWS = 1024, 1024
"""oneDNN also computes a weight's gradient if both its widths are at least WIDE and there are at most FEW_ROWS rows.

MKL's time over oneDNN's, Zen 4: 1024 x 1024 weights 1.17, 1.05, 1.05, 1.00 and 0.93 for 256, 512, 1024, 4096 and 8192 rows
(two threads: 1.09, 1.06, 1.00, 0.96, 0.80); 768 x 768 1.03 for 512 rows, 0.97 for 2048 (two threads: 0.91, 0.92); 512 x 512
1.00 for 512 rows, 0.97 for 4096; 256 x 256 0.85 to 1.00; 128 x 384 0.50 to 0.88.
"""


class Linear(nn.Linear):
    """`torch.nn.Linear` with the product of this file: the same parameter names and, up to rounding, the same outputs."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Map `(*, inputs)` to `(*, outputs)`."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear(x, weight, bias)`, with oneDNN if `gains_from_onednn`. Differentiable any number of times."""
    if gains_from_onednn(x, weight, bias):
        product: Tensor = _Product.apply(x, weight, bias)
        return product
    return F.linear(x, weight, bias)


def gains_from_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN can compute `F.linear(x, weight, bias)` and is expected to be faster."""
    # The order matters: compilers and tracers must not see the later checks, and small products should not pay for them.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    if type(x) not in (Tensor, nn.Parameter) or x.dim() < 2 or weight.dim() != 2:
        return False
    if min(weight.shape) < NARROWEST or x.numel() * weight.shape[0] < WORTH_ONEDNN * torch.get_num_threads():
        return False
    return (
        onednn()[0]
        and _is_plain(x)
        and _is_plain(weight)
        and x.shape[-1] == weight.shape[1]
        # The operator reads the bias as contiguous memory and ignores its shape and strides.
        and (bias is None or (_is_plain(bias) and bias.shape == weight.shape[:1] and bias.is_contiguous()))
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
        and not _is_transformed(x)
    )


@cache
def onednn() -> tuple[bool, str]:
    """Whether large float32 products use oneDNN in this process, and the reason in a few words."""
    if os.environ.get("PERCEIVER_ONEDNN", "1") == "0":
        return False, "PERCEIVER_ONEDNN=0"
    if platform.machine().lower() not in ("x86_64", "amd64") or not _amd():
        return False, "not an AMD x86 processor on Linux"
    if not torch.backends.mkl.is_available():
        return False, "this torch does not use MKL for matrix products"
    try:
        # In a separate thread, where the caller's modes (devices, counters, autocast) have no effect.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_try_operator).result()
    except Exception as error:
        return False, f"oneDNN's matrix product does not work in this torch: {type(error).__name__}: {error}"
    return True, "AMD processor"


def _amd() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split() == ["vendor_id", ":", "AuthenticAMD"] for line in lines)


def _try_operator() -> None:
    """Raise unless all private functions used here exist and the operator agrees with `F.linear`, transposes included."""
    x, weight, bias = (torch.arange(1.0, size + 1).sin() for size in (48 * 40, 56 * 40, 56))
    x, weight = x.view(6, 8, 40), weight.view(56, 40)
    _is_transformed(x)
    with torch.no_grad():
        for factors in ((x, weight, bias), (x, weight, None), (x[0].t(), weight.t()[:8].t(), bias)):
            torch.testing.assert_close(_multiply(*factors), F.linear(*factors), rtol=1e-4, atol=1e-4)


def _is_plain(x: Tensor) -> bool:
    """Whether x is a plain float32 CPU tensor: not a subclass, fake, sparse or meta tensor."""
    return type(x) in (Tensor, nn.Parameter) and x.is_cpu and x.dtype == torch.float32 and x.layout == torch.strided


def _is_transformed(x: Tensor) -> bool:
    """Whether torch.func, forward mode or batched gradients are active: they support public operators only."""
    active = torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(x)
    return bool(active) or forward_ad._current_level >= 0


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


class _Product(torch.autograd.Function):
    """oneDNN's product. Its backward uses this product and public operators, so that it is differentiable itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        x_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = linear(grad, weight.t())
        rows_grad = grad.reshape(-1, grad.shape[-1])
        if ctx.needs_input_grad[1]:
            rows = x.reshape(-1, x.shape[-1])
            if min(weight.shape) >= WIDE and rows.shape[0] <= FEW_ROWS:
                weight_grad = linear(rows_grad.t(), rows.t())
            else:
                # In the weight's layout: widths that suit MKL for the weight suit it for the gradient.
                weight_grad = rows_grad.t() @ rows if weight.is_contiguous() else (rows.t() @ rows_grad).t()
        if ctx.needs_input_grad[2]:
            bias_grad = rows_grad.sum(dim=0)
        return x_grad, weight_grad, bias_grad


def _count_flops() -> None:
    """Register the cost of oneDNN's product with `FlopCounterMode`, which knows torch's public operators only."""
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None or operator in flop_registry:
        return

    @register_flop_formula(operator)
    def _(x: torch.Size, *_: object, out_shape: torch.Size, **__: object) -> int:
        return 2 * prod(x) * out_shape[-1]


_count_flops()
