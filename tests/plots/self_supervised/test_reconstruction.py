"""Reconstructions: what is not hidden stays the original, and every kind of input gets a figure."""

import pytest
import torch
from matplotlib.figure import Figure
from plots_cases import batch, model
from torch import nn

from perceiver.decoders import ReconstructionDecoder
from perceiver.masking.random import RandomMasking
from perceiver.model import Perceiver
from perceiver.plots import Reconstructions, reconstruct
from perceiver.plots.evaluation import modalities_of
from perceiver.plots.inputs import singles


def autoencoder(*modalities: str) -> Perceiver:
    built = model(*modalities)
    adapters: dict[str, nn.Module] = dict(built.adapters.items())
    head = ReconstructionDecoder(
        latent_channels=12, token_channels=built.encoder.token_channels, adapters=adapters, num_heads=2
    )
    return Perceiver(adapters=adapters, fusion=built.fusion, encoder=built.encoder, head=head, spec=built.spec).eval()


def test_figures_for_every_modality_that_can_be_reconstructed() -> None:
    figures = Reconstructions(masking=RandomMasking(rate=0.5), num_samples=3)(autoencoder(), [batch()])
    assert set(figures) == {"reconstruction_image", "reconstruction_sound", "reconstruction_points"}
    assert all(isinstance(figure, Figure) for figure in figures.values())
    [title, *_] = [axes.get_title(loc="left") for axes in figures["reconstruction_image"].axes]
    assert title == "original"


def test_what_was_seen_stays() -> None:
    built = autoencoder("image")
    [first, *_] = singles([batch("image")], modalities_of(built))
    with torch.no_grad():
        made = reconstruct(built, first, masking={"image": RandomMasking(rate=0.5)})["image"]
    same = (made.filled == made.original).all(dim=-1)
    assert torch.equal(same, ~made.hidden)


def test_classifiers_have_none() -> None:
    assert Reconstructions(masking=RandomMasking(rate=0.5))(model(), [batch()]) == {}


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="num_samples: expected at least 1, got 0"):
        Reconstructions(masking=RandomMasking(rate=0.5), num_samples=0)
