"""The conformance kit of adapters: the contract on which encoder, fusion and collation rely.

`adapter_checks` lists the checks, `check_adapter` runs them all. By name:

- `declared_channels`: `channels` equals the number of channels of the tokens.
- `tokens_of_the_batch`: forward returns finite `Tokens` with the batch size of the input.
- `parts_stay_small`: no part is expanded along the batch or a grid axis on which it is constant.
- `mask_of_presence`: a mask `(B,)` hides all tokens of an absent sample, and nothing else.
- `mask_of_elements`: a mask `(B, *raw grid)` hides the tokens without a valid element, and nothing else.
- `alone_equals_padded`: a sample has the same valid tokens alone and padded in a batch of longer samples.
- `batch_independence`: the tokens of a sample do not depend on the other samples of the batch.
- `masked_content_never_matters`: content where the mask is False, including NaN, has no effect.
- `determinism_in_evaluation`: in evaluation mode the tokens are deterministic, and buffers do not change.
- `gradients_to_every_parameter`: every parameter gets a gradient, even if all samples are absent, so that data-parallel
  processes do not wait for each other.
- `state_dict_round_trip`, `pickle_round_trip`: an instance with the same state dict, or a pickled copy, has the same tokens.
- `bfloat16_autocast`: no NaN, and parts that depend on no parameter, positions above all, stay exact in float32.
- `error_on_wrong_shape`, `error_on_wrong_mask`: ValueError or TypeError that names the actual shape.
- `dense_equals_factored`: both forms of cross-attention give the same result for the tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from perceiver.attention import CrossAttention
from perceiver.testing.check import Check, require, run_checks
from perceiver.testing.module import (
    distance,
    in_words,
    made,
    require_close,
    require_determinism,
    require_gradients,
    require_pickle,
    require_state_dict,
    with_all_trainable,
)
from perceiver.testing.raw_input import GridAxes, RawInput, box
from perceiver.tokens.tokens import Tokens


def adapter_checks(
    make_adapter: Callable[[], nn.Module],
    make_input: Callable[[], Tensor | Mapping[str, Tensor]],
    *,
    grid_axes: GridAxes,
) -> list[Check]:
    """Return the checks of an adapter; see the head of this file.

    Args:
        make_adapter: function that returns a new instance at each call, always with the same arguments.
        make_input: function that returns a batch for the adapter, a tensor `(B, …)` or a dict of tensors, with at least two
            different samples, all valid. About ten elements along each grid axis suffice, preferably not a multiple of the
            patch size.
        grid_axes: the axes of the input that form its raw grid; see `perceiver.testing.raw_input.GridAxes`.

    Returns:
        Checks to call; `mask_of_elements` and `alone_equals_padded` only for inputs with a grid.
    """
    case = _Case(make_adapter, make_input, grid_axes)
    grid = any(grid_axes.values()) if isinstance(grid_axes, Mapping) else bool(grid_axes)
    return [Check(name, partial(run, case)) for name, run in _CHECKS.items() if grid or name not in _OF_GRIDS]


def check_adapter(
    make_adapter: Callable[[], nn.Module],
    make_input: Callable[[], Tensor | Mapping[str, Tensor]],
    *,
    grid_axes: GridAxes,
) -> None:
    """Run all checks of an adapter. Arguments as in `adapter_checks`.

    Raises:
        AssertionError: with the name, the expected and actual results and a hint for each check that failed.
    """
    checks = adapter_checks(make_adapter, make_input, grid_axes=grid_axes)
    run_checks(checks, subject=f"adapter {type(make_adapter()).__name__}")


@dataclass(frozen=True)
class _Case:
    """The adapter under test and its inputs."""

    make_adapter: Callable[[], nn.Module]
    make_input: Callable[[], Tensor | Mapping[str, Tensor]]
    grid_axes: GridAxes

    def adapter(self) -> nn.Module:
        """Return the adapter in evaluation mode, always with the same initial values."""
        return made(self.make_adapter, seed=0)

    def raw(self) -> RawInput:
        """Return the input, always the same."""
        torch.manual_seed(0)
        return RawInput.of(self.make_input(), self.grid_axes)

    def masks(self, raw: RawInput) -> Iterator[tuple[str, Tensor]]:
        """Yield every kind of mask with its description."""
        present = torch.ones(raw.batch, dtype=torch.bool)
        present[-1] = False
        yield "a mask of presence (B,)", present
        if raw.grid:
            ragged = torch.ones(raw.batch, *raw.grid, dtype=torch.bool)
            ragged[0] = box(1, raw.grid, _half(raw.grid))[0]
            yield "a mask of elements (B, *grid)", ragged
            scattered = torch.rand(raw.batch, *raw.grid) < 0.6
            scattered |= box(raw.batch, raw.grid, [1] * len(raw.grid))
            yield "a scattered mask of elements (B, *grid)", scattered


def _half(grid: tuple[int, ...]) -> tuple[int, ...]:
    return tuple((size + 1) // 2 for size in grid)


def _tokens(adapter: nn.Module, raw: RawInput, mask: Tensor | None = None) -> Tokens:
    tokens = adapter(raw.value) if mask is None else adapter(raw.value, mask)
    require(
        isinstance(tokens, Tokens),
        f"expected forward to return perceiver.Tokens, got {type(tokens).__name__}; end it with `return Tokens(parts=(…,), "
        "mask=mask)`.",
    )
    assert isinstance(tokens, Tokens)
    return tokens


def _dense(adapter: nn.Module, raw: RawInput, mask: Tensor | None = None) -> Tensor:
    """Return tokens and validity in a single tensor `(B, M, C + 1)`, zero where masked, without gradients."""
    with torch.no_grad():
        tokens = _tokens(adapter, raw, mask)
        dense = tokens.dense().expand(raw.batch, -1, -1)
        return torch.cat([dense, _valid(tokens, raw.batch)[..., None].to(dense.dtype)], dim=-1)


def _valid(tokens: Tokens, batch: int) -> Tensor:
    """Return the validity of the tokens, `(B, M)`."""
    mask = tokens.dense_mask()
    return torch.ones(batch, tokens.num_tokens, dtype=torch.bool) if mask is None else mask.expand(batch, -1)


def _valid_rows(dense: Tensor) -> Tensor:
    """Select the valid tokens of a single sample, in order: `(valid, C)`."""
    return dense[0, dense[0, :, -1] == 1, :-1]


def _shapes(tokens: Tokens) -> list[tuple[int, ...]]:
    return [tuple(part.shape) for part in tokens.parts]


def _modes(adapter: nn.Module, raw: RawInput) -> Iterator[str]:
    """Set the adapter to evaluation mode, then to training mode if that is deterministic; yield a description of each."""
    adapter.eval()
    yield "in evaluation"
    adapter.train()
    torch.manual_seed(1)
    first = _dense(adapter, raw)
    torch.manual_seed(2)
    if torch.equal(first, _dense(adapter, raw)):
        yield "in training"
    adapter.eval()


def _declared_channels(case: _Case) -> None:
    adapter = case.adapter()
    tokens = _tokens(adapter, case.raw())
    declared = getattr(adapter, "channels", None)
    require(
        isinstance(declared, int) and declared == tokens.channels,
        f"expected {type(adapter).__name__}.channels = {tokens.channels}, the channels of its tokens (parts "
        f"{_shapes(tokens)}), got {declared!r}; set it in __init__ to the width of the parts that forward returns.",
    )


def _tokens_of_the_batch(case: _Case) -> None:
    raw = case.raw()
    tokens = _tokens(case.adapter(), raw)
    require(
        tokens.batch == raw.batch and min(tokens.grid) > 0,
        f"expected tokens of {raw.batch} samples on a non-empty grid, got parts {_shapes(tokens)}; axis 0 of every part is "
        "the batch, or 1 if the part is the same for all samples.",
    )
    require(
        bool(tokens.dense().isfinite().all()),
        "expected finite tokens for finite input, got NaN or infinity; look for logarithms, divisions and roots in forward.",
    )


def _parts_stay_small(case: _Case) -> None:
    raw = case.raw()
    tokens = _tokens(case.adapter(), raw)
    differ = all(not torch.equal(tensor[0], tensor[1]) for tensor in raw.tensors.values())
    for number, part in enumerate(tokens.parts):
        # Learned parts are skipped: they may be initialised to a constant.
        for axis in range(part.ndim - 1 if not part.requires_grad else 0):
            constant = part.shape[axis] > 1 and bool((part == part.narrow(axis, 0, 1)).all())
            # A part may be constant because the input is, but not if it is the same for samples that differ.
            ignores = axis == 0 and differ
            structural = axis > 0 and part.shape[0] == 1
            require(
                not (constant and (ignores or structural or part.stride(axis) == 0)),
                f"expected parts of size 1 along the axes on which they are constant, got part {number} of shape "
                f"{tuple(part.shape)}, constant along axis {axis}; remove expand() and repeat(), because parts broadcast.",
            )


def _mask_of_presence(case: _Case) -> None:
    adapter, raw = case.adapter(), case.raw()
    present = torch.ones(raw.batch, dtype=torch.bool)
    present[-1] = False
    expected = _dense(adapter, raw)[..., -1] * present[:, None]
    tokens = _tokens(adapter, raw, present)
    _require_valid(tokens, expected.bool(), what="a mask (B,) to hide the tokens of absent samples and no others")
    everywhere = _tokens(adapter, raw, torch.ones_like(present))
    _require_valid(
        everywhere, _dense(adapter, raw)[..., -1].bool(), what="a mask (B,) that is all True to be equivalent to no mask"
    )


def _require_valid(tokens: Tokens, expected: Tensor, *, what: str) -> None:
    valid = _valid(tokens, expected.shape[0])
    mask = None if tokens.mask is None else tuple(tokens.mask.shape)
    require(
        valid.shape == expected.shape,
        f"expected {what}, got {valid.shape[1]} tokens per sample instead of {expected.shape[1]}; a mask changes the "
        "validity of tokens, not their number.",
    )
    require(
        torch.equal(valid, expected),
        f"expected {what}, {expected.sum(dim=1).tolist()} valid tokens per sample, got {valid.sum(dim=1).tolist()} with "
        f"Tokens.mask of shape {mask}; True is valid, and perceiver.tokens.masks.grid_mask expands both kinds of mask.",
    )


def _mask_of_elements(case: _Case) -> None:
    adapter, raw = case.adapter(), case.raw()
    unmasked = _dense(adapter, raw)
    whole = unmasked[..., -1].bool()
    mask = torch.ones(raw.batch, *raw.grid, dtype=torch.bool)
    require_close(
        unmasked,
        _dense(adapter, raw, mask),
        what="a mask (B, *grid) that is all True to be equivalent to no mask",
        where="True is valid; positions come from the valid size, see perceiver.tokens.positions.grid_coordinates",
    )
    mask[-1] = False
    expected = whole.clone()
    expected[-1] = False
    _require_valid(_tokens(adapter, raw, mask), expected, what="a mask (B, *grid) that is all False for a sample to hide it")
    mask[0] = box(1, raw.grid, [1] * len(raw.grid))[0]
    few = _valid(_tokens(adapter, raw, mask), raw.batch)[0]
    fewer = int(few.sum()) < int(whole[0].sum()) or int(whole[0].sum()) <= 1
    require(
        bool(few.any()) and fewer and not bool((few & ~whole[0]).any()),
        f"expected some of {int(whole[0].sum())} tokens to be valid if a mask (B, *grid) leaves a single element of the "
        f"sample, got {int(few.sum())}; a token is valid if any of its elements is, see perceiver.tokens.masks.patch_mask.",
    )


def _alone_equals_padded(case: _Case) -> None:
    adapter, raw = case.adapter(), case.raw()
    where = "count from the first element, and take positions from the valid size or an absolute scale, not the padded size"
    for mode in _modes(adapter, raw.rows([0])):
        for by in (1, max(raw.grid)):
            alone = raw.rows([0])
            require_close(
                _valid_rows(_dense(adapter, alone)),
                _valid_rows(_dense(adapter, *alone.padded(by))),
                what=f"the same valid tokens {mode} of a sample alone and padded by {by} masked elements per axis",
                where=where,
            )
    half = _half(raw.grid)
    mask = torch.ones(raw.batch, *raw.grid, dtype=torch.bool)
    mask[0] = box(1, raw.grid, half)[0]
    among = _dense(adapter, raw.spoilt(mask), mask)
    require_close(
        _valid_rows(_dense(adapter, raw.rows([0]).cut(half))),
        _valid_rows(among[:1]),
        what="the same valid tokens of a sample alone and among longer samples",
        where=where,
    )


def _batch_independence(case: _Case) -> None:
    adapter, raw = case.adapter(), case.raw()
    together = _dense(adapter, raw)
    where = "look for sums, means and norms over axis 0"
    for row in range(raw.batch):
        require_close(
            together[row : row + 1],
            _dense(adapter, raw.rows([row])),
            what=f"the same tokens of sample {row} in the batch and alone",
            where=where,
        )
    turned = list(reversed(range(raw.batch)))
    require_close(
        together[turned],
        _dense(adapter, raw.rows(turned)),
        what="the tokens to follow the order of the samples",
        where=where,
    )


def _masked_content_never_matters(case: _Case) -> None:
    adapter, raw = case.adapter(), case.raw()
    for mode in _modes(adapter, raw):
        for kind, mask in case.masks(raw):
            require_close(
                _dense(adapter, raw, mask),
                _dense(adapter, raw.spoilt(mask), mask),
                what=f"the same tokens {mode} for any content hidden by {kind}, including NaN and numbers out of range",
                where="replace masked content before anything reads it, see perceiver.tokens.masks.zero_masked",
            )


def _determinism_in_evaluation(case: _Case) -> None:
    raw = case.raw()
    require_determinism(case.make_adapter, lambda adapter: _dense(adapter, raw))


def _gradients_to_every_parameter(case: _Case) -> None:
    raw = case.raw()
    absent = torch.zeros(raw.batch, dtype=torch.bool)
    for when, spoilt, mask in (
        ("if all is valid", raw, None),
        ("if all samples are absent", raw.spoilt(absent), absent),
    ):
        adapter = case.adapter().train()
        tokens = _tokens(adapter, spoilt, mask)
        loss = torch.stack([(part.double() * torch.randn_like(part.double())).sum() for part in tokens.parts]).sum()
        require_gradients(adapter, loss, when=when, zero=mask is not None)


def _state_dict_round_trip(case: _Case) -> None:
    raw = case.raw()
    require_state_dict(case.make_adapter, lambda adapter: _dense(adapter, raw))


def _pickle_round_trip(case: _Case) -> None:
    raw = case.raw()
    require_pickle(case.make_adapter, lambda adapter: _dense(adapter, raw))


def _bfloat16_autocast(case: _Case) -> None:
    adapter, raw = with_all_trainable(case.adapter()), case.raw()
    plain = _tokens(adapter, raw)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = _tokens(adapter, raw)
    require(
        [part.shape for part in plain.parts] == [part.shape for part in cast.parts],
        f"expected parts {_shapes(plain)} under bfloat16 autocast too, got {_shapes(cast)}.",
    )
    for number, (exact, part) in enumerate(zip(plain.parts, cast.parts, strict=True)):
        far = distance(exact, part)
        if exact.requires_grad:
            require(
                far < 0.1,
                f"expected part {number}, {tuple(part.shape)}, within 10% of float32 under bfloat16 autocast, got values "
                f"that differ by {in_words(far)}; compute logarithms and exponentials in float32.",
            )
        else:
            require(
                part.dtype == exact.dtype != torch.bfloat16 and far == 0,
                f"expected part {number}, {tuple(part.shape)}, which depends on no parameter (a position, or raw content), "
                f"to stay {exact.dtype} and exact under bfloat16 autocast, got {part.dtype} that differs by "
                f"{in_words(far)}; compute it inside `with torch.autocast(x.device.type, enabled=False)`.",
            )


def _error_on_wrong_shape(case: _Case) -> None:
    adapter, raw = case.adapter(), case.raw()
    for name, tensor in raw.tensors.items():
        wrong = [tensor[..., None]]
        if tensor.ndim > 1:
            wrong.append(tensor[..., 0])
        wrong += [torch.cat([tensor, tensor], dim=axis) for axis in range(1, tensor.ndim) if axis not in raw.axes[name]]
        for other in wrong:
            called = f" for {name!r}" if name else ""
            _require_error(
                partial(adapter, raw.replaced(name, other).value),
                names=_sizes(other),
                what=f"shape {tuple(other.shape)}{called} instead of {tuple(tensor.shape)}",
            )


def _error_on_wrong_mask(case: _Case) -> None:
    adapter, raw = case.adapter(), case.raw()
    wrong = [torch.ones(raw.batch + 1, dtype=torch.bool), torch.ones(raw.batch, *raw.grid, 2, dtype=torch.bool)]
    if raw.grid:
        wrong.append(torch.ones(raw.batch, *(size + 1 for size in raw.grid), dtype=torch.bool))
    for mask in wrong:
        _require_error(
            partial(adapter, raw.value, mask),
            names=_sizes(mask),
            what=f"a mask of shape {tuple(mask.shape)} for {raw.batch} samples on the grid {raw.grid}",
        )
    _require_error(partial(adapter, raw.value, torch.ones(raw.batch)), names="(?i)bool", what="a mask that is not boolean")


def _sizes(tensor: Tensor) -> str:
    """Return a pattern that finds the tensor's shape in a message, in any notation."""
    return r"\s*,\s*".join(str(size) for size in tensor.shape)


