"""Masked autoencoding: what is hidden stays hidden, what the loss is about, and that every adapter's content is its own."""

from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics.utilities import dim_zero_sum

from perceiver.adapters import (
    ImageConvStem,
    ImagePatches,
    ImagePixels,
    LogMelBins,
    LogMelFrames,
    Points,
    Reconstructible,
    Table,
    TimeSeries,
    VideoPatches,
    WaveformFrames,
)
from perceiver.decoders import ReconstructionDecoder
from perceiver.encoders.encoder import Encoder
from perceiver.encoders.fusion import Fusion
from perceiver.masking.random import RandomMasking
from perceiver.model import Perceiver
from perceiver.objectives import MaskedAutoencoding
from perceiver.objectives.self_supervised.masked_autoencoding import normalised_targets
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.tokens.positions import Fourier
from perceiver.tokens.tokens import Tokens
from perceiver.training import Task
from perceiver.training.task import counted

SOUND: dict[str, Any] = {"sample_rate": 800, "duration_seconds": 1.0}
MEL: dict[str, Any] = {**SOUND, "num_mels": 4, "window_seconds": 0.08, "hop_seconds": 0.05}


def line() -> Fourier:
    return Fourier(num_bands=2, resolution=[8])


def plane() -> Fourier:
    return Fourier(num_bands=2, resolution=[4, 4])


CASES: dict[str, tuple[nn.Module, Any]] = {
    "pixels": (ImagePixels(image_channels=2, position=plane()), torch.randn(3, 2, 5, 4)),
    "patches": (ImagePatches(image_channels=2, patch=3, embed_channels=5, position=plane()), torch.randn(3, 2, 7, 6)),
    "raw_patches": (ImagePatches(image_channels=1, patch=2, position=plane()), torch.randn(3, 1, 4, 6)),
    "video": (
        VideoPatches(
            video_channels=1, patch=[2, 2, 2], embedding_channels=6, position=Fourier(num_bands=1, resolution=[2, 2, 2])
        ),
        torch.randn(3, 1, 3, 4, 4),
    ),
    "waveform": (WaveformFrames(frame=16, position=line(), **SOUND), torch.randn(3, 1, 90)),
    "mel_frames": (LogMelFrames(position=line(), **MEL), torch.randn(3, 1, 200)),
    "mel_bins": (LogMelBins(position=plane(), **MEL), torch.randn(3, 1, 200)),
    "points": (Points(point_channels=4, position=Fourier(num_bands=2, resolution=[4, 4, 4])), torch.randn(3, 9, 4)),
    "series": (
        TimeSeries(num_values=2, duration_seconds=10.0, step_seconds=1.0, position=line()),
        {"values": torch.randn(3, 6, 2), "present": torch.rand(3, 6, 2) < 0.8},
    ),
    "table": (
        Table(num_numbers=3, category_sizes=[3, 2], embedding_channels=4),
        {"numbers": torch.randn(3, 3), "categories": torch.tensor([[0, 1], [2, 0], [1, 1]])},
    ),
}


def model_of(adapters: dict[str, nn.Module], *, latents: tuple[int, int] = (4, 16), **decoder: Any) -> Perceiver:
    fusion = Fusion(channels={name: int(adapter.channels) for name, adapter in adapters.items()})  # type: ignore[arg-type]
    encoder = Encoder(
        token_channels=fusion.channels,
        num_latents=latents[0],
        latent_channels=latents[1],
        num_layers_per_block=1,
        num_self_heads=2,
    )
    head = ReconstructionDecoder(
        latent_channels=latents[1], token_channels=fusion.channels, adapters=adapters, num_heads=2, **decoder
    )
    return Perceiver(adapters=adapters, fusion=fusion, encoder=encoder, head=head)


def task_of(model: Perceiver, lr: float = 3e-3, **settings: Any) -> Any:
    objective = MaskedAutoencoding(**{"masking": RandomMasking(rate=0.5), **settings})
    return Task(model=model, objective=objective, optimizer=partial(torch.optim.AdamW, lr=lr))


def batch_of(**inputs: Any) -> Batch:
    return Batch(inputs=inputs, ids=["a", "b", "c"])


