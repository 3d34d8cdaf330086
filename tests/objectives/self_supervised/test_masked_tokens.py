"""Masked tokens: the loss against one by hand and transformers' own, what is seen, evaluation, and that it learns."""

import math
from functools import partial
from pydoc_data.topics import topics
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
import transformers
from lightning.pytorch import Trainer
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader
from transformers_models import BY_NAME, their_model

from perceiver.adapters import Points, TextTokens
from perceiver.decoders import LearnedQueries, QueryDecoder, TiedLogits
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.encoder import Encoder
from perceiver.encoders.fusion import Fusion
from perceiver.interop.huggingface import from_transformers
from perceiver.masking.text import MASK, ByteWords, TokenMasking
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE, encode_bytes
from perceiver.model import Perceiver
from perceiver.objectives import MaskedTokenModelling
from perceiver.objectives.self_supervised.masked_tokens import cross_entropies, logits_of
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.samples.generators import generators_of
from perceiver.tokens.positions import Fourier
from perceiver.training import Task

COLLATE = Collate(modalities={"text": {"kind": "text"}, "points": {"kind": "points"}})


def model_of(*, size: int = VOCABULARY_SIZE, channels: int = 16, points: bool = False, tied: bool = True) -> Perceiver:
    torch.manual_seed(0)
    text = TextTokens(vocabulary_size=size, embedding_channels=channels, position=Fourier(num_bands=2, resolution=[32]))
    adapters: dict[str, nn.Module] = {"text": text}
    if points:
        adapters["points"] = Points(point_channels=4, position=Fourier(num_bands=2, resolution=[4, 4, 4]))
    fusion = Fusion(channels={name: int(one.channels) for name, one in adapters.items()})  # type: ignore[arg-type]
    encoder = Encoder(
        token_channels=fusion.channels, num_latents=8, latent_channels=16, num_layers_per_block=1, num_self_heads=2
    )
    logits: dict[str, Any] = (
        {"tied_logits": TiedLogits(modality="text", vocabulary_size=size)} if tied else {"output_channels": size}
    )
    head = QueryDecoder(latent_channels=16, queries=LearnedQueries(grid=[64], channels=channels, modality="text"), **logits)
    return Perceiver(adapters=adapters, fusion=fusion, encoder=encoder, head=head)


def task_of(model: Perceiver, lr: float = 3e-3, **settings: Any) -> Any:
    objective = MaskedTokenModelling(**{"masking": TokenMasking(rate=0.3), **settings})
    return Task(model=model, objective=objective, optimizer=partial(torch.optim.AdamW, lr=lr))


def batch_of(*texts: str) -> Batch:
    return COLLATE([Sample(inputs={"text": encode_bytes(text)}, id=text) for text in texts])


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_that_of_chosen_tokens_alone(tied: bool) -> None:
    """In float64, token by token, from all outputs of the model."""
    model = model_of(tied=tied).double().eval()
    task = task_of(model, masking=TokenMasking(rate=0.4, words=ByteWords(), mask_share=0.5))
    batch = batch_of("one two three four", "five", "six seven")
    seen, masked = task.objective.hide(task.model, batch)
    with torch.no_grad():
        everything = model(seen.inputs, seen.masks)
        losses = cross_entropies(logits_of(task.model, seen, masked), masked)
    total, count = 0.0, 0
    for row in range(3):
        for place, real in zip(masked.index[row].tolist(), masked.real[row].tolist(), strict=True):
            if real:
                logits = everything[row, place]
                total += float(torch.logsumexp(logits, 0) - logits[batch.inputs["text"][row, place]])  # type: ignore[index]
                count += 1
    assert count == int(masked.real.sum()) >= 3
    assert float(losses.sum()) == pytest.approx(total, rel=1e-6)


def test_the_same_loss_as_transformers() -> None:
    """Its own loss over the ids that are not -100, with the same weights and the same hidden ids."""
    case = BY_NAME["PerceiverForMaskedLM"]
    theirs = their_model(case).double()
    task = task_of(from_transformers(theirs), masking=TokenMasking(rate=0.4, mask_id=3, special_ids=[0, 1, 2, 3]))
    ids = torch.randint(4, 11, (3, 9))
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 5:] = False
    batch = Batch(inputs={"text": ids}, masks={"text": mask}, ids=["a", "b", "c"])
    seen, masked = task.objective.hide(task.model, batch, generators=generators_of(batch, seed=0))
    labels = torch.full_like(ids, -100)
    for row in range(3):
        labels[row, masked.index[row][masked.real[row]]] = ids[row, masked.index[row][masked.real[row]]]
    with torch.no_grad():
        expected = theirs(inputs=seen.inputs["text"], attention_mask=mask.long(), labels=labels).loss
        found = cross_entropies(logits_of(task.model, seen, masked), masked).sum() / masked.real.sum()
    assert isinstance(theirs, transformers.PerceiverForMaskedLM)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_only_chosen_places_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    forward = QueryDecoder.forward

    def noted(self: QueryDecoder, latents: Tensor, **arguments: Any) -> Tensor:
        asked.append(arguments["index"])
        return forward(self, latents, **arguments)

    monkeypatch.setattr(QueryDecoder, "forward", noted)
    task = task_of(model_of(), masking=TokenMasking(rate=0.15))
    seen, masked = task.objective.hide(task.model, batch_of("twenty letters, here", "ten are le"))
    assert logits_of(task.model, seen, masked).shape == (2, 3, VOCABULARY_SIZE)
    assert asked[0].shape == (2, 3)


