"""Flow matching: the loss against an open formula, conditions and their absence, evaluation, learning, bad settings."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hydra_runs import QUIET, metrics_of, run
from interface_models import CLASSES, inputs, model
from torch import Tensor

import perceiver
from perceiver import Interface, ModalityDropout
from perceiver.generation.flow import generate
from perceiver.objectives import FlowMatching
from perceiver.samples.batch import Batch


def batch(size: int = 5, **given: Any) -> Batch:
    return Batch(
        inputs={"image": inputs(size)["image"]},
        target=torch.arange(size) % CLASSES,
        ids=[f"sample {number}" for number in range(size)],
        **given,
    )


def test_the_loss_is_the_squared_error_of_the_velocity_over_valid_elements() -> None:
    one, objective = model(), FlowMatching(label="label")
    mask = torch.ones(5, 6, 8, dtype=torch.bool)
    mask[1, 4:], mask[3, :, 2:] = False, False
    given = batch(masks={"image": mask})
    x = given.inputs["image"]
    assert isinstance(x, Tensor)
    given.inputs["image"] = torch.where(mask[:, None], x, torch.nan)
    noisy = objective.fixed(given)
    metrics = objective.metrics(one)
    with torch.no_grad():
        objective.evaluate(one, objective.check(one, given), metrics)
        time = noisy.time.reshape(-1, 1, 1, 1)
        label = torch.eye(CLASSES, dtype=torch.float64)[given.target]
        mixed = {"image": (1 - time) * noisy.noise + time * torch.where(mask[:, None], x, 0.0), "label": label}
        values = one.velocity(mixed, {"image": mask}, time=noisy.time).values
    # Back to pixels, which the errors are of.
    velocity = one.adapters["image"].with_content(x, values)  # type: ignore[operator]
    errors = ((velocity - (x - noisy.noise)) ** 2)[mask[:, None]]
    torch.testing.assert_close(objective.results(metrics)["loss"], errors.mean().float(), rtol=1e-5, atol=1e-6)


def test_evaluation_gives_a_sample_the_same_noise_wherever_it_is() -> None:
    objective, given = FlowMatching(label="label", seed=3), batch()
    whole, last = objective.fixed(given), objective.fixed(given.rows(slice(3, 5)), number=7)
    assert torch.equal(whole.noise[3:], last.noise)
    assert torch.equal(whole.time[3:], last.time)
    assert not torch.equal(whole.time, FlowMatching(seed=4).fixed(given).time)
    given.ids = []
    assert not torch.equal(objective.fixed(given, number=0).time, objective.fixed(given, number=1).time)


def test_all_conditions_are_absent_from_a_share_of_the_training_samples() -> None:
    one, seen = model(), list[Tensor]()
    objective, whole = FlowMatching(label="label", condition_dropout=0.1), one.velocity

    def velocity(inputs: Any, masks: Any, **rest: Any) -> Any:
        seen.append(masks["label"])
        assert torch.equal(masks["image"], torch.arange(200) < 190)
        return whole(inputs, masks, **rest)

    one.velocity = velocity  # type: ignore[method-assign]
    torch.manual_seed(0)
    with torch.no_grad():
        objective.loss(one, batch(200, masks={"image": torch.arange(200) < 190}))
        objective.evaluate(one, batch(200, masks={"image": torch.arange(200) < 190, "label": torch.ones(200) > 0}), {
            "loss": objective.metrics(one)["loss"]
        })  # fmt: skip
    assert 165 < int(seen[0].sum()) < 195
    assert bool(seen[1].all())


@pytest.mark.parametrize(("times", "middle"), [("uniform", 0.5), ("logit_normal", 0.73)])
def test_times(times: str, middle: float) -> None:
    torch.manual_seed(0)
    drawn = FlowMatching(times=times)._drawn_times(4000, torch.device("cpu"))
    assert 0 <= float(drawn.min()) < float(drawn.max()) <= 1
    # P(0.25 < t < 0.75) of the logistic function of a normal variable: Phi(log 3) - Phi(-log 3).
    assert abs(float(((drawn > 0.25) & (drawn < 0.75)).float().mean()) - middle) < 0.02


def test_shifted_times_are_nearer_to_the_noise() -> None:
    torch.manual_seed(0)
    drawn = FlowMatching(time_shift=3.0)._drawn_times(4000, torch.device("cpu"))
    # t / (t + 3 (1 - t)) < 0.25 for t < 0.5.
    assert abs(float((drawn < 0.25).float().mean()) - 0.5) < 0.001
    assert 0 <= float(drawn.min()) < float(drawn.max()) <= 1


def test_latents_of_a_first_call_are_used_at_the_configured_rate() -> None:
    one, whole = model(self_condition=True), Interface.forward
    for rate, calls in ((0.0, 1), (1.0, 2)):
        seen: list[Any] = []

        def forward(tokens: Any, *, seen: list[Any] = seen, **rest: Any) -> Any:
            seen.append((rest.get("previous"), [block.mask for block in tokens]))
            return whole(one.encoder, tokens, **rest)  # type: ignore[arg-type]

        one.encoder.forward = forward  # type: ignore[method-assign, assignment]
        one.modality_dropout = ModalityDropout(rates={"label": 0.5})
        torch.manual_seed(0)
        FlowMatching(label="label", self_condition_rate=rate).loss(one.train(), batch()).backward()
        assert len(seen) == calls
        previous, masks = seen[-1]
        assert (previous is None) == (calls == 1)
        assert previous is None or not previous.requires_grad
        # Conditions that are dropped are absent from both calls.
        assert masks[1].tolist() == seen[0][1][1].tolist()
        assert 0 < int(masks[1].sum()) < 5


def test_weights_that_autocast_cast_without_gradients_are_not_used_again() -> None:
    """Some versions of torch would: the second call finds an empty cache."""
    one, events = model(self_condition=True).float().train(), mock.Mock()

    def called(*_: Any) -> None:
        events.call()

    one.encoder.register_forward_hook(called)
    # Within autocast, whose own end clears the cache, too.
    with torch.autocast("cpu", dtype=torch.bfloat16), mock.patch.object(torch, "clear_autocast_cache", events.clear):
        one.velocity({"image": torch.randn(2, 1, 4, 4)}, time=torch.rand(2), self_condition=True)
    assert events.mock_calls == [mock.call.call(), mock.call.clear(), mock.call.call()]


def test_padding_changes_no_noise() -> None:
    objective = FlowMatching(seed=3)
    alone = objective.fixed(Batch(inputs={"image": torch.zeros(1, 1, 5, 7)}, ids=["q"]))
    mask = torch.zeros(2, 9, 8, dtype=torch.bool)
    mask[0, :5, :7] = True
    padded = objective.fixed(Batch(inputs={"image": torch.zeros(2, 1, 9, 8)}, masks={"image": mask}, ids=["q", "absent"]))
    assert torch.equal(padded.noise[0, :, :5, :7], alone.noise[0])
    alone = objective.fixed(Batch(inputs={"image": torch.zeros(1, 5, 3)}, ids=["q"]))
    points = Batch(inputs={"image": torch.zeros(2, 9, 3)}, masks={"image": mask[:, :, 0]}, ids=["q", "absent"])
    assert torch.equal(objective.fixed(points).noise[0, :5], alone.noise[0])


def test_a_run_learns_and_its_model_generates(tmp_path: Path) -> None:
    finished = run(
        "task=flow_matching", "task.label=label", "+adapter@model.adapters.label=label", "data=digits",
        "adapter@model.adapters.image=image_patches", "model.adapters.image.patch=2",
        "model.adapters.image.embed_channels=16",
        "model.encoder.num_latents=4", "model.encoder.latent_channels=16", "model.encoder.state_channels=16",
        "model.encoder.num_blocks=1", "model.encoder.num_layers_per_block=1", "data.batch_size=128", "optimizer.lr=1e-2",
        "trainer.max_epochs=8", "averaging=ema", "callbacks.averaging.multi_avg_fn.decay=0.9", "logger=none",
        "callbacks.attention_by_modality=null", *QUIET, f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    # Without learning it is 1.57, the integral of 1 / (t² + (1 - t)²).
    assert metrics_of(tmp_path)["test/loss"] < 1.3
    one = perceiver.load(tmp_path)
    made = generate(one, {"label": torch.eye(10)}, steps=4, guidance=2.0, generator=torch.Generator().manual_seed(0))
    assert made.shape == (10, 1, 8, 8)
    assert bool(made.isfinite().all())


def test_errors() -> None:
    one = model()
    with pytest.raises(ValueError, match=r"task.condition_dropout: expected a share of at least 0 and below 1, got 1.0"):
        FlowMatching(condition_dropout=1.0)
    with pytest.raises(ValueError, match=r"task.self_condition_rate: expected a share from 0 to 1, got 2.0"):
        FlowMatching(self_condition_rate=2.0)
    with pytest.raises(ValueError, match=r"task.times: expected one of uniform, logit_normal; got 'late'"):
        FlowMatching(times="late")
    with pytest.raises(ValueError, match="expected a model with an Interface and a VelocityHead, got the head NoneType"):
        FlowMatching().check_model(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"task.modality: expected 'image', the modality that the model generates, got 'x'"):
        FlowMatching(modality="x").check_model(one)
    with pytest.raises(ValueError, match=r"task.condition_dropout: expected 0.1, which the model's head records"):
        FlowMatching(condition_dropout=0.2).check_model(one)
    with pytest.raises(ValueError, match=r"task.time_shift: expected 1.0, which the model's head records for generation"):
        FlowMatching(time_shift=2.0).check_model(one)
    with pytest.raises(ValueError, match=r"task.time_shift: expected a finite number above 0, got 0.0"):
        FlowMatching(time_shift=0.0)
    with pytest.raises(ValueError, match=r"task.label: expected the name of one of the adapters \['image', 'label'\]"):
        FlowMatching(label="kind").check_model(one)
    FlowMatching(label="label").check_model(one)
    one.modality_dropout = ModalityDropout(rates={"image": 0.5})
    with pytest.raises(ValueError, match=r"model.modality_dropout.rates: expected conditions only, got 'image'"):
        FlowMatching().check_model(one)
    one.modality_dropout = None
    with pytest.raises(ValueError, match=r"batch.inputs: expected 'image', one tensor, which is to be generated"):
        FlowMatching().check(one, Batch(inputs={"label": inputs()["label"]}))
    with pytest.raises(ValueError, match=r"batch.inputs: has 'label', which the task makes of the targets"):
        FlowMatching(label="label").check(one, Batch(inputs=inputs()))
    with pytest.raises(ValueError, match=r"target of sample .*: expected a class number from 0 to 2, got 7"):
        FlowMatching(label="label").check(one, Batch(inputs={"image": inputs(1)["image"]}, target=torch.tensor([7])))
