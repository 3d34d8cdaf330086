"""Word dropout: words go as a whole, separators and special ids stay, one word remains."""

import pytest
import torch

from perceiver.data.augmentation.texts import RandomWordDropout
from perceiver.modalities.texts.text_bytes import decode_bytes, encode_bytes

TEXT = "the quick  brown\nfox jumps over the lazy dog"


def texts(transform: RandomWordDropout, count: int = 64, seed: int = 0) -> list[str]:
    ids = encode_bytes(TEXT)
    batch = torch.zeros(count, len(ids) + 3, dtype=torch.int64)
    batch[:, : len(ids)] = ids
    batch[:, len(ids) :] = 99  # padding may hold anything
    mask = torch.arange(batch.shape[1]).expand(count, -1) < len(ids)
    torch.manual_seed(seed)
    found, valid = transform(batch, mask)
    return [decode_bytes(row[own]) for row, own in zip(found, valid, strict=True)]


def test_words_go_as_a_whole() -> None:
    found = texts(RandomWordDropout(rate=[0.5, 0.5]))
    words = TEXT.split()
    for text in found:
        rest = text.split()
        assert len(rest) >= 1
        remaining = iter(words)
        assert all(word in remaining for word in rest), "in order, unchanged"
        assert sum(map(text.count, " \n")) == 9, "separators stay"
    share = sum(len(text.split()) for text in found) / (len(found) * len(words))
    assert 0.4 < share < 0.6
    assert len(set(found)) > 50, "separate draws"


def test_limits() -> None:
    assert set(texts(RandomWordDropout(rate=[0, 0]))) == {TEXT}
    assert {len(text.split()) for text in texts(RandomWordDropout(rate=[1, 1]))} == {1}


def test_ids_of_a_tokenizer() -> None:
    """Special ids stay, absent texts stay absent."""
    batch = torch.tensor([[2, 50, 51, 52, 3], [0, 0, 0, 0, 0]])
    transform = RandomWordDropout(rate=[1, 1], separators=None, kept=[2, 3])
    found, mask = transform(batch, torch.tensor([True, False]))
    assert mask.tolist() == [[True] * 3, [False] * 3]
    assert found[0, 0] == 2
    assert found[0, 2] == 3
    assert found[0, 1] in (50, 51, 52)
    alone, mask = transform(batch[:1, [0, 4]], None)
    assert (alone.tolist(), mask.tolist()) == ([[2, 3]], [[True, True]]), "nothing to drop"


def test_a_rate_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"RandomWordDropout\.rate: expected 0 <= smallest <= .*, got \[0\.5, 2\]"):
        RandomWordDropout(rate=[0.5, 2])
