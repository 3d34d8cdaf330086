"""What adapters and heads have in common as modules: weights that can be stored, gradients, no chance in evaluation."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable

import torch
from torch import Tensor, nn

from perceiver.testing.check import require

Outputs = Callable[[nn.Module], Tensor]
"""A module to what it makes of the input of the check, with the same layout every time."""

TOLERANCE = 1e-4
"""Differences up to this share of the largest value are rounding."""


def made(make: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """A module in evaluation mode whose initial values come from this seed."""
    torch.manual_seed(seed)
    return make().eval()


def distance(x: Tensor, y: Tensor) -> float:
    """The largest difference, as a share of the largest value of x (of 1, if all are smaller); infinite for NaN."""
    if x.numel() == 0:
        return 0.0
    x, y = x.detach().double(), y.detach().double()
    difference = ((x - y).abs().amax() / x.abs().amax().clamp(min=1.0)).item()
    return difference if difference == difference else float("inf")


def in_words(far: float) -> str:
    """A `distance` for messages."""
    return "NaN or infinity" if far == float("inf") else f"{far:.2g} of the largest"


def require_close(x: Tensor, y: Tensor, *, what: str, where: str, tolerance: float = TOLERANCE) -> None:
    """AssertionError unless both have one shape and the same values.

    Args:
        x: what is right.
        y: what came.
        what: of what, and how both came about.
        where: a hint to the place where it goes wrong.
        tolerance: of `distance`.
    """
    require(x.shape == y.shape, f"expected {what}, got shapes {tuple(x.shape)} and {tuple(y.shape)}; {where}.")
    far = distance(x, y)
    require(far <= tolerance, f"expected {what}, got values that differ by {in_words(far)}; {where}.")


def require_determinism(make: Callable[[], nn.Module], outputs: Outputs) -> None:
    """In evaluation mode chance has no say, and nothing is learned by the way."""
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
        f"{in_words(distance(first, second))}; draw random numbers only where self.training is true.",
    )
    for name, value in module.state_dict().items():
        require(
            torch.equal(before[name], value),
            f"expected evaluation to leave the module as it is, got another {name!r}; update buffers only where "
            "self.training is true.",
        )


def require_state_dict(make: Callable[[], nn.Module], outputs: Outputs) -> None:
    """A state dict, through a file that is read with `weights_only=True`, says all that another instance must know."""
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
        where="hold what is random or learned in parameters and buffers, not in plain attributes",
    )


def require_pickle(make: Callable[[], nn.Module], outputs: Outputs) -> None:
    """Other processes (launched ranks, loaders) get modules as pickles."""
    module = made(make, seed=0)
    try:
        other = pickle.loads(pickle.dumps(module))
    except Exception as error:
        raise AssertionError(
            f"expected a module that pickle can write and read, got {type(error).__name__}: {error}; keep lambdas, open "
            "files and locks out of its attributes."
        ) from error
    require_close(
        outputs(module),
        outputs(other),
        what="the same output from an instance that was pickled and read again",
        where="look at __getstate__ and __reduce__, if it has them",
    )


def require_gradients(module: nn.Module, loss: Tensor, *, when: str, zero: bool) -> None:
    """Every parameter that is to be trained takes part.

    Args:
        module: whose gradients are None before.
        loss: to differentiate.
        when: of what the loss was computed.
        zero: gradients may be all zero.
    """
    parameters = {name: one for name, one in module.named_parameters() if one.requires_grad}
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
            "leave it out: every process must use every parameter in every step.",
        )
        assert gradient is not None
        require(
            bool(gradient.isfinite().all()),
            f"expected a finite gradient for {name!r} {when}, got NaN or infinity; replace masked content before anything "
            "reads it.",
        )
        require(
            zero or bool((gradient != 0).any()),
            f"expected a gradient for {name!r} {when}, got zeros only; the output does not depend on it, or the input of "
            "the check does not use it.",
        )


def with_all_trainable(module: nn.Module) -> nn.Module:
    """The module, with frozen parameters thawed: then a gradient tells what comes out of parameters."""
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module
