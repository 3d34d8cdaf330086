"""The data module: spec, stages, loaders, settings, and that Lightning takes it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import RandomSampler
from torchvision.transforms import v2

from perceiver.data import DataModule, Digits, FlowFolder, Source
from perceiver.data.loading.images import LabelledImages, image_spec, image_statistics
from perceiver.data.loading.order import TrainingOrder
from perceiver.samples.batch import Batch


class Stripes(Source):
    """Ten tiny images; counts how often each split is read."""

    def __init__(self, *, colour: int = 0, normalisation: Any = None) -> None:
        super().__init__(specs=image_spec((1, 2, 3), value_range=(0, 9)), class_names=["flat", "steep"])
        self.normalisation = normalisation
        self.colour = colour
        self.read: list[str] = []

    def images(self, name: str, count: int) -> LabelledImages:
        pixels = torch.arange(count * 6).view(count, 1, 2, 3).remainder(10).to(torch.uint8)
        if self.colour:
            pixels = torch.full_like(pixels, self.colour)
        numbers = torch.arange(count)
        return LabelledImages(pixels=pixels, labels=numbers % 2, ids=f"stripes/{name}", numbers=numbers, value_range=(0, 9))

    def statistics(self, training: LabelledImages) -> dict[str, dict[str, Any]]:
        return image_statistics(training, given=self.normalisation)

    def read_training(self) -> tuple[LabelledImages, LabelledImages]:
        self.read.append("training")
        return self.images("train", 7), self.images("validation", 3)

    def read_test(self) -> LabelledImages:
        self.read.append("test")
        return self.images("test", 5)


def made(source: type[Stripes] = Stripes, **settings: Any) -> DataModule:
    return DataModule.of(source, **{"batch_size": 4, **settings})


def stripes(module: DataModule) -> Stripes:
    assert isinstance(module.source, Stripes)
    return module.source


def test_spec_describes_the_training_split_and_is_plain() -> None:
    module = made()
    module.setup("fit")
    scaled = stripes(module).images("train", 7).pixels.double() / 9
    image = module.spec["modalities"]["image"]
    assert {**image, "mean": None, "std": None} == {
        "kind": "image",
        "shape": [1, 2, 3],
        "range": [0, 9],
        "mean": None,
        "std": None,
    }
    assert image["mean"] == pytest.approx([scaled.mean().item()])
    assert image["std"] == pytest.approx([scaled.std(correction=0).item()])
    assert module.spec["target"] == {"kind": "classes", "names": ["flat", "steep"], "counts": [4, 3]}
    assert module.spec["num_classes"] == 2


def test_changing_a_spec_that_was_handed_out_changes_nothing() -> None:
    module = made()
    module.setup("fit")
    module.spec["modalities"]["image"]["mean"] = [9.0]
    assert module.spec["modalities"]["image"]["mean"] != [9.0]


def test_fitting_reads_the_training_images_once_and_leaves_the_test_alone() -> None:
    module = made()
    module.setup("fit")
    module.setup("fit")
    module.setup("validate")
    list(module.train_dataloader())
    list(module.val_dataloader())
    assert stripes(module).read == ["training"]


def test_testing_with_a_stored_spec_reads_the_test_only_and_normalises_by_it() -> None:
    module = made()
    module.setup("fit")
    stored = module.spec
    stored["modalities"]["image"].update(mean=[0.25], std=[0.5])
    later = made()
    later.spec = stored
    later.setup("test")
    assert stripes(later).read == ["test"]
    assert later.spec == stored
    pixels = torch.cat([batch.inputs["image"] for batch in later.test_dataloader()])
    torch.testing.assert_close(pixels, (stripes(module).images("test", 5).pixels / 9 - 0.25) / 0.5)
    assert len(list(later.predict_dataloader())) == 2


def test_spec_set_after_setup_serves_training_too() -> None:
    module = made()
    module.setup("fit")
    stored = module.spec
    stored["modalities"]["image"].update(mean=[0.0], std=[1.0])
    module.spec = stored
    pixels = torch.cat([batch.inputs["image"] for batch in module.train_dataloader()])
    assert pixels.min() >= 0
    assert pixels.max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": {"sound": {}}}, r"spec\.modalities: Stripes has \['image'\], but the stored spec has \['sound'\]"),
        ({"target": {"names": ["a", "b"]}}, r"spec\.target\.names: Stripes has \['flat', 'steep'\]"),
        (
            {"modalities": {"image": {"kind": "image", "shape": [3, 2, 3], "range": [0, 9]}}},
            r"spec\.modalities\.image\.shape: .*\[1, 2, 3\].*\[3, 2, 3\]",
        ),
        (
            {"modalities": {"image": {"kind": "image", "shape": [1, 2, 3], "range": [0, 255]}}},
            r"spec\.modalities\.image\.range",
        ),
    ],
)
def test_spec_of_other_data_is_refused(change: dict[str, object], message: str) -> None:
    module = made()
    module.setup("fit")
    with pytest.raises(ValueError, match=message):
        module.spec = {**module.spec, **change}


def test_spec_before_setup() -> None:
    with pytest.raises(RuntimeError, match=r'call prepare_data\(\) and setup\("fit"\) first'):
        _ = made().spec


def test_images_of_one_colour() -> None:
    with pytest.raises(ValueError, match="are a single colour"):
        made(colour=5).setup("fit")


@pytest.mark.parametrize(("argument", "value"), [("batch_size", 0), ("num_workers", -1)])
def test_errors_name_the_argument(argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.{argument}: expected"):
        made(**{argument: value})


def test_only_training_is_shuffled_and_augmented() -> None:
    def black(image: Tensor) -> Tensor:
        return torch.zeros_like(image)

    module = made(augment=black, batch_size=7)
    module.setup("fit")
    module.setup("test")
    (training,), (validation,) = module.train_dataloader(), module.val_dataloader()
    assert training.inputs["image"].unique().numel() == 1
    assert validation.inputs["image"].unique().numel() > 1
    orders = {tuple(next(iter(module.train_dataloader())).ids) for _ in range(5)}
    assert len(orders) > 1
    assert validation.ids == [f"stripes/validation/{n}" for n in range(3)]


def test_a_given_normalisation_is_taken() -> None:
    module = made(normalisation=([0.25], [0.5]))
    module.setup("fit")
    assert module.spec["modalities"]["image"]["mean"] == [0.25]
    module.setup("test")
    pixels = torch.cat([batch.inputs["image"] for batch in module.test_dataloader()])
    torch.testing.assert_close(pixels, (stripes(module).images("test", 5).pixels / 9 - 0.25) / 0.5)
    for wrong in (([0.5], [0.0]), ([0.5, 0.5], [1.0, 1.0])):
        with pytest.raises(ValueError, match=r"data\.mean, data\.std: expected 1 numbers each"):
            made(normalisation=wrong).setup("fit")


class Lopsided(Stripes):
    """95 images of the first class for every 5 of the second."""

    def read_training(self) -> tuple[LabelledImages, LabelledImages]:
        images = self.images("train", 2000)
        labels = (torch.arange(2000) % 20 == 0).long()
        return LabelledImages(
            pixels=images.pixels, labels=labels, ids=images.ids, numbers=images.numbers, value_range=(0, 9)
        ), images


def test_balanced_sampling_shows_every_class_equally_often() -> None:
    module = made(Lopsided, balanced_sampling=True, batch_size=100)
    module.setup("fit")
    assert module.spec["target"]["counts"] == [1900, 100]
    batches = list(module.train_dataloader())
    target = torch.cat([batch.target for batch in batches])
    assert len(target) == 2000
    assert 0.45 < target.float().mean() < 0.55
    shown = [name for batch in batches for name in batch.ids]
    assert len({name for name, label in zip(shown, target, strict=True) if label == 1}) > 95, "all of the small class"
    first, second = (next(iter(module.train_dataloader())).ids for _ in range(2))
    assert first != second
    assert next(iter(module.val_dataloader())).ids == [f"stripes/train/{n}" for n in range(100)], "evaluation as it is"


def test_balanced_sampling_overfits_one_batch_all_the_same() -> None:
    model = Linear(pixels=6)
    trainer(overfit_batches=1).fit(model, datamodule=made(Lopsided, balanced_sampling=True, batch_size=8))
    assert model.seen[0] == model.seen[1]


def test_workers_draw_differently_and_repeatably() -> None:
    def epoch() -> Tensor:
        torch.manual_seed(5)
        module = DataModule.of(Digits, num_workers=2, augment=v2.RandomErasing(p=1.0), batch_size=400)
        module.setup("fit")
        return torch.cat([batch.inputs["image"] for batch in module.train_dataloader()])

    first = epoch()
    assert torch.equal(first, epoch())
    erased = first == first.flatten(1).amin(1).view(-1, 1, 1, 1)
    assert not torch.equal(erased[:400], erased[400:800])


class Linear(LightningModule):
    """The smallest classifier, to see the data module through Lightning's eyes."""

    def __init__(self, *, pixels: int = 64) -> None:
        super().__init__()
        self.layer = nn.Linear(pixels, 10)
        self.seen: list[list[str]] = []

    def loss(self, batch: Batch) -> Tensor:
        assert isinstance(batch.inputs["image"], Tensor)
        assert batch.target is not None
        return nn.functional.cross_entropy(self.layer(batch.inputs["image"].flatten(1)), batch.target)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        self.seen.append(batch.ids)
        return self.loss(batch)

    def validation_step(self, batch: Batch, index: int) -> None:
        self.log("val/loss", self.loss(batch), batch_size=batch.size)

    def test_step(self, batch: Batch, index: int) -> None:
        self.log("test/loss", self.loss(batch), batch_size=batch.size)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**settings: object) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, max_epochs=2, **quiet, **settings)  # type: ignore[arg-type]


