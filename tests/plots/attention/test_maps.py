"""Where a model looks: the numbers against `Perceiver.attention_weights`, and what the figures hold."""

import copy

import pytest
import torch
from plots_cases import MODALITIES, batch, model
from torch import Tensor, nn

from perceiver.model import Perceiver
from perceiver.plots import AttentionMaps, GridDrawing, look
from perceiver.plots.attention import maps as module
from perceiver.plots.evaluation import modalities_of
from perceiver.plots.inputs import singles
from perceiver.samples.batch import Batch


@pytest.mark.parametrize("most", [2**24, 40, 1])
def test_weights_are_those_of_the_model(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one piece and in pieces of few latents."""
    monkeypatch.setattr(module, "_MOST_WEIGHTS", most)
    perceiver = model()
    for single in list(singles([batch()], modalities_of(perceiver)))[:2]:
        looks = look(perceiver, single.inputs, single.masks, num_latents=3)
        assert looks is not None
        expected = perceiver.attention_weights(single.inputs, single.masks)
        assert len(looks.steps) == 2
        for step, weights in zip(looks.steps, expected, strict=True):
            assert sorted(step) == sorted(weights)
            for name, one in weights.items():
                torch.testing.assert_close(step[name], one[0].mean(dim=(0, 1)))
            assert sum(float(one.sum()) for one in step.values()) == pytest.approx(1.0, abs=1e-5)
        assert looks.chosen == [0, 2, 4]
        for name, weights in expected[-1].items():
            torch.testing.assert_close(looks.latents[name], weights[0, :, [0, 2, 4]].mean(dim=0))


@pytest.mark.parametrize("reads", [[["image"], ["points", "sound"]], [["points", "sound"], ["image"]]])
def test_weights_where_cross_attends_read_some_modalities(reads: list[list[str]]) -> None:
    """One that reads nothing of a sample, the last one too, included; zeros for what is not read."""
    own = model("image", "points", "sound")
    parts = {"encoder": own.encoder, "head": own.head, "fusion": own.fusion, "spec": own.spec}
    perceiver = Perceiver(adapters=dict(own.adapters.items()), reads=reads, **parts).eval()
    some = batch("image", "points", "sound")
    for single in singles([some], modalities_of(perceiver)):
        looks = look(perceiver, single.inputs, single.masks, num_latents=3)
        assert looks is not None
        expected = perceiver.attention_weights(single.inputs, single.masks)
        for step, weights in zip(looks.steps, expected, strict=True):
            assert sorted(step) == sorted(weights)
            for name, one in weights.items():
                torch.testing.assert_close(step[name], one[0].mean(dim=(0, 1)))
        for name, weights in expected[-1].items():
            torch.testing.assert_close(looks.latents[name], weights[0, :, [0, 2, 4]].mean(dim=0))
        assert looks.query is not None
        assert looks.query.keys() == single.inputs.keys()
    for figure in AttentionMaps(num_samples=4, num_latents=2)(perceiver, [some]).values():
        figure.canvas.draw()


def test_the_query_looks_through_the_latents() -> None:
    """The decoder's softmax written out, times the last cross-attend's weights."""
    perceiver = model("image", "points")
    single = next(singles([batch("image", "points")], modalities_of(perceiver)))
    looks = look(perceiver, single.inputs, single.masks)
    assert looks is not None
    assert looks.query is not None
    attention = perceiver.head.cross_attend.attention
    latents = perceiver.encode(single.inputs, single.masks)
    query = attention.query(attention.query_norm(perceiver.head.query)).view(1, 2, -1).transpose(0, 1)
    key = attention.tokens.key(attention.tokens.norm(latents[0])).view(5, 2, -1).transpose(0, 1)
    shares = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=(0, 1))
    last = perceiver.attention_weights(single.inputs, single.masks)[-1]
    for name, weights in last.items():
        torch.testing.assert_close(looks.query[name], (shares[:, None] * weights[0].mean(dim=0).flatten(1)).sum(0).view(
            weights.shape[3:]))  # fmt: skip


def test_looking_leaves_the_model_as_it_was() -> None:
    perceiver = model("image").train()
    before = copy.deepcopy(perceiver.state_dict())
    looks = look(perceiver, {"image": torch.randn(1, 3, 9, 8)})
    assert looks is not None
    assert not looks.steps[0]["image"].requires_grad
    assert perceiver.training
    assert not any(layer._forward_pre_hooks for layer in perceiver.modules())
    assert all(torch.equal(x, before[name]) for name, x in perceiver.state_dict().items())


class Mean(nn.Module):
    """An encoder of a user's own, without cross-attention."""

    num_latents, latent_channels, token_channels = 1, 12, 18

    def forward(self, tokens: list[module.Tokens]) -> Tensor:
        return tokens[0].dense().mean(dim=1, keepdim=True)[..., :12]


def test_an_encoder_without_cross_attends_draws_nothing() -> None:
    perceiver = model("image")
    perceiver.encoder = Mean()
    assert look(perceiver, {"image": torch.randn(1, 3, 9, 8)}) is None
    assert AttentionMaps()(perceiver, [batch("image")]) == {}


def test_figures_of_every_modality_and_one_of_a_kind_of_your_own() -> None:
    figures = AttentionMaps(num_samples=4, num_latents=4)(model(), [batch()])
    assert set(figures) == {f"{what}_{name}" for what in ("attention", "latents") for name in MODALITIES}
    titles = [axes.get_title() for axes in figures["attention_readings"].axes]
    assert len(titles) == 3 * 4, "three samples have it; itself, two cross-attends and the query"
    assert titles[1].startswith("cross-attend 1\nall latents ")
    assert titles[1].endswith("%"), "the share of this modality"
    latents = [axes.get_title() for axes in figures["latents_points"].axes]
    assert [title.split(" ")[1] for title in latents[1:]] == ["0", "1", "3", "4"]
    for figure in figures.values():
        figure.canvas.draw()


def test_a_pooled_head_has_no_query() -> None:
    figures = AttentionMaps(num_samples=1, num_latents=2)(model("image", head="pooled"), [batch("image")])
    titles = [axes.get_title() for axes in figures["attention_image"].axes]
    assert titles[1:] == ["cross-attend 1\nall latents", "cross-attend 2\nall latents"], "no shares with one modality"


def test_a_model_without_spec_is_drawn_on_grids() -> None:
    perceiver = model("image", "points")
    perceiver.spec = None
    unlabelled = Batch(inputs=batch("image", "points").inputs)
    figures = AttentionMaps(num_samples=2, num_latents=2)(perceiver, [unlabelled])
    assert set(figures) == {"attention_image", "latents_image", "attention_points", "latents_points"}
    for figure in figures.values():
        figure.canvas.draw()


class Counting:
    """Batches that say how many were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> "Counting":
        return self

    def __next__(self) -> Batch:
        self.taken += 1
        return batch("image")


def test_no_more_batches_are_taken_than_needed() -> None:
    enough, too_few_classes = Counting(), Counting()
    AttentionMaps(num_samples=2)(model("image"), enough)
    assert enough.taken == 1
    AttentionMaps(num_samples=5)(model("image"), too_few_classes)
    assert too_few_classes.taken * batch("image").size == 512


def test_a_drawing_of_your_own_by_name() -> None:
    class Marked(GridDrawing):
        def sample(self, axes: object, x: object, mask: object) -> None:
            axes.set_xlabel("marked")  # type: ignore[attr-defined]

    figures = AttentionMaps(num_samples=1, drawings={"image": Marked()})(model("image"), [batch("image")])
    assert figures["attention_image"].axes[0].get_xlabel() == "marked"


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="num_samples and num_latents >= 1"):
        AttentionMaps(num_samples=0)


def test_samples_of_different_classes_come_first() -> None:
    some = batch("image")
    targets = torch.zeros(len(some.ids), dtype=torch.long)
    targets[-1] = 1
    sorted_by_class = Batch(inputs=some.inputs, target=targets, ids=some.ids)
    perceiver = model("image")
    chosen = AttentionMaps(num_samples=2)._chosen(singles([sorted_by_class], modalities_of(perceiver)))
    assert [single.id for single in chosen] == [some.ids[0], some.ids[-1]]
    several = AttentionMaps(num_samples=3)._chosen(singles([sorted_by_class], modalities_of(perceiver)))
    assert [single.id for single in several] == [some.ids[0], some.ids[-1], some.ids[1]]
