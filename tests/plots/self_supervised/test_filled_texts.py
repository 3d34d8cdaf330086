"""Filled-in texts: what was hidden is marked, what stood there stays, right and wrong are told apart."""

import pytest
import torch
from masked_text_models import byte_model
from matplotlib.figure import Figure

from perceiver.masking.text import ByteWords, TokenMasking
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE, encode_bytes
from perceiver.plots import FilledTexts
from perceiver.plots.evaluation import modalities_of
from perceiver.plots.inputs import singles
from perceiver.plots.self_supervised.filled_texts import GAP
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.samples.generators import generators_of

TEXTS = ["The Grüße cost $5 and 漢字.\nA second line", "short one", "and  a third text, longer than the others are"]


def batch() -> Batch:
    return Collate(modalities={"text": {"kind": "text"}})(
        [Sample(inputs={"text": encode_bytes(text)}, id=f"it@{number}") for number, text in enumerate(TEXTS)]
    )


def test_a_figure_and_a_text_of_what_validation_hides() -> None:
    masking = TokenMasking(rate=0.3, words=ByteWords())
    drawn = FilledTexts(masking=masking, num_samples=3, seed=4, width=30)(byte_model(), [batch()])
    assert isinstance(drawn["filled_in"], Figure)
    listing = str(drawn["filled_in_text"])
    assert listing.count("original") >= 3
    own = batch()
    masked = masking(
        own.inputs["text"],  # type: ignore[arg-type]
        own.masks["text"],
        vocabulary_size=VOCABULARY_SIZE,
        generators=generators_of(own, seed=4),
    )
    assert listing.splitlines()[0].startswith("it@0: ")
    texts = FilledTexts(masking=masking, seed=4)
    for row, single in enumerate(singles([own], modalities_of(byte_model()))):
        with torch.no_grad():
            filled = texts.fill(byte_model(), single)
        hidden = {place for place, real in zip(masked.index[row].tolist(), masked.real[row].tolist(), strict=True) if real}
        place = 0
        for piece, character in zip(filled.pieces, TEXTS[row], strict=True):
            size = len(character.encode())
            gone = bool(hidden & set(range(place, place + size)))
            assert piece.original == {"\n": "↵", " ": "␣" if gone else " "}.get(character, character)
            assert (piece.right is not None) == gone
            assert piece.seen == (GAP if gone else piece.original)
            assert gone or piece.filled == piece.original
            place += size


def test_lines_have_a_width() -> None:
    with torch.no_grad():
        [first, *_] = [
            FilledTexts(masking=TokenMasking()).fill(byte_model(), one)
            for one in singles([batch()], modalities_of(byte_model()))
        ]
    lines = first.lines(10)
    assert [piece for line in lines for piece in line] == first.pieces
    assert all(len(line) <= 10 for line in lines)


def test_other_models_have_none() -> None:
    assert FilledTexts(masking=TokenMasking())(byte_model(head="pooled"), [batch()]) == {}
    assert FilledTexts(masking=TokenMasking(), modality="sound")(byte_model(), [batch()]) == {}


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="num_samples <= out_of, got 0 and 240"):
        FilledTexts(masking=TokenMasking(), num_samples=0)
    with pytest.raises(ValueError, match="width: expected at least 20 characters per line"):
        FilledTexts(masking=TokenMasking(), width=3)
