"""The index against scikit-learn's neighbours and faiss, its files, embeddings of samples, and classes by their names."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from perceiver import EmbeddingHead, Encoder, Fourier, Fusion, Index, Perceiver, PooledHead
from perceiver.adapters import ImagePixels, TextTokens
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE
from perceiver.run.modes.embed import embedding_rows

SPEC = {
    "modalities": {
        "image": {"kind": "image", "shape": [1, 4, 4], "mean": [0.5], "std": [0.2], "range": [0, 255]},
        "name": {"kind": "text", "vocabulary_size": VOCABULARY_SIZE, "max_length": 8},
    }
}


def model(*, spec: dict[str, object] | None = None) -> Perceiver:
    torch.manual_seed(0)
    image = ImagePixels(image_channels=1, position=Fourier(num_bands=2, resolution=(4, 4)))
    name = TextTokens(vocabulary_size=VOCABULARY_SIZE, embedding_channels=6, position=Fourier(num_bands=2, resolution=(8,)))
    fusion = Fusion(channels={"image": image.channels, "name": name.channels})
    encoder = Encoder(token_channels=fusion.channels, num_latents=3, latent_channels=8, num_self_heads=2)
    head = EmbeddingHead(latent_channels=8, embedding_channels=4)
    return Perceiver(adapters={"image": image, "name": name}, encoder=encoder, head=head, fusion=fusion, spec=spec or SPEC)


def test_search_finds_the_nearest_as_scikit_learn_does() -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((50, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = generator.standard_normal((7, 6))
    index = Index(rows, ids=[f"sample {number}" for number in range(50)])
    _, places = NearestNeighbors(n_neighbors=5, metric="cosine").fit(rows).kneighbors(queries)
    found = index.search(queries, k=5)
    assert [[one.id for one in row] for row in found] == [[f"sample {place}" for place in row] for row in places]
    alone = index.search(queries[0], k=5)
    assert [one.id for one in alone] == [one.id for one in found[0]]
    assert len(Index(rows[:3]).search(queries[0], k=10)) == 3


def test_index_refuses_what_is_no_embedding() -> None:
    with pytest.raises(ValueError, match=r"Index\.embeddings: expected unit vectors"):
        Index(np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"Index\.ids: expected 2, one for each embedding, got 1"):
        Index(np.eye(2), ids=["a"])
    with pytest.raises(ValueError, match=r"queries of 2 channels, got k=1 and \(3,\)"):
        Index(np.eye(2)).search(np.ones(3), k=1)


def test_samples_of_any_modality_are_embedded() -> None:
    own = model()
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    found = own.embed([{"image": image}, {"name": "seven"}, {"image": image, "name": "seven"}], batch_size=2)
    assert found.shape == (3, 4)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(own.embed({"name": "seven"})[0], found[1])


def test_classes_are_told_by_their_names() -> None:
    own = model()
    images = [np.full((4, 4), value, dtype=np.uint8) for value in (0, 128, 255)]
    predictions = own.zero_shot([{"image": image} for image in images], ["dark", "bright"])
    names, found = own.embed([{"name": name} for name in ("dark", "bright")]), own.embed([{"image": x} for x in images])
    assert isinstance(own.head, EmbeddingHead)
    expected = (own.head.log_scale.exp() * found @ names.t()).softmax(dim=1)
    for prediction, row in zip(predictions, expected, strict=True):
        assert prediction.label == ("dark", "bright")[int(row.argmax())]
        assert prediction.probabilities == pytest.approx(dict(zip(("dark", "bright"), row.tolist(), strict=True)), abs=1e-5)
    by_image = own.zero_shot([{"name": "dark"}], images, modality="image")
    assert set(by_image[0].probabilities) == {"0", "1", "2"}


def test_errors_name_the_cause() -> None:
    own = model()
    with pytest.raises(ValueError, match=r"embeds samples and has no output for a target"):
        Perceiver.predict(model(spec={**SPEC, "target": {"kind": "classes", "names": ["a", "b"]}}), {"name": "seven"})
    with pytest.raises(ValueError, match=r"zero_shot: .* got 0 names"):
        own.zero_shot([{"name": "x"}], [])
    with pytest.raises(ValueError, match=r"one of \['image', 'name'\], for them; got 1 names and modality='sound'"):
        own.zero_shot([{"name": "x"}], ["x"], modality="sound")
    with pytest.raises(ValueError, match="expected at least one sample, got none"):
        own.embed([])
    own.head = PooledHead(latent_channels=8, num_classes=2)
    with pytest.raises(ValueError, match=r"expected an EmbeddingHead, as task=contrastive trains it, got PooledHead"):
        own.embed({"name": "seven"})
    own.head = EmbeddingHead(latent_channels=8, embedding_channels=4)
    own.spec = None
    with pytest.raises(ValueError, match="whose spec has modalities"):
        own.embed({"name": "seven"})


def rows_and_queries() -> tuple[NDArray[Any], NDArray[Any]]:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((60, 6))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), generator.standard_normal((5, 6))


def test_written_embeddings_are_read(tmp_path: Path) -> None:
    rows, queries = rows_and_queries()
    ids = [f"sample {number}\x85" for number in range(60)]
    np.save(tmp_path / "embeddings.npy", rows.astype(np.float32))
    (tmp_path / "embeddings_ids.txt").write_text("".join(f"{id_}\n" for id_ in ids), encoding="utf-8")
    pq.write_table(embedding_rows(ids, torch.from_numpy(rows).float()), tmp_path / "embeddings.parquet")
    expected = Index(rows, ids).search(queries, k=7)
    for name in ("embeddings.npy", "embeddings.parquet"):
        assert Index.load(tmp_path / name).search(queries, k=7) == expected
    np.save(tmp_path / "embeddings.npy", 2 * rows)
    with pytest.raises(ValueError, match=r"embeddings\.npy: .*expected unit vectors.* with mode=embed embed=unit"):
        Index.load(tmp_path / "embeddings.npy")
    (tmp_path / "embeddings.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected an array written by NumPy"):
        Index.load(tmp_path / "embeddings.npy")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet: expected a table with the columns id and embedding"):
        Index.load(tmp_path / "other.parquet")
    for name in ("absent.npy", "absent.parquet"):
        with pytest.raises(FileNotFoundError, match=rf"expected the file .*{name}"):
            Index.load(tmp_path / name)


def test_faiss_finds_the_same() -> None:
    pytest.importorskip("faiss")
    rows, queries = rows_and_queries()
    ids = [f"sample {number}" for number in range(60)]
    for own, other in zip(
        Index(rows, ids).search(queries, k=9), Index(rows, ids, backend="faiss").search(queries, k=9), strict=True
    ):
        assert [one.id for one in own] == [one.id for one in other]
        assert [one.similarity for one in own] == pytest.approx([one.similarity for one in other], abs=1e-6)
    assert len(Index(rows, backend="faiss").search(queries[0], k=100)) == 60


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_or_missing_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"Index\.backend: expected numpy or faiss, got 'annoy'"):
        Index(np.eye(2), backend="annoy")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'perceiver-multimodal\[faiss\]'"):
        Index(np.eye(2), backend="faiss")


def test_similarities_are_cosines_whatever_the_length_of_the_query() -> None:
    index = Index(np.eye(2, dtype=np.float32))
    query = np.array([0.6, 0.8])
    assert index.search(10 * query) == index.search(query)
    assert [found.similarity for found in index.search(0 * query)] == [0.0, 0.0]
