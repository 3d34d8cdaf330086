"""Maps over the inputs: composed by hand in float64, for every kind of memory, with absent and masked tokens."""

import pytest
import torch
from generating_models import VOCABULARY, inputs, model

import perceiver
from perceiver.decoders import Sources


@pytest.mark.parametrize("memory", ["latents", "written", "both"])
def test_maps_are_composed_and_keep_their_sums(memory: str) -> None:
    torch.manual_seed(1)
    one, (x, masks) = model(memory), inputs(4)
    masks["image"] = torch.tensor([True, True, False, True])
    ids = torch.randint(0, VOCABULARY, (4, 7))
    with torch.no_grad():
        kept, rollout = one.memory(x, masks), one.rollout(one.tokens(x, masks), by_norm=True)
        layers = one.head.attention_weights(kept, ids)
    latents = torch.cat([rollout["image"].flatten(2), rollout["text"]], dim=2)
    latents = latents / latents.sum(dim=2, keepdim=True)
    found = one.sources(x, masks).maps(layers[1])
    dense = torch.zeros(4, 2, 7, 26, dtype=torch.float64)
    if memory != "latents":
        dense += torch.cat([layers[1]["image"].flatten(3), layers[1]["text"]], dim=3)
    if memory != "written":
        dense += torch.einsum("bhqn,bnt->bhqt", layers[1]["latents"], latents)
    torch.testing.assert_close(torch.cat([found["image"].flatten(3), found["text"]], dim=3), dense)
    torch.testing.assert_close(dense.sum(dim=3), torch.ones(4, 2, 7, dtype=torch.float64))
    assert float(found["image"][2].abs().sum()) == 0.0
    assert float((found["text"] * ~masks["text"][:, None, None]).abs().sum()) == 0.0
    means = one.attention_of_ids(x, masks, ids=ids)
    wanted = torch.stack([one.sources(x, masks).maps(layer)["text"] for layer in layers]).mean(dim=(0, 2))
    torch.testing.assert_close(means["text"], wanted)


def test_maps_of_an_absent_modality_are_missing_and_of_nothing_are_zero() -> None:
    one, (x, masks) = model("both"), inputs(2)
    del x["image"], masks["image"]
    masks["text"][:] = torch.tensor([[True], [False]])
    maps = one.attention_of_ids(x, masks, ids=torch.randint(0, VOCABULARY, (2, 3)))
    assert set(maps) == {"text"}
    torch.testing.assert_close(maps["text"].sum(dim=2), torch.tensor([[1.0] * 3, [0.0] * 3], dtype=torch.float64))


def test_maps_follow_the_beams() -> None:
    one, (x, masks) = model("both"), inputs(3)
    masks["text"][:] = True
    out = perceiver.generate(one, x, masks, num_beams=3, num_return_sequences=2, max_length=8, return_attention=True)
    assert out.attention is not None
    rows = torch.arange(3).repeat_interleave(2)
    found = one.sources(x, masks).rows(rows).averaged(out.attention)
    for row in range(6):
        alone = {name: value[row // 2 : row // 2 + 1] for name, value in x.items()}
        own = {name: value[row // 2 : row // 2 + 1] for name, value in masks.items()}
        wanted = one.attention_of_ids(alone, own, ids=out.ids[row : row + 1, :-1])
        torch.testing.assert_close(found["text"][row : row + 1], wanted["text"])


def test_sources_without_latents_leave_weights_alone() -> None:
    weights = {"image": torch.rand(1, 2, 3, 4, 5)}
    assert torch.equal(Sources(latents={}).maps(weights)["image"], weights["image"])
    classifier = model("both")
    classifier.head = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"attention_of_ids: Identity reads no memory"):
        classifier.attention_of_ids(inputs(1)[0], ids=torch.ones(1, 2, dtype=torch.int64))
