"""Next-token prediction: the loss against a plain cross-entropy, ids that count, the masked prefix, and bad targets."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from autoregressive_models import CONTEXT, LATENTS, VOCABULARY, model, reference_logits
from torch import Tensor

from perceiver import Perceiver
from perceiver.objectives import NextTokenPrediction
from perceiver.samples.batch import Batch

LENGTHS = (CONTEXT, 9, 3)
COUNTED = (4, 6, 2)


@pytest.fixture(scope="module")
def one() -> Perceiver:
    return model()


def batch() -> Batch:
    ids = torch.randint(3, VOCABULARY, (3, CONTEXT + 1))
    ids[0, -2], ids[1, 8] = 2, 2  # the ends of texts
    ids[2, -5:] = 99  # padding is arbitrary
    lengths = torch.tensor(LENGTHS)[:, None]
    places = torch.arange(CONTEXT)
    mask = places < lengths
    counted = mask & (places >= lengths - torch.tensor(COUNTED)[:, None])
    return Batch(
        inputs={"text": ids[:, :-1]}, masks={"text": mask}, target=ids[:, 1:], target_mask=counted, ids=["a", "b", "c"]
    )


def losses(one: Perceiver, given: Batch) -> tuple[list[float], list[int]]:
    """Cross-entropy of each counted id, and these ids."""
    found, ids = [], []
    text, target, counted = given.inputs["text"], given.target, given.target_mask
    assert isinstance(text, Tensor)
    assert target is not None
    assert counted is not None
    for row, length in enumerate(LENGTHS[: given.size]):
        logits = reference_logits(one, text[row, :length].tolist())
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for place in counted[row].nonzero()[:, 0].tolist():
            found.append(-logs[place - length, int(target[row, place])])
            ids.append(int(target[row, place]))
    return found, ids


def test_every_counted_id_counts_once(one: Perceiver) -> None:
    given = batch()
    task = NextTokenPrediction(vocabulary_size=VOCABULARY)
    task.check_model(one)
    checked = task.check(one, given)
    wanted, ids = losses(one, given)
    assert len(wanted) == sum(COUNTED)
    metrics = task.training_metrics()
    loss = task.loss(one, checked, metrics)
    assert float(loss.detach()) == pytest.approx(np.mean(wanted), rel=1e-5)
    held = task.metrics(one)
    with torch.no_grad():
        task.evaluate(one, checked, held)
        task.evaluate(one, checked, held, count=0)
    results = task.results(held)
    assert float(results["loss"]) == pytest.approx(np.mean(wanted), rel=1e-5)
    # The bits of the ends of texts count, but an end is no byte.
    bytes_ = sum(number >= 6 for number in ids)
    assert bytes_ < len(ids)
    assert float(results["bits_per_byte"]) == pytest.approx(sum(wanted) / math.log(2) / bytes_, rel=1e-5)
    assert set(results) == set(task.result_names(held))
    assert 0 <= float(results["accuracy"]) <= 1


def test_without_a_mask_all_positions_with_a_latent_count(one: Perceiver) -> None:
    task = NextTokenPrediction(vocabulary_size=VOCABULARY)
    ids = torch.randint(3, VOCABULARY, (2, CONTEXT + 1))
    checked = task.check(one, Batch(inputs={"text": ids[:, :-1]}, target=ids[:, 1:]))
    assert checked.target is not None
    assert checked.target.equal(ids[:, -LATENTS:])
    assert checked.target_mask is not None
    assert checked.target_mask.all()


def test_a_masked_prefix_is_as_good_as_none(one: Perceiver) -> None:
    given = batch().rows(slice(0, 1))
    full, blind = (NextTokenPrediction(vocabulary_size=VOCABULARY, read_prefix=read) for read in (True, False))
    found = []
    for prefix in (given, replace(given, inputs={"text": given.inputs["text"].clone()})):  # type: ignore[union-attr]
        if found:
            prefix.inputs["text"][:, : CONTEXT - LATENTS] = 7  # type: ignore[index]
        row = []
        for task in (full, blind):
            metrics = task.metrics(one)
            with torch.no_grad():
                task.evaluate(one, task.check(one, prefix), metrics)
            row.append(float(task.results(metrics)["loss"]))
        found.append(row)
    assert found[0][0] != pytest.approx(found[1][0], rel=1e-4)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)
    # Training reads all of it.
    losses_ = [float(task.loss(one, task.check(one, given)).detach()) for task in (full, blind)]
    assert losses_[0] == losses_[1]


def test_bad_targets_and_models_are_clear_errors(one: Perceiver) -> None:
    task, given = NextTokenPrediction(vocabulary_size=VOCABULARY), batch()
    with pytest.raises(ValueError, match="set model=perceiver_ar"):
        task.check_model(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="expected vocabulary_size = 9 and modality = text, got 13 and text"):
        NextTokenPrediction(vocabulary_size=9).check_model(one)
    with pytest.raises(ValueError, match=r"batch.target: expected the id after each id of inputs\['text'\].* got none"):
        task.check(one, replace(given, target=None))
    longer = torch.randint(3, VOCABULARY, (1, 25))
    with pytest.raises(ValueError, match="sample 'a': its text has 25 ids, more than the model's context of 20"):
        task.check(one, Batch(inputs={"text": longer}, target=longer, ids=["a"]))
    assert given.target is not None
    wrong = given.target.clone()
    wrong[0, -1] = 13
    with pytest.raises(ValueError, match=r"sample 'a': expected ids from 0 to 12, got \d+ to 13"):
        task.check(one, replace(given, target=wrong))
    with pytest.raises(ValueError, match="sample 'a': 20 ids to predict, but the model predicts the last 6"):
        task.check(one, replace(given, target_mask=given.masks["text"]))
