"""Checks that apply to adapters and heads alike: weights that can be stored, gradients, deterministic evaluation."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable

import torch
from torch import Tensor, nn

from perceiver.testing.check import require

Outputs = Callable[[nn.Module], Tensor]
"""Function from a module to its outputs for the input of the check, always with the same layout."""

TOLERANCE = 1e-4
"""Differences up to this fraction of the largest value count as rounding."""


def made(make: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """Return a module in evaluation mode with initial values drawn from this seed."""
    torch.manual_seed(seed)
    return make().eval()


def distance(x: Tensor, y: Tensor) -> float:
    """Return the largest difference relative to the largest value of x (or to 1 if that is larger); infinite for NaN."""
    if x.numel() == 0:
        return 0.0
    x, y = x.detach().double(), y.detach().double()
    difference = ((x - y).abs().amax() / x.abs().amax().clamp(min=1.0)).item()
    return difference if difference == difference else float("inf")


def in_words(far: float) -> str:
    """Format a `distance` for messages."""
    return "NaN or infinity" if far == float("inf") else f"{far:.2g} of the largest value"


def require_close(x: Tensor, y: Tensor, *, what: str, where: str, tolerance: float = TOLERANCE) -> None:
    """Raise AssertionError unless both tensors have the same shape and values.

    Args:
        x: expected values.
        y: actual values.
        what: description of the expectation, for the message.
        where: hint at the likely cause.
        tolerance: largest `distance`.
    """
    require(x.shape == y.shape, f"expected {what}, got shapes {tuple(x.shape)} and {tuple(y.shape)}; {where}.")
    far = distance(x, y)
    require(far <= tolerance, f"expected {what}, got values that differ by {in_words(far)}; {where}.")


def require_determinism(make: Callable[[], nn.Module], outputs: Outputs) -> None:
    """Check that evaluation mode is deterministic and nothing is learned as a side effect."""
    module = made(make, seed=0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(1)
    first = outputs(module)
    torch.manual_seed(2)
    second = outputs(module)
    same = first.shape == second.shape and torch.equal(first, second)
    require(
        same,
        f"expected the same output from two evaluations of the same input, got values that differ by "
        f"{in_words(distance(first, second))}; draw random numbers only if self.training is true.",
    )
    for name, value in module.state_dict().items():
        require(
            torch.equal(before[name], value),
            f"expected evaluation to leave the module unchanged, got a changed {name!r}; update buffers only if "
            "self.training is true.",
        )


def require_state_dict(make: Callable[[], nn.Module], outputs: Outputs) -> None:
    """Check that a state dict, saved and read with `weights_only=True`, restores the outputs in another instance."""
    module = made(make, seed=0)
    outputs(module.train())
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = made(make, seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    require_close(
        outputs(module.eval()),
        outputs(other),
        what="the same output from another instance with the same state dict",
        where="hold random or learned values in parameters and buffers, not in plain attributes",
    )


def require_pickle(make: Callable[[], nn.Module], outputs: Outputs) -> None:
    """Check that a pickled copy has the same outputs, because other processes (launched ranks, loaders) get pickles."""
    module = made(make, seed=0)
    try:
        other = pickle.loads(pickle.dumps(module))
    except Exception as error:
        raise AssertionError(
            f"expected a module that can be pickled and read again, got {type(error).__name__}: {error}; keep lambdas, open "
            "files and locks out of its attributes."
        ) from error
    require_close(
        outputs(module),
        outputs(other),
        what="the same output from an instance that was pickled and read again",
        where="look at __getstate__ and __reduce__, if defined",
    )


def require_gradients(module: nn.Module, loss: Tensor, *, when: str, zero: bool) -> None:
    """Check that every trainable parameter gets a gradient.

    Args:
        module: module whose gradients are still None.
        loss: loss to differentiate.
        when: description of the case, for the message.
        zero: whether gradients may be all zero.
    """
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not parameters:
        return
    require(
        loss.requires_grad,
        f"expected gradients for {sorted(parameters)} {when}, got an output that depends on no parameter; look for "
        "detach(), no_grad() and early returns in forward.",
    )
    loss.backward()
    for name, parameter in parameters.items():
        gradient = parameter.grad
        require(
            gradient is not None,
            f"expected a gradient for {name!r} {when}, got None; look for detach(), no_grad() and branches of forward that "
            "do not use it: every process must use every parameter in every step.",
        )
        assert gradient is not None
        require(
            bool(gradient.isfinite().all()),
            f"expected a finite gradient for {name!r} {when}, got NaN or infinity; replace masked content before anything "
            "reads it.",
        )
        require(
            zero or bool((gradient != 0).any()),
            f"expected a nonzero gradient for {name!r} {when}, got zeros only; the output does not depend on it, or the "
            "input of the check does not use it.",
        )


def with_all_trainable(module: nn.Module) -> nn.Module:
    """Unfreeze all parameters and return the module, so that requires_grad marks outputs that depend on parameters."""
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module
