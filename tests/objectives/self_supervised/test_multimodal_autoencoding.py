"""Multimodal autoencoding: the loss by hand, sampled outputs, a label that no evaluation sees, what is absent."""

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceiver.adapters import Vector, VideoPatches, WaveformFrames
from perceiver.decoders import LearnedQueries, MultimodalDecoder, PositionalQueries
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.encoder import Encoder
from perceiver.encoders.fusion import Fusion
from perceiver.masking.modality_dropout import ModalityDropout
from perceiver.model import Perceiver
from perceiver.objectives import MultimodalAutoencoding
from perceiver.objectives.self_supervised.multimodal_autoencoding import Reconstruction
from perceiver.samples.batch import Batch
from perceiver.targets.predictions import Prediction
from perceiver.tokens.positions import Fourier
from perceiver.training import Task

SPEC = {
    "modalities": {
        "audio": {"kind": "audio", "shape": [1, 22], "sample_rate": 100, "mean": [0.0], "std": [0.5]},
        "video": {"kind": "video", "shape": [2, 3, 4, 6], "mean": [0.1, 0.2], "std": [0.25, 0.75]},
    },
    "target": {"kind": "classes", "names": ["a", "b", "c"]},
    "num_classes": 3,
}


def line() -> Fourier:
    return Fourier(num_bands=2, resolution=[6])


def space() -> Fourier:
    return Fourier(num_bands=1, resolution=[2, 2, 3])


def adapters() -> dict[str, nn.Module]:
    return {
        "audio": WaveformFrames(frame=4, sample_rate=100, duration_seconds=None, position=line()),
        "label": Vector(vector_channels=3),
        "video": VideoPatches(video_channels=2, patch=[2, 2, 2], position=space()),
    }


def model_of(
    *, pixels: bool = False, follow: bool = False, mask_token: bool = False, label_input: bool = True, **settings: Any
) -> Perceiver:
    """Sound of 22 samples in 6 frames, the last one in part; videos of 3 frames in 2 x 2 x 3 patches, the last in part."""
    torch.manual_seed(1)
    own = adapters()
    if not label_input:
        own.pop("label")
    channels = {name: int(adapter.channels) for name, adapter in own.items()}  # type: ignore[arg-type]
    rates = {"label": 1.0, "audio": 0.0} if mask_token else None
    fusion = Fusion(channels=channels, padding=2, mask_rates=rates, std=1.0)
    encoder = Encoder(
        token_channels=fusion.channels, num_latents=5, latent_channels=12, num_layers_per_block=1, num_self_heads=2,
        latent_std=1.0,
    )  # fmt: skip
    audio = {"modality": "audio"} if follow else {"grid": [6]}
    head = MultimodalDecoder(
        latent_channels=12,
        queries={
            "audio": PositionalQueries(position=line(), **audio),  # type: ignore[arg-type]
            "label": LearnedQueries(grid=[1], channels=8, std=1.0),
            "video": PositionalQueries(position=space(), grid=[3, 4, 6] if pixels else [2, 2, 3]),
        },
        output_channels={"label": 3, "video": 2} if pixels else {"label": 3},
        adapters=own,
        target="label",
        **settings,
    )
    return Perceiver(adapters=own, fusion=fusion, encoder=encoder, head=head, spec=SPEC)


def task_of(model: Perceiver | None = None, **settings: Any) -> Any:
    objective = MultimodalAutoencoding(**settings)
    return Task(model=model or model_of(), objective=objective, optimizer=partial(torch.optim.AdamW, lr=1e-2))


def batch_of(size: int = 4, **masks: Tensor) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(
        inputs={
            "audio": torch.randn(size, 1, 22, generator=generator),
            "video": torch.randn(size, 2, 3, 4, 6, generator=generator),
        },
        masks=masks,
        target=torch.tensor([0, 2, 1, 1, 0, 2])[:size],
        ids=[f"clip/{number}" for number in range(size)],
    )