def test_lightning_trains_validates_and_tests() -> None:
    module, run = DataModule.of(Digits, batch_size=256), trainer()
    run.fit(Linear(), datamodule=module)
    assert run.callback_metrics["val/loss"] < 2.3
    assert "test/loss" in run.test(Linear(), datamodule=module, verbose=False)[0]


def test_lightning_overfits_one_batch() -> None:
    model = Linear()
    trainer(overfit_batches=1).fit(model, datamodule=DataModule.of(Digits, batch_size=8))
    assert len(model.seen) == 2
    assert model.seen[0] == model.seen[1]


def test_flat_settings_go_where_they_belong() -> None:
    data = DataModule.of(Digits, batch_size=7, num_labelled=50, test_size=100, split_seed=2)
    assert isinstance(data.source, Digits)
    assert (data.batch_size, data.num_labelled, data.source.test_size, data.source.split_seed) == (7, 50, 100, 2)
    flow = DataModule.of(FlowFolder, root="nowhere", size=(8, 8), augment=False, num_workers=1)
    assert isinstance(flow.source, FlowFolder)
    assert (flow.source.augment, flow.augment, flow.source.num_workers) == (False, {}, 1), "its own, on frames and flow"
    with pytest.raises(TypeError, match="unexpected keyword argument 'size'"):
        DataModule.of(Digits, size=3)


