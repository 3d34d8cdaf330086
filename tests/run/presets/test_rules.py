"""Rules of the presets: from facts to settings, without training."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceiver.run.presets.facts import Facts, ModalityFacts, facts_of
from perceiver.run.presets.rules import LEVELS, SIZES, Adapter, batch_size, chosen, num_steps, size_of
from perceiver.samples.batch import Sample

IMAGE = ModalityFacts(kind="image", shape=(1, 28, 28))
SOUND = ModalityFacts(kind="audio", shape=(1, 18_262), seconds=2.28, sample_rate=8000)
SERIES = ModalityFacts(kind="timeseries", shape=(128, 1))


def facts(samples: int = 1000, *, target: str = "classes", validation: int = 100, **modalities: ModalityFacts) -> Facts:
    return Facts(
        samples=samples, validation=validation, target=target, outputs=10, modalities=modalities or {"image": IMAGE}
    )


def values(found: Facts, level: str = "good") -> dict[str, object]:
    settings = chosen(found, level)
    keys = [one.key for one in settings]
    assert len(keys) == len(set(keys))
    assert all(one.why for one in settings)
    return {one.key: one.value for one in settings}


@given(st.integers(2, 3_000_000), st.sampled_from(LEVELS))
def test_small_sets_train_for_thousands_of_steps(samples: int, level: str) -> None:
    found = values(facts(samples), level)
    per_epoch = found.get("data.steps_per_epoch") or -(-samples // batch_size(facts(samples)))
    assert isinstance(per_epoch, int)
    epochs = found["trainer.max_epochs"]
    assert isinstance(epochs, int)
    steps = epochs * per_epoch
    assert num_steps(facts(samples), level) <= steps < num_steps(facts(samples), level) + per_epoch
    assert steps >= 1200 * {"fast": 1 / 3, "good": 1, "best": 3}[level]
    assert per_epoch >= 50


def test_steps_sizes_and_rates_by_samples() -> None:
    sizes = [20, 300, 1_000, 9_999, 10_000, 100_000, 2_000_000]
    assert [num_steps(facts(samples), "good") for samples in sizes[:4]] == [1200, 1200, 1942, 4879]
    assert [SIZES.index(size_of(facts(samples), "good")) for samples in sizes] == [0, 0, 1, 1, 2, 3, 3]
    assert [SIZES.index(size_of(facts(samples), "fast")) for samples in sizes] == [0, 0, 0, 0, 1, 2, 2]
    assert [SIZES.index(size_of(facts(samples), "best")) for samples in sizes] == [1, 1, 2, 2, 3, 3, 3]
    rates = [values(facts(samples))["optimizer.lr"] for samples in sizes]
    assert rates == sorted(rates, reverse=True)  # type: ignore[type-var]
    assert [batch_size(facts(samples)) for samples in (100, 10_000, 100_000)] == [32, 64, 128]


def test_levels_order_steps_and_parameters() -> None:
    for samples in (100, 5_000, 200_000):
        for less, more in itertools.pairwise(LEVELS):
            assert num_steps(facts(samples), less) < num_steps(facts(samples), more)
            assert SIZES.index(size_of(facts(samples), less)) <= SIZES.index(size_of(facts(samples), more))


def test_adapters_by_kind() -> None:
    found = values(facts(image=IMAGE, sound=SOUND, series=SERIES, note=ModalityFacts(kind="text", shape=(80,))))
    adapter = {name.removeprefix("model.adapters."): one for name, one in found.items() if isinstance(one, Adapter)}
    assert {name: one.option for name, one in adapter.items()} == {
        "image": "image_stages",
        "sound": "audio_stages",
        "series": "timeseries_conv",
    }
    assert adapter["image"].values["strides"] == [2, 2, 1]
    assert adapter["image"].values["position.resolution"] == [7, 7]
    assert adapter["sound"].values["duration_seconds"] == 2.5
    assert adapter["sound"].values["num_mels"] == 40


@pytest.mark.parametrize(("side", "grid"), [(16, 4), (28, 7), (32, 8), (64, 8), (224, 7)])
def test_images_of_any_size_become_about_fifty_tokens(side: int, grid: int) -> None:
    adapter = values(facts(image=ModalityFacts(kind="image", shape=(3, side, side))))["model.adapters.image"]
    assert isinstance(adapter, Adapter)
    assert adapter.values["position.resolution"] == [grid, grid]
    assert len(adapter.values["strides"]) == len(adapter.values["stage_channels"])


def test_small_inputs_and_chosen_adapters_keep_theirs() -> None:
    small = {
        "image": ModalityFacts(kind="image", shape=(1, 8, 8)),
        "series": ModalityFacts(kind="timeseries", shape=(10, 3)),
        "photo": ModalityFacts(kind="image", shape=(3, 224, 224), free=False),
    }
    found = values(facts(**small))
    assert not any(isinstance(one, Adapter) for one in found.values())
    transforms = found["data.augment"]
    assert isinstance(transforms, dict)
    assert list(transforms["series"]) == ["jitter"]


def test_augmentation_and_choice_of_epoch_by_target() -> None:
    assert "data.augment" in values(facts())
    assert "data.augment" not in values(facts(target="values"))
    assert "data.augment" not in values(facts(note=ModalityFacts(kind="text", shape=(80,))))
    pretrained = ModalityFacts(kind="image", shape=(3, 224, 224), free=False, pretrained=True)
    assert values(facts(photo=pretrained, series=SERIES))["data.augment"].keys() == {"series"}  # type: ignore[attr-defined]
    assert values(facts())["monitor"] == {"name": "val/loss", "mode": "min"}
    assert "monitor" not in values(facts(validation=300))
    assert "monitor" not in values(facts(target="labels"))


def test_an_unknown_preset() -> None:
    with pytest.raises(ValueError, match=r"preset: expected fast, good, best or null, got 'great'"):
        chosen(facts(), "great")


def test_facts_are_measured_on_samples() -> None:
    samples = [
        Sample(inputs={"sound": torch.zeros(1, 100 * length), "series": {"values": torch.zeros(length, 2)}}, id="")
        for length in (3, 9, 5)
    ]
    spec = {
        "modalities": {"sound": {"kind": "audio", "sample_rate": 1000}, "series": {"kind": "timeseries"}},
        "target": {"kind": "labels", "names": ["a", "b"]},
    }
    state = torch.random.get_rng_state()
    found = facts_of(samples, samples[:1], spec, chosen=["series"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (found.samples, found.validation, found.target, found.outputs) == (3, 1, "labels", 2)
    assert found.modalities["sound"] == ModalityFacts(kind="audio", shape=(1, 900), seconds=0.9, sample_rate=1000)
    assert found.modalities["series"] == ModalityFacts(kind="timeseries", shape=(9, 2), free=False)
    with pytest.raises(ValueError, match=r"preset: expected null, .* this target is of kind text"):
        facts_of(samples, samples, {**spec, "target": {"kind": "text"}})


def test_steps_count_batches_as_chosen() -> None:
    chosen_batch = Facts(**{**vars(facts(3000)), "settings": {"data.batch_size": 256}})
    found = values(chosen_batch)
    assert found["trainer.max_epochs"] * found["data.steps_per_epoch"] == 3050  # type: ignore[operator]
    accumulated = values(Facts(**{**vars(chosen_batch), "accumulated": 4}))
    assert accumulated["data.steps_per_epoch"] == 200
    assert accumulated["trainer.max_epochs"] == found["trainer.max_epochs"]
    whole_passes = values(
        Facts(**{**vars(chosen_batch), "settings": {"data.batch_size": 256, "data.steps_per_epoch": None}})
    )
    assert whole_passes["trainer.max_epochs"] == -(-3014 // 12)


@pytest.mark.parametrize(("channels", "rate"), [(16, 2e-3), (64, 2e-3), (96, 2e-3), (128, 1.5e-3), (512, 1e-3)])
def test_rates_by_any_channels(channels: int, rate: float) -> None:
    found = Facts(**{**vars(facts()), "settings": {"model.encoder.latent_channels": channels}})
    assert values(found)["optimizer.lr"] == rate
