"""The conformance kit of heads and decoders: the contract on which tasks and checkpoints rely.

`head_checks` lists the checks, `check_head` runs them all. By name:

- `output_shape`: latents `(B, N, D)` give a finite output `(B, *output_shape)`, for a single sample and for several.
- `batch_independence`: the output of a sample does not depend on the other samples of the batch.
- `determinism_in_evaluation`: in evaluation mode the output is deterministic, and buffers do not change.
- `gradients_to_every_parameter`: every parameter and every latent gets a gradient.
- `state_dict_round_trip`, `pickle_round_trip`: an instance with the same state dict, or a pickled copy, has the same output.
- `bfloat16_autocast`: no NaN, and an output close to that in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from perceiver.testing.check import Check, require, run_checks
from perceiver.testing.module import (
    made,
    require_close,
    require_determinism,
    require_gradients,
    require_pickle,
    require_state_dict,
)


def head_checks(
    make_head: Callable[[], nn.Module], *, latent_channels: int, output_shape: Sequence[int], num_latents: int = 5
) -> list[Check]:
    """Return the checks of a head or decoder; see the head of this file.

    Args:
        make_head: function that returns a new instance at each call, always with the same arguments.
        latent_channels: D that the head was built for.
        output_shape: shape of the output of a single sample, e.g. `(num_classes,)`.
        num_latents: N of the latents for the checks.
    """
    case = _Case(make_head, num_latents, latent_channels, tuple(output_shape))
    return [Check(name, partial(run, case)) for name, run in _CHECKS.items()]


def check_head(
    make_head: Callable[[], nn.Module], *, latent_channels: int, output_shape: Sequence[int], num_latents: int = 5
) -> None:
    """Run all checks of a head or decoder. Arguments as in `head_checks`.

    Raises:
        AssertionError: with the name, the expected and actual results and a hint for each check that failed.
    """
    checks = head_checks(make_head, latent_channels=latent_channels, output_shape=output_shape, num_latents=num_latents)
    run_checks(checks, subject=f"head {type(make_head()).__name__}")


@dataclass(frozen=True)
class _Case:
    """The head under test and its inputs."""

    make_head: Callable[[], nn.Module]
    num_latents: int
    latent_channels: int
    output_shape: tuple[int, ...]

    def head(self) -> nn.Module:
        """Return the head in evaluation mode, always with the same initial values."""
        return made(self.make_head, seed=0)

    def latents(self, batch: int = 3) -> Tensor:
        """Return latents `(B, N, D)`, always the same."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, self.num_latents, self.latent_channels, generator=generator)

    def outputs(self, head: nn.Module) -> Tensor:
        """Compute the outputs for the latents, without gradients."""
        with torch.no_grad():
            return _output(head, self.latents())


def _output(head: nn.Module, latents: Tensor) -> Tensor:
    output = head(latents)
    require(
        isinstance(output, Tensor),
        f"expected forward to return a tensor, got {type(output).__name__}; tasks compute their loss from it.",
    )
    assert isinstance(output, Tensor)
    return output


def _output_shape(case: _Case) -> None:
    head = case.head()
    for batch in (1, 3):
        latents = case.latents(batch)
        output, expected = _output(head, latents), (batch, *case.output_shape)
        require(
            tuple(output.shape) == expected and bool(output.isfinite().all()),
            f"expected finite outputs {expected} for latents {tuple(latents.shape)}, got shape {tuple(output.shape)} with "
            f"{int((~output.isfinite()).sum())} non-finite values; look for squeeze() and views without the batch.",
        )


def _batch_independence(case: _Case) -> None:
    head, latents = case.head(), case.latents()
    with torch.no_grad():
        together = _output(head, latents)
        for row in range(len(latents)):
            require_close(
                together[row : row + 1],
                _output(head, latents[row : row + 1]),
                what=f"the same output of sample {row} in the batch and alone",
                where="look for sums, means and norms over axis 0",
            )


def _determinism_in_evaluation(case: _Case) -> None:
    require_determinism(case.make_head, case.outputs)


def _gradients_to_every_parameter(case: _Case) -> None:
    head, latents = case.head().train(), case.latents().requires_grad_()
    output = _output(head, latents)
    loss = (output * torch.randn_like(output)).sum()
    require(
        loss.requires_grad,
        "expected an output that depends on latents and parameters, got one without gradient; look for detach(), no_grad() "
        "and argmax() in forward.",
    )
    require_gradients(head, loss, when="in training", zero=False)
    if latents.grad is None:
        loss.backward()  # the head has no parameters
    gradient = latents.grad
    require(
        gradient is not None and bool((gradient.flatten(2) != 0).any(dim=2).all()),
        "expected a nonzero gradient for every latent of every sample, got zeros for some; a latent without influence on "
        "the output is never trained.",
    )


def _state_dict_round_trip(case: _Case) -> None:
    require_state_dict(case.make_head, case.outputs)


def _pickle_round_trip(case: _Case) -> None:
    require_pickle(case.make_head, case.outputs)


def _bfloat16_autocast(case: _Case) -> None:
    head = case.head()
    plain = case.outputs(head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = case.outputs(head)
    require_close(
        plain,
        cast,
        what="outputs under bfloat16 autocast within 10% of float32",
        where="compute logarithms and exponentials in float32",
        tolerance=0.1,
    )


_CHECKS: dict[str, Callable[[_Case], None]] = {
    run.__name__.removeprefix("_"): run
    for run in (
        _output_shape,
        _batch_independence,
        _determinism_in_evaluation,
        _gradients_to_every_parameter,
        _state_dict_round_trip,
        _pickle_round_trip,
        _bfloat16_autocast,
    )
}
