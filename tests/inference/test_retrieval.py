"""The index against scikit-learn's neighbours, embeddings of raw samples, and classes by their names alone."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from perceiver import EmbeddingHead, Encoder, Fourier, Fusion, Index, Perceiver, PooledHead
from perceiver.adapters import ImagePixels, TextTokens
from perceiver.modalities.text_bytes import VOCABULARY_SIZE

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