def test_what_is_hidden_is_not_seen_in_evaluation() -> None:
    """Other text in the hidden places changes no logits."""
    task = task_of(model_of()).eval()
    batch = batch_of("one two three four", "five six")
    generators = generators_of(batch, seed=1)
    seen, masked = task.objective.hide(task.model, batch, generators=generators)
    other = batch.inputs["text"].clone()  # type: ignore[union-attr]
    other.scatter_(1, masked.index, torch.where(masked.real, 100, other.gather(1, masked.index)))
    again, _ = task.objective.hide(
        task.model, Batch(inputs={"text": other}, masks=batch.masks, ids=batch.ids), generators=generators_of(batch, seed=1)
    )
    assert torch.equal(seen.inputs["text"], again.inputs["text"])  # type: ignore[arg-type]
    assert bool((seen.inputs["text"].gather(1, masked.index) == MASK)[masked.real].all())  # type: ignore[union-attr]


def test_batches_and_samples_without_text() -> None:
    """Every parameter gets a gradient, zeros where nothing was told; other modalities are read."""
    task = task_of(model_of(points=True), masking=TokenMasking(rate=0.3, words=ByteWords()))
    points = {"points": torch.randn(5, 4)}
    both = COLLATE(
        [
            Sample(inputs={**points, "text": encode_bytes("one two")}, id="a"),
            Sample(inputs=points, id="b"),
            Sample(inputs={**points, "text": encode_bytes("   ")}, id="c"),
        ]
    )
    _, masked = task.objective.hide(task.model, both)
    assert masked.real.any(dim=1).tolist() == [True, False, False]
    seen, masked = task.objective.hide(task.model, COLLATE([Sample(inputs=points, id="a"), Sample(inputs=points, id="b")]))
    losses = cross_entropies(logits_of(task.model, seen, masked), masked)
    assert float(losses.sum().detach()) == 0
    losses.sum().backward()
    assert all(parameter.grad is not None for parameter in task.model.parameters())
    assert all(not parameter.grad.any() for parameter in task.model.parameters())  # type: ignore[union-attr]


def loader_of(texts: list[str], size: int, **more: Any) -> DataLoader[Any]:
    samples = [Sample(inputs={"text": encode_bytes(text)}, id=f"{n}") for n, text in enumerate(texts)]
    return DataLoader(samples, batch_size=size, collate_fn=COLLATE, **more)  # type: ignore[arg-type]


def trainer_of(**arguments: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **arguments,
    )  # fmt: skip


def test_evaluation_is_the_same_every_time_and_exact() -> None:
    """In batches of any size, and as counted by hand: a ragged last batch weighs what it has."""
    texts = [topics["if"][start : start + 20 + start % 13] for start in range(0, 200, 20)]
    task = task_of(model_of())
    found = []
    for size in (3, 10):
        torch.rand(size)
        found += trainer_of().validate(task, loader_of(texts, size), verbose=False)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    total, right, count = 0.0, 0, 0
    task.eval()
    for batch in loader_of(texts, 1):
        seen, masked = task.objective.hide(task.model, batch, generators=generators_of(batch, seed=0))
        with torch.no_grad():
            logits = logits_of(task.model, seen, masked)[0]
        total += float(F.cross_entropy(logits, masked.target[0], reduction="sum"))
        right += int((logits.argmax(dim=-1) == masked.target[0]).sum())
        count += len(logits)
    expected = {
        "val/loss": total / count,
        "val/accuracy": right / count,
        "val/bits_per_token": total / count / math.log(2),
    }
    assert found[0] == pytest.approx(expected, rel=1e-4)
    other = trainer_of().validate(task_of(task.model, seed=1), loader_of(texts, 3), verbose=False)
    assert other != found[:1], "another seed hides other tokens"