def _require_error(act: Callable[[], object], *, names: str, what: str) -> None:
    where = "check shapes at the start of forward, and name the expected shape, the actual shape and the fix"
    try:
        act()
    except (ValueError, TypeError) as error:
        words = str(error)
    except Exception as error:
        raise AssertionError(
            f"expected ValueError or TypeError for {what}, got {type(error).__name__}: {error}; {where}."
        ) from error
    else:
        raise AssertionError(f"expected ValueError or TypeError for {what}, got tokens; {where}.")
    require(re.search(names, words) is not None, f"expected an error that names {what}, got {words!r}; {where}.")


def _dense_equals_factored(case: _Case) -> None:
    adapter, raw = case.adapter(), case.raw()
    attend = {}
    for form in ("dense", "factored"):
        torch.manual_seed(0)
        channels = _tokens(adapter, raw).channels
        attend[form] = CrossAttention(
            query_channels=8, token_channels=channels, num_heads=2, qk_channels=8, v_channels=8, attention=form
        )
    queries = torch.randn(1, 4, 8)
    for kind, mask in [("no mask", None), *case.masks(raw)]:
        with torch.no_grad():
            tokens = _tokens(adapter, raw, mask)
            tokens = replace(tokens, parts=tuple(part.float() for part in tokens.parts))
            dense, factored = (attend[form](queries, [tokens]) for form in ("dense", "factored"))
        require_close(
            dense,
            factored,
            what=f"the same result of dense and factored cross-attention with {kind}",
            where="return plain Tokens, with content of about unit scale",
            tolerance=1e-3,
        )


_CHECKS: dict[str, Callable[[_Case], None]] = {
    run.__name__.removeprefix("_"): run
    for run in (
        _declared_channels,
        _tokens_of_the_batch,
        _parts_stay_small,
        _mask_of_presence,
        _mask_of_elements,
        _alone_equals_padded,
        _batch_independence,
        _masked_content_never_matters,
        _determinism_in_evaluation,
        _gradients_to_every_parameter,
        _state_dict_round_trip,
        _pickle_round_trip,
        _bfloat16_autocast,
        _error_on_wrong_shape,
        _error_on_wrong_mask,
        _dense_equals_factored,
    )
}
_OF_GRIDS = ("mask_of_elements", "alone_equals_padded")
