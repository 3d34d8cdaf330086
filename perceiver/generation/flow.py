"""Generation along a learned flow: from noise to samples of one modality, given any subset of the others.

Rectified flow (Liu et al. 2022, arXiv:2209.03003): a model predicts the velocity `x - noise` at the points
`x_t = (1 - t) noise + t x`, and an ODE solver follows it from t = 0 to t = 1. Guidance (Ho and Salimans 2022,
arXiv:2207.12598) extrapolates from the velocity without conditions; a condition that is absent is masked, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from perceiver.decoders.velocity import VelocityHead, shifted
from perceiver.runtime.arguments import ArgumentError
from perceiver.runtime.evaluating import evaluating
from perceiver.samples.batch import first_tensor
from perceiver.tokens.masks import presence

SOLVERS = ("euler", "heun")

Condition = Any
"""Input of an adapter, `(B, …)` or a dict of tensors, or a pair of it and its mask."""


def generate(
    model: Any,
    conditions: Mapping[str, Condition] | None = None,
    *,
    num_samples: int | None = None,
    shape_of: Tensor | Sequence[int] | None = None,
    steps: int = 12,
    guidance: float = 1.0,
    guidance_until: float = 1.0,
    solver: str = "euler",
    time_shift: float | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    init: Tensor | None = None,
    keep: Tensor | None = None,
    start: float = 0.0,
) -> Tensor:
    """Generate samples of the modality that `model.head` names, in evaluation mode.

    Args:
        model: a `perceiver.Perceiver` with an `Interface` and a `VelocityHead`, as `task=flow_matching` trains it.
        conditions: inputs by modality, or pairs of input and mask, as `Perceiver` takes them; one sample serves all. Any
            subset, possibly empty, also for single samples (by their masks).
        num_samples: number of samples; None: as many as `conditions`, `init` or `shape_of` have, or 1.
        shape_of: shape of one sample, or samples of the wanted shape; None: that of `init` or of the model's spec.
        steps: steps of the solver from noise to data.
        guidance: w of `v_absent + w (v - v_absent)`. 1 follows the conditions as they are, at half the cost; 0 ignores
            them; more than 1 exaggerates them.
        guidance_until: time from which on the conditions are followed as they are (a limited interval of guidance,
            Kynkäänniemi et al. 2024, arXiv:2404.07724). Near the data, guidance costs variety and a second velocity per
            step, and what the sample shows is decided before.
        solver: "euler", one velocity per step, or "heun", two (except in the last step) for a smaller error.
        time_shift: above 1, more of the steps are near the noise, see `perceiver.decoders.velocity.shifted`; None: as the
            model was trained.
        generator: random numbers of the noise, which is drawn sample by sample, or a generator for each sample; None:
            torch's global generator.
        init: samples `(B or 1, …)` to start from, with `keep` or `start`.
        keep: elements of `init` that stay, `(B or 1, *grid)` or the shape of `init`, True is kept: they follow the known
            path at every step and are exact in the result.
        start: time at which generation starts, in [0, 1): above 0, from `init` with less noise.

    Returns:
        Samples as the adapter takes them, in the model's normalised space.

    Raises:
        ValueError: for a model that generates nothing, a condition that it does not have, guidance of a model that was
            trained without dropped conditions, shapes that do not fit, or settings out of range; names the argument.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier, Interface, Perceiver, VelocityHead
        >>> from perceiver.adapters import ImagePatches, Vector
        >>> from perceiver.encoders.fusion import Fusion
        >>> from perceiver.generation.flow import generate
        >>> image = ImagePatches(image_channels=1, patch=4, position=Fourier(num_bands=4, resolution=(7, 7)))
        >>> adapters = {"image": image, "label": Vector(vector_channels=10)}
        >>> fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()})
        >>> encoder = Interface(
        ...     token_channels=fusion.channels, num_latents=4, latent_channels=32, state_channels=16, local_kernel=[3, 3]
        ... )
        >>> head = VelocityHead(state_channels=16, adapters=adapters, modality="image", condition_dropout=0.1)
        >>> model = Perceiver(adapters=adapters, encoder=encoder, head=head, fusion=fusion)
        >>> sevens = torch.eye(10)[[7, 7, 7]]
        >>> generate(model, {"label": sevens}, shape_of=(1, 28, 28), steps=2, guidance=3.0).shape
        torch.Size([3, 1, 28, 28])
    """
    head = _head_of(model)
    shift = head.time_shift if time_shift is None else time_shift
    _check_settings(
        steps=steps, guidance=guidance, guidance_until=guidance_until, solver=solver, time_shift=shift, start=start
    )
    given = _conditions(model, conditions or {})
    if guidance != 1 and not head.condition_dropout:
        raise ArgumentError(
            "guidance",
            f"expected 1, got {guidance}: the model was trained with conditions in every sample and does not know "
            "their absence. Train it with task.condition_dropout above 0, such as 0.1.",
        )
    like = _like(model, head, init=init, shape_of=shape_of)
    batch = _batch_size(num_samples, conditions or {}, init, shape_of)
    device = like.device
    noise = _noise(batch, like, generator)
    known = None if init is None else like.expand(noise.shape)
    kept = _kept(keep, known)
    if known is not None and kept is None and not start:
        raise ArgumentError("init", "expected `keep` or a `start` above 0 with it; otherwise nothing of it remains.")
    if start and known is None:
        raise ArgumentError("start", f"expected `init` for a start at {start}; generation starts from noise at 0.")
    follow = _Follow(
        model=model,
        modality=head.modality,
        raw=lambda x, values: head.raw(model.adapters, x, values).to(x.dtype),
        given={name: _expanded(one, batch, device) for name, one in given.items()},
        guidance=guidance,
        guidance_until=guidance_until,
    )
    times = solver_times(steps, shift=shift, start=start)

    def path(x: Tensor, time: float) -> Tensor:
        """Return `x` with the kept elements where the known path has them."""
        if kept is None:
            return x
        assert known is not None
        return torch.where(kept, known if time == 1 else (1 - time) * noise + time * known, x)

    with evaluating(model):
        x = noise if known is None or not start else (1 - start) * noise + start * known
        x = path(x, start)
        for time, after in pairwise(times):
            velocity = follow(x, time)
            ahead = path(x + (after - time) * velocity, after)
            if solver == "heun" and after < 1:
                velocity = (velocity + follow(ahead, after)) / 2
                ahead = path(x + (after - time) * velocity, after)
            x = ahead
    return x


@dataclass(kw_only=True)
class _Follow:
    """The guided velocity of a model, with the latents of its last call for latent self-conditioning.

    Args:
        model: the model.
        modality: modality that is generated.
        raw: converts velocities of tokens to those of samples.
        given: conditions by modality, input and mask.
        guidance, guidance_until: see `generate`.
    """

    model: Any
    modality: str
    raw: Callable[[Tensor, Tensor], Tensor]
    given: Mapping[str, tuple[Any, Tensor | None]]
    guidance: float
    guidance_until: float = 1.0

    def __post_init__(self) -> None:
        self.latents: dict[bool, Tensor | None] = {True: None, False: None}

    def __call__(self, x: Tensor, time: float) -> Tensor:
        """Return the velocity at `x`."""
        if not self.given or self.guidance == 0:
            return self._velocity(x, time, conditioned=False)
        velocity = self._velocity(x, time, conditioned=True)
        if self.guidance == 1 or time >= self.guidance_until:
            return velocity
        absent = self._velocity(x, time, conditioned=False)
        return absent + self.guidance * (velocity - absent)

    def _velocity(self, x: Tensor, time: float, *, conditioned: bool) -> Tensor:
        given = self.given if conditioned else {}
        inputs = {self.modality: x, **{name: one for name, (one, _) in given.items()}}
        masks = {name: mask for name, (_, mask) in given.items() if mask is not None}
        times = torch.full((len(x),), time, device=x.device, dtype=torch.float32)
        found = self.model.velocity(inputs, masks, time=times, previous=self.latents[conditioned])
        if self.model.encoder.self_conditions:
            self.latents[conditioned] = found.latents
        return self.raw(x, found.values)


def solver_times(steps: int, *, shift: float = 1.0, start: float = 0.0) -> list[float]:
    """Return the `steps + 1` times of the solver, from `start` to exactly 1.

    Args:
        steps: number of steps.
        shift: see `perceiver.decoders.velocity.shifted`.
        start: first time.

    Examples:
        >>> from perceiver.generation.flow import solver_times
        >>> [round(time, 3) for time in solver_times(4, shift=3.0)]
        [0.0, 0.1, 0.25, 0.5, 1.0]
    """
    even = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    # The part of an evenly spaced path that begins where the shift leads to `start`.
    begin = shifted(torch.tensor(start, dtype=torch.float64), 1 / shift)
    times: list[float] = shifted(begin + (1 - begin) * even, shift).tolist()
    return [float(start), *times[1:-1], 1.0]


def _head_of(model: Any) -> VelocityHead:
    head = getattr(model, "head", None)
    if not isinstance(head, VelocityHead):
        raise ValueError(
            "generate: expected a model trained with task=flow_matching, whose head is a VelocityHead; got the head "
            f"{type(head).__name__}. For texts, use perceiver.generate."
        )
    return head


def _check_settings(
    *, steps: int, guidance: float, guidance_until: float, solver: str, time_shift: float, start: float
) -> None:
    if not steps >= 1:
        raise ArgumentError("steps", f"expected at least 1, got {steps}.")
    if not 0 <= guidance < float("inf"):
        raise ArgumentError("guidance", f"expected a number of at least 0, got {guidance}.")
    if not 0 <= guidance_until <= 1:
        raise ArgumentError("guidance_until", f"expected a time from 0 to 1, got {guidance_until}.")
    if solver not in SOLVERS:
        raise ArgumentError("solver", f"expected one of {', '.join(SOLVERS)}; got {solver!r}.")
    if not 0 < time_shift < float("inf"):
        raise ArgumentError("time_shift", f"expected a finite number above 0, got {time_shift}.")
    if not 0 <= start < 1:
        raise ArgumentError("start", f"expected a time of at least 0 and below 1, got {start}.")


def _conditions(model: Any, conditions: Mapping[str, Condition]) -> dict[str, tuple[Any, Tensor | None]]:
    """Return inputs and masks of the conditions that any sample has: the others are absent."""
    generated = model.head.modality
    known = [name for name in model.adapters if name != generated]
    if set(conditions) - set(known):
        hint = f" To keep parts of {generated!r}, use init and keep." if generated in conditions else ""
        raise ArgumentError(
            "conditions",
            f"expected any of {known or 'no modalities'}, on which the model was trained, got {sorted(conditions)}.{hint}",
        )
    found: dict[str, tuple[Any, Tensor | None]] = {}
    for name in sorted(conditions):
        given = conditions[name]
        x, mask = given if isinstance(given, tuple) else (given, None)
        present = presence(x, mask)
        if present is None or bool(present.any()):
            found[name] = (x, mask)
    return found


def _like(model: Any, head: VelocityHead, *, init: Tensor | None, shape_of: Tensor | Sequence[int] | None) -> Tensor:
    """Return `init`, or zeros `(1, …)` of the wanted shape, on the model's device; checked by the adapter."""
    parameter = next(model.parameters())
    name = head.modality
    if shape_of is None and init is None:
        spec = ((model.spec or {}).get("modalities") or {}).get(name) or {}
        shape = spec.get("shape")
        if shape is None or any(size is None for size in shape):
            raise ArgumentError(
                "shape_of",
                f"expected the shape of one sample of {name!r}, since the model's spec has no fixed shape "
                f"({shape}); pass shape_of, such as (1, 28, 28).",
            )
    elif shape_of is None:
        assert init is not None
        shape = init.shape[1:]
    else:
        shape = shape_of.shape[1:] if isinstance(shape_of, Tensor) else tuple(shape_of)
    if init is not None and tuple(init.shape[1:]) != tuple(shape):
        raise ArgumentError("init", f"expected samples of shape {tuple(shape)}, got {tuple(init.shape[1:])}.")
    zeros = torch.zeros((1, *shape), device=parameter.device, dtype=parameter.dtype)
    like = zeros if init is None else init.to(zeros)
    try:
        adapter = model.adapters[name]
        with evaluating(model):
            adapter(zeros)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ArgumentError(
            "shape_of",
            f"the adapter {type(model.adapters[name]).__name__} of {name!r} cannot make samples of shape "
            f"{tuple(shape)}: {error}",
        ) from error
    return like


