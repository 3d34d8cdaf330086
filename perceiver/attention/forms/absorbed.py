"""SDPA with absorbed projections: keys and values are the normalised tokens themselves.

A score is `(W_k z_i) . q = z_i . (W_k^T q)`, and `sum_i p_i W_v z_i = W_v sum_i p_i z_i`: the key projection moves into the
queries and the value projection behind the softmax, so that no token is ever projected. All heads attend to the same
keys, so heads and queries share an axis. This is cheaper than the dense form if a single head reads tokens that do not
factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from perceiver.attention.forms.dense import joint_mask, joint_tokens
from perceiver.attention.kernels.linear import gains_from_onednn, linear
from perceiver.attention.projection import TokenProjection
from perceiver.tokens.tokens import Tokens

WIDE = 256
"""Width from which matrix products are up to 50% slower if the width is not a multiple of 8."""


def absorbed_attention(
    query: Float[Tensor, "batch_or_1 heads queries qk"], blocks: Sequence[Tokens], projection: TokenProjection
) -> Float[Tensor, "batch heads queries v"]:
    """Compute the function of `dense_attention`, without dropout; see there for arguments."""
    num_heads, rows = query.shape[1:3]
    joined, mask = joint_tokens(blocks, projection.norm.weight.dtype), joint_mask(blocks)
    channels = joined.shape[-1]
    tokens = F.layer_norm(joined, (channels,), eps=projection.norm.eps)
    # A multiple of 8 keeps SDPA on its fused kernels; zeros change nothing.
    tokens = F.pad(tokens, (0, -channels % 8))
    absorbed = absorb(query, projection)
    batch = max(absorbed.shape[0], tokens.shape[0])
    queries = F.pad(absorbed, (0, -channels % 8)).flatten(1, 2)[:, None].to(tokens.dtype)
    keys = tokens[:, None].expand(batch, -1, -1, -1)
    sums = F.scaled_dot_product_attention(
        queries.expand(batch, -1, -1, -1),
        keys,
        keys,
        attn_mask=None if mask is None else mask[:, None, None, :].expand(batch, -1, queries.shape[2], -1),
        scale=1.0,
    )
    out = project(sums[:, 0, :, :channels].unflatten(1, (num_heads, rows)).to(absorbed.dtype), projection)
    return out if mask is None else out.where(mask.any(dim=1)[:, None, None, None], out.new_zeros(()))


def absorb(
    query: Float[Tensor, "batch_or_1 heads queries qk"], projection: TokenProjection
) -> Float[Tensor, "batch_or_1 heads queries channels"]:
    """Apply the key projection and the norm's weight to the queries, scale them and centre them over the channels.

    A centred query has the same product with a token and with the centred token.
    """
    num_heads, width = query.shape[1], query.shape[-1]
    weight = projection.key.weight.to(query.dtype) * projection.norm.weight.to(query.dtype)
    weight = (weight - weight.mean(dim=-1, keepdim=True)) * width**-0.5
    return _per_head(query, weight.reshape(num_heads, width, -1))


def project(
    sums: Float[Tensor, "batch heads queries channels"],
    projection: TokenProjection,
    *,
    kept: Float[Tensor, "batch heads queries"] | None = None,
) -> Float[Tensor, "batch heads queries v"]:
    """Apply the norm's affine map and the value projection to weighted sums of tokens.

    The tokens in the sums are divided by their standard deviations. They need not be centred: the folded weights are.

    Args:
        kept: the sum of each query's attention weights if some were dropped; None: 1.
    """
    num_heads = sums.shape[1]
    weight, bias = projection.value.weight.to(sums.dtype), projection.value.bias.to(sums.dtype)
    # Fold the affine map of the norm and the centring into the value weights: (W g) centred, and W b + bias.
    scaled = weight * projection.norm.weight.to(sums.dtype)
    scaled = scaled - scaled.mean(dim=-1, keepdim=True)
    # The softmax drops the key bias. Its gradient is zero but must exist, because data-parallel training waits for it.
    constant = weight @ projection.norm.bias.to(sums.dtype) + bias + 0.0 * projection.key.bias.sum()
    constant = constant.reshape(num_heads, 1, -1)
    heads = scaled.reshape(num_heads, -1, scaled.shape[-1]).transpose(1, 2)
    return _per_head(sums, heads, constant) if kept is None else _per_head(sums, heads) + kept[..., None] * constant


def _per_head(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply `(b, h, N, i)` by `(h, i, o)` and add `(h, 1, o)` -> `(b, h, N, o)`, as h large products."""
    batch, rows = x.shape[0], x.shape[2]
    flat = x.transpose(0, 1).flatten(1, 2)
    product: Tensor
    only, only_bias = weight[0].t(), None if bias is None else bias[0, 0]
    if len(weight) == 1 and gains_from_onednn(flat[0], only, only_bias):
        product = linear(flat[0], only, only_bias)[None]
    elif max(weight.shape[1:]) >= WIDE and any(width % 8 for width in weight.shape[1:]):
        product = _UnevenProduct.apply(flat, weight, bias)
    else:
        product = flat @ weight if bias is None else torch.baddbmm(bias, flat, weight)
    out: Tensor = product.unflatten(1, (batch, rows)).transpose(0, 1)
    return out


class _UnevenProduct(torch.autograd.Function):
    """`x @ weight + bias` for wide matrices, with widths padded to multiples of 8 in forward and backward.

    Torch's product is 50% slower for other widths, and padding the smaller factor is cheap. oneDNN's product, if
    available, needs no padding and is another 3 to 11% faster (2 to 9% with the backward pass).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        width = weight.shape[-1]
        padding = (0, -width % 8)
        padded = F.pad(weight, padding)
        product = x @ padded if bias is None else torch.baddbmm(F.pad(bias, padding), x, padded)
        return product[..., :width]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        x_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            width = weight.shape[1]
            x_grad = (grad @ F.pad(weight, (0, 0, 0, -width % 8)).transpose(1, 2))[..., :width]
        if ctx.needs_input_grad[1]:
            weight_grad = x.transpose(1, 2) @ grad
        if ctx.has_bias and ctx.needs_input_grad[2]:
            bias_grad = grad.sum(dim=1, keepdim=True)
        return x_grad, weight_grad, bias_grad
