"""An index of embeddings, to search across modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

    Raises:
        ValueError: for embeddings that are not unit vectors, or another number of ids.

    Examples:
        >>> import numpy as np
        >>> from perceiver import Index
        >>> index = Index(np.eye(3, dtype=np.float32), ids=["x", "y", "z"])
        >>> [found.id for found in index.search(np.array([0.8, 0.6, 0.0]), k=2)]
        ['x', 'y']
    """

    def __init__(self, embeddings: NDArray[Any], ids: Sequence[str] | None = None) -> None:
        rows = np.ascontiguousarray(embeddings, dtype=np.float32)
        if rows.ndim != 2 or not np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-3):
            raise ValueError(f"Index.embeddings: expected unit vectors (samples, channels), got an array {rows.shape}.")
        names = [str(number) for number in range(len(rows))] if ids is None else [str(one) for one in ids]
        if len(names) != len(rows):
            raise ValueError(f"Index.ids: expected {len(rows)}, one for each embedding, got {len(names)}.")
        self.embeddings = rows
        self.ids = names

    def search(self, query: NDArray[Any], k: int = 10) -> list[Any]:
        """Return the k most similar samples, the most similar first.

        Args:
            query: an embedding `(E,)`, or several, `(Q, E)`.
            k: number of results; all if there are fewer.

        Returns:
            A list of `Found`; for several queries, a list of lists.
        """
        rows = np.atleast_2d(np.asarray(query, dtype=np.float32))
        if k < 1 or rows.ndim != 2 or rows.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"Index.search: expected k of at least 1 and queries of {self.embeddings.shape[1]} channels, got k={k} and "
                f"{np.shape(query)}."
            )
        cosines = rows @ self.embeddings.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        results = [
            [Found(id=self.ids[number], similarity=float(row[number])) for number in numbers]
            for row, numbers in zip(cosines, best, strict=True)
        ]
        return results[0] if np.ndim(query) == 1 else results
