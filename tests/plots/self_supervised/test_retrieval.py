"""Figures of retrieval: which queries, what they find, which results are right."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import same_color

from perceiver import Batch, EmbeddingHead, Encoder, Fourier, Fusion, Perceiver, PooledHead
from perceiver.adapters import ImagePixels, TextTokens
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE, encode_bytes
from perceiver.plots import RetrievedSamples
from perceiver.plots.self_supervised.retrieval import RIGHT

SPEC = {
    "modalities": {
        "image": {"kind": "image", "shape": [1, 4, 4], "mean": [0.5], "std": [0.2]},
        "name": {"kind": "text", "vocabulary_size": VOCABULARY_SIZE, "max_length": 8},
    }
}


def model() -> Perceiver:
    torch.manual_seed(0)
    image = ImagePixels(image_channels=1, position=Fourier(num_bands=2, resolution=(4, 4)))
    name = TextTokens(vocabulary_size=VOCABULARY_SIZE, embedding_channels=6, position=Fourier(num_bands=2, resolution=(8,)))
    fusion = Fusion(channels={"image": image.channels, "name": name.channels})
    encoder = Encoder(token_channels=fusion.channels, num_latents=3, latent_channels=8, num_self_heads=2)
    head = EmbeddingHead(latent_channels=8, embedding_channels=4)
    return Perceiver(adapters={"image": image, "name": name}, encoder=encoder, head=head, fusion=fusion, spec=SPEC)


def batches(target: torch.Tensor | None = None) -> list[Batch]:
    """Six samples, of which the second has no image; then two with a name alone."""
    generator = torch.Generator().manual_seed(1)
    names = torch.stack([encode_bytes(f"word {number}") for number in range(8)])
    present = torch.tensor([True, False, True, True, True, True])
    image = torch.randn(6, 1, 4, 4, generator=generator)
    first = Batch(inputs={"image": image, "name": names[:6]}, masks={"image": present}, ids=list("abcdef"))
    second = Batch(inputs={"name": names[6:]}, ids=list("gh"))
    if target is not None:
        first.target, second.target = target[:6], target[6:]
    return [first, second]


def framed(figure: object) -> list[bool]:
    return [same_color(axes.spines["left"].get_edgecolor(), RIGHT) for axes in figure.axes]  # type: ignore[attr-defined]


def test_rows_are_queries_and_their_nearest() -> None:
    own, given = model(), batches()
    figures = RetrievedSamples(num_queries=4, k=3)(own, given)
    assert sorted(figures) == ["retrieval_image_to_name", "retrieval_name_to_image"]
    with torch.no_grad():
        names = torch.cat([own.eval()({"name": batch.inputs["name"]}) for batch in given])
        images = own({"image": given[0].inputs["image"]})
    asked = [0, 2, 4, 5]
    figure = figures["retrieval_image_to_name"]
    assert len(figure.axes) == 4 * 4
    expected_titles, expected_frames, words = [], [], []
    for query in asked:
        cosines = names @ images[query]
        best = cosines.argsort(descending=True)[:3].tolist()
        expected_titles += [f"rank {1 + int((cosines > cosines[query]).sum())}", *(f"{float(cosines[n]):.2f}" for n in best)]
        expected_frames += [False, *(number == query for number in best)]
        words += [f"word {number}" for number in best]
    assert [axes.get_title() for axes in figure.axes] == expected_titles
    assert framed(figure) == expected_frames
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == words
    assert len(figures["retrieval_name_to_image"].axes) == 4 * 4
    figure.canvas.draw()
    assert plt.get_fignums() == [], "no window is left open"


def test_results_of_the_same_class_are_right() -> None:
    own = model()
    alike = RetrievedSamples(num_queries=2, k=4)(own, batches(torch.zeros(8, dtype=torch.int64)))
    assert framed(alike["retrieval_image_to_name"]) == [False, True, True, True, True] * 2


def test_only_so_many_are_searched() -> None:
    given = iter(batches())
    RetrievedSamples(num_compared=5)(model(), given)
    assert len(list(given)) == 1


def test_other_models_have_no_such_figure() -> None:
    own = model()
    own.head = PooledHead(latent_channels=8, num_classes=2)
    assert RetrievedSamples()(own, batches()) == {}
    with pytest.raises(ValueError, match="expected num_queries, k and num_compared >= 1, got 6, 0, 2048"):
        RetrievedSamples(k=0)
