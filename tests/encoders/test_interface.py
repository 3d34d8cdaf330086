"""The interface: against the dense formula in float64, Perceiver IO as its special case, masks, latents of earlier calls."""

from typing import Any

import pytest
import torch
from interface_models import inputs, model, reference
from torch import Tensor

from perceiver import Encoder, InputQueries, Interface, Perceiver, PooledHead, QueryDecoder, Tokens
from perceiver.attention.projection import linear_of_tokens
from perceiver.encoders.modulation import Modulation

FORMS = ("dense", "factored")
HIDDEN = {"modulation_channels": 8, "modulation_hidden_channels": 7}
TIME = torch.tensor([0.2, 0.7])


def tokens(masked: bool) -> list[Tokens]:
    """Return factored tokens of an image, which is written, and of a sequence."""
    torch.manual_seed(1)
    wide = {"dtype": torch.float64}
    image = (torch.randn(2, 3, 4, 5, **wide), torch.randn(1, 3, 1, 2, **wide), torch.randn(1, 1, 4, 4, **wide))  # type: ignore[arg-type]
    text = (torch.randn(2, 6, 8, **wide), torch.randn(1, 6, 3, **wide))  # type: ignore[arg-type]
    masks: list[Tensor | None] = [torch.rand(2, 3, 4) < 0.7, torch.rand(2, 6) < 0.5] if masked else [None, None]
    return [Tokens(parts=image, mask=masks[0]), Tokens(parts=text, mask=masks[1])]


def interface(**settings: Any) -> Interface:
    """Return an interface for `tokens`, in float64 with random weights."""
    torch.manual_seed(0)
    settings = {
        "num_latents": 3, "latent_channels": 8, "state_channels": 6, "num_blocks": 2, "num_layers_per_block": 1,
        "num_cross_heads": 2, "num_write_heads": 2, "num_self_heads": 2, "time_bands": 2, **settings,
    }  # fmt: skip
    encoder = Interface(token_channels=11, **settings)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return encoder.double().eval()


@pytest.mark.parametrize("local_kernel", [[3, 3], None])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("modulation", [{}, {"modulation_channels": 5}, HIDDEN])
def test_equals_the_dense_formula(
    form: str, masked: bool, local_kernel: list[int] | None, modulation: dict[str, int]
) -> None:
    encoder = interface(attention=form, local_kernel=local_kernel, **modulation)
    blocks = tokens(masked)
    with torch.no_grad():
        done = encoder(blocks, state=0, time=TIME)
        state, latents = reference(encoder, blocks, state=0, time=TIME)
    torch.testing.assert_close(done.state.flatten(1, 2), state, rtol=0, atol=1e-10)
    torch.testing.assert_close(done.latents, latents, rtol=0, atol=1e-10)


def test_one_block_without_mixing_is_perceiver_io() -> None:
    written = interface(num_blocks=1, num_layers_per_block=2)
    block: Any = written.blocks[0]
    blocks = tokens(masked=True)
    # What the latents of Perceiver IO read, and the queries that read them: the tokens with time and state.
    with torch.no_grad():
        timed = blocks[0].cleaned().append(written._time_features(TIME, blocks[0]))
        state = linear_of_tokens(written.embed, timed)
        read = [timed.append(state), written._padded(blocks[1])]
    encoder = Encoder(
        token_channels=read[0].channels, num_latents=3, latent_channels=8, num_layers_per_block=2, num_cross_heads=2,
        cross_qk_channels=8, num_self_heads=2, self_widening=2,
    ).double()  # fmt: skip
    own = {f"cross_attends.0.{name}": x for name, x in block.read.state_dict().items()}
    own |= {f"blocks.0.{name}": x for name, x in block.compute.state_dict().items()}
    encoder.load_state_dict({"latents": written.latents, **own})
    decoder = QueryDecoder(
        latent_channels=8, token_channels=6, queries=InputQueries(modality="image"), num_heads=2, qk_channels=6, widening=2,
        query_residual=True,
    ).double()  # fmt: skip
    decoder.cross_attend.load_state_dict(block.write.state_dict())
    queries = Tokens(parts=(state,), mask=blocks[0].mask)
    with torch.no_grad():
        latents = encoder(read)
        torch.testing.assert_close(written(blocks, state=0, time=TIME).latents, latents, rtol=0, atol=1e-12)
        expected = decoder(latents, tokens={"image": queries})
        torch.testing.assert_close(written(blocks, state=0, time=TIME).state, expected, rtol=0, atol=1e-12)


