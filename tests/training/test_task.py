"""The one LightningModule: what it logs, its checkpoints, random streams of processes, losses that are not finite."""

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from perceiver import Encoder, Fourier, Perceiver, PooledHead
from perceiver.adapters import TimeSeries
from perceiver.objectives import Objective, classification, regression
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.training import Task


class LinearModel(nn.Module):
    """Outputs from the mean of points."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.map = nn.Linear(3, outputs)
        self.seen: list[Tensor] = []

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        self.seen.append(inputs["points"])
        outputs: Tensor = self.map(inputs["points"].mean(dim=1))
        return outputs


def task(model: nn.Module | None = None, objective: Objective | None = None, lr: float = 0.5, **settings: Any) -> Task:
    objective = objective or classification(num_classes=3)
    return Task(model=model or LinearModel(), objective=objective, optimizer=partial(torch.optim.SGD, lr=lr), **settings)


def loader(items: Any) -> DataLoader[Any]:
    return DataLoader(items, batch_size=8, collate_fn=Collate(modalities={"points": {"kind": "points"}}))


QUIET: dict[str, Any] = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


class Drawn(Dataset[Sample]):
    """Points drawn at random whenever asked, as augmentation draws."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        return Sample(inputs={"points": torch.rand(4, 3)}, target=index % 3, id=f"sample/{index}")


@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*")
def test_processes_with_one_seed_draw_differently() -> None:
    def seen(rank: int) -> Tensor:
        torch.manual_seed(11)
        model = LinearModel()
        strategy = SingleDeviceStrategy(device=torch.device("cpu"), accelerator=CPUAccelerator())
        strategy.global_rank = rank  # this process says it is another one
        Trainer(max_epochs=1, strategy=strategy, **QUIET).fit(task(model), loader(Drawn()))
        return torch.cat(model.seen)

    assert torch.equal(seen(0), seen(0))
    assert torch.equal(seen(1), seen(1)), "repeatable"
    drawn = [seen(rank) for rank in range(3)]
    assert not any(torch.equal(drawn[a], drawn[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    first = task()
    state = torch.get_rng_state()
    first.on_fit_start()
    assert torch.equal(torch.get_rng_state(), state), "the first process goes on as it was seeded"


@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*")
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_stops_training(value: str) -> None:
    learner = task(lr=0.125)
    with torch.no_grad():
        next(learner.parameters()).fill_(float(value))
    with pytest.raises(FloatingPointError, match=r"nan in epoch 1, step 1, .* 0\.125 \(samples sample/.*optimizer\.lr"):
        Trainer(max_epochs=1, accelerator="cpu", **QUIET).fit(learner, loader(Drawn()))


def test_checkpoints_carry_what_rebuilds_the_model() -> None:
    checkpoint: dict[str, Any] = {}
    task(checkpoint={"format": 1, "config": {}}).on_save_checkpoint(checkpoint)
    assert checkpoint == {"perceiver": {"format": 1, "config": {}}}
    learner = task(objective=classification(num_classes=3, class_weights=[1.0, 2.0, 3.0]))
    assert all(name.startswith("model.") for name in learner.state_dict()), "metrics and constants are no weights"
    assert not learner.hparams


class Constant(Objective):
    """Every batch has the loss 2 times a parameter; every second result exists."""

    def loss(self, model: nn.Module, batch: Batch, metrics: Any = None) -> Tensor:
        parameter: Tensor = next(model.parameters())
        return 0 * parameter.sum() + 2

    def metrics(self, model: nn.Module) -> dict[str, Any]:
        return {}

    def evaluate(self, model: nn.Module, batch: Batch, metrics: Any, *, count: int | None = None, number: int = 0) -> None:
        pass

    def results(self, metrics: Any) -> dict[str, Tensor]:
        return {"loss": torch.tensor(1.0), "of/it": torch.tensor(3.0)}


def test_an_objective_of_your_own_needs_no_more() -> None:
    runner = Trainer(max_epochs=1, accelerator="cpu", **QUIET)
    learner = task(objective=Constant())
    runner.fit(learner, loader(Drawn()), loader(Drawn()))
    logged = {name: float(value) for name, value in runner.callback_metrics.items()}
    assert logged == {"train/loss": 2.0, "train/learning_rate": 0.5, "val/loss": 1.0, "val/of/it": 3.0}
    assert learner.confusion("val") is None


def test_every_epoch_counts_anew() -> None:
    """Also the training metrics, and the pass over two batches before the first epoch."""
    learner = task(lr=0.0)
    runner = Trainer(max_epochs=2, accelerator="cpu", num_sanity_val_steps=2, **QUIET)
    data = loader([Drawn()[number] for number in range(12)])
    runner.fit(learner, data, data)
    confusion = learner.confusion("val")
    assert confusion is not None
    assert int(confusion.sum()) == 12
    accuracy = float(confusion.diagonal().sum() / 12)
    assert float(runner.callback_metrics["train/accuracy"]) == pytest.approx(accuracy)
    assert float(runner.callback_metrics["val/accuracy"]) == pytest.approx(accuracy)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_targets_keep_their_digits(precision: Any) -> None:
    """1000 to 1002 are one number in bfloat16; all else is measured in it alike."""
    items = [
        Sample(inputs={"points": torch.full((1, 3), 0.5)}, target=torch.tensor([1000.0 + number % 3]), id=f"{number}")
        for number in range(1200)
    ]
    learner = task(LinearModel(outputs=1), regression(mean=[1001.0], std=[1.0]), lr=0.0)
    nn.init.zeros_(learner.model.map.weight)  # type: ignore[union-attr, arg-type]
    nn.init.zeros_(learner.model.map.bias)  # type: ignore[union-attr, arg-type]
    runner = Trainer(max_epochs=1, accelerator="cpu", precision=precision, **QUIET)
    runner.fit(learner, loader(items), loader(items))
    logged = {name: float(value) for name, value in runner.callback_metrics.items()}
    assert logged["val/mae"] == pytest.approx(2 / 3, rel=1e-5)
    assert logged["val/loss"] == logged["train/loss"] == pytest.approx(2 / 3, rel=1e-5)
    assert logged["val/r2"] == pytest.approx(0.0, abs=1e-5)
    assert learner.model.seen[-1].dtype == {"bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]  # type: ignore[union-attr, index]


def test_times_keep_their_digits() -> None:
    """Steps a second apart, in seconds since 1970: in bfloat16, or in float32, they are all the same time."""
    adapter = TimeSeries(num_values=1, duration_seconds=4.0, position=Fourier(num_bands=2, resolution=[4]))
    encoder = Encoder(token_channels=adapter.channels, num_latents=4, latent_channels=16, num_self_heads=2)
    head = PooledHead(latent_channels=16, num_classes=2)
    model = Perceiver(adapters={"series": adapter}, encoder=encoder, head=head)
    times = 1.7e9 + torch.arange(4, dtype=torch.float64)
    items = [
        Sample(inputs={"series": {"values": torch.randn(4, 1), "times": times}}, target=number % 2, id=f"{number}")
        for number in range(8)
    ]
    collate = Collate(modalities={"series": {"kind": "timeseries"}})
    data: DataLoader[Any] = DataLoader(items, batch_size=8, collate_fn=collate)  # type: ignore[arg-type]
    runner = Trainer(max_epochs=1, accelerator="cpu", precision="bf16-true", **QUIET)
    runner.fit(task(model, classification(num_classes=2)), data, data)
    assert bool(runner.callback_metrics["val/loss"].isfinite())
