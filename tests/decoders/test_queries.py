"""Query providers: what they ask for, and that queries on a grid stay parts."""

import pytest
import torch

from perceiver import (
    Fourier,
    InputQueries,
    LearnedQueries,
    LearnedTable,
    PositionalQueries,
)
from perceiver.decoders import Queries
from perceiver.tokens.positions import grid_coordinates
from perceiver.tokens.tokens import Tokens

PLANE = Fourier(num_bands=2, resolution=(8, 8))


def test_learned_queries_start_small() -> None:
    queries = LearnedQueries(grid=[30, 40], channels=5, std=0.1)
    assert queries({}).parts[0].shape == (1, 30, 40, 5)
    assert queries.queries.abs().max() <= 0.2
    assert 0.08 < queries.queries.std() < 0.1


def test_learned_queries_as_many_as_tokens() -> None:
    queries = LearnedQueries(grid=[6, 7], channels=5, modality="a")
    [part] = queries({"a": Tokens(parts=(torch.zeros(2, 3, 7, 1),))}).parts
    torch.testing.assert_close(part[0], queries.queries[:3])
    with pytest.raises(ValueError, match=r"tokens of 'a' have the grid \(3, 8\), but the queries have the grid \(6, 7\)"):
        queries({"a": Tokens(parts=(torch.zeros(2, 3, 8, 1),))})
    with pytest.raises(ValueError, match=r"LearnedQueries: the outputs follow the tokens of 'a'.*got \['b'\]"):
        queries({"b": Tokens(parts=(torch.zeros(2, 3, 8, 1),))})


def test_positional_queries_stay_parts() -> None:
    queries = PositionalQueries(position=PLANE, grid=[30, 40])({})
    assert [tuple(part.shape) for part in queries.parts] == [(1, 30, 1, 5), (1, 1, 40, 5)]
    torch.testing.assert_close(queries.parts, PLANE(grid_coordinates((30, 40))))


def test_positional_queries_without_endpoint() -> None:
    bare = Fourier(num_bands=0, resolution=(1, 1))
    rows, columns = PositionalQueries(position=bare, grid=[4, 5], endpoint=False)({}).parts
    torch.testing.assert_close(rows.flatten(), torch.tensor([-1, -0.5, 0, 0.5]))
    torch.testing.assert_close(columns.flatten(), torch.tensor([-1, -0.6, -0.2, 0.2, 0.6]))


def test_positional_queries_of_a_learned_table() -> None:
    table = LearnedTable(grid=(3, 4), channels=6)
    [part] = PositionalQueries(position=table, grid=[3, 4])({}).parts
    torch.testing.assert_close(part[0], table.table)


def test_positional_queries_on_the_grid_of_an_input() -> None:
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[0], mask[1, :2, :3] = True, True
    tokens = Tokens(parts=(torch.randn(2, 3, 4, 1),), mask=mask)
    queries = PositionalQueries(position=PLANE, modality="a")({"a": tokens})
    assert queries.mask is mask
    torch.testing.assert_close(queries.parts[0][1, :2, 0], PLANE(grid_coordinates((2, 3)))[0][0, :, 0])


def test_input_queries_are_the_tokens() -> None:
    tokens = Tokens(parts=(torch.randn(2, 3, 4),))
    assert InputQueries(modality="a")({"a": tokens, "b": tokens}) is tokens
    assert isinstance(InputQueries(modality="a"), Queries)


def test_errors() -> None:
    with pytest.raises(ValueError, match="LearnedQueries: expected positive grid sizes"):
        LearnedQueries(grid=[0], channels=3)
    with pytest.raises(ValueError, match="expected either grid, the grid of the outputs, or modality"):
        PositionalQueries(position=PLANE)
    with pytest.raises(ValueError, match="expected either grid, the grid of the outputs, or modality"):
        PositionalQueries(position=PLANE, grid=[2, 2], modality="a")
    with pytest.raises(ValueError, match=r"PositionalQueries\.grid: .* \[2, 0\]"):
        PositionalQueries(position=PLANE, grid=[2, 0])
    with pytest.raises(ValueError, match=r"PositionalQueries\.endpoint: False needs a fixed grid"):
        PositionalQueries(position=PLANE, modality="a", endpoint=False)


def test_sizes_that_differ_between_samples_are_no_grid(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"grid: .* \[None, None\]. If sizes differ between samples"):
        PositionalQueries(position=PLANE, grid=[None, None])  # type: ignore[list-item]
