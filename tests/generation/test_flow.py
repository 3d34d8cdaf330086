"""Generation along a flow: solvers against closed forms, guidance, kept elements, absent conditions, bad input."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from interface_models import CLASSES, inputs, model
from torch import Tensor

import perceiver
from perceiver import Perceiver
from perceiver.checkpoints.build import build_model
from perceiver.decoders import Velocity
from perceiver.generation.flow import generate

SHAPE = (1, 6, 8)
LABELS = inputs(4)["label"]


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def noise(batch: int) -> Tensor:
    return torch.randn((batch, *SHAPE), generator=seeded(), dtype=torch.float64)


class Field:
    """A velocity in closed form in place of a model's: `rate * x`, with another rate without conditions."""

    def __init__(self, one: Perceiver, *, rate: float, absent: float = 0.0) -> None:
        self.one, self.rates, self.seen = one, {True: rate, False: absent}, list[tuple[float, Tensor]]()

    def __call__(self, inputs: dict[str, Any], masks: Any = None, *, time: Tensor, previous: Any = None) -> Velocity:
        self.seen.append((float(time[0]), inputs["image"]))
        values = self.one.adapters["image"].content(inputs["image"]).values * self.rates["label" in inputs]  # type: ignore[operator]
        return Velocity(values=values, latents=torch.zeros(len(values), 1, 1))


def replaced(one: Perceiver, field: Field) -> Any:
    return mock.patch.object(one, "velocity", field)


@pytest.mark.parametrize(("solver", "calls"), [("euler", 5), ("heun", 9)])
def test_solvers_have_their_known_errors(solver: Any, calls: int) -> None:
    one = model()
    field = Field(one, rate=-0.8)
    with replaced(one, field):
        found = generate(
            one, {"label": LABELS}, shape_of=SHAPE, steps=5, solver=solver, generator=seeded()
        )  # fmt: skip
    step = 1 - 0.8 / 5
    # The last step of Heun's method is one of Euler's: no model has seen velocities of data without noise.
    factor = step**5 if solver == "euler" else (step + (0.8 / 5) ** 2 / 2) ** 4 * step
    torch.testing.assert_close(found, noise(4) * factor)
    assert len(field.seen) == calls
    assert field.seen[0][0] == 0.0


def test_guidance_extrapolates_from_the_velocity_without_conditions() -> None:
    one = model()
    for guidance, rate in ((1.0, 0.5), (0.0, 0.2), (3.0, 0.2 + 3 * 0.3)):
        with replaced(one, Field(one, rate=0.5, absent=0.2)):
            found = generate(one, {"label": LABELS}, shape_of=SHAPE, steps=1, guidance=guidance, generator=seeded())
        torch.testing.assert_close(found, noise(4) * (1 + rate))


def test_an_absent_condition_equals_a_masked_one_bit_for_bit() -> None:
    one = model()
    nothing = torch.zeros(4, dtype=torch.bool)
    settings: Any = {"shape_of": SHAPE, "steps": 3, "guidance": 3.0}
    masked = generate(one, {"label": (LABELS, nothing)}, generator=seeded(), **settings)
    absent = generate(one, {}, num_samples=4, generator=seeded(), **settings)
    assert torch.equal(masked, absent)
    # For single samples, too.
    some = generate(one, {"label": (LABELS, torch.arange(4) < 2)}, generator=seeded(), **settings)
    full = generate(one, {"label": LABELS}, generator=seeded(), **settings)
    torch.testing.assert_close(some[2:], absent[2:])
    torch.testing.assert_close(some[:2], full[:2])
    assert not torch.allclose(some[:2], absent[:2])