def test_masked_content_is_not_read_and_gets_no_velocity() -> None:
    one, given = model(), inputs()
    mask = torch.ones(2, 6, 8, dtype=torch.bool)
    mask[1, 4:] = False
    mask[1, :, 6:] = False
    hidden = {**given, "image": torch.where(mask[:, None], given["image"], torch.nan)}
    with torch.no_grad():
        velocity = one.velocity(hidden, {"image": mask}, time=TIME).values
        alone = one.velocity(
            {"image": given["image"][1:, :, :4, :6], "label": given["label"][1:]}, time=TIME[1:]
        ).values  # fmt: skip
    assert bool(velocity.isfinite().all())
    torch.testing.assert_close(velocity[1:, :2, :3], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["auto", *FORMS])
@pytest.mark.parametrize("modulation", [{}, {"modulation_channels": 8}, HIDDEN])
def test_an_absent_condition_equals_a_masked_one(form: str, modulation: dict[str, int]) -> None:
    one, given = model(attention=form, **modulation), inputs()
    nothing = torch.zeros(2, dtype=torch.bool)
    with torch.no_grad():
        masked = one.velocity(given, {"label": nothing}, time=TIME).values
        absent = one.velocity({"image": given["image"]}, time=TIME).values
        present = one.velocity(given, time=TIME).values
    # Bit for bit in `generate`, which leaves out conditions that no sample has. Here a masked key is one more term of zero
    # in torch's products, which some processors then add up in another order.
    torch.testing.assert_close(masked, absent, rtol=0, atol=1e-12)
    assert not torch.allclose(present, absent)


def test_modulation_starts_as_the_identity_and_reads_time_and_conditions() -> None:
    blocks = tokens(masked=True)
    for place in range(2):
        one, plain = interface(modulation_channels=8), interface()
        assert one.modulation is not None
        plain.load_state_dict({name: x for name, x in one.state_dict().items() if not name.startswith("modulation.")})
        for linear in one.modulation.affine:
            torch.nn.init.zeros_(linear.weight)  # type: ignore[arg-type]
            torch.nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            expected = plain(blocks, state=0, time=TIME).state
            torch.testing.assert_close(one(blocks, state=0, time=TIME).state, expected, rtol=0, atol=0)
            torch.nn.init.ones_(one.modulation.affine[2 * place].weight)  # type: ignore[arg-type]
            assert not torch.allclose(one(blocks, state=0, time=TIME).state, expected)


def test_a_hidden_layer_knows_the_order_of_a_condition() -> None:
    words, places = torch.randn(1, 4, 3).double(), torch.linspace(-1, 1, 4).double().reshape(1, 4, 1)
    given, swapped = (Tokens(parts=(content, places)) for content in (words, words[:, [1, 0, 2, 3]]))
    time = torch.rand(1, 2).double()

    def differs(hidden_channels: int) -> bool:
        modulation = Modulation(
            token_channels=4, time_channels=2, channels=8, state_channels=5, num_places=1, hidden_channels=hidden_channels
        ).double()
        torch.nn.init.normal_(modulation.affine[0].weight)  # type: ignore[arg-type]
        with torch.no_grad():
            [(scale, _)], [(other, _)] = modulation(time, [given]), modulation(time, [swapped])
        return not torch.allclose(scale, other, rtol=0, atol=1e-6)

    assert [differs(0), differs(16)] == [False, True]


def test_a_row_of_the_batch_is_modulated_by_its_own_condition_alone() -> None:
    one, blocks = interface(**HIDDEN), tokens(masked=False)
    some = Tokens(parts=blocks[1].parts, mask=torch.tensor([[True], [False]]).expand(2, 6))
    with torch.no_grad():
        both = one([blocks[0], some], state=0, time=TIME).state
        first = one([one_of(blocks[0], 0), one_of(blocks[1], 0)], state=0, time=TIME[:1]).state
        second = one([one_of(blocks[0], 1)], state=0, time=TIME[1:]).state
    torch.testing.assert_close(both, torch.cat([first, second]), rtol=0, atol=1e-10)


def test_one_time_serves_a_batch_of_conditions() -> None:
    one, blocks = interface(modulation_channels=8), tokens(masked=True)
    with torch.no_grad():
        shared = one(blocks, state=0, time=TIME[:1]).state
        own = one(blocks, state=0, time=TIME[:1].expand(2)).state
    torch.testing.assert_close(shared, own, rtol=0, atol=1e-12)


def one_of(block: Tokens, row: int) -> Tokens:
    """Return one sample of a block without a mask."""
    return Tokens(parts=tuple(part[row : row + 1] if len(part) > 1 else part for part in block.parts))


def test_gradients_agree_between_the_forms_and_absent_modalities_get_zeros() -> None:
    found = []
    for form in FORMS:
        one = model(attention=form)
        one.velocity(inputs(), time=TIME).values.square().sum().backward()
        found.append({name: parameter.grad for name, parameter in one.named_parameters()})
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)
    one = model(self_condition=True, modulation_channels=8)
    one.velocity({"image": inputs()["image"]}, time=TIME).values.sum().backward()
    assert all(parameter.grad is not None for parameter in one.parameters())
    label = one.fusion.padding["label"].grad
    assert label is not None
    assert not bool(label.any())


