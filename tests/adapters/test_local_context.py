"""Local context: an n-gram has the same row wherever it is, nothing depends on later ids, ids that follow others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceiver import Fourier
from perceiver.adapters import LocalContext, TextTokens


def local(**settings: object) -> LocalContext:
    torch.manual_seed(0)
    return LocalContext(**{"channels": 5, "ngrams": [2, 4], "num_buckets": 997, "width": 3, **settings}).double()  # type: ignore[arg-type]


def test_the_result_is_the_sum_of_ngrams_and_a_convolution() -> None:
    """By the definition, an id at a time; rows are compared by whether they are the same for the same n-gram."""
    one = local()
    ids = torch.randint(1, 4, (2, 30))
    embedded = torch.rand(2, 30, 5, dtype=torch.float64)
    rows = one._buckets(ids)
    seen: dict[tuple[int, ...], set[int]] = {}
    for row in range(2):
        padded = [0] * 3 + ids[row].tolist()
        for place in range(30):
            for column, size in enumerate((2, 4)):
                gram = tuple(padded[place + 4 - size : place + 4])
                seen.setdefault(gram, set()).add(int(rows[row, place, column]))
    assert all(len(found) == 1 for found in seen.values())
    assert len(set().union(*seen.values())) > 0.9 * len(seen)  # few collisions
    assert all(0 <= row < 997 if len(gram) == 2 else 997 <= row < 2 * 997 for gram, (row,) in seen.items())
    with torch.no_grad():
        found = one(embedded, ids)
        assert one.table is not None
        x = embedded + one.table.weight[rows].sum(dim=2)
        normed = torch.nn.functional.pad(torch.nn.functional.layer_norm(x, (5,)), (0, 0, 2, 0))
        mixed = sum(normed[:, k : k + 30] @ one.convolution.weight[:, :, k].T for k in range(3)) + one.convolution.bias
        wanted = x + one.output(torch.nn.functional.gelu(mixed))
    torch.testing.assert_close(found, wanted)


@given(place=st.integers(0, 19))
def test_an_id_changes_the_tokens_within_reach_after_it_alone(place: int) -> None:
    one = local()
    assert one.reach == 5
    ids = torch.arange(20)[None]
    embedded = torch.rand(1, 20, 5, dtype=torch.float64)
    changed, other = ids.clone(), embedded.clone()
    changed[0, place], other[0, place] = 77, 0.5
    with torch.no_grad():
        differs = (one(embedded, ids) - one(other, changed)).abs().amax(dim=-1)[0] > 1e-12
    assert differs.nonzero()[:, 0].tolist() == list(range(place, min(20, place + 6)))


def test_preceding_ngrams_are_those_of_the_id_before() -> None:
    one, plain = local(preceding=True), local()
    ids, embedded = torch.randint(1, 9, (2, 12)), torch.rand(2, 12, 5, dtype=torch.float64)
    assert one.table is not None
    with torch.no_grad():
        found, ngrams = one(embedded, ids), embedded + one.table(one._buckets(ids)).sum(dim=2)
        torch.testing.assert_close(found[..., :5], plain(embedded, ids))
    torch.testing.assert_close(found[:, 1:, 5:], ngrams[:, :-1])
    assert not found[:, 0, 5:].any()
    assert one.output_channels == 10
    assert local(ngrams=[], width=1, preceding=True).reach == 1


def adapter(**settings: object) -> TextTokens:
    torch.manual_seed(0)
    position = Fourier(num_bands=3, resolution=(16,))
    return TextTokens(
        vocabulary_size=40, embedding_channels=5, position=position, reference_length=16, local=local(**settings)
    ).double()


@settings(max_examples=20)
@given(length=st.integers(2, 30), width=st.integers(1, 4), preceding=st.booleans(), data=st.data())
def test_ids_that_follow_others_have_the_tokens_of_the_whole_text(
    length: int, width: int, preceding: bool, data: st.DataObject
) -> None:
    text = adapter(width=width, preceding=preceding)
    cut = data.draw(st.integers(1, length - 1))
    ids = torch.randint(40, (1, length))
    whole: Tensor = text(ids).dense()
    before = torch.nn.functional.pad(ids[:, :cut], (text.reach, 0), value=9)[:, -text.reach :]
    valid = torch.arange(text.reach, 0, -1)[None] <= cut
    after = text.following(ids[:, cut:], earlier=before, earlier_mask=valid, start=torch.tensor([cut]))
    torch.testing.assert_close(after.dense(), whole[:, cut:])


@pytest.mark.parametrize("preceding", [False, True])
def test_masked_ids_count_as_absent(preceding: bool) -> None:
    text = adapter(preceding=preceding)
    ids = torch.randint(1, 40, (1, 12))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, :4] = False
    other = torch.where(mask, ids, 33)
    torch.testing.assert_close(text(ids, mask).dense(), text(other, mask).dense())
    content = text(ids, mask).parts[0][:, 4:]
    torch.testing.assert_close(content, text(ids[:, 4:]).parts[0])


def test_bad_settings_are_clear_errors() -> None:
    with pytest.raises(ValueError, match=r"LocalContext.ngrams: expected sizes from 2 to 16, got \[1\]"):
        local(ngrams=[1])
    with pytest.raises(ValueError, match=r"LocalContext.width: expected at least 1"):
        local(width=0)
    assert local(ngrams=[], width=1).reach == 0
