"""Single samples as figures show them."""

import torch
from plots_cases import MODALITIES, batch, model

from perceiver.modalities.preprocess import normalise, unnormalised
from perceiver.plots.evaluation import modalities_of
from perceiver.plots.inputs import singles


def test_normalisation_is_undone() -> None:
    image, points = torch.rand(3, 9, 8), torch.rand(7, 2)
    spec = MODALITIES["image"]
    torch.testing.assert_close(unnormalised(normalise(image, spec), spec), image)
    spec = {"kind": "points", "shape": [None, 2], "mean": [1.0, 2.0], "std": [0.5, 4.0]}
    torch.testing.assert_close(unnormalised(normalise(points, spec), spec), points)
    assert torch.equal(unnormalised(points, {"kind": "points"}), points)


def test_padding_and_absent_modalities_are_left_out() -> None:
    perceiver, whole = model(), batch()
    rows = list(singles([whole], modalities_of(perceiver)))
    assert [sorted(row.inputs) for row in rows] == [
        ["image", "points", "readings", "sound"],
        ["image", "points", "readings", "sound"],
        ["image", "readings", "sound"],
        ["image"],
    ]
    shapes = [{name: tuple(x.shape[1:]) for name, x in row.inputs.items()} for row in rows[:2]]
    assert shapes[0] == {"image": (3, 9, 8), "sound": (1, 640), "points": (30, 4), "readings": (12, 2)}
    assert shapes[1] == {"image": (3, 9, 8), "sound": (1, 320), "points": (15, 4), "readings": (6, 2)}
    assert [sorted(row.masks) for row in rows] == [[], ["points"], [], []], "only where something within is invalid"
    assert rows[1].id == "a/1"
    assert rows[1].target is not None
    assert rows[1].target.tolist() == [1]
    x, mask = rows[1].shown("points", MODALITIES["points"])
    assert torch.equal(x, whole.inputs["points"][1, :15])
    assert mask is not None
    assert mask.tolist() == [n != 3 for n in range(15)]


def test_the_model_says_of_a_single_sample_what_it_says_in_the_batch() -> None:
    perceiver, whole = model(), batch()
    together = perceiver(whole.inputs, whole.masks)
    alone = torch.cat([perceiver(row.inputs, row.masks) for row in singles([whole], modalities_of(perceiver))])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)
