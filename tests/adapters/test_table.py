"""Tables: against FT-Transformer's tokenizer, missing cells, rows on their own, precision, errors that name cells."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_wine
from small_models import model_around, small_encoder
from torch import Tensor

from perceiver.adapters import Points, Table
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.fusion import Fusion
from perceiver.model import Perceiver
from perceiver.tokens.positions import Fourier
from perceiver.tokens.tokens import Tokens

Rows = dict[str, Tensor]
SIZES = (3, 1, 5)


def table(*, num_numbers: int = 4, category_sizes: tuple[int, ...] = SIZES) -> Table:
    torch.manual_seed(0)
    return Table(num_numbers=num_numbers, category_sizes=category_sizes, embedding_channels=6)


model_of = partial(model_around, "record")


def some_rows(batch: int = 5, *, missing: float = 0.3) -> Rows:
    """Rows of a table whose missing cells hold NaN and ids that no column has."""
    categories = torch.stack([torch.randint(size, (batch,)) for size in SIZES], dim=1)
    rows = {"numbers": torch.randn(batch, 4), "categories": categories, "present": torch.rand(batch, 7) >= missing}
    rows["numbers"][~rows["present"][:, :4]] = float("nan")
    rows["categories"][~rows["present"][:, 4:]] = 999
    return rows


def one(rows: Rows, row: int) -> Rows:
    return {key: x[row : row + 1] for key, x in rows.items()}


def valid(tokens: Tokens, row: int) -> Tensor:
    dense, mask = tokens.dense(), tokens.dense_mask()
    return dense[row] if mask is None else dense[row, mask[row]]


# ---- what tokens hold


def test_tokens_are_those_of_ft_transformer_with_the_bias_apart() -> None:
    adapter, rows = table(), some_rows(missing=0.0)
    assert adapter.weight is not None
    assert adapter.embedding is not None
    tokens = adapter({key: rows[key] for key in ("numbers", "categories")})
    assert tokens.grid == (7,)
    assert tokens.mask is None
    assert [tuple(part.shape) for part in tokens.parts] == [(5, 7, 6), (1, 7, 6)]
    assert tokens.channels == adapter.channels == 12
    weight, bias, tables = (
        adapter.weight.detach().numpy(),
        adapter.bias.detach().numpy(),
        adapter.embedding.weight.split(SIZES),
    )
    content, column = tokens.parts
    for row in range(5):
        for c in range(4):
            expected = rows["numbers"][row, c].item() * weight[c] + bias[c]
            np.testing.assert_allclose((content + column)[row, c].detach().numpy(), expected, rtol=1e-5, atol=1e-6)
        for c in range(3):
            own = tables[c][rows["categories"][row, c]] + adapter.bias[4 + c]
            torch.testing.assert_close((content + column)[row, 4 + c], own)


@pytest.mark.parametrize(("num_numbers", "sizes"), [(3, ()), (0, (4, 2)), (1, ()), (0, (1,))])
def test_tables_of_one_kind_of_column(num_numbers: int, sizes: tuple[int, ...]) -> None:
    adapter = table(num_numbers=num_numbers, category_sizes=sizes)
    numbers, categories = torch.randn(2, num_numbers), torch.zeros(2, len(sizes), dtype=torch.int64)
    both = adapter({"numbers": numbers, "categories": categories})
    assert both.grid == (num_numbers + len(sizes),)
    alone = adapter({"numbers": numbers} if num_numbers else {"categories": categories})
    assert torch.equal(alone.dense(), both.dense())
    model = model_of(adapter)
    model({"record": {"numbers": numbers, "categories": categories}}).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_columns_have_embeddings_of_their_own() -> None:
    adapter = table(num_numbers=0, category_sizes=(2, 2))
    content = adapter({"categories": torch.tensor([[1, 1], [1, 0]])}).parts[0]
    assert torch.equal(content[0, 0], content[1, 0])
    assert not torch.equal(content[0, 0], content[0, 1])
    assert not torch.equal(content[0, 1], content[1, 1])
    small = adapter({"categories": torch.tensor([[1, 1], [1, 0]], dtype=torch.int32)})
    assert torch.equal(small.parts[0], content)


def test_starts_as_its_authors_do() -> None:
    adapter = Table(num_numbers=50, category_sizes=[20, 30], embedding_channels=16)
    for parameter in adapter.parameters():
        assert parameter.abs().max() <= 0.25
        assert abs(parameter.std().item() - 0.25 / 3**0.5) < 0.01


# ---- missing cells


def test_missing_cells_are_masked_tokens() -> None:
    adapter, rows = table(), some_rows()
    tokens = adapter(rows)
    assert tokens.mask is not None
    assert torch.equal(tokens.mask, rows["present"])
    assert all(part.isfinite().all() for part in tokens.parts)
    tokens = adapter(rows, torch.tensor([True, False, True, True, False]))
    assert tokens.mask is not None
    assert not tokens.mask[[1, 4]].any()
    assert torch.equal(tokens.mask[[0, 2, 3]], rows["present"][[0, 2, 3]])


@settings(max_examples=20)
@given(batch=st.integers(1, 6), missing=st.sampled_from([0.0, 0.3, 0.9]))
def test_a_row_alone_equals_the_same_among_others(batch: int, missing: float) -> None:
    adapter, rows = table(), some_rows(batch, missing=missing)
    model = model_of(adapter).eval()
    tokens, output = adapter(rows), model({"record": rows})
    for row in range(batch):
        own = one(rows, row)
        assert torch.equal(valid(tokens, row), valid(adapter(own), 0))
        torch.testing.assert_close(output[row], model({"record": own})[0], rtol=1e-5, atol=1e-6)


def test_what_a_missing_cell_holds_does_not_matter() -> None:
    model, rows = model_of(table()).eval(), some_rows()
    expected = model({"record": rows})
    changed = {key: x.clone() for key, x in rows.items()}
    changed["numbers"][~rows["present"][:, :4]] = 1e30
    changed["categories"][~rows["present"][:, 4:]] = -7
    assert torch.equal(model({"record": changed}), expected)


def test_masked_nan_reaches_neither_output_nor_gradients() -> None:
    model, rows = model_of(table()), some_rows(batch=40)
    numbers = rows["numbers"].requires_grad_()
    output = model({"record": rows})
    output.square().sum().backward()
    assert output.isfinite().all()
    assert numbers.grad is not None
    assert numbers.grad.isfinite().all()
    assert not numbers.grad[~rows["present"][:, :4]].any()
    assert (numbers.grad[rows["present"][:, :4]] != 0).all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name.startswith("adapters"):
            assert parameter.grad.any(dim=1).all(), f"{name}: every column and category"


def test_an_all_missing_table_reads_as_an_absent_one() -> None:
    """Zeros of its own, and beside another modality as if its key were left out."""
    adapter, rows = table(), some_rows(batch=3)
    points = Points(point_channels=3, position=Fourier(num_bands=2, resolution=(8, 8, 8)))
    fusion = Fusion(channels={"record": adapter.channels, "cloud": points.channels})
    head = PooledHead(latent_channels=8, num_classes=3)
    model = Perceiver(
        adapters={"record": adapter, "cloud": points}, encoder=small_encoder(fusion.channels), head=head, fusion=fusion
    ).eval()
    cloud = torch.randn(3, 5, 3)
    without = model({"cloud": cloud})
    rows["present"][1] = False
    with_rows = model({"cloud": cloud, "record": rows})
    torch.testing.assert_close(with_rows[1], without[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(with_rows[0], without[0], atol=1e-4)

    alone = model_of(table()).eval()
    nothing = torch.zeros(3, dtype=torch.bool)
    absent = alone({"record": rows}, {"record": nothing})
    rows["present"][:] = False
    assert torch.equal(alone({"record": rows}), absent)
    assert torch.equal(absent[0], absent[1])
    for looks in alone.attention_weights({"record": rows}):
        assert not looks["record"].any()


# ---- precision and whole models


def test_bfloat16_autocast_changes_nothing() -> None:
    adapter, rows = table(), some_rows()
    expected = adapter(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = adapter(rows)
    for part, other in zip(tokens.parts, expected.parts, strict=True):
        assert part.dtype == torch.float32
        assert torch.equal(part, other)
    half = table().to(torch.bfloat16)(rows)
    torch.testing.assert_close(half.dense().float(), expected.dense(), rtol=0.02, atol=0.02)


def test_dense_equals_factored() -> None:
    rows = some_rows()
    rows["numbers"] = rows["numbers"].double()
    outputs = []
    for attention in ("dense", "factored"):
        model = model_of(table(), attention=attention).double()  # type: ignore[arg-type]
        outputs.append(model({"record": rows}))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-10, atol=1e-10)


def test_learns_wines_apart_with_cells_missing() -> None:
    """Real data: 13 measurements of 178 wines of three growers, a tenth of the cells missing, one column as categories."""
    measured, grower = load_wine(return_X_y=True)
    numbers = torch.from_numpy((measured - measured.mean(0)) / measured.std(0)).float()
    hues = torch.bucketize(numbers[:, 10].contiguous(), torch.tensor([-0.5, 0.5])) + 1
    rows = {"numbers": numbers[:, :10], "categories": hues[:, None], "present": torch.rand(178, 11) > 0.1}
    model = model_of(table(num_numbers=10, category_sizes=(4,)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    target = torch.from_numpy(grower)
    train = torch.randperm(178)[:120]
    held_out = torch.ones(178, dtype=torch.bool)
    held_out[train] = False
    for _ in range(60):
        loss = F.cross_entropy(model({"record": {key: x[train] for key, x in rows.items()}}), target[train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predicted = model({"record": {key: x[held_out] for key, x in rows.items()}}).argmax(1)
    assert (predicted == target[held_out]).float().mean() > 0.85


# ---- errors


@pytest.mark.parametrize("wrong", [-1, 3, 999])
def test_ids_outside_their_column_are_named(wrong: int) -> None:
    rows = some_rows(missing=0.0)
    rows["categories"][2, 0] = wrong
    with pytest.raises(ValueError, match=rf"sample 2, categorical column 0: id {wrong} is not in \[0, 3\).*have id 0"):
        table()(rows)
    rows["present"][2, 4] = False
    table()(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numbers": torch.zeros(5, 3)}, r"numbers \(batch, 4\), categories \(batch, 3\).*got shapes .*'numbers': \(5, 3\)"),
        ({"numbers": torch.zeros(4)}, r"numbers \(batch, 4\).*'numbers': \(4,\)"),
        ({"categories": torch.zeros(4, 3, dtype=torch.int64)}, r"categories \(batch, 3\).*'categories': \(4, 3\)"),
        ({"present": torch.ones(5, 4) > 0}, r"present \(batch, 7\).*'present': \(5, 4\)"),
        ({"numbers": None}, r"expected the keys numbers and categories.*got \['categories', 'present'\]"),
        ({"number": torch.zeros(5, 4)}, r"got \['categories', 'number', 'numbers', 'present'\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_keys_and_shapes_are_named(changes: dict[str, Tensor | None], message: str) -> None:
    rows = {key: x for key, x in {**some_rows(), **changes}.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        table()(rows)


@pytest.mark.usefixtures("unchecked")
def test_wrong_types_and_masks_are_named() -> None:
    rows, adapter = some_rows(), table()
    for changes, message in [
        ({"numbers": torch.zeros(5, 4, dtype=torch.int64)}, "numbers in floating point, got torch.int64"),
        ({"categories": torch.zeros(5, 3)}, "categories as ids of type int64, got torch.float32"),
        ({"present": torch.ones(5, 7)}, r"present of type bool \(True = present\), got torch.float32"),
    ]:
        with pytest.raises(TypeError, match=message):
            adapter({**rows, **changes})
    with pytest.raises(TypeError, match="expected a dict of numbers, categories and present, got Tensor"):
        adapter(rows["numbers"])
    with pytest.raises(TypeError, match="Table mask: expected dtype bool"):
        adapter(rows, torch.ones(5))
    with pytest.raises(ValueError, match=r"Table mask: expected \(5,\).*got \(5, 7\).*`present`"):
        adapter(rows, rows["present"])


def test_settings_are_checked() -> None:
    for num_numbers, sizes, channels, message in [
        (0, (), 4, "at least one column"),
        (-1, (2,), 4, "at least one column"),
        (1, (2, 0), 4, r"Table\.category_sizes: expected at least 1 for each column"),
        (1, (2,), 0, r"Table\.embedding_channels: expected at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Table(num_numbers=num_numbers, category_sizes=sizes, embedding_channels=channels)
