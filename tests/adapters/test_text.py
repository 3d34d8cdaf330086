"""Text tokens: embeddings and absolute places, ragged texts, precision, whole models, errors that name the id."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import model_around
from torch import Tensor

from perceiver.adapters import TextTokens
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE, encode_bytes
from perceiver.tokens.positions import Fourier, LearnedTable
from perceiver.tokens.tokens import Tokens

TEXTS = ["a", "Grüße", "The quick brown fox", "日本語 🙂", "no"]


def text_tokens(*, vocabulary_size: int = VOCABULARY_SIZE, table: bool = False, reference_length: int = 16) -> TextTokens:
    torch.manual_seed(0)
    return TextTokens(
        vocabulary_size=vocabulary_size,
        embedding_channels=10,
        reference_length=reference_length,
        position=LearnedTable(grid=(16,), channels=6, std=1.0) if table else Fourier(num_bands=4, resolution=(16,)),
    )


model_of = partial(model_around, "text")


def pad(texts: list[Tensor], *, extra: int = 0, fill: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.full((len(texts), max(len(text) for text in texts) + extra), fill)
    mask = torch.zeros(x.shape, dtype=torch.bool)
    for row, text in enumerate(texts):
        x[row, : len(text)] = text
        mask[row, : len(text)] = True
    return x, mask


def valid(tokens: Tokens, row: int) -> Tensor:
    dense, mask = tokens.dense(), tokens.dense_mask()
    return dense[row] if mask is None else dense[row, mask[row]]


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("length", [1, 7, 16, 50])
def test_says_its_channels_and_stays_factored(table: bool, length: int) -> None:
    adapter = text_tokens(table=table)
    x, mask = torch.randint(VOCABULARY_SIZE, (3, length)), torch.rand(3, length) > 0.3
    for tokens in adapter(x), adapter(x, mask):
        assert tokens.grid == (length,)
        assert [tuple(part.shape) for part in tokens.parts] == [(3, length, 10), (1, length, 6 if table else 9)]
        assert tokens.channels == adapter.channels == 10 + (6 if table else 9)
    assert tokens.mask is mask


def test_tokens_are_rows_of_the_embedding() -> None:
    adapter, x = text_tokens(), torch.randint(VOCABULARY_SIZE, (2, 9))
    one_hot = F.one_hot(x, VOCABULARY_SIZE).float()
    torch.testing.assert_close(adapter(x).parts[0], one_hot @ adapter.embedding.weight)
    assert torch.equal(adapter(x.to(torch.int32)).dense(), adapter(x).dense())


def test_places_count_from_the_first_id() -> None:
    places = text_tokens()(torch.zeros(1, 40, dtype=torch.int64)).parts[1][0, :, 0]
    torch.testing.assert_close(places, -1 + 2 * torch.arange(40) / 15)
    assert places[15] == 1.0


def test_a_table_gives_each_place_its_row_and_longer_texts_the_last() -> None:
    adapter = text_tokens(table=True)
    assert isinstance(adapter.position, LearnedTable)
    for length in (5, 16, 20):
        rows = torch.arange(length).clamp(max=15)
        assert torch.equal(adapter(torch.zeros(1, length, dtype=torch.int64)).parts[1][0], adapter.position.table[rows])


def test_embeddings_start_small() -> None:
    weight = TextTokens(
        vocabulary_size=1000, embedding_channels=50, std=0.5, position=Fourier(num_bands=1, resolution=(8,))
    ).embedding.weight
    assert weight.abs().max() <= 1.0
    assert 0.4 < weight.std() < 0.5


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    extra=st.integers(0, 9),
    fill=st.sampled_from([0, -1, 261, 262, 2**62]),
    table=st.booleans(),
)
def test_padded_among_longer_ones_equals_alone(lengths: list[int], extra: int, fill: int, table: bool) -> None:
    adapter = text_tokens(table=table)
    model = model_of(adapter).eval()
    texts = [torch.randint(VOCABULARY_SIZE, (length,)) for length in lengths]
    x, mask = pad(texts, extra=extra, fill=fill)
    tokens, output = adapter(x, mask), model({"text": x}, {"text": mask})
    for row, text in enumerate(texts):
        assert torch.equal(valid(tokens, row), valid(adapter(text[None]), 0))
        torch.testing.assert_close(output[row], model({"text": text[None]})[0], rtol=1e-5, atol=1e-6)


def test_presence_masks_whole_texts() -> None:
    x = torch.randint(VOCABULARY_SIZE, (3, 7))
    x[1] = 999
    tokens = text_tokens()(x, torch.tensor([True, False, True]))
    assert tokens.mask is not None
    assert tokens.mask.all(1).tolist() == [True, False, True]
    assert not tokens.mask[1].any()


@pytest.mark.parametrize("table", [False, True])
def test_gradients_reach_every_parameter_and_only_ids_that_are_read(table: bool) -> None:
    model = model_of(text_tokens(table=table))
    x, mask = pad([torch.tensor([7, 8, 9]), torch.tensor([8])], fill=33)
    mask[0, 2] = False
    model({"text": x}, {"text": mask}).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    gradient = model.adapters["text"].embedding.weight.grad
    assert gradient.any(dim=1).nonzero().flatten().tolist() == [7, 8]


@pytest.mark.parametrize("table", [False, True])
def test_bfloat16_autocast_leaves_places_in_float32(table: bool) -> None:
    adapter, x = text_tokens(table=table), torch.randint(VOCABULARY_SIZE, (2, 400))
    expected = adapter(x).parts[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(adapter(x).parts[1], expected)
    assert expected.dtype == torch.float32
    if not table:
        assert torch.equal(adapter.to(torch.bfloat16)(x).parts[1], expected)


@pytest.mark.parametrize("table", [False, True])
def test_dense_equals_factored(table: bool) -> None:
    x, mask = pad([encode_bytes(text) for text in TEXTS])
    outputs = []
    for attention in ("dense", "factored"):
        model = model_of(text_tokens(table=table), attention=attention).double()  # type: ignore[arg-type]
        outputs.append(model({"text": x}, {"text": mask}))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("table", [False, True])
def test_a_model_learns_and_takes_longer_texts(table: bool) -> None:
    model = model_of(text_tokens(table=table))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, mask = pad([encode_bytes(text) for text in TEXTS])
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(model({"text": x}, {"text": mask}), torch.tensor([0, 1, 2, 0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model({"text": encode_bytes("long " * 100)[None]}).isfinite().all()


# ---- errors


@pytest.mark.parametrize("wrong", [-1, 262, 30_000])
def test_ids_outside_the_vocabulary_are_named(wrong: int) -> None:
    x = torch.randint(VOCABULARY_SIZE, (2, 5))
    x[1, 3] = wrong
    with pytest.raises(ValueError, match=rf"sample 1, position 3: id {wrong} is not in \[0, 262\).*vocabulary_size"):
        text_tokens()(x)
    text_tokens()(x, torch.tensor([[True] * 5, [True] * 3 + [False] * 2]))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((7,), r"expected ids \(batch, length\).*got shape \(7,\).*unsqueeze"),
        ((2, 0), r"got shape \(2, 0\).*Leave an absent text's key out"),
        ((2, 3, 4), r"got shape \(2, 3, 4\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_are_named(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_tokens()(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.usefixtures("unchecked")
def test_wrong_types_and_masks_are_named() -> None:
    with pytest.raises(TypeError, match=r"ids of type int64, got torch.float32.*encode_bytes"):
        text_tokens()(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"TextTokens mask: expected \(2,\).*or \(2, 3\).*got \(2, 4\)"):
        text_tokens()(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 4, dtype=torch.bool))


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"vocabulary_size and embedding_channels of at least 1, got 0 and 10"):
        text_tokens(vocabulary_size=0)
    with pytest.raises(ValueError, match=r"TextTokens\.reference_length: expected at least 2 positions, got 1"):
        text_tokens(reference_length=1)
