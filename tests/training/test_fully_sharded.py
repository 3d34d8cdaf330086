"""Sharding with FSDP2 in one process: every way in which objectives call a model, and parameters that cannot be sharded."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import interface_models
import pytest
import torch
from generating_models import VOCABULARY
from generating_models import model as captioning
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh

from perceiver import Encoder, Fourier, Fusion, Perceiver
from perceiver.adapters import ImagePixels
from perceiver.decoders import EmbeddingHead, ReconstructionDecoder
from perceiver.masking.random import RandomMasking
from perceiver.objectives import FlowMatching, MaskedAutoencoding, Objective, TextGeneration
from perceiver.samples.batch import Batch
from perceiver.training.fully_sharded import shard, with_parameters

pytestmark = pytest.mark.usefixtures("unchecked")  # a stand-in for a task


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A task with a mesh of one process."""
    file = tmp_path_factory.mktemp("group") / "store"
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield SimpleNamespace(device_mesh={"data_parallel": init_device_mesh("cpu", (1,))})
    distributed.destroy_process_group()


def of_pixels(head_of: Callable[[Fusion, dict[str, nn.Module]], nn.Module]) -> Perceiver:
    torch.manual_seed(0)
    adapters: dict[str, nn.Module] = {
        name: ImagePixels(image_channels=1, position=Fourier(num_bands=1, resolution=(4, 4))) for name in "ab"
    }
    fusion = Fusion(channels={name: int(adapter.channels) for name, adapter in adapters.items()})  # type: ignore[arg-type]
    encoder = Encoder(token_channels=fusion.channels, num_latents=2, latent_channels=8, num_self_heads=2)
    return Perceiver(adapters=adapters, encoder=encoder, head=head_of(fusion, adapters), fusion=fusion)


def reconstructing() -> Perceiver:
    return of_pixels(
        lambda fusion, adapters: ReconstructionDecoder(
            latent_channels=8, token_channels=fusion.channels, adapters=adapters, num_heads=2
        )
    )


def generating() -> Perceiver:
    return interface_models.model(self_condition=True).float()


def writing() -> Perceiver:
    torch.manual_seed(0)
    return captioning("written", dtype=torch.float32)


IMAGES = {"a": torch.rand(3, 1, 4, 4), "b": torch.rand(3, 1, 4, 4)}
TEXTS = torch.cat([torch.ones(2, 1, dtype=torch.int64), torch.randint(3, VOCABULARY, (2, 4))], dim=1)
CASES: dict[str, tuple[Callable[[], Perceiver], Objective, Batch]] = {
    "from_tokens": (
        reconstructing,
        MaskedAutoencoding(masking=RandomMasking(rate=0.5)),
        Batch(inputs=IMAGES, ids=list("xyz")),
    ),
    "velocity": (
        generating,
        FlowMatching(label="label", self_condition_rate=1.0),
        Batch(inputs={"image": torch.randn(3, 1, 6, 8)}, target=torch.arange(3), ids=list("xyz")),
    ),
    "memory": (
        writing,
        TextGeneration(vocabulary_size=VOCABULARY, tokenizer={"kind": "bytes"}, measure=["exact_match"]),
        Batch(
            inputs={"image": torch.rand(2, 1, 4, 5), "text": torch.randint(0, VOCABULARY, (2, 6))},
            target=TEXTS,
            ids=list("xy"),
        ),
    ),
}


def outcome(model: Perceiver, objective: Objective, batch: Batch) -> dict[str, Any]:
    """Losses of two steps, gradients, and results of evaluation."""
    batch = objective.check(model, batch)
    found: dict[str, Any] = {}
    for step in range(2):
        torch.manual_seed(step)
        model.train().zero_grad()
        loss = with_parameters(model, objective.loss, batch)
        loss.backward()
        found[f"loss {step}"] = float(loss.detach())
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        found[name] = getattr(grad, "full_tensor", lambda grad=grad: grad)()
    metrics = objective.metrics(model.eval())
    with torch.no_grad():
        with_parameters(model, objective.evaluate, batch, metrics)
    return found | objective.results(metrics)


@pytest.mark.parametrize("case", CASES)
def test_objectives_compute_the_same_with_a_sharded_model(task: Any, case: str) -> None:
    model_of, objective, batch = CASES[case]
    expected = outcome(model_of(), objective, batch)
    model = model_of()
    shard(task, model)
    torch.testing.assert_close(outcome(model, objective, batch), expected, rtol=1e-4, atol=1e-6)


def test_single_numbers_are_refused(task: Any) -> None:
    model = of_pixels(lambda fusion, adapters: EmbeddingHead(latent_channels=8, embedding_channels=4))
    with pytest.raises(ValueError, match=r"trainer=fsdp2: .* head.log_scale, head.offset are single .* Use trainer=ddp"):
        shard(task, model)