def test_recomputed_activations_give_the_same_gradients() -> None:
    found = []
    for checkpointed in (False, True):
        one = model(checkpoint_activations=checkpointed).train()
        one.velocity(inputs(), time=TIME).values.square().sum().backward()
        found.append({name: parameter.grad for name, parameter in one.named_parameters()})
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


def test_latents_of_an_earlier_call_count_once_trained() -> None:
    one = model(self_condition=True)
    with torch.no_grad():
        first = one.velocity(inputs(), time=TIME)
        assert not torch.allclose(one.velocity(inputs(), time=TIME, previous=first.latents).values, first.values)
    encoder = Interface(token_channels=11, num_latents=3, latent_channels=8, state_channels=8, self_condition=True).double()
    with torch.no_grad():
        before = encoder(tokens(masked=False), state=0)
        after = encoder(tokens(masked=False), state=0, previous=before.latents)
    torch.testing.assert_close(after.state, before.state, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="expected none without self_condition"):
        model().velocity(inputs(), time=TIME, previous=first.latents)


def test_attention_weights_add_up_and_shares_are_their_sums() -> None:
    one, given = model(), inputs()
    weights, shares = one.attention_weights(given), one.attention_by_modality(given)
    assert [step["image"].shape for step in weights] == [(2, 2, 3, 3, 4)] * 2
    for step, share in zip(weights, shares, strict=True):
        for name in step:
            torch.testing.assert_close(step[name].flatten(3).sum(3).mean((1, 2)), share[name], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(sum(share.values()), torch.ones(2, dtype=torch.float64))


def test_each_block_reads_the_modalities_that_are_configured() -> None:
    whole = model()
    one = Perceiver(
        adapters=dict(whole.adapters.items()), encoder=whole.encoder, head=whole.head, fusion=whole.fusion,
        reads=[["image"], ["image", "label"]],
    )  # fmt: skip
    first, second = one.attention_by_modality(inputs())
    assert bool((first["label"] == 0).all())
    assert bool((second["label"] > 0).all())
    assert one.encode(inputs()).shape == (2, 3, 8)
    assert one(inputs()).shape == (2, 3, 4, 4)


def test_a_block_without_anything_to_read_reads_zeros() -> None:
    encoder, blocks = interface(), tokens(masked=False)
    hidden = [blocks[0], Tokens(parts=blocks[1].parts, mask=torch.zeros(2, 6, dtype=torch.bool))]
    with torch.no_grad():
        nothing = encoder(blocks[:1], [[], [0]], state=0, time=TIME)
        masked = encoder(hidden, [[1], [0]], state=0, time=TIME)
    torch.testing.assert_close(nothing.state, masked.state, rtol=0, atol=1e-12)


def test_shares_are_at_least_float32_also_of_blocks_that_are_not_read() -> None:
    encoder = interface().bfloat16()
    blocks = [Tokens(parts=tuple(part.bfloat16() for part in block.parts)) for block in tokens(masked=False)]
    with torch.no_grad():
        [first, second] = encoder.attention_by_block(blocks, [[1], [0]], state=0, time=TIME.bfloat16())
    assert {share.dtype for share in (*first, *second)} == {torch.float32}
    assert (first[0].tolist(), second[1].tolist()) == ([0, 0], [0, 0])


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"Interface.modulation_channels: expected at least 0, got -1"):
        interface(modulation_channels=-1)
    with pytest.raises(ValueError, match=r"modulation_hidden_channels: got 4 without modulation; expected"):
        interface(modulation_hidden_channels=4)
    one = model()
    with pytest.raises(ValueError, match="expected 'image', the modality that the model generates, got"):
        one.velocity({"label": inputs()["label"]}, time=TIME)
    with pytest.raises(ValueError, match=r"Interface.state: expected the index of the block of tokens to write, got None"):
        one.encoder(tokens(masked=False), state=None)
    with pytest.raises(ValueError, match="an Interface needs a head for the tokens that it writes"):
        Perceiver(
            adapters=dict(one.adapters.items()), encoder=one.encoder, head=PooledHead(latent_channels=8, num_classes=2),
            fusion=one.fusion,
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"Interface.num_blocks: expected at least 1, got 0"):
        interface(num_blocks=0)
    with pytest.raises(ValueError, match="this model generates 'image' and has no output for a target"):
        one.target_outputs(inputs())
    with pytest.raises(ValueError, match="takes the whole grid of written tokens only"):
        one(inputs(), index=torch.zeros(1, dtype=torch.int64))