def _batch_size(
    num_samples: int | None,
    conditions: Mapping[str, Condition],
    init: Tensor | None,
    shape_of: Tensor | Sequence[int] | None,
) -> int:
    inputs = {name: one[0] if isinstance(one, tuple) else one for name, one in conditions.items()}
    sizes = {f"conditions[{name!r}]": first_tensor(x).shape[0] for name, x in inputs.items()}
    if init is not None:
        sizes["init"] = init.shape[0]
    if isinstance(shape_of, Tensor) and num_samples is None and not sizes:
        return shape_of.shape[0]
    wanted = max(sizes.values(), default=1) if num_samples is None else num_samples
    if wanted < 1 or any(size not in (1, wanted) for size in sizes.values()):
        raise ArgumentError(
            "num_samples", f"expected one sample for all, or {wanted}, in each of the conditions and init; got {sizes}."
        )
    return wanted


def _noise(batch: int, like: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    """Draw noise for samples like `like`, one after another: that of a sample does not depend on the size of its batch."""
    generators = list(generator) if isinstance(generator, Sequence) else [generator] * batch
    if len(generators) != batch:
        raise ValueError(f"generator: expected one, or one for each of the {batch} samples, got {len(generators)}.")
    drawn = [
        torch.randn(like.shape[1:], generator=own, device="cpu" if own is None else own.device, dtype=like.dtype)
        for own in generators
    ]
    return torch.stack(drawn).to(like.device)


def _expanded(condition: tuple[Any, Tensor | None], batch: int, device: torch.device) -> tuple[Any, Tensor | None]:
    """Return a condition and its mask for all samples, on a device."""

    def spread(x: Tensor) -> Tensor:
        return x.to(device).expand(batch, *x.shape[1:])

    x, mask = condition
    moved = spread(x) if isinstance(x, Tensor) else {key: spread(part) for key, part in x.items()}
    return moved, None if mask is None else spread(mask)


def _kept(keep: Tensor | None, known: Tensor | None) -> Tensor | None:
    """Return which elements are kept, broadcastable to the samples."""
    if keep is None:
        return None
    if known is None:
        raise ArgumentError("keep", "expected `init` with it, the samples whose elements are kept.")
    if keep.dtype != torch.bool:
        raise TypeError(f"keep: expected dtype bool (True = kept), got {keep.dtype}.")
    batch, whole = known.shape[0], tuple(known.shape[1:])
    if keep.ndim and keep.shape[0] in (1, batch):
        grid = tuple(keep.shape[1:])
        if grid == whole:
            return keep.to(known.device)
        if len(whole) > 1 and grid in (whole[1:], whole[:-1]):
            # Channels first, as images have them, or channels last, as points have them.
            return keep.to(known.device).unsqueeze(1 if grid == whole[1:] else -1)
    raise ArgumentError(
        "keep", f"expected the shape of init {tuple(known.shape)}, or its grid without channels, got {tuple(keep.shape)}."
    )