def by_hand(task: Any, batch: Batch, index: dict[str, Tensor]) -> float:
    """The loss of a batch in float64, value by value, for the raw inputs' own layout."""
    outputs = {name: one.double() for name, one in task.objective.outputs(task.model, batch, index=index).items()}
    audio, video = (batch.inputs[name].double() for name in ("audio", "video"))  # type: ignore[union-attr]
    label = -sum(
        float(outputs["label"][row, 0].log_softmax(dim=0)[int(batch.target[row])])
        for row in range(batch.size)  # type: ignore[index]
    )
    sound = pictures = 0.0
    for row in range(batch.size):
        total = 0.0
        for place, number in enumerate(index["audio"][row].tolist()):
            for offset in range(4):
                if 4 * number + offset < 22:
                    sample = audio[row, 0, 4 * number + offset]
                    total += abs(float(outputs["audio"][row, place, offset] - sample))
        sound += total * 6 / index["audio"].shape[1] / 22
        total = 0.0
        for place, number in enumerate(index["video"][row].tolist()):
            first, second, third = number // 6, number // 3 % 2, number % 3
            for channel in range(2):
                for t in range(2):
                    for y in range(2):
                        for x in range(2):
                            if 2 * first + t < 3:
                                pixel = video[row, channel, 2 * first + t, 2 * second + y, 2 * third + x]
                                predicted = outputs["video"][row, place, 8 * channel + 4 * t + 2 * y + x]
                                total += float(predicted - pixel) ** 2
        pictures += total * 12 / index["video"].shape[1] / (2 * 3 * 4 * 6)
    return (0.5 * sound + 0.03 * pictures + 1e-2 * label) / batch.size


def test_the_loss_by_hand_at_sampled_places() -> None:
    weights = {"audio": 0.5, "video": 0.03, "label": 1e-2}
    task = task_of(
        weights=weights, max_queries={"audio": 3, "video": 5}, loss_of={"video": nn.MSELoss(reduction="none")}
    ).eval()
    batch = batch_of()
    index = task.objective.sampled(task.model, batch, generator=torch.Generator().manual_seed(0))
    assert {name: tuple(one.shape) for name, one in index.items()} == {"audio": (4, 3), "video": (4, 5)}
    with torch.no_grad():
        losses, _ = task.objective.losses(task.model, batch, index=index)
        expected = by_hand(task, batch, index)
    got = sum(weights[name] * float(values.mean()) for name, values in losses.values.items())
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pixels", [False, True])
def test_all_places_together_are_the_mean_over_values(pixels: bool) -> None:
    """Outputs are compared in the layout of the raw input, whether they are patches or single pixels."""
    task = task_of(model_of(pixels=pixels)).eval()
    batch = batch_of()
    with torch.no_grad():
        losses, outputs = task.objective.losses(task.model, batch)
    for name, layout in Reconstruction.of(task.model).layouts.items():
        x: Any = batch.inputs[name]
        distance = (layout.raw(x, outputs[name]) - x).abs().flatten(1).mean(dim=1)
        torch.testing.assert_close(losses.values[name], distance)
    assert outputs["video"].shape == ((4, 3, 4, 6, 2) if pixels else (4, 2, 2, 3, 16))


@pytest.mark.parametrize("chunk_size", [1, 5])
def test_chunks_change_nothing(chunk_size: int) -> None:
    batch = batch_of()
    whole, chunked = (task_of(model_of(**one)).eval() for one in ({}, {"chunk_size": chunk_size}))
    with torch.no_grad():
        for name, values in whole.objective.losses(whole.model, batch)[0].values.items():
            torch.testing.assert_close(chunked.objective.losses(chunked.model, batch)[0].values[name], values)


def test_sampled_losses_estimate_the_whole_without_bias() -> None:
    """The mean over all choices of one place is the loss of all, for every sample: ragged, in part, or absent."""
    mask = torch.ones(4, 22, dtype=torch.bool)
    mask[1, 9:] = False
    mask[2] = False
    task = task_of(model_of(follow=True)).eval()
    batch = batch_of(audio=mask)
    batch.inputs["audio"][~mask[:, None]] = torch.nan  # type: ignore[index]
    with torch.no_grad():
        whole = task.objective.losses(task.model, batch)[0]
        at = [torch.full((4, 1), place) for place in range(12)]
        estimates = [task.objective.losses(task.model, batch, index={"audio": one, "video": one})[0] for one in at[:6]]
        video = [task.objective.losses(task.model, batch, index={"video": one})[0].values["video"] for one in at]
    torch.testing.assert_close(torch.stack(video).mean(dim=0), whole.values["video"])
    assert whole.valid["audio"].tolist() == [True, True, False, True]
    for row, places in ((0, range(6)), (1, range(3)), (3, range(6))):
        one = torch.stack([estimates[place].values["audio"][row] for place in places])
        torch.testing.assert_close(one.mean(), whole.values["audio"][row])
    assert whole.values["audio"][2] == 0