def test_one_condition_serves_all_samples() -> None:
    one = model()
    alone = generate(one, {"label": LABELS[:1]}, num_samples=3, shape_of=SHAPE, steps=2, generator=seeded())
    spread = generate(one, {"label": LABELS[:1].expand(3, -1)}, shape_of=SHAPE, steps=2, generator=seeded())
    assert torch.equal(alone, spread)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_kept_elements_follow_the_known_path_and_are_exact(solver: Any) -> None:
    one, init = model(), torch.randn(4, *SHAPE, dtype=torch.float64)
    keep = torch.zeros(4, 6, 8, dtype=torch.bool)
    keep[:, :, :3] = True
    field = Field(one, rate=-0.4)
    with replaced(one, field):
        found = generate(one, {}, init=init, keep=keep, steps=4, solver=solver, generator=seeded())
    assert torch.equal(found[..., :3], init[..., :3])
    assert not torch.allclose(found[..., 3:], init[..., 3:])
    for time, x in field.seen:
        path = (1 - time) * noise(4) + time * init
        torch.testing.assert_close(x[..., :3], path[..., :3])
    # Channel by channel.
    assert torch.equal(generate(one, {}, init=init, keep=torch.ones_like(init, dtype=torch.bool), steps=2), init)


def test_a_later_start_keeps_something_of_the_samples() -> None:
    one, init = model(), torch.randn(1, *SHAPE, dtype=torch.float64)
    field = Field(one, rate=0.0)
    with replaced(one, field):
        found = generate(one, {"label": LABELS}, init=init, start=0.75, steps=2, generator=seeded())
    torch.testing.assert_close(found, 0.25 * noise(4) + 0.75 * init)
    assert [time for time, _ in field.seen] == [0.75, 0.875]


def test_a_time_shift_moves_the_steps_towards_the_noise() -> None:
    one, init = model(), torch.randn(1, *SHAPE, dtype=torch.float64)
    one.head.time_shift = 3.0  # type: ignore[union-attr, assignment]
    field = Field(one, rate=0.0)
    with replaced(one, field):
        generate(one, {}, shape_of=SHAPE, steps=4)
        generate(one, {}, shape_of=SHAPE, steps=2, time_shift=1.0)
        generate(one, {}, init=init, start=0.25, steps=2)
    # u / (u + 3 (1 - u)) for u = 0, 1/4, 1/2, 3/4; as asked; the half of the path after 0.25.
    wanted = [0, 0.1, 0.25, 0.5, 0, 0.5, 0.25, 0.5]
    torch.testing.assert_close(torch.tensor([time for time, _ in field.seen]), torch.tensor(wanted))


def test_guidance_ends_at_its_time() -> None:
    one = model()
    given: list[bool] = []
    whole = one.velocity

    def velocity(inputs: Any, masks: Any = None, **rest: Any) -> Velocity:
        given.append("label" in inputs)
        return whole(inputs, masks, **rest)

    with mock.patch.object(one, "velocity", velocity):
        generate(one, {"label": LABELS}, shape_of=SHAPE, steps=4, guidance=2.0, guidance_until=0.5)
    assert given == [True, False, True, False, True, True]


def test_latents_pass_from_step_to_step_with_and_without_conditions_apart() -> None:
    one = model(self_condition=True)
    passed: list[tuple[bool, Any]] = []
    whole = one.velocity

    def velocity(inputs: Any, masks: Any = None, *, time: Tensor, previous: Any = None) -> Velocity:
        found = whole(inputs, masks, time=time, previous=previous)
        passed.append(("label" in inputs, (previous, found.latents)))
        return found

    with mock.patch.object(one, "velocity", velocity):
        generate(one, {"label": LABELS}, shape_of=SHAPE, steps=2, guidance=2.0)
    assert [present for present, _ in passed] == [True, False, True, False]
    assert passed[0][1][0] is None
    assert passed[1][1][0] is None
    assert passed[2][1][0] is passed[0][1][1]
    assert passed[3][1][0] is passed[1][1][1]