@pytest.mark.parametrize(
    ("settings", "sampler"),
    [
        ({}, TrainingOrder),
        ({"balanced_sampling": True}, TrainingOrder),
        ({"balanced_sampling": True, "trainer": SimpleNamespace(overfit_batches=1)}, RandomSampler),
    ],
)
def test_training_is_shuffled_or_balanced(settings: dict[str, Any], sampler: type) -> None:
    trained_by = settings.pop("trainer", None)
    module = made(**settings)
    module.trainer = trained_by
    batches = module.train_dataloader()
    assert type(batches.sampler) is sampler
    if isinstance(batches.sampler, TrainingOrder):
        assert (batches.sampler.weights is not None) == settings.get("balanced_sampling", False)


def test_steps_per_epoch() -> None:
    module = made(steps_per_epoch=5)
    batches = list(module.train_dataloader())
    assert [batch.size for batch in batches] == [4] * 5
    assert len({name for batch in batches for name in batch.ids}) == 7
    assert len(list(module.val_dataloader())) == 1
    for wrong in ({"steps_per_epoch": 0}, {"steps_per_epoch": 2, "batch_tokens": 9}):
        with pytest.raises(ValueError, match=r"data\.steps_per_epoch: expected 1 or more, or null"):
            made(**wrong)


def test_overfitting_does_not_augment() -> None:
    module = made(augment=torch.zeros_like, batch_size=7)
    module.trainer = SimpleNamespace(overfit_batches=1)
    (batch,) = module.train_dataloader()
    assert batch.inputs["image"].unique().numel() > 1


def test_images_are_corrupted_each_by_itself_in_evaluation() -> None:
    """Whole batches are read at once only where nothing is drawn for each sample."""

    def noisy(image: Tensor) -> Tensor:
        return image + torch.rand_like(image)

    first, second = (made(corruption={"noise": noisy}, batch_size=size).val_dataloader() for size in (1, 3))
    singly, (whole,) = list(first), second
    assert torch.equal(torch.cat([batch.inputs["image"] for batch in singly]), whole.inputs["image"])
    assert whole.target.tolist() == [0, 1, 0]
    (plain,) = made().val_dataloader()
    assert not torch.equal(plain.inputs["image"], whole.inputs["image"])


def test_transforms_that_do_not_fit_are_refused_before_training() -> None:
    """On images that are read in batches."""
    module = made(augment=v2.CenterCrop(1))
    module.setup("fit")
    with pytest.raises(
        ValueError, match=r"data\.augment: CenterCrop.* turned an image of shape \(1, 2, 3\) into \(1, 1, 1\)"
    ):
        module.train_dataloader()
    assert len(made(augment=v2.RandomCrop((2, 3), padding=1)).train_dataloader()) == 2


def test_loader_processes_stay_between_epochs() -> None:
    for number, kept in ((0, False), (1, True)):
        module = made(num_workers=number)
        for batches in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
            assert (batches.num_workers, batches.persistent_workers, batches.timeout) == (number, kept, 3600 * number)
            assert (batches.batch_size or batches.batch_sampler.batch_size, batches.pin_memory) == (
                4,
                torch.cuda.is_available(),
            )  # type: ignore[union-attr]
