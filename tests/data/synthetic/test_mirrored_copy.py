"""Mirrored copies: the second half is the mirror image of the first, and each of its bytes counts once."""

import pytest
import torch

from perceiver.data import DataModule, MirroredCopy


def test_every_byte_of_the_second_half_counts_once_and_is_in_the_first() -> None:
    source = MirroredCopy(length=40, predicted=6, training_windows=8, validation_sequences=2, test_sequences=3)
    data = DataModule(source, batch_size=4)
    data.setup()
    for name, sequences in (("val", 2), ("test", 3)):
        split = data.split(name)
        for number in range(sequences):
            counted: list[int] = []
            first: list[int] = []
            for window in range(4):
                sample = split[4 * number + window]
                ids, target, mask = sample.inputs["text"], sample.target, sample.target_mask
                assert isinstance(ids, torch.Tensor)
                assert isinstance(target, torch.Tensor)
                assert mask is not None
                assert ids[1:].equal(target[:-1])
                assert int(mask.sum()) == (6 if window < 3 else 2)
                first = ids[:20].tolist()
                counted += target[mask].tolist()
            assert counted == first[::-1]
    other = DataModule(MirroredCopy(length=40, predicted=6, test_sequences=3))
    assert other.split("test")[0].inputs["text"].equal(data.split("test")[0].inputs["text"])  # type: ignore[union-attr]
    assert not data.split("test")[0].inputs["text"].equal(data.split("val")[0].inputs["text"])  # type: ignore[union-attr]
    training = [data.split("train")[0] for _ in range(2)]
    assert training[0].inputs["text"].tolist() != training[1].inputs["text"].tolist()  # type: ignore[union-attr]
    for sample in training:
        assert isinstance(sample.target, torch.Tensor)
        assert sample.target_mask is not None
        shown = torch.cat([sample.inputs["text"], sample.target[-1:]])  # type: ignore[list-item]
        assert shown[20:].equal(shown[:20].flip(0)[: len(shown) - 20])
        assert int(sample.target_mask.sum()) == 6


def test_bad_sizes_are_clear_errors() -> None:
    for sizes in ({"length": 41}, {"predicted": 21}):
        with pytest.raises(ValueError, match="expected an even length and at most half of it to predict"):
            MirroredCopy(**{"length": 40, "predicted": 6, **sizes})
    with pytest.raises(ValueError, match="expected at least 1 each"):
        MirroredCopy(length=40, predicted=6, test_sequences=0)