def noise(x: Any, hidden: Tensor, adapter: Any) -> Any:
    """The same input, with other content in its hidden tokens."""
    content = adapter.content(x)
    veil = hidden[..., None].expand(content.values.shape)
    return adapter.with_content(x, torch.where(veil, 100 * torch.randn_like(content.values), content.values))


@pytest.mark.parametrize("name", CASES)
def test_any_adapter_is_reconstructed(name: str) -> None:
    adapter, x = CASES[name]
    assert isinstance(adapter, Reconstructible)
    task = task_of(model_of({"it": adapter}))
    batch = batch_of(it=x)
    hidden = task.objective.hide(task.model, batch)
    loss = task.objective.losses(task.model, batch, hidden)["it"]
    assert loss.isfinite()
    loss.backward()
    missing = [key for key, parameter in task.model.named_parameters() if parameter.grad is None]
    assert missing == []
    content = adapter.content(x)
    assert content.values.shape[-1] == adapter.content_channels
    assert tuple(content.values.shape[1:-1]) == task.model.tokens(batch.inputs)["it"].grid


@pytest.mark.parametrize("name", [name for name, (adapter, _) in CASES.items() if hasattr(adapter, "with_content")])
def test_content_has_an_inverse(name: str) -> None:
    adapter, x = CASES[name]
    again: Any = adapter.with_content(x, adapter.content(x).values)  # type: ignore[operator]
    made, given = (one["values"] if isinstance(one, dict) else one for one in (again, x))
    torch.testing.assert_close(made, given)


@pytest.mark.parametrize("name", ["pixels", "patches", "video", "waveform", "points"])
def test_nothing_of_what_is_hidden_is_seen(name: str) -> None:
    """Neither encoder nor queries: other content in hidden tokens changes no reconstruction."""
    adapter, x = CASES[name]
    task = task_of(model_of({"it": adapter})).eval()
    hidden = task.objective.hide(task.model, batch_of(it=x), generator=torch.Generator().manual_seed(0))
    other = batch_of(it=noise(x, ~hidden.tokens["it"].mask, adapter))
    again = task.objective.hide(task.model, other, generator=torch.Generator().manual_seed(0))
    assert torch.equal(hidden.index["it"], again.index["it"])
    outputs = [task.model.from_tokens(one.tokens, index=one.index)["it"] for one in (hidden, again)]
    torch.testing.assert_close(*outputs)


