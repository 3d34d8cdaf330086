"""Contrastive alignment: losses and gradients against open formulas, missing modalities, two processes, bad settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_ranks import outcomes
from torch import Tensor, nn
from torch.nn import functional as F

from perceiver import EmbeddingHead, Encoder, Fourier, Fusion, Perceiver, PooledHead
from perceiver.adapters import ImagePixels
from perceiver.objectives import Contrastive
from perceiver.samples.batch import Batch


def model(*, head: nn.Module | None = None) -> Perceiver:
    torch.manual_seed(0)
    adapters: dict[str, Any] = {
        "a": ImagePixels(image_channels=1, position=Fourier(num_bands=2, resolution=(4, 4))),
        "b": ImagePixels(image_channels=2, position=Fourier(num_bands=2, resolution=(3, 3))),
        "c": ImagePixels(image_channels=1, position=Fourier(num_bands=1, resolution=(2, 2))),
    }
    fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()})
    encoder = Encoder(
        token_channels=fusion.channels, num_latents=3, latent_channels=8, num_layers_per_block=1, num_self_heads=2
    )
    head = EmbeddingHead(latent_channels=8, embedding_channels=5, offset=-1.0) if head is None else head
    return Perceiver(adapters=adapters, encoder=encoder, head=head, fusion=fusion).double()


def batch(size: int = 6) -> Batch:
    """Three modalities in float64, of which the second and third are missing from some samples."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"a": (1, 4, 4), "b": (2, 3, 3), "c": (1, 2, 2)}
    inputs: dict[str, Any] = {
        name: torch.randn(size, *shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }
    masks = {"b": torch.arange(size) % 3 != 1, "c": torch.arange(size) < size - 1}
    return Batch(inputs=inputs, masks=masks, target=torch.arange(size) % 2, ids=[str(number) for number in range(size)])


def expected(loss: str, embeddings: dict[str, Tensor], present: dict[str, Tensor], head: EmbeddingHead) -> Tensor:
    """The mean over samples, pairs and directions, a row at a time."""
    scale, rows = head.log_scale.exp(), []
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        for query, candidate in ((one, other), (other, one)):
            for i in range(len(present["a"])):
                if not (present[query][i] and present[candidate][i]):
                    continue
                logits = {
                    j: scale * (embeddings[query][i] @ embeddings[candidate][j]) + head.offset
                    for j in range(len(present["a"]))
                    if present[candidate][j]
                }
                if loss == "infonce":
                    rows.append(torch.logsumexp(torch.stack(list(logits.values())), dim=0) - logits[i])
                else:
                    rows.append(-sum(torch.log(torch.sigmoid(z if j == i else -z)) for j, z in logits.items()))
    return torch.stack(rows).mean()


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_loss_and_gradients_follow_the_formula(loss: Any) -> None:
    own, given = model(), batch()
    objective = Contrastive(loss=loss)
    found = objective.loss(own, given)
    grads = torch.autograd.grad(found, list(own.parameters()), allow_unused=True)
    present = {"a": torch.ones(6, dtype=torch.bool), **given.masks}
    embeddings = {}
    for name, x in given.inputs.items():
        rows = [own({name: x[i : i + 1]})[0] if present[name][i] else torch.zeros(5).double() for i in range(6)]  # type: ignore[index]
        embeddings[name] = torch.stack(rows)
    assert isinstance(own.head, EmbeddingHead)
    wanted = expected(loss, embeddings, present, own.head)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    others = torch.autograd.grad(wanted, list(own.parameters()), allow_unused=True)
    for grad, other in zip(grads, others, strict=True):
        assert grad is not None, "every parameter needs a gradient"
        torch.testing.assert_close(grad, torch.zeros_like(grad) if other is None else other, rtol=1e-8, atol=1e-10)


def test_pairs_choose_what_is_aligned() -> None:
    own, given = model(), batch()
    alone = Contrastive(pairs=[["a", "c"]]).loss(own, given)
    without = Batch(
        inputs={name: given.inputs[name] for name in ("a", "c")}, masks={"c": given.masks["c"]}, target=None, ids=given.ids
    )
    torch.testing.assert_close(alone, Contrastive().loss(own, without))


def test_pairs_have_weights() -> None:
    own, given = model(), batch()
    weighted = Contrastive(pairs=[["a", "b"], ["a", "c"]], weights=[3.0, 0.5])
    found = weighted.loss(own, given)
    first, second = (Contrastive(pairs=[["a", other]]).loss(own, given) for other in ("b", "c"))
    counts = 2 * int(given.masks["b"].sum()), 2 * int(given.masks["c"].sum())
    expected = (3 * counts[0] * first + 0.5 * counts[1] * second) / (3 * counts[0] + 0.5 * counts[1])
    torch.testing.assert_close(found, expected)
    metrics = weighted.metrics(own)
    with torch.no_grad():
        weighted.evaluate(own, given, metrics)
    torch.testing.assert_close(metrics["loss"].compute().double(), expected.detach(), rtol=1e-5, atol=1e-6)


def test_a_batch_without_a_pair_has_a_loss_of_zero() -> None:
    own = model()
    loss = Contrastive().loss(own, Batch(inputs={"a": torch.randn(3, 1, 4, 4).double()}, ids=["x", "y", "z"]))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(parameter.grad is not None for parameter in own.parameters())


def gradients(rank_file: str) -> None:
    """Loss and gradients of a process with its half of a batch, averaged over processes as data-parallel training does."""
    import os

    from torch import distributed

    distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
    rank = distributed.get_rank()
    own, whole = model(), batch(8)
    half = slice(4 * rank, 4 * rank + 4)
    part = Batch(
        inputs={name: x[half] for name, x in whole.inputs.items() if isinstance(x, Tensor)},
        masks={name: mask[half] for name, mask in whole.masks.items()},
        ids=whole.ids[half],
    )
    loss = Contrastive().loss(own, part)
    loss.backward()
    result = torch.cat([loss.detach()[None], *(parameter.grad.flatten() for parameter in own.parameters())])  # type: ignore[union-attr]
    distributed.all_reduce(result)
    if rank == 0:
        np.save(rank_file, (result / 2).numpy())
    distributed.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    file = tmp_path / "gradients.npy"
    [result] = outcomes([{"processes": 2, "call": ["contrastive_ranks", "main", str(file)]}], tmp_path)
    assert result["code"] == 0, result["errors"]
    own = model()
    loss = Contrastive().loss(own, batch(8))
    loss.backward()
    alone = torch.cat([loss.detach()[None], *(parameter.grad.flatten() for parameter in own.parameters())])  # type: ignore[union-attr]
    np.testing.assert_allclose(np.load(file), alone.numpy(), rtol=1e-9, atol=1e-11)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"task\.loss: expected one of infonce, sigmoid, got 'triplet'"):
        Contrastive(loss="triplet")
    with pytest.raises(ValueError, match=r"task\.pairs: expected pairs of modalities"):
        Contrastive(pairs=[["a"]])
    with pytest.raises(ValueError, match=r"task\.pairs: expected modalities among \['a', 'b', 'c'\], got \['z'\]"):
        Contrastive(pairs=[["a", "z"]]).check_model(model())
    for pairs, weights in ((None, [1.0]), ([["a", "b"]], [1.0, 2.0]), ([["a", "b"]], [-1.0])):
        with pytest.raises(ValueError, match=r"task\.weights: expected a weight of 0 or more for each of task\.pairs"):
            Contrastive(pairs=pairs, weights=weights)
    with pytest.raises(ValueError, match=r"EmbeddingHead, got PooledHead; set model/head=embedding"):
        Contrastive().check_model(model(head=PooledHead(latent_channels=8, num_classes=2)))
    image = ImagePixels(image_channels=1, position=Fourier(num_bands=1, resolution=(4, 4)))
    encoder = Encoder(token_channels=image.channels, num_latents=2, latent_channels=8, num_self_heads=2)
    alone = Perceiver(adapters={"image": image}, encoder=encoder, head=EmbeddingHead(latent_channels=8))
    with pytest.raises(ValueError, match=r"expected two modalities or more to align, got \['image'\]"):
        Contrastive().check_model(alone)


def test_logits_keep_their_precision_under_autocast() -> None:
    head = EmbeddingHead(latent_channels=4, embedding_channels=64, scale=100.0)
    one, other = (F.normalize(torch.randn(50, 64), dim=1) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head.similarities(one, other)
    torch.testing.assert_close(logits, head.similarities(one, other), rtol=0, atol=0)