def test_places_are_drawn_alike_and_only_where_something_is() -> None:
    mask = torch.ones(3, 22, dtype=torch.bool)
    mask[1, 9:] = False
    task = task_of(max_queries={"audio": 2})
    batch = batch_of(3, audio=mask)
    drawn = torch.stack([task.objective.sampled(task.model, batch)["audio"] for _ in range(400)])
    assert bool((drawn[:, 1] < 3).all())
    for row, valid in ((0, 6), (1, 3)):
        shares = drawn[:, row].flatten().bincount(minlength=valid) / 800
        assert bool(((shares - 1 / valid).abs() < 4 * math.sqrt(1 / valid / 800)).all()), "each as often, within four sigma"
    task = task_of(max_queries={"audio": 6})
    assert task.objective.sampled(task.model, batch) == {}, "no more places than there are"


class Spy(nn.Module):
    """The label's adapter, which remembers what it was shown."""

    channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.inner = Vector(vector_channels=3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        self.seen.append(x if mask is None else x * mask[:, None])
        return self.inner(x, mask)


@pytest.mark.parametrize("mask_token", [False, True])
def test_no_evaluation_shows_the_label(mask_token: bool) -> None:
    model = model_of(mask_token=mask_token)
    spy = Spy()
    model.adapters["label"] = spy
    task = task_of(model, label_mask_rate=0.0)
    batch, other = batch_of(), batch_of()
    other.target = (other.target + 1) % 3  # type: ignore[operator]
    task.eval()
    with torch.no_grad():
        evaluated = [task.objective.losses(task.model, one)[1] for one in (batch, other)]
        predicted = model.target_outputs(batch.inputs)
        shown = model.target_outputs({**batch.inputs, "label": torch.eye(3)[batch.target]})  # type: ignore[index]
    assert all(torch.equal(evaluated[0][name], evaluated[1][name]) for name in evaluated[0])
    torch.testing.assert_close(predicted, evaluated[0]["label"][:, 0])
    torch.testing.assert_close(shown, predicted)
    assert not any(x.any() for x in spy.seen), "nothing, or zeros that the mask token replaces"
    task.train()
    with torch.no_grad():
        trained = [task.objective.losses(task.model, one)[1]["video"] for one in (batch, other)]
    assert not torch.allclose(*trained), "in training the label is an input"
    assert torch.equal(spy.seen[-1], F.one_hot(other.target, 3).float())  # type: ignore[arg-type]
    assert model.fusion.mask_rates == ({"audio": 0.0, "label": 1.0} if mask_token else {})


@pytest.mark.parametrize(("rate", "least", "most"), [(0.0, 600, 600), (0.5, 240, 360), (1.0, 0, 0)])
def test_a_share_of_training_samples_lacks_the_label(rate: float, least: int, most: int) -> None:
    task = task_of(label_mask_rate=rate)
    batch = batch_of(6)
    shown = sum(int(task.objective.shown(task.model, batch)[1]["label"].sum()) for _ in range(100))
    assert least <= shown <= most


def test_a_mask_token_stands_for_an_absent_label() -> None:
    """All of it replaced is one output for every label; none of it, the model without a mask."""
    batch, other = batch_of(), batch_of()
    other.target = (other.target + 1) % 3  # type: ignore[operator]
    model = model_of(mask_token=True)
    for rate, same in ((1.0, True), (0.0, False)):
        task = task_of(model, label_mask_rate=rate).train()
        with torch.no_grad():
            outputs = [task.objective.outputs(task.model, one)["video"] for one in (batch, other)]
        assert torch.equal(*outputs) is same
    with torch.no_grad():
        without = model({**batch.inputs})["video"]
        token = model(**model.eval().without_target(batch.inputs))["video"]
    assert not torch.allclose(without, token), "the token is something to read, unlike what is absent"


def test_what_samples_lack_counts_in_nothing() -> None:
    """The mean over those that have it; a batch of those alone has the same loss."""
    task = task_of().eval()
    there = torch.tensor([True, False, True, False])
    batch = batch_of(video=there)
    batch.inputs["video"][~there] = torch.inf  # type: ignore[index]
    alone = Batch(inputs={name: x[there] for name, x in batch.inputs.items()}, target=batch.target[there])  # type: ignore[index]
    with torch.no_grad():
        losses, _ = task.objective.losses(task.model, batch)
        expected, _ = task.objective.losses(task.model, alone)
    assert losses.valid["video"].tolist() == there.tolist()
    torch.testing.assert_close(losses.values["video"][there], expected.values["video"])
    assert bool((losses.values["video"][~there] == 0).all())


def test_a_batch_without_a_modality() -> None:
    task = task_of(max_queries={"audio": 2, "video": 2})
    batch = batch_of()
    batch.inputs.pop("video")
    loss = task.training_step(batch, 0)
    loss.backward()
    assert [name for name, parameter in task.named_parameters() if parameter.grad is None] == []
    losses, outputs = task.objective.losses(task.model, batch)
    assert set(losses.values) == {"audio", "label"}
    assert outputs["video"].shape == (4, 0, 16)


def test_what_modality_dropout_takes_is_to_be_reconstructed() -> None:
    model = model_of()
    model.modality_dropout = ModalityDropout(rates={"audio": 0.99})
    task = task_of(model).train()
    losses, _ = task.objective.losses(task.model, batch_of())
    assert bool(losses.valid["audio"].all())
    assert bool((losses.values["audio"] > 0).all())


def test_psnr_is_in_the_units_of_the_data() -> None:
    task = task_of().eval()
    batch = batch_of()
    with torch.no_grad():
        outputs = task.objective.outputs(task.model, batch)
    video: Any = batch.inputs["video"]
    predicted = Reconstruction.of(task.model).layouts["video"].raw(video, outputs["video"])
    std = torch.tensor([0.25, 0.75]).reshape(1, 2, 1, 1, 1)
    expected = 10 * (1 / ((predicted - video) * std).square().mean(dim=(1, 2, 3, 4))).log10()
    torch.testing.assert_close(task.objective.psnr(task.model, "video", outputs["video"], batch), expected)
    same = Reconstruction.of(task.model).layouts["video"].content(video).values
    assert task.objective.psnr(task.model, "video", same, batch).tolist() == [100.0] * 4
    wider = task_of(peaks={"video": 2.0, "audio": None})
    torch.testing.assert_close(
        wider.objective.psnr(wider.model, "video", outputs["video"], batch), expected + 20 * math.log10(2)
    )
    assert set(wider.objective.peaks(wider.model)) == {"video"}


def evaluated(task: Any, *batches: tuple[Batch, int]) -> dict[str, float]:
    """The results of a split, of whose batches the first few samples count."""
    metrics = task.objective.metrics(task.eval().model)
    with torch.no_grad():
        for number, (batch, count) in enumerate(batches):
            task.objective.evaluate(task.model, batch, metrics, count=count, number=number)
    return {name: float(value) for name, value in task.objective.results(metrics).items()}


def test_samples_that_are_repeated_to_fill_up_count_once() -> None:
    """As several processes get them: whatever batches samples come in, the metrics are those of all of them."""
    batch = batch_of(4, video=torch.tensor([True, True, True, False]))
    expected = evaluated(task_of(), (batch, 4))
    keys = {"loss", "accuracy", *(f"loss/{name}" for name in ("audio", "label", "video"))}
    assert set(expected) == keys | {"psnr/audio", "psnr/video"}
    repeated = batch_of(6, video=torch.tensor([True, True, True, False, True, True]))
    for name in repeated.inputs:
        repeated.inputs[name][:4] = batch.inputs[name]  # type: ignore[index]
    assert evaluated(task_of(), (repeated, 4)) == pytest.approx(expected, rel=1e-5)
    assert evaluated(task_of(), (batch, 4), (repeated, 0)) == pytest.approx(expected, rel=1e-5)
    assert expected["loss"] == pytest.approx(sum(expected[f"loss/{name}"] for name in ("audio", "label", "video")), rel=1e-5)


def test_predictions_come_from_the_decoded_label() -> None:
    model = model_of().eval()
    raw = [{"audio": torch.randn(22), "video": torch.rand(2, 3, 4, 6)}, {"audio": torch.randn(22)}]
    predicted = model.predict(raw)
    assert all(isinstance(one, Prediction) and one.label in ("a", "b", "c") for one in predicted)
    model.head.target = None  # type: ignore[union-attr, assignment]
    with pytest.raises(ValueError, match="none of which is the spec's target"):
        model.predict(raw[:1])


def test_without_a_label() -> None:
    model = model_of(label_input=False)
    task = task_of(model)
    assert task.objective.shown(task.model, batch_of())[0].keys() == {"audio", "video"}, "decoded, but no input"
    model.head.target = None  # type: ignore[union-attr, assignment]
    with pytest.raises(ValueError, match="got outputs .* Add queries with these names"):
        task_of(model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": {"smell": 1.0}}, r"task.weights: expected any of .*'label', 'video'\], got \['smell'\]"),
        ({"weights": {"video": -1.0}}, "task.weights: expected numbers of at least 0"),
        ({"max_queries": {"video": 0}}, "task.max_queries: expected at least 1"),
        ({"max_queries": {"smell": 3}}, "task.max_queries: expected any of"),
        ({"loss_of": {"label": nn.L1Loss(reduction="none")}}, "task.loss_of: expected any of"),
        ({"loss": nn.L1Loss()}, "Set its reduction to none"),
        ({"label_mask_rate": 1.5}, "task.label_mask_rate: expected a share from 0 to 1, got 1.5"),
        ({"peaks": {"video": -1.0}}, "task.peaks: expected numbers above 0"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        task_of(**settings)


def test_wrong_models() -> None:
    model = model_of()
    model.adapters["label"] = Vector(vector_channels=4)
    with pytest.raises(ValueError, match="the label has 3 classes; expected an adapter with as many channels"):
        task_of(model)
    model = model_of()
    model.head = PooledHead(latent_channels=12, num_classes=3)
    with pytest.raises(ValueError, match="whose head is a perceiver.decoders.MultimodalDecoder, got PooledHead"):
        task_of(model)
    with pytest.raises(ValueError, match=r"MultimodalDecoder.target: expected one of the outputs \['x'\], got 'label'"):
        MultimodalDecoder(
            latent_channels=4, queries={"x": LearnedQueries(grid=[1], channels=2)}, output_channels={"x": 1}, target="label"
        )


def test_wrong_batches() -> None:
    task = task_of()
    batch = batch_of()
    batch.target = torch.tensor([0, 3, 1, 1])
    with pytest.raises(ValueError, match="target of sample 'clip/1': expected a class number from 0 to 2, got 3"):
        task.on_before_batch_transfer(batch, 0)
    batch.target = None
    with pytest.raises(ValueError, match="batch.target: expected one class number per sample, got None"):
        task.on_before_batch_transfer(batch, 0)
    leaking = batch_of()
    leaking.inputs["label"] = torch.eye(3)[leaking.target]  # type: ignore[index]
    with pytest.raises(ValueError, match="has 'label', which the task derives from the targets itself"):
        task.on_before_batch_transfer(leaking, 0)
    longer = batch_of()
    longer.inputs["audio"] = torch.randn(4, 1, 40)
    with pytest.raises(ValueError, match=r"queries for a grid of \(6,\), but the batch has \(10,\) to reconstruct"):
        task.objective.losses(task.model, longer)
    strange = model_of(pixels=True)
    strange.head.output_channels["video"] = 5  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="output 'video': has 5 channels; expected 16, the number of values in a token of"):
        task.objective.losses(strange, batch_of())


def test_the_training_loss_is_the_mean_over_samples_with_each_output() -> None:
    weights = {"audio": 0.5, "video": 0.0}
    task = task_of(weights=weights).eval()
    batch = batch_of(video=torch.tensor([True, False, False, False]), audio=torch.tensor([True, False, True, True]))
    with torch.no_grad():
        losses, _ = task.objective.losses(task.model, batch)
        loss = float(task.objective.loss(task.model, batch))
    means = {name: float(values[losses.valid[name]].mean()) for name, values in losses.values.items()}
    assert loss == pytest.approx(0.5 * means["audio"] + means["label"], rel=1e-5)
    none = batch_of(video=torch.zeros(4, dtype=torch.bool))
    with torch.no_grad():
        assert float(task.objective.losses(task.model, none)[0].values["video"].sum()) == 0
        assert math.isfinite(float(task.objective.loss(task.model, none)))


def test_boundaries_of_settings() -> None:
    task = task_of(weights={"video": 0.0}, label_mask_rate=1.0, max_queries={"video": 1, "audio": 6})
    sampled = task.objective.sampled(task.model, batch_of())
    assert {name: tuple(index.shape) for name, index in sampled.items()} == {"video": (4, 1)}, "6 frames are all"
    for settings in ({"weights": {"video": math.inf}}, {"weights": {"video": math.nan}}, {"label_mask_rate": -0.1}):
        with pytest.raises(ValueError, match=r"task\.(weights|label_mask_rate): expected"):
            task_of(**settings)
    with pytest.raises(ValueError, match=r"task\.peaks: expected numbers above 0, or null"):
        task_of(peaks={"video": 0.0})
    with pytest.raises(ValueError, match=r"task\.peaks: expected any of the outputs \['audio', 'video'\], got \['smell'\]"):
        task_of(peaks={"smell": 1.0})
    assert task_of(peaks={"video": 0.5, "audio": None}).objective.peaks(model_of()) == {"video": 0.5}
    assert task_of().objective.peaks(model_of()) == {"audio": 1.0, "video": 1.0}
    model = model_of()
    model.spec = None
    assert task_of(model).objective.peaks(model) == {}, "kinds are unknown"


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_splits_without_a_modality_have_no_ratio_of_it() -> None:
    batch = batch_of()
    batch.inputs.pop("video")
    found = evaluated(task_of(), (batch, 4))
    assert found["loss/video"] == 0
    assert "psnr/video" not in found
    assert found["loss"] == pytest.approx(found["loss/audio"] + found["loss/label"], rel=1e-5)
    task = task_of()
    metrics = task.objective.metrics(task.model)
    names = ["loss", *(f"loss/{name}" for name in ("audio", "video", "label")), "psnr/audio", "psnr/video", "accuracy"]
    assert sorted(task.objective.result_names(metrics)) == sorted(names)


def test_ratios_of_samples_of_several_lengths() -> None:
    """Over the valid values of each sample, in its units; 0 values are an error of 0."""
    mask = torch.ones(4, 22, dtype=torch.bool)
    mask[1, 9:] = False
    mask[2] = False
    task = task_of(peaks={"audio": 3.0}).eval()
    batch = batch_of(audio=mask)
    x: Any = batch.inputs["audio"]
    output = torch.zeros(4, 6, 4)
    found = task.objective.psnr(task.model, "audio", output, batch)
    for row in (0, 1, 3):
        error = float((x[row, 0][mask[row]] * 0.5).square().mean())
        assert float(found[row]) == pytest.approx(10 * math.log10(9 / error), rel=1e-5)
    assert float(found[2]) == 100.0
    task.model.spec = None
    plain = MultimodalAutoencoding(peaks={"audio": 3.0}).psnr(task.model, "audio", output, batch)
    assert float(plain[0]) == pytest.approx(10 * math.log10(9 / float(x[0].square().mean())), rel=1e-5), "no statistics"


def test_a_mask_token_needs_no_mask() -> None:
    """Its rate hides the label; a mask hides it where there is no token."""
    for mask_token in (True, False):
        inputs, masks = task_of(model_of(mask_token=mask_token)).objective.shown(
            model_of(mask_token=mask_token).train(), batch_of()
        )
        assert "label" in inputs
        assert ("label" in masks) is not mask_token


def test_places_are_those_of_the_whole_grid() -> None:
    task = task_of(model_of(pixels=True), max_queries={"video": 30})
    index = task.objective.sampled(task.model, batch_of())["video"]
    assert index.shape == (4, 30)
    assert 60 < int(index.max()) < 72


def test_outputs_on_another_grid_are_named() -> None:
    task = task_of()
    content = Reconstruction.of(task.model).contents(batch_of())["audio"]
    with pytest.raises(ValueError, match=r"output 'audio': got the grid \(5,\), expected \(6,\), the grid of the input"):
        task.objective._sample_losses("audio", torch.zeros(4, 5, 4), content, None)
