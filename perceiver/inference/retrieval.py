"""An index of embeddings, to search across modalities."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Found:
    """A result of `Index.search`.

    Args:
        id: id of the sample.
        similarity: cosine of its embedding with the query.

    Examples:
        >>> import numpy as np
        >>> from perceiver import Index
        >>> [found] = Index(np.eye(2, dtype=np.float32), ids=["x", "y"]).search(np.array([0.6, 0.8]), k=1)
        >>> found.id, round(found.similarity, 2)
        ('y', 0.8)
    """

    id: str
    similarity: float


class Index:
    """Embeddings to search, in memory.

    Exact: one matrix product for a search. A million embeddings of 64 channels take 256 MB.

    Args:
        embeddings: unit vectors `(S, E)`, e.g. of `Perceiver.embed`.
        ids: an id for each; None: their numbers.
        backend: numpy, or faiss (`pip install 'perceiver-multimodal[faiss]'`), which is faster with many samples and
            gives the same results up to rounding.

    Raises:
        ValueError: for embeddings that are not unit vectors, another number of ids, or an unknown backend.
        ImportError: without the package of the backend.

    Examples:
        >>> import numpy as np
        >>> from perceiver import Index
        >>> index = Index(np.eye(3, dtype=np.float32), ids=["x", "y", "z"])
        >>> [found.id for found in index.search(np.array([0.8, 0.6, 0.0]), k=2)]
        ['x', 'y']
    """

    def __init__(
        self,
        embeddings: NDArray[Any],
        ids: Sequence[str] | None = None,
        *,
        backend: Literal["numpy", "faiss"] = "numpy",
    ) -> None:
        rows = np.ascontiguousarray(embeddings, dtype=np.float32)
        if rows.ndim != 2 or not np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-3):
            raise ValueError(f"Index.embeddings: expected unit vectors (samples, channels), got an array {rows.shape}.")
        names = [str(number) for number in range(len(rows))] if ids is None else [str(one) for one in ids]
        if len(names) != len(rows):
            raise ValueError(f"Index.ids: expected {len(rows)}, one for each embedding, got {len(names)}.")
        if backend not in ("numpy", "faiss"):
            raise ValueError(f"Index.backend: expected numpy or faiss, got {backend!r}.")
        self.embeddings = rows
        self.ids = names
        self.backend = backend
        self._faiss = _faiss_index(rows) if backend == "faiss" else None

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, backend: Literal["numpy", "faiss"] = "numpy") -> Index:
        """Read unit vectors that `mode=embed embed=unit` wrote.

        Args:
            path: `embeddings*.parquet`, also a folder of parts, or `embeddings*.npy`, with the ids beside it.
            backend: see `Index`.

        Raises:
            FileNotFoundError: the file, or that of the ids, does not exist.
            ValueError: it holds no unit vectors.
        """
        file = Path(path)
        rows, ids = _read_array(file) if file.suffix == ".npy" else _read_table(file)
        try:
            return cls(rows, ids, backend=backend)
        except ValueError as error:
            raise ValueError(f"{file}: {error} Write them with mode=embed embed=unit.") from error

    def search(self, query: NDArray[Any], k: int = 10) -> list[Any]:
        """Return the k most similar samples, the most similar first.

        Args:
            query: an embedding `(E,)`, or several, `(Q, E)`, of any length.
            k: number of results; all if there are fewer.

        Returns:
            A list of `Found`; for several queries, a list of lists.
        """
        rows = np.ascontiguousarray(np.atleast_2d(query), dtype=np.float32)
        if k < 1 or rows.ndim != 2 or rows.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"Index.search: expected k of at least 1 and queries of {self.embeddings.shape[1]} channels, got k={k} and "
                f"{np.shape(query)}."
            )
        # No division by zero: a query of zeros has the cosine 0 with all.
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        cosines, best = self._nearest(rows / np.where(lengths > 0, lengths, 1), min(k, len(self.ids)))
        results = [
            [Found(id=self.ids[number], similarity=float(cosine)) for cosine, number in zip(some, numbers, strict=True)]
            for some, numbers in zip(cosines, best, strict=True)
        ]
        return results[0] if np.ndim(query) == 1 else results

    def _nearest(self, queries: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return cosines and numbers of the k nearest samples, `(Q, k)`."""
        if self._faiss is not None:
            found: tuple[NDArray[Any], NDArray[Any]] = self._faiss.search(queries, k)
            return found
        cosines = queries @ self.embeddings.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(cosines, best, axis=1), best


def _faiss_index(rows: NDArray[Any]) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "Index.backend: expected the package faiss for faiss; run: pip install 'perceiver-multimodal[faiss]'"
        ) from error
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return index


def _read_array(file: Path) -> tuple[NDArray[Any], list[str]]:
    ids = file.with_name(f"{file.stem}_ids.txt")
    for one in (file, ids):
        if not one.is_file():
            raise FileNotFoundError(f"Index.load: expected the file {one}, which does not exist.")
    try:
        rows: NDArray[Any] = np.load(file, allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{file}: expected an array written by NumPy: {error}") from error
    return rows, ids.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # ids may hold other line breaks


def _read_table(file: Path) -> tuple[NDArray[Any], list[str]]:
    import pyarrow.parquet as pq  # takes time to import

    if not file.exists():
        raise FileNotFoundError(f"Index.load: expected the file {file}, which does not exist.")
    try:
        table = pq.read_table(file, columns=["id", "embedding"])
        column = table["embedding"].combine_chunks()
        rows = np.asarray(column.flatten(), dtype=np.float32).reshape(len(table), -1)
        return rows, table["id"].to_pylist()
    except (AttributeError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{file}: expected a table with the columns id and embedding: {error}") from error
