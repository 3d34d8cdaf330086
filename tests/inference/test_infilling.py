"""Filling in: what goes where, alternatives, imported models, and what is refused."""

from typing import Any

import pytest
import torch
from masked_text_models import byte_model, transformers_pair

import perceiver
from perceiver.masking.text import MASK
from perceiver.modalities.texts.text_bytes import NUM_SPECIAL, encode_bytes


def test_gaps_are_filled_with_what_is_most_probable() -> None:
    model = byte_model()
    filled = perceiver.fill_in(model, "The c[MASK]t s[MASK]t")
    assert filled.places == [5, 9]
    assert filled.ids.tolist()[:5] == encode_bytes("The c").tolist()
    ids = encode_bytes("The c?t s?t")
    ids[[5, 9]] = MASK
    with torch.no_grad():
        logits = model({"text": ids[None]})[0, [5, 9]]
    logits[:, :NUM_SPECIAL] = -torch.inf
    direct = perceiver.fill_in(model, ids)
    assert direct.ids[[5, 9]].tolist() == logits.argmax(dim=-1).tolist()
    assert direct.probabilities == pytest.approx(logits.softmax(dim=-1).amax(dim=-1).tolist(), rel=1e-4)
    assert [len(one) for one in direct.alternatives] == [5, 5]
    assert direct.alternatives[0][0] == (int(direct.ids[5]), direct.probabilities[0])
    assert not model.training


def test_one_by_one_looks_again() -> None:
    """The surest first; then as if it had stood there."""
    model = byte_model()
    text = "a__b_"
    together = perceiver.fill_in(model, text, marker="_")
    single = perceiver.fill_in(model, text, marker="_", one_by_one=True)
    surest = max(range(3), key=lambda gap: together.probabilities[gap])
    place = together.places[surest]
    assert single.ids[place] == together.ids[place]
    ids = encode_bytes(text)
    ids[[one for one in together.places if one != place]] = MASK
    ids[place] = together.ids[place]
    rest = perceiver.fill_in(model, ids, one_by_one=True)
    assert torch.equal(rest.ids, single.ids)


def test_imported_models_and_what_encloses() -> None:
    theirs, ours = transformers_pair()
    ids = torch.tensor([5, 3, 7, 3, 9])
    filled = perceiver.fill_in(ours, ids, special_ids=[0, 1, 2, 3], enclose=([1], [2]))
    whole = torch.tensor([[1, 5, 3, 7, 3, 9, 2]])
    with torch.no_grad():
        logits = theirs(inputs=whole).logits[0, [2, 4]]
    logits[:, :4] = -torch.inf
    assert filled.ids.tolist() == [5, int(logits[0].argmax()), 7, int(logits[1].argmax()), 9]
    assert filled.places == [1, 3]
    assert filled.text == ""


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("no gap", {}, r"expected at least one gap: '\[MASK\]' in a text"),
        ("a_", {"marker": ""}, "fill_in.marker: expected a string that marks a gap"),
        ("a_", {"marker": "_", "modality": "sound"}, r"'sound' is not among \['text'\]"),
        ("a_", {"marker": "_", "mask_id": 900}, "expected mask_id and special_ids below 262, got 900"),
        ("_" * 80, {"marker": "_"}, "the queries have the grid"),
    ],
)
def test_what_is_refused(text: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        perceiver.fill_in(byte_model(), text, **arguments)


@pytest.mark.usefixtures("unchecked")
def test_several_texts_are_refused() -> None:
    _, ours = transformers_pair()
    with pytest.raises(ValueError, match=r"expected the ids \(length,\) of one text"):
        perceiver.fill_in(ours, torch.zeros(2, 3, dtype=torch.int64))


def test_other_models_are_refused() -> None:
    _, ours = transformers_pair()
    with pytest.raises(ValueError, match="expected ids, because the model has a vocabulary of 11, unlike UTF-8 bytes"):
        perceiver.fill_in(ours, "a[MASK]")
    with pytest.raises(ValueError, match="expected a model whose head predicts tokens"):
        perceiver.fill_in(byte_model(head="pooled"), "a[MASK]")