def test_the_loss_is_the_error_of_hidden_values_alone() -> None:
    adapter, x = CASES["patches"]
    task = task_of(model_of({"it": adapter})).eval()
    batch = batch_of(it=x)
    hidden = task.objective.hide(task.model, batch)
    with torch.no_grad():
        outputs = task.model.from_tokens(hidden.tokens)["it"]
        loss = float(task.objective.losses(task.model, batch, hidden)["it"])
    total = count = 0.0
    for sample in range(3):
        for row in range(3):
            for column in range(2):
                if bool(hidden.tokens["it"].mask[sample, row, column]):  # type: ignore[index]
                    continue
                patch = x[sample, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
                own = outputs[sample, row, column].reshape(2, 3, 3)[:, : patch.shape[1], : patch.shape[2]]
                total += float((own - patch).square().sum())
                count += patch.numel()
    assert loss == pytest.approx(total / count, rel=1e-4)


def test_ragged_and_absent_samples() -> None:
    adapter = WaveformFrames(frame=10, position=line(), **SOUND)
    collate = Collate(modalities={"sound": {"kind": "audio"}, "image": {"kind": "image"}})
    samples = [Sample(inputs={"sound": torch.randn(1, length)}, id=str(length)) for length in (100, 35, 10)]
    samples.append(Sample(inputs={"image": torch.randn(1, 4, 4)}, id="mute"))
    batch = collate(samples)
    image = ImagePatches(image_channels=1, patch=2, position=plane())
    task = task_of(model_of({"sound": adapter, "image": image}))
    hidden = task.objective.hide(task.model, batch)
    assert hidden.real["sound"].sum(dim=1).tolist() == [5, 2, 0, 0], "never the only one, never padding"
    assert hidden.real["image"].sum(dim=1).tolist() == [0, 0, 0, 2]
    losses = task.objective.losses(task.model, batch, hidden)
    assert all(loss.isfinite() for loss in losses.values())
    only = collate(samples[:2])
    task.objective.losses(task.model, only, task.objective.hide(task.model, only))["sound"].backward()
    assert all(parameter.grad is not None for parameter in task.model.parameters()), "absent modalities get zeros"


def test_targets_in_units_of_their_own_token() -> None:
    adapter, x = CASES["raw_patches"]
    task = task_of(model_of({"it": adapter}), normalise_targets=True)
    index = torch.tensor([[0, 4]] * 3)
    values, _ = task.objective.targets(task.model, batch_of(it=x), "it", index)
    patch = x[1, 0, 2:4, 2:4]
    expected = ((patch - patch.mean()) / patch.std(correction=0)).flatten()
    torch.testing.assert_close(values[1, 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_learns_real_digits_and_validates_alike_every_time() -> None:
    images = torch.from_numpy(load_digits().images).float().div(8).sub(1)[:256, None]
    samples = [Sample(inputs={"image": image}, id=str(number)) for number, image in enumerate(images)]
    collate = Collate(modalities={"image": {"kind": "image"}})
    loader: DataLoader[Any] = DataLoader(samples, batch_size=32, collate_fn=collate, shuffle=True)  # type: ignore[arg-type]
    adapter = ImagePatches(image_channels=1, patch=2, embed_channels=16, position=plane())
    model = model_of({"image": adapter}, latents=(16, 64))
    task = task_of(model, masking=RandomMasking(rate=0.4), lr=5e-3)
    trainer = Trainer(
        max_epochs=40, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    fixed: DataLoader[Any] = DataLoader(samples, batch_size=32, collate_fn=collate)  # type: ignore[arg-type]
    before = trainer.validate(task, fixed, verbose=False)[0]["val/loss"]
    trainer.fit(task, loader, fixed)
    [after], [again] = (trainer.validate(task, fixed, verbose=False) for _ in range(2))
    assert after == again
    deviation = float((images - images.mean(dim=0)).square().mean())
    assert after["val/loss"] < 0.95 * deviation < before, "better than the mean image"


def first_half(tokens: Tokens, *, batch: int, generator: torch.Generator | None = None) -> Tensor:
    """A masking without chance: the upper rows of every sample."""
    hidden = torch.zeros(batch, *tokens.grid, dtype=torch.bool)
    hidden[:, : tokens.grid[0] // 2] = True
    return hidden


@pytest.mark.usefixtures("unchecked")  # stand-ins for a trainer and a masking
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_sample_is_validated_once(processes: int) -> None:
    """Seven samples in two or three processes: what the sampler repeats does not count."""
    adapter, _ = CASES["raw_patches"]
    learner = task_of(model_of({"it": adapter}), masking=first_half)
    samples = [Sample(inputs={"it": (number + 1) * torch.randn(1, 4, 6)}, id=str(number)) for number in range(7)]
    collate = Collate(modalities={"it": {"kind": "image"}})
    metrics = learner.objective.metrics(learner.model)
    seen = 0
    for rank in range(processes):
        sampler = DistributedSampler(samples, num_replicas=processes, rank=rank, shuffle=False)  # type: ignore[arg-type, var-annotated]
        loader: DataLoader[Any] = DataLoader(samples, batch_size=2, sampler=sampler, collate_fn=collate)  # type: ignore[arg-type]
        task = SimpleNamespace(trainer=SimpleNamespace(val_dataloaders=loader))
        with torch.no_grad():
            for number, batch in enumerate(loader):
                count = counted(task, "val", number, batch.size)
                seen += count
                learner.objective.evaluate(learner.model, batch, metrics, count=count, number=number)
    assert seen == 7
    single = [collate([sample]) for sample in samples]
    with torch.no_grad():
        expected = [
            float(learner.objective.losses(learner.model, one, learner.objective.hide(learner.model, one))["it"])
            for one in single
        ]
    found = learner.objective.results(metrics)
    assert list(found) == ["loss"]
    assert float(found["loss"]) == pytest.approx(sum(expected) / 7, rel=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_the_training_loss_is_of_all_processes() -> None:
    adapter, x = CASES["raw_patches"]
    task = task_of(model_of({"it": adapter}))
    loss = task.training_step(batch_of(it=x), 0)
    metric = task.training_metrics()["train/loss"]
    assert float(metric.compute()) == pytest.approx(float(loss.detach()))
    assert set(metric._reductions.values()) == {dim_zero_sum}, "sums, of all processes"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_queries": 0}, "task.max_queries: expected at least 1"),
        ({"weights": {"sound": 2.0}}, r"task.weights: expected any of .* \['it'\], got \['sound'\]"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        task_of(model_of({"it": CASES["pixels"][0]}), **arguments)


def test_what_cannot_be_reconstructed() -> None:
    stem = ImageConvStem(image_channels=1, stem_channels=4, position=plane())
    with pytest.raises(ValueError, match="Tokens of a convolutional stem overlap"):
        model_of({"it": stem})
    bare = Points(point_channels=3, position=Fourier(num_bands=2, resolution=[4, 4, 4]))
    with pytest.raises(ValueError, match="have only positions"):
        model_of({"it": bare})


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_weights_metrics_and_leading_samples() -> None:
    """The loss is the weighted sum over modalities; a split lacks the results of modalities that it does not have."""
    adapters = {"a": CASES["raw_patches"][0], "b": CASES["pixels"][0]}
    task = task_of(model_of(adapters), weights={"b": 3.0}, seed=5).eval()
    batch = Batch(inputs={"a": torch.randn(3, 1, 4, 6), "b": torch.randn(3, 2, 5, 4)}, ids=["a", "b", "c"])
    objective, model = task.objective, task.model

    def evaluated(batch: Batch, **more: Any) -> dict[str, float]:
        metrics = objective.metrics(model)
        with torch.no_grad():
            objective.evaluate(model, batch, metrics, **more)
        return {name: float(value) for name, value in objective.results(metrics).items()}

    with torch.no_grad():
        hidden = objective.hide(model, batch, generator=torch.Generator().manual_seed(5 + 2))
        losses = {name: float(loss) for name, loss in objective.losses(model, batch, hidden).items()}
        first = {name: float(loss) for name, loss in objective.losses(model, batch, hidden, count=1).items()}
    for count, expected in ((None, losses), (3, losses), (1, first)):
        found = evaluated(batch, count=count, number=2)
        assert found == pytest.approx(
            {"loss": expected["a"] + 3 * expected["b"], **{f"loss/{n}": expected[n] for n in "ab"}}
        )
    assert evaluated(batch, number=1) != found
    alone = Batch(inputs={"a": batch.inputs["a"]}, ids=batch.ids)
    assert set(evaluated(alone)) == {"loss", "loss/a"}
    assert objective.result_names(objective.metrics(model)) == ["loss", "loss/a", "loss/b"]


def test_validation_does_not_depend_on_the_size_of_batches() -> None:
    """Every hidden value counts alike, though samples lack a modality or are shorter than others of their batch."""
    torch.manual_seed(0)
    sound = WaveformFrames(frame=10, position=line(), **SOUND)
    model = model_of({"sound": sound, "image": CASES["raw_patches"][0]})
    # All but one token of each sample are hidden, and outputs are zero, so that it does not matter which.
    task = task_of(model, weights={"sound": 2.0}, masking=RandomMasking(rate=0.99)).eval()
    for module in model.head.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    samples = [
        Sample(inputs={"sound": torch.full((1, length), float(length)), "image": torch.full((1, 4, 6), 3.0)}, id=str(length))
        for length in (20, 100, 35, 60, 80)
    ]
    for number in (1, 2):
        del samples[number].inputs["image"]
    collate = Collate(modalities={"sound": {"kind": "audio"}, "image": {"kind": "image"}})
    found = []
    for size in (1, 2, 5):
        metrics = task.objective.metrics(task.model)
        with torch.no_grad():
            for number, start in enumerate(range(0, 5, size)):
                task.objective.evaluate(task.model, collate(samples[start : start + size]), metrics, number=number)
        found.append({name: float(value) for name, value in task.objective.results(metrics).items()})
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[0] == pytest.approx(found[2], rel=1e-4)
    assert found[0]["loss"] == pytest.approx(2 * found[0]["loss/sound"] + found[0]["loss/image"])
    assert found[0]["loss/image"] == pytest.approx(9)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_loss_that_is_not_a_number_is_shown() -> None:
    task = task_of(model_of({"a": CASES["raw_patches"][0], "b": CASES["pixels"][0]})).eval()
    task.model.encoder.latents.data.fill_(torch.nan)
    metrics = task.objective.metrics(task.model)
    with torch.no_grad():
        task.objective.evaluate(task.model, batch_of(a=torch.randn(3, 1, 4, 6)), metrics)
    found = task.objective.results(metrics)
    assert list(found) == ["loss", "loss/a"]
    assert bool(found["loss"].isnan())


def test_a_limit_of_queries_and_a_masking_of_each_modality() -> None:
    adapters = {"a": CASES["raw_patches"][0], "b": CASES["pixels"][0]}
    task = task_of(model_of(adapters), masking_of={"b": RandomMasking(rate=0.9)}, max_queries=1)
    batch = Batch(inputs={"a": torch.randn(3, 1, 4, 6), "b": torch.randn(3, 2, 5, 4)}, ids=["a", "b", "c"])
    hidden = task.objective.hide(task.model, batch)
    assert (hidden.index["a"].shape, hidden.index["b"].shape) == ((3, 3), (3, 18))
    few = task.objective.hide(task.model, batch, max_queries=1)
    assert (few.index["a"].shape, few.index["b"].shape) == ((3, 1), (3, 1))
    assert int((~few.tokens["a"].mask).sum()) == 9, "as many are hidden"  # type: ignore[operator]
    decoded: list[Any] = []
    with mock.patch.object(type(task.model), "from_tokens", lambda self, tokens, index: decoded.append(index) or {}):
        task.objective.losses(task.model, batch, few)
    assert decoded[0]["a"].shape == (3, 1)
    with pytest.raises(ValueError, match=r"task\.masking_of: expected any of the reconstructed modalities .* got \['c'\]"):
        task_of(model_of(adapters), masking_of={"c": RandomMasking(rate=0.9)})


def test_tokens_of_few_values_are_normalised_safely() -> None:
    values = torch.tensor([[[5.0, 0.0], [3.0, 5.0], [0.0, 0.0]]])
    valid = torch.tensor([[[True, False], [True, True], [False, False]]])
    torch.testing.assert_close(
        normalised_targets(values, valid), torch.tensor([[[0.0, 0.0], [-1.0, 1.0], [0.0, 0.0]]]), atol=1e-5, rtol=0
    )
    assert normalised_targets(torch.full((1, 1, 2), 7.0), torch.ones(1, 1, 2, dtype=torch.bool)).tolist() == [[[0.0, 0.0]]]
    close = normalised_targets(torch.tensor([[[0.0, 2e-3]]]), torch.ones(1, 1, 2, dtype=torch.bool))
    torch.testing.assert_close(close, torch.tensor([[[-1.0, 1.0]]]) * 1e-3 / (2e-6) ** 0.5)


def test_a_batch_that_is_not_reconstructed() -> None:
    adapters = {"a": CASES["raw_patches"][0], "b": CASES["pixels"][0]}
    model = model_of(adapters)
    model.head.output_channels.pop("b")  # type: ignore[union-attr, operator]
    task = task_of(model)
    batch = Batch(inputs={"b": torch.randn(3, 2, 5, 4)}, ids=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"batch: has the modalities \['b'\], but only \['a'\] are reconstructed"):
        task.objective.hide(task.model, batch)


def test_other_heads_are_refused() -> None:
    model = model_of({"it": CASES["pixels"][0]})
    model.head = nn.Identity()
    with pytest.raises(ValueError, match="whose head is a perceiver.decoders.ReconstructionDecoder, got Identity"):
        task_of(model)