def test_learns_what_the_rest_of_a_text_tells() -> None:
    """Texts of one letter each: how often letters are in all texts tells nothing, and what is not hidden everything."""
    texts = [letter * 16 for letter in "abcdefghijkl"]
    task = task_of(model_of(), masking=TokenMasking(rate=0.2), lr=1e-2)
    trainer = trainer_of(max_epochs=120, gradient_clip_val=1.0, check_val_every_n_epoch=120, num_sanity_val_steps=0)
    before = trainer.validate(task, loader_of(texts, 12), verbose=False)[0]
    trainer.fit(task, loader_of(texts, 12, shuffle=True), loader_of(texts, 12))
    after = trainer.validate(task, loader_of(texts, 12), verbose=False)[0]
    assert after["val/loss"] < 0.5 * math.log(12) < before["val/loss"]
    assert after["val/accuracy"] > 0.7


def test_other_heads_are_refused() -> None:
    model = model_of()
    pooled = Perceiver(
        adapters=dict(model.adapters.items()), encoder=model.encoder, head=PooledHead(latent_channels=16, num_classes=3)
    )
    with pytest.raises(ValueError, match="expected a model whose head predicts tokens, .* got PooledHead"):
        task_of(pooled)
    few = QueryDecoder(latent_channels=16, queries=LearnedQueries(grid=[64], channels=16), output_channels=5)
    other = Perceiver(adapters=dict(model.adapters.items()), encoder=model.encoder, head=few)
    with pytest.raises(ValueError, match="logits over the 262 ids of 'text'; got QueryDecoder with 5 outputs"):
        task_of(other)
    with pytest.raises(ValueError, match=r"task.modality: expected a text modality .* 'review' is not among \['text'\]"):
        task_of(model, modality="review")
    with pytest.raises(ValueError, match="'points' is that of a Points"):
        task_of(model_of(points=True), modality="points")


def test_vocabularies_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="mask_id 3 and special_ids .* must be ids in the model's vocabulary of 5"):
        task_of(model_of(size=5))
    with pytest.raises(ValueError, match="for the model's vocabulary of 300 ids, got ByteWords with 262 ids"):
        task_of(model_of(size=300), masking=TokenMasking(words=ByteWords()))


def test_the_training_loss_is_the_mean_over_tokens_of_all_processes() -> None:
    """Two processes average gradients, so each divides by half of all tokens."""
    task = task_of(model_of()).eval()
    batch = batch_of("one two three four", "five")

    def loss() -> float:
        torch.manual_seed(3)
        with torch.no_grad():
            return float(task.objective.loss(task.model, batch))

    torch.manual_seed(3)
    seen, masked = task.objective.hide(task.model, batch)
    with torch.no_grad():
        total = float(cross_entropies(logits_of(task.model, seen, masked), masked).sum())
    count = int(masked.real.sum())
    assert loss() == pytest.approx(total / count, rel=1e-6)
    with (
        mock.patch.object(distributed, "is_initialized", return_value=True),
        mock.patch.object(distributed, "get_world_size", return_value=2),
        mock.patch.object(distributed, "all_reduce", side_effect=lambda count: count.add_(5)),
    ):
        assert loss() == pytest.approx(total / ((count + 5) / 2), rel=1e-6)
    nothing = batch_of("   ")
    task.objective.masking = TokenMasking(rate=0.3, words=ByteWords())
    with torch.no_grad():
        assert float(task.objective.loss(task.model, nothing)) == 0


def test_samples_without_ids_are_seeded_by_their_place() -> None:
    def draw(generator: torch.Generator) -> float:
        return float(torch.rand((), generator=generator))

    batch = Batch(inputs={"text": torch.zeros(2, 3, dtype=torch.int64)})
    found = [
        [draw(one) for one in generators_of(batch, seed=seed, number=number)] for seed, number in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({value for row in found for value in row}) == 6
    named = Batch(inputs=batch.inputs, ids=["0/1", "x"])
    assert draw(generators_of(named, seed=0, number=7)[0]) == found[0][1], "an id counts alone"
    task = task_of(model_of())
    with pytest.raises(ValueError, match=r"task\.modality: expected 'text' to be ids \(batch, length\), got \['a'\]"):
        task.objective.hide(task.model, Batch(inputs={"text": {"a": torch.zeros(2, 3)}}))


def test_leading_texts_count() -> None:
    task = task_of(model_of()).eval()
    both, one = batch_of("one two three four", "five six"), batch_of("one two three four")
    found = []
    for batch, count in ((both, 1), (one, None), (both, 2), (both, None)):
        metrics = task.objective.metrics(task.model)
        with torch.no_grad():
            task.objective.evaluate(task.model, batch, metrics, count=count)
        found.append({name: float(value) for name, value in task.objective.results(metrics).items()})
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[2] == pytest.approx(found[3], rel=1e-5)
    assert found[2] != pytest.approx(found[0], rel=1e-4)
