"""Text generation: the loss against a plain cross-entropy, measures against definitions, and bad targets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from torch import Tensor

from perceiver import CausalDecoder, Encoder, Fourier, LatentMemory, Perceiver
from perceiver.adapters import TextTokens
from perceiver.modalities.texts.tokenizers import ByteTokenizer
from perceiver.objectives import TextGeneration
from perceiver.objectives.metrics.text import TextMetrics, signatures
from perceiver.samples.batch import Batch
from perceiver.samples.grounding import Phrase

VOCABULARY = ByteTokenizer.vocabulary_size


def model(**settings: Any) -> Perceiver:
    text = TextTokens(vocabulary_size=VOCABULARY, embedding_channels=8, position=Fourier(num_bands=2, resolution=(16,)))
    encoder = Encoder(
        token_channels=text.channels, num_latents=3, latent_channels=8, num_layers_per_block=1, num_self_heads=2
    )
    head = CausalDecoder(
        memory=LatentMemory(latent_channels=8),
        vocabulary_size=VOCABULARY,
        num_layers=1,
        num_heads=2,
        max_length=9,
        **settings,
    )
    return Perceiver(adapters={"text": text}, encoder=encoder, head=head).eval()


def objective(**settings: Any) -> TextGeneration:
    return TextGeneration(vocabulary_size=VOCABULARY, tokenizer={"kind": "bytes"}, **settings)


def batch() -> Batch:
    target = torch.tensor([[1, 70, 71, 72, 2], [1, 80, 2, 99, 99], [1, 90, 91, 2, 99]])
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 4 + [False]])
    return Batch(inputs={"text": torch.randint(6, 262, (3, 7))}, target=target, target_mask=mask, ids=["a", "b", "c"])


def losses(one: Perceiver, given: Batch, *, smoothing: float = 0.0) -> list[float]:
    """Cross-entropy of each valid id in float64, a sample at a time, without padding."""
    assert given.target is not None
    assert given.target_mask is not None
    found = []
    for row in range(given.size):
        ids = given.target[row][given.target_mask[row]]
        text = given.inputs["text"]
        assert isinstance(text, Tensor)
        with torch.no_grad():
            logits = one({"text": text[row : row + 1]}, target_ids=ids[None, :-1])[0].numpy().astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for place, number in enumerate(ids[1:].tolist()):
            found.append(-(1 - smoothing) * logs[place, number] - smoothing * logs[place].mean())
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_valid_ids(smoothing: float) -> None:
    one, given = model(), batch()
    task = objective(label_smoothing=smoothing)
    task.check_model(one)
    checked = task.check(one, given)
    metrics = task.training_metrics()
    loss = task.loss(one, checked, metrics)
    assert float(loss.detach()) == pytest.approx(np.mean(losses(one, given, smoothing=smoothing)), rel=1e-5)
    held = task.metrics(one)
    for number in range(2):  # unequal batches count by their ids
        task.evaluate(one, task.check(one, given.rows(slice(number, 3))), held, number=number)
    plain = losses(one, given) + losses(one, given.rows(slice(1, 3)))
    assert float(task.results(held)["loss"]) == pytest.approx(np.mean(plain), rel=1e-5)
    repeated = task.metrics(one)
    task.evaluate(one, checked, repeated, count=2)
    assert float(task.results(repeated)["loss"]) == pytest.approx(np.mean(losses(one, given.rows(slice(0, 2)))), rel=1e-5)


def test_measures_of_generated_texts() -> None:
    names = ("exact_match", "bleu", "chrf", "word_error_rate", "character_error_rate")
    metric = TextMetrics(measure=names)
    predicted, true = ["a dog runs fast", "zwei Hunde", ""], ["a dog runs", "zwei Hunde", "grün"]
    metric.update(predicted[:2], true[:2])
    metric.update(predicted[2:], true[2:])
    found = {name: float(value) for name, value in metric.compute().items()}
    assert metric.count == 3
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predicted, [true]).score, rel=1e-5)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predicted, [true]).score, rel=1e-5)
    assert found["word_error_rate"] == pytest.approx(2 / 6)  # an added word, a missing word
    assert found["character_error_rate"] == pytest.approx(9 / 24)
    assert "case:mixed" in signatures()["bleu"]
    nothing = TextMetrics(measure=["bleu"])
    nothing.update([], [])
    assert np.isnan(float(nothing.compute()["bleu"]))


def test_texts_are_generated_as_the_head_says() -> None:
    one, given = model(generation={"num_beams": 2, "num_return_sequences": 2, "max_length": 5}), batch()
    task = objective(measure=["exact_match"], num_generated=4)
    metrics = task.metrics(one)
    for number in range(3):
        task.evaluate(one, task.check(one, given), metrics, number=number)
    texts = metrics["texts"]
    assert isinstance(texts, TextMetrics)
    assert texts.count == 4
    assert set(task.results(metrics)) == {"loss", "accuracy", "exact_match"}


class Lengths:
    """Judges texts by their length, and counts the phrases of the truth."""

    measures = ("length", "phrases")

    def __call__(self, prediction: str, truth: str, grounding: Sequence[Phrase]) -> dict[str, tuple[float, float]]:
        return {"length": (float(len(prediction)), 1.0), "phrases": (float(truth == "ABC"), float(len(grounding)))}


def phrases(count: int) -> tuple[Phrase, ...]:
    """The first letters of a text, in the first of its bytes."""
    return tuple(Phrase(start=place, end=place + 1, modality="text", box=((0, 2),)) for place in range(count))


def test_judges_get_texts_and_groundings() -> None:
    one, given = model(generation={"max_length": 5}), batch()
    task = objective(judges={"own": Lengths()})
    plain = task.metrics(one)
    task.evaluate(one, task.check(one, given), plain)
    assert set(task.results(plain)) == {"loss", "accuracy", "length", "phrases"} == set(task.result_names(plain))
    assert torch.isnan(task.results(plain)["phrases"])  # nothing is grounded
    given.groundings = [phrases(3), phrases(1), ()]
    given.target[0, 1:4] = torch.tensor([71, 72, 73])  # type: ignore[index]
    metrics = task.metrics(one)
    checked = task.check(one, given)
    task.evaluate(one, checked, metrics, count=2)
    found = task.results(metrics)
    assert float(found["phrases"]) == pytest.approx(3 / 4)
    texts = [ByteTokenizer().decode(row) for row in one.target_outputs(given.inputs, given.masks).ids.tolist()]
    assert float(found["length"]) == pytest.approx((len(texts[0]) + len(texts[1])) / 2)


def test_pointing_is_measured_at_the_true_text() -> None:
    one, given = model(), batch()
    task = objective(measure=["pointing_accuracy", "mass_in_box"])
    metrics = task.metrics(one)
    task.evaluate(one, task.check(one, given), metrics)
    assert set(task.results(metrics)) == {"loss", "accuracy"}  # without groundings there is nothing to measure
    given.groundings = [phrases(3), phrases(1), ()]
    checked = task.check(one, given)
    task.evaluate(one, checked, metrics)
    found = task.results(metrics)
    assert checked.target is not None
    maps = one.attention_of_ids(checked.inputs, ids=checked.target[:, :-1])["text"]
    rows = [maps[0, 0], maps[0, 1], maps[0, 2], maps[1, 0]]  # letters are the ids after the start
    # The grid is that of the bytes, so a cell is a byte.
    assert float(found["mass_in_box"]) == pytest.approx(
        np.mean([float(row[:2].sum() / row.sum()) for row in rows]), rel=1e-4
    )
    assert float(found["pointing_accuracy"]) == pytest.approx(np.mean([float(row.argmax() < 2) for row in rows]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids[:, 0], r"expected ids \(batch, length\)"),
        (lambda ids: ids.float(), "expected ids"),
        (lambda ids: ids + 261, r"target of sample 'a': expected the start id 1"),
        (lambda ids: torch.cat([ids, ids, ids], dim=1), r"target of sample 'a': 15 ids, but the decoder's max_length is 9"),
    ],
)
def test_bad_targets_are_named(change: Any, message: str) -> None:
    given = batch()
    assert given.target is not None
    given.target, given.target_mask = change(given.target), None
    with pytest.raises(ValueError, match=message):
        objective().check(model(), given)


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="expected some of"):
        objective(measure=["rouge"])
    with pytest.raises(ValueError, match=r"task\.judges: expected each measure once"):
        objective(judges={"one": Lengths(), "other": Lengths()})
    with pytest.raises(ValueError, match="num_generated"):
        objective(num_generated=0)
    one = model()
    one.head = torch.nn.Identity()
    with pytest.raises(ValueError, match="model/head=causal"):
        objective().check_model(one)
    with pytest.raises(ValueError, match=r"vocabulary_size = 9"):
        TextGeneration(vocabulary_size=9, tokenizer={}).check_model(model())
    with pytest.raises(ValueError, match=r"CausalDecoder\.generation: expected some of"):
        model(generation={"beams": 3})


def test_alignment_is_measured_at_the_step_that_predicts_a_word() -> None:
    """Attention made by hand: of the three words of the dictionary, two peak on their source word."""
    one = model()
    text = ByteTokenizer()
    source = torch.tensor([text.encode("a big dog")])
    target = torch.tensor([[1, *text.encode("ein gro"), 2]])
    weights = torch.full((1, 8, 9), 0.01)
    weights[0, 0:3, 0] = 0.5  # "ein", ids 0 to 2 after the start, on "a"
    weights[0, 4:6, 3] = 0.3  # "gro", ids 4 to 6, on "big"
    weights[0, 6, 7] = 0.4  # its last id on "dog": less than the mean over its ids
    weights[0, 7, 8] = 0.9  # the end belongs to no word
    one.attention_of_ids = lambda inputs, masks, ids: {"text": weights}  # type: ignore[method-assign, assignment]
    given = Batch(inputs={"text": source}, target=target, ids=["a"])
    for pairs, share in (([["a", "ein"], ["big", "gro"]], 1.0), ([["dog", "gro"], ["a", "ein"]], 0.5)):
        dictionary = {"modality": "text", "pairs": pairs}
        task = objective(measure=["alignment_accuracy"], dictionary=dictionary)
        metrics = task.metrics(one)
        task.evaluate(one, task.check(one, given), metrics)
        assert float(task.results(metrics)["alignment_accuracy"]) == share
        assert set(task.result_names(metrics)) == {"loss", "accuracy", "alignment_accuracy"}
    without = objective(measure=["alignment_accuracy", "bleu"], dictionary={"modality": "text", "pairs": []})
    metrics = without.metrics(one)
    without.evaluate(one, without.check(one, given), metrics, count=0)
    assert "alignment_accuracy" not in without.results(metrics)
    assert without.result_names(metrics) == ["loss", "accuracy", "alignment_accuracy", "bleu"]
    with pytest.raises(ValueError, match=r"task\.measure: alignment_accuracy needs a dictionary"):
        objective(measure=["alignment_accuracy"])