CONFIG: dict[str, Any] = {
    "_target_": "perceiver.Perceiver",
    "adapters": {
        "image": {
            "_target_": "perceiver.adapters.ImagePatches", "image_channels": 1, "patch": 2,
            "position": {"_target_": "perceiver.Fourier", "num_bands": 2, "resolution": [3, 4]},
        },
        "label": {"_target_": "perceiver.adapters.Vector", "vector_channels": CLASSES},
    },
    "encoder": {
        "_target_": "perceiver.Interface", "num_latents": 3, "latent_channels": 8, "state_channels": 6, "num_blocks": 1,
        "num_layers_per_block": 1, "local_kernel": [3, 3], "num_cross_heads": 2, "num_write_heads": 2, "num_self_heads": 2,
    },
    "head": {"_target_": "perceiver.VelocityHead", "modality": "image", "condition_dropout": 0.1},
}  # fmt: skip


def test_a_saved_model_generates_the_same(tmp_path: Path) -> None:
    spec = {"modalities": {"image": {"kind": "image", "shape": list(SHAPE), "mean": [0.5], "std": [0.2], "range": [0, 255]}}}
    one = build_model(CONFIG, spec=spec)
    torch.nn.init.normal_(one.head.output.weight)  # type: ignore[union-attr, arg-type]
    perceiver.save(one, tmp_path / "model.ckpt")
    loaded = perceiver.load(tmp_path / "model.ckpt")
    settings: Any = {"conditions": {"label": LABELS.float()}, "steps": 2, "guidance": 2.0}
    assert torch.equal(
        generate(loaded, generator=seeded(), **settings), generate(one.train(), generator=seeded(), **settings)
    )  # fmt: skip
    assert one.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conditions": {"text": LABELS}}, r"conditions: expected any of \['label'\], on which the model was trained"),
        ({"conditions": {"image": LABELS}}, "To keep parts of 'image', use init and keep"),
        ({"shape_of": (3, 6, 8)}, r"shape_of: the adapter ImagePatches of 'image' cannot make samples of shape \(3, 6, 8\)"),
        ({"shape_of": None}, r"shape_of: expected the shape of one sample of 'image', since the model's spec has no fixed"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"guidance": -1.0}, "guidance: expected a number of at least 0, got -1.0"),
        ({"guidance": float("nan")}, "guidance: expected a number of at least 0, got nan"),
        ({"solver": "rk4"}, "solver: expected one of euler, heun; got 'rk4'"),
        ({"guidance_until": 1.5}, "guidance_until: expected a time from 0 to 1, got 1.5"),
        ({"time_shift": 0.0}, "time_shift: expected a finite number above 0, got 0.0"),
        ({"start": 1.0, "init": torch.zeros(1, *SHAPE)}, "start: expected a time of at least 0 and below 1"),
        ({"start": 0.5}, "start: expected `init` for a start at 0.5"),
        ({"init": torch.zeros(1, *SHAPE)}, "init: expected `keep` or a `start` above 0"),
        ({"init": torch.zeros(1, 1, 4, 4), "start": 0.5}, r"init: expected samples of shape \(1, 6, 8\), got \(1, 4, 4\)"),
        ({"keep": torch.ones(1, 6, 8, dtype=torch.bool)}, "keep: expected `init` with it"),
        (
            {"init": torch.zeros(1, *SHAPE), "keep": torch.ones(1, 6, dtype=torch.bool)},
            r"keep: expected the shape of init \(4, 1, 6, 8\), or its grid without channels, got \(1, 6\)",
        ),
        ({"num_samples": 3}, r"num_samples: expected one sample for all, or 3, .* got \{\"conditions\['label'\]\": 4\}"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model(), **{"conditions": {"label": LABELS}, "shape_of": SHAPE, "steps": 1, **arguments})


def test_errors_of_models() -> None:
    with pytest.raises(ValueError, match="the model was trained with conditions in every sample"):
        generate(model(condition_dropout=0.0), {"label": LABELS}, shape_of=SHAPE, guidance=3.0)
    with pytest.raises(ValueError, match="expected a model trained with task=flow_matching"):
        generate(torch.nn.Linear(2, 2), {})
    with pytest.raises(TypeError, match="keep: expected dtype bool"):
        generate(model(), {}, init=torch.zeros(1, *SHAPE), keep=torch.ones(1, 6, 8))
