"""Cross-entropy over a vocabulary without the logits of all ids in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Logits at a time: 4 MB stay in the cache of a processor. Graphics processors need larger products.
_MOST_ON_CPU, _MOST = 2**20, 2**26


@dataclass(frozen=True, kw_only=True)
class SequenceLosses:
    """Result of a `SequenceLoss`.

    Args:
        total: sum of the losses of all valid ids, `()`.
        correct: which valid ids have a higher logit than all others, `(valid,)`.
    """

    total: Tensor
    correct: Tensor


@dataclass(frozen=True, kw_only=True)
class SequenceLoss:
    """Sum of the cross-entropy of ids in nats, computed with its gradient chunk by chunk, only for valid ids.

    The logits of a batch are larger than all else that a small decoder computes. A chunk of them serves for the loss and
    for its gradient before the next one takes its place, as in Hsu et al. 2024 (Liger Kernel, arXiv:2410.10989).

    Args:
        labels: ids `(B, L)`.
        valid: `(B, L)`, True where an id counts.
        label_smoothing: share of the target that is spread over all ids.

    Examples:
        >>> import torch
        >>> from perceiver.decoders.sequence_loss import SequenceLoss
        >>> x, weight, labels = torch.rand(2, 5, 8), torch.rand(30, 8), torch.randint(0, 30, (2, 5))
        >>> found = SequenceLoss(labels=labels, valid=torch.ones(2, 5, dtype=torch.bool))(x, weight, torch.zeros(30))
        >>> dense = torch.nn.functional.cross_entropy((x @ weight.T).flatten(0, 1), labels.flatten(), reduction="sum")
        >>> torch.allclose(found.total, dense)
        True
    """

    labels: Int[Tensor, "batch length"]
    valid: Bool[Tensor, "batch length"]
    label_smoothing: float = 0.0

    def __call__(
        self,
        x: Float[Tensor, "batch length channels"],
        weight: Float[Tensor, "vocabulary channels"],
        bias: Float[Tensor, "vocabulary"],
    ) -> SequenceLosses:
        """Return the loss of logits `x @ weight.T + bias`."""
        total, correct = _Loss.apply(x[self.valid], weight, bias, self.labels[self.valid], self.label_smoothing)
        return SequenceLosses(total=total, correct=correct)


class _Loss(torch.autograd.Function):
    """Sum of losses of rows `(M, E)`, and in which rows the label has a higher logit than all others."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        vocabulary = len(weight)
        rows = max(1, (_MOST_ON_CPU if x.device.type == "cpu" else _MOST) // vocabulary)
        total = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
        wanted = any(ctx.needs_input_grad[:3])
        grads = [torch.zeros_like(one, dtype=total.dtype) for one in (x, weight, bias)] if wanted else []
        correct = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for start in range(0, len(x), rows):
            own, label = x[start : start + rows], labels[start : start + rows, None]
            logits = F.linear(own, weight, bias).to(total.dtype)
            true = logits.gather(1, label)
            # The highest logit of the others, which costs a fifth of an argmax.
            others = logits.scatter_(1, label, -torch.inf).amax(dim=1, keepdim=True)
            logits.scatter_(1, label, true)
            highest = torch.maximum(others, true)
            correct[start : start + rows] = (true > others)[:, 0]
            mean = logits.mean(dim=1, keepdim=True) if smoothing else 0.0
            exponentials = logits.sub_(highest).exp_()
            sums = exponentials.sum(dim=1, keepdim=True)
            losses = sums.log() + highest - (1 - smoothing) * true - smoothing * mean
            total += losses.sum()
            if not wanted:
                continue
            slopes = exponentials.div_(sums)
            if smoothing:
                slopes.sub_(smoothing / vocabulary)
            slopes.scatter_add_(1, label, torch.full_like(true, smoothing - 1))
            grads[2] += slopes.sum(dim=0)
            slopes = slopes.to(x.dtype)
            grads[0][start : start + rows] = slopes @ weight.to(x.dtype)
            grads[1] += slopes.T @ own
        ctx.save_for_backward(*grads)
        ctx.dtypes = [one.dtype for one in (x, weight, bias)]
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        grads = (grad.mul(slopes[0]).to(dtype) for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True))
        return (*grads, None, None)
