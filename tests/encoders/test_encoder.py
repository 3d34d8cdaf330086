"""The encoder: schedules of shared weights, published parameter counts, the architecture against transformers'."""

import itertools
import tracemalloc
from typing import Any

import pytest
import torch
from torch import nn

from perceiver.adapters.image import ImageConvStem
from perceiver.attention import CrossAttend, SelfAttend
from perceiver.decoders import ClassificationDecoder
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.encoder import Encoder
from perceiver.tokens.positions import Fourier
from perceiver.tokens.tokens import Tokens

SMALL = {"token_channels": 12, "num_latents": 5, "latent_channels": 8, "num_self_heads": 2, "num_layers_per_block": 2}


def encoder(**changes: Any) -> Encoder:
    return Encoder(**{**SMALL, **changes})


def image_tokens(batch: int = 2, *, masked: bool = False) -> Tokens:
    parts = (torch.randn(batch, 4, 6, 5), torch.randn(1, 4, 1, 3), torch.randn(1, 1, 6, 4))
    return Tokens(parts=parts, mask=torch.rand(batch, 4, 6) > 0.3 if masked else None)


def num_parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


# ---- parameter counts of the published models


def test_parameters_of_the_imagenet_perceiver() -> None:
    with torch.device("meta"):
        model = Encoder(
            token_channels=261,
            num_latents=512,
            latent_channels=1024,
            num_cross_attends=8,
            num_blocks=8,
            num_layers_per_block=6,
        )
        head = PooledHead(latent_channels=1024, num_classes=1000)
    assert num_parameters(model, head) == 44_912_254


def test_parameters_of_perceiver_io_with_fourier_features() -> None:
    position = Fourier(num_bands=64, resolution=(224, 224))
    with torch.device("meta"):
        model = Encoder(token_channels=3 + position.channels, num_latents=512, latent_channels=1024, num_blocks=8)
        decoder = ClassificationDecoder(latent_channels=1024, num_classes=1000)
    assert num_parameters(model, decoder) == 48_440_627


def test_parameters_of_perceiver_io_with_a_convolutional_stem() -> None:
    with torch.device("meta"):
        stem = ImageConvStem(image_channels=3, position=Fourier(num_bands=64, resolution=(56, 56)))
        model = Encoder(token_channels=stem.channels, num_latents=512, latent_channels=1024, num_blocks=8)
        decoder = ClassificationDecoder(latent_channels=1024, num_classes=1000)
    assert stem.channels == 322
    assert num_parameters(stem, model, decoder) == 48_646_522


def test_parameters_of_the_mnist_model() -> None:
    position = Fourier(num_bands=32, resolution=(28, 28))
    with torch.device("meta"):
        model = Encoder(
            token_channels=1 + position.channels,
            num_latents=32,
            latent_channels=128,
            num_cross_attends=2,
            num_blocks=3,
            num_layers_per_block=3,
            share_cross_attends=False,
            share_first_block=False,
        )
        decoder = ClassificationDecoder(latent_channels=128, num_classes=10)
    assert num_parameters(model, decoder) == 907_212


# ---- weight sharing


@pytest.mark.parametrize(
    ("share", "share_first", "expected"),
    [
        (True, True, [0, 0, 0, 0]),
        (True, False, [0, 1, 1, 1]),
        (False, False, [0, 1, 2, 3]),
        (False, True, [0, 1, 2, 3]),
    ],
)
def test_schedules(share: bool, share_first: bool, expected: list[int]) -> None:
    cross = encoder(num_cross_attends=4, num_blocks=4, share_cross_attends=share, share_first_cross_attend=share_first)
    assert cross.cross_schedule == expected
    assert len(cross.cross_attends) == max(expected) + 1
    assert cross.block_schedule == [0, 0, 0, 0]
    blocks = encoder(num_blocks=4, share_blocks=share, share_first_block=share_first)
    assert blocks.block_schedule == expected
    assert len(blocks.blocks) == max(expected) + 1
    assert blocks.cross_schedule == [0]


def test_no_memory_grows_with_the_number_of_shared_steps() -> None:
    """The number may come from a stranger's checkpoint: a list of its length would be 8 GB."""
    tracemalloc.start()
    try:
        model = encoder(num_cross_attends=10**9, num_blocks=10**9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(model.cross_attends), len(model.blocks)) == (2, 1)
    assert peak < 10**7


def test_a_single_step_has_a_single_module() -> None:
    for share, first in itertools.product((False, True), repeat=2):
        model = encoder(
            share_cross_attends=share, share_first_cross_attend=first, share_blocks=share, share_first_block=first
        )
        assert len(model.cross_attends) == len(model.blocks) == 1


def test_order_of_modules() -> None:
    """Cross-attend i runs before block i; blocks without one follow."""
    model = encoder(num_cross_attends=2, num_blocks=3, share_cross_attends=False, share_blocks=False)
    calls: list[str] = []

    def record(name: str) -> Any:
        return lambda *_: calls.append(name)

    for kind, modules in (("cross", model.cross_attends), ("block", model.blocks)):
        for number, module in enumerate(modules):
            module.register_forward_hook(record(f"{kind} {number}"))
    model([image_tokens()])
    assert calls == ["cross 0", "block 0", "cross 1", "block 1", "block 2"]


def test_shared_weights_gather_the_gradients_of_all_their_uses() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        shared = encoder(num_cross_attends=3, num_blocks=3, attention="dense")
        apart = encoder(num_cross_attends=3, num_blocks=3, share_cross_attends=False, share_blocks=False, attention="dense")
        apart.latents.data.copy_(shared.latents.data)
        for number in range(3):
            apart.cross_attends[number].load_state_dict(shared.cross_attends[min(number, 1)].state_dict())
            apart.blocks[number].load_state_dict(shared.blocks[0].state_dict())
        tokens = image_tokens()
        tokens = Tokens(parts=tuple(part.double() for part in tokens.parts))
    finally:
        torch.set_default_dtype(torch.float32)
    outputs = shared([tokens]), apart([tokens])
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    gradients = {name: p.grad for name, p in apart.named_parameters()}
    for name, parameter in shared.named_parameters():
        uses = [name]
        if name.startswith("cross_attends.1."):
            uses = [name.replace(".1.", f".{number}.", 1) for number in (1, 2)]
        elif name.startswith("blocks.0."):
            uses = [name.replace(".0.", f".{number}.", 1) for number in range(3)]
        total = torch.stack([gradient for use in uses if (gradient := gradients[use]) is not None]).sum(dim=0)
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, total, rtol=1e-8, atol=1e-10)


# ---- what it computes


def copy_layer(ours: CrossAttend | SelfAttend, theirs: Any) -> None:
    """Weights of a transformers PerceiverLayer -> our layer."""
    attend = getattr(theirs.attention, "self")  # noqa: B009
    pairs: list[tuple[nn.Module, list[nn.Module]]]
    if isinstance(ours, CrossAttend):
        pairs = [
            (ours.attention.query_norm, [attend.layernorm1]),
            (ours.attention.tokens.norm, [attend.layernorm2]),
            (ours.attention.query, [attend.query]),
            (ours.attention.tokens.key, [attend.key]),
            (ours.attention.tokens.value, [attend.value]),
        ]
    else:
        pairs = [(ours.attention.norm, [attend.layernorm1]), (ours.attention.qkv, [attend.query, attend.key, attend.value])]
    pairs += [
        (ours.attention.output, [theirs.attention.output.dense]),
        (ours.feed_forward.norm, [theirs.layernorm]),
        (ours.feed_forward.expand, [theirs.mlp.dense1]),
        (ours.feed_forward.contract, [theirs.mlp.dense2]),
    ]
    with torch.no_grad():
        for own, sources in pairs:
            for name, parameter in own.named_parameters():
                parameter.copy_(torch.cat([source.get_parameter(name) for source in sources]))


@pytest.mark.parametrize("attention", ["dense", "factored"])
@pytest.mark.parametrize(
    ("activation", "query_residual", "num_cross_heads", "widening"),
    [("gelu", True, 1, 1), ("gelu_pytorch_tanh", False, 4, 2)],
)
def test_same_logits_as_transformers(
    attention: str, activation: str, query_residual: bool, num_cross_heads: int, widening: int
) -> None:
    """Norms first, residuals, GELU, sharing of blocks, the classification decoder: with weights copied, equal logits."""
    theirs = pytest.importorskip("transformers.models.perceiver.modeling_perceiver")
    config = theirs.PerceiverConfig(
        num_latents=5,
        d_latents=16,
        d_model=12,
        num_blocks=3,
        num_self_attends_per_block=2,
        num_self_attention_heads=2,
        num_cross_attention_heads=num_cross_heads,
        cross_attention_widening_factor=widening,
        self_attention_widening_factor=widening,
        hidden_act=activation,
        num_labels=7,
        cross_attention_shape_for_attention="kv",
        use_query_residual=query_residual,
    )
    decoder = theirs.PerceiverClassificationDecoder(
        config,
        num_channels=16,
        trainable_position_encoding_kwargs={"num_channels": 16, "index_dims": 1},
        use_query_residual=query_residual,
    )
    reference = theirs.PerceiverModel(config, decoder=decoder).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    approximate = activation != "gelu"
    ours = Encoder(
        token_channels=12,
        num_latents=5,
        latent_channels=16,
        num_blocks=3,
        num_layers_per_block=2,
        num_cross_heads=num_cross_heads,
        num_self_heads=2,
        cross_widening=widening,
        self_widening=widening,
        query_residual=query_residual,
        approximate_gelu=approximate,
        attention=attention,  # type: ignore[arg-type]
    )
    head = ClassificationDecoder(
        latent_channels=16, num_classes=7, query_residual=query_residual, approximate_gelu=approximate
    )
    first, block = ours.cross_attends[0], ours.blocks[0]
    assert isinstance(first, CrossAttend)
    assert isinstance(block, nn.Sequential)
    copy_layer(first, reference.encoder.cross_attention)
    for layer, source in zip(block, reference.encoder.self_attends, strict=True):
        assert isinstance(layer, SelfAttend)
        copy_layer(layer, source)
    copy_layer(head.cross_attend, reference.decoder.decoder.decoding_cross_attention)
    with torch.no_grad():
        ours.latents.copy_(reference.embeddings.latents)
        head.query.copy_(reference.decoder.decoder.output_position_encodings.position_embeddings)
    head.output.load_state_dict(reference.decoder.decoder.final_layer.state_dict())
    tokens = image_tokens(masked=True)
    expected = reference(inputs=tokens.dense(), attention_mask=tokens.dense_mask())
    latents = ours([tokens])
    torch.testing.assert_close(latents, expected.last_hidden_state, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head(latents), expected.logits, rtol=1e-4, atol=1e-4)


def test_latents_are_learned_and_start_small() -> None:
    latents = encoder(num_latents=1000, latent_std=0.5).latents
    assert latents.abs().max() <= 1.0
    assert 0.4 < latents.std() < 0.5
    model = encoder()
    model([image_tokens()]).square().sum().backward()
    assert model.latents.grad is not None
    assert (model.latents.grad != 0).any()


def test_blocks_of_tokens_may_come_in_any_order() -> None:
    model = encoder()
    blocks = [image_tokens(), Tokens(parts=(torch.randn(2, 7, 12),))]
    torch.testing.assert_close(model(blocks), model(blocks[::-1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["auto", "factored", "dense"])
def test_dropout_acts_in_training_only(attention: str) -> None:
    model = encoder(dropout=0.5, attention=attention)
    tokens = [image_tokens()]
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_attention_weights_show_every_cross_attend() -> None:
    model = encoder(num_cross_attends=3, num_blocks=3, num_cross_heads=2).eval()
    blocks = [image_tokens(masked=True), Tokens(parts=(torch.randn(2, 7, 12),), mask=torch.rand(2, 7) > 0.5)]
    weights = model.attention_weights(blocks)
    assert [[tuple(piece.shape) for piece in step] for step in weights] == [[(2, 2, 5, 4, 6), (2, 2, 5, 7)]] * 3
    for step in weights:
        torch.testing.assert_close(sum(piece.flatten(3).sum(-1) for piece in step), torch.ones(2, 2, 5))
        for piece, block in zip(step, blocks, strict=True):
            assert block.mask is not None
            assert (piece.movedim(0, 2)[:, :, ~block.mask] == 0).all()
    assert not torch.equal(weights[0][0], weights[1][0])


@pytest.mark.parametrize("attention", ["dense", "factored"])
def test_every_parameter_gets_a_gradient(attention: str) -> None:
    """Zeros at least: under DDP a parameter without gradient is an error."""
    model = encoder(num_cross_attends=2, num_blocks=2, attention=attention)
    model([image_tokens()]).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_token_changes_the_latents() -> None:
    model, tokens = encoder(), image_tokens()
    before = model([tokens])
    tokens.parts[0][0, 1, 2] += 1
    after = model([tokens])
    assert not torch.allclose(after[0], before[0])
    assert torch.equal(after[1], before[1])


@pytest.mark.parametrize("name", ["num_latents", "latent_channels", "num_blocks", "num_layers_per_block"])
def test_numbers_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"Encoder.{name}: expected at least 1, got 0"):
        encoder(**{name: 0})


def test_initial_latents_must_differ() -> None:
    with pytest.raises(ValueError, match=r"Encoder\.latent_std: expected .*, got 0\.0"):
        encoder(latent_std=0.0)


@pytest.mark.parametrize("count", [0, 3])
def test_every_cross_attend_has_its_block(count: int) -> None:
    with pytest.raises(ValueError, match=rf"num_cross_attends: expected 1 to num_blocks = 2, got {count}"):
        encoder(num_cross_attends=count, num_blocks=2)


def test_heads_must_divide_widths() -> None:
    with pytest.raises(ValueError, match="8 must be a positive multiple of num_heads = 3"):
        encoder(num_self_heads=3)
    with pytest.raises(ValueError, match="12 must be a positive multiple of num_heads = 5"):
        encoder(num_cross_heads=5)


def test_tokens_of_another_width() -> None:
    with pytest.raises(ValueError, match="expected tokens of 12 channels, got 11"):
        encoder()([Tokens(parts=(torch.randn(2, 3, 11),))])
    with pytest.raises(ValueError, match="at least one block"):
        encoder()([])


# ---- what each cross-attend reads


def two_blocks(*, masked: bool = True) -> list[Tokens]:
    """An image, and a sequence of which the second sample has none."""
    mask = torch.rand(2, 7) > 0.3
    mask[1] = False
    return [image_tokens(masked=masked), Tokens(parts=(torch.randn(2, 7, 12),), mask=mask if masked else None)]


def nothing_of(block: Tokens) -> Tokens:
    """The same tokens, all masked."""
    return Tokens(parts=block.parts, mask=torch.zeros(block.batch, *block.grid, dtype=torch.bool))


@pytest.mark.parametrize("attention", ["dense", "factored", "auto"])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    "reads", [[[0], [1], [0, 1]], [[1], [0], [0]], [[], [0, 1], [1]], [[0, 1], [], []], [[], [], [1]], [[0], [0], [0]]]
)
def test_a_cross_attend_reads_its_blocks_alone(attention: str, checkpointed: bool, reads: list[list[int]]) -> None:
    """The same as if the others were all masked at that step: outputs, and gradients of every parameter."""
    settings = {"num_cross_attends": 3, "num_blocks": 3, "attention": attention, "share_cross_attends": False}
    model = encoder(**settings, checkpoint_activations=checkpointed).double()
    reference = encoder(**settings).double()
    reference.load_state_dict(model.state_dict())
    blocks = [Tokens(parts=tuple(part.double() for part in block.parts), mask=block.mask) for block in two_blocks()]

    def masking(own: list[int]) -> Any:
        masked = [block if place in own else nothing_of(block) for place, block in enumerate(blocks)]
        return lambda _, arguments: (arguments[0], masked)

    for layer, own in zip(reference.cross_attends, reads, strict=True):
        layer.register_forward_pre_hook(masking(own))
    outputs = model(blocks, reads), reference(blocks)
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    for output in outputs:
        output.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name}: zeros at least"
        torch.testing.assert_close(parameter.grad, reference.get_parameter(name).grad, rtol=1e-8, atol=1e-8)


def test_all_blocks_are_what_all_read_by_default() -> None:
    model, blocks = encoder(num_cross_attends=2, num_blocks=2), two_blocks()
    assert torch.equal(model(blocks), model(blocks, [[0, 1], [0, 1]]))


def test_forms_read_the_same() -> None:
    blocks, reads = two_blocks(), [[1], [], [0, 1]]
    models = [encoder(num_cross_attends=3, num_blocks=3, attention=form) for form in ("dense", "factored")]
    models[1].load_state_dict(models[0].state_dict())
    torch.testing.assert_close(models[0](blocks, reads), models[1](blocks, reads), rtol=1e-5, atol=1e-5)


def test_dropping_attention_weights_of_nothing() -> None:
    for attention in ("dense", "factored"):
        model = encoder(num_cross_attends=2, num_blocks=2, attention=attention, attention_dropout=0.5)
        output = model(two_blocks(), [[], [0, 1]])
        output.square().sum().backward()
        assert output.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_weights_and_shares_of_blocks_that_are_not_read() -> None:
    model, blocks = encoder(num_cross_attends=3, num_blocks=3, num_cross_heads=2).eval(), two_blocks()
    reads = [[1], [], [0, 1]]
    weights, shares = model.attention_weights(blocks, reads), model.attention_by_block(blocks, reads)
    assert [[tuple(piece.shape) for piece in step] for step in weights] == [[(2, 2, 5, 4, 6), (2, 2, 5, 7)]] * 3
    for step, own in zip(weights, shares, strict=True):
        for piece, share in zip(step, own, strict=True):
            assert share.shape == (2,)
            torch.testing.assert_close(share, piece.flatten(3).sum(-1).mean(dim=(1, 2)), rtol=1e-5, atol=1e-6)
    totals = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    torch.testing.assert_close(torch.stack([sum(step) for step in shares]), torch.tensor(totals))
    plain = model.attention_by_block(blocks)
    torch.testing.assert_close(plain[0][1], model.attention_weights(blocks)[0][1].sum(-1).mean(dim=(1, 2)))


@pytest.mark.parametrize("reads", [[[0]], [[0], [0], [0]], [[], []], []])
def test_reads_go_with_the_cross_attends(reads: list[list[int]]) -> None:
    with pytest.raises(
        ValueError, match="Encoder.reads: expected the indices of the blocks to read for each of the 2 cross-attends"
    ):
        encoder(num_cross_attends=2, num_blocks=2)(two_blocks(), reads)


# ---- what it costs


@pytest.mark.parametrize("attention", ["factored", "dense"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_latents_are_projected_once_until_samples_differ(attention: str, checkpointed: bool) -> None:
    model = encoder(num_cross_attends=2, num_blocks=2, attention=attention, checkpoint_activations=checkpointed)
    batches: dict[str, list[int]] = {}
    for name, module in model.named_modules():
        if name.endswith(("query_norm", "attention.query")):
            module.register_forward_hook(lambda _m, _i, out, name=name: batches.setdefault(name, []).append(out.shape[0]))
    assert model([image_tokens(batch=3)]).shape == (3, 5, 8)
    assert batches == {
        "cross_attends.0.attention.query_norm": [1],
        "cross_attends.0.attention.query": [1],
        "cross_attends.1.attention.query_norm": [3],
        "cross_attends.1.attention.query": [3],
    }


def gradients_of(model: Encoder, tokens: Tokens, *, bfloat16: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Output and gradients of a training step from a fixed random state, and bytes kept between forward and backward."""
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            output = model([tokens])
        saved = sum(kept.values())
    output.float().square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return output.detach(), gradients, saved


@pytest.mark.parametrize("attention", ["factored", "dense"])
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointed_activations_change_memory_alone(attention: str, bfloat16: bool, dropout: float) -> None:
    changes: dict[str, Any] = {"num_cross_attends": 2, "num_blocks": 3, "dropout": dropout, "attention": attention}
    if attention == "dense":
        changes["attention_dropout"] = dropout
    plain, checkpointed = encoder(**changes), encoder(**changes, checkpoint_activations=True)
    checkpointed.load_state_dict(plain.state_dict())
    tokens = image_tokens(masked=True)
    expected = gradients_of(plain, tokens, bfloat16=bfloat16)
    found = gradients_of(checkpointed, tokens, bfloat16=bfloat16)
    assert torch.equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys() == dict(plain.named_parameters()).keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")
    assert found[2] < expected[2] / 3


def test_nothing_is_computed_twice_in_evaluation() -> None:
    model = encoder(checkpoint_activations=True).eval()
    calls: list[int] = []
    model.cross_attends[0].register_forward_pre_hook(lambda *_: calls.append(1))
    for layer in model.blocks[0].children():
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
    model([image_tokens()]).sum().backward()
    assert len(calls) == 3
    model.train()
    model([image_tokens()]).sum().backward()
    assert len(calls) == 3 + 2 * 3, "the second computation is what checkpointing costs"


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_is_finite_and_near_float32(training: bool) -> None:
    """Samples without a valid token and large values included."""
    torch.manual_seed(0)
    model = encoder(num_cross_attends=2, num_blocks=2).train(training)
    tokens = image_tokens(batch=3)
    mask = torch.ones(3, 4, 6, dtype=torch.bool)
    mask[1] = False
    tokens = Tokens(parts=(tokens.parts[0] * 1000, *tokens.parts[1:]), mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model([tokens])
    output.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(output.float(), model([tokens]), rtol=0.05, atol=0.05)


def test_the_form_is_explained() -> None:
    assert encoder(attention="dense").explain_attention([image_tokens()]).startswith("dense, as configured")
    few, many = (encoder(num_latents=count, attention="auto").explain_attention([image_tokens()]) for count in (1, 5))
    assert few
    assert many


@pytest.mark.parametrize("reads", [[[]], [[0], [0]]])
def test_reads_have_a_list_for_each_cross_attend_and_something_in_one(reads: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"Encoder\.reads: expected .* 1 cross-attends, at least one list not empty"):
        encoder()([image_tokens()], reads)


@pytest.mark.parametrize("method", ["attention_weights", "attention_by_block"])
def test_attention_of_tokens_that_all_samples_share(method: str) -> None:
    """One block has a batch of its own, the other does not depend on the sample."""
    blocks = [Tokens(parts=(torch.randn(1, 4, 12),)), Tokens(parts=(torch.randn(3, 2, 12),))]
    steps = getattr(encoder(num_cross_attends=2, num_blocks=2), method)(blocks, [[0], [1]])
    assert len(steps) == 2
    shapes = [(3, 1, 5, 4), (3, 1, 5, 2)] if method == "attention_weights" else [(3,), (3,)]
    for step, read in zip(steps, (0, 1), strict=True):
        for place, one in enumerate(step):
            assert tuple(one.shape) == shapes[place]
            total = one.flatten(3).sum(-1) if method == "attention_weights" else one
            torch.testing.assert_close(total, torch.full_like(total, float(place == read)))


def test_rollout_by_norm_follows_what_is_added_to_each_latent() -> None:
    """Against the definition, layer by layer; a layer that adds nothing passes nothing on."""
    model, tokens = encoder(num_cross_attends=2, num_blocks=2, share_blocks=False).eval(), two_blocks()
    idle = model.blocks[1][0]
    for parameter in idle.attention.output.parameters():
        torch.nn.init.zeros_(parameter)
    latents, reached = model.latents[None], torch.zeros(1)

    def follow(added: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        share = added.norm(dim=-1, keepdim=True) / (added.norm(dim=-1) + latents.norm(dim=-1))[..., None]
        return share * mixed + (1 - share) * reached

    with torch.no_grad():
        for step, block in enumerate(model.blocks):
            read = model.cross_attends[min(step, len(model.cross_attends) - 1)]
            weights = torch.cat([w.mean(dim=1).flatten(2) for w in read.attention.weights(latents, tokens)], dim=2)
            reached = follow(read.attention(latents, tokens), weights)
            latents = read(latents, tokens)
            for layer in block:
                before = reached
                reached = follow(layer.attention(latents), layer.attention.weights(latents).mean(dim=1) @ reached)
                assert torch.equal(before, reached) == (layer is idle)
                latents = layer(latents)
        found = model.rollout(tokens, by_norm=True)
    torch.testing.assert_close(torch.cat([piece.flatten(2) for piece in found], dim=2), reached)
    assert not torch.allclose(found[0], model.rollout(tokens)[0])


def test_cross_attends_run_before_the_first_blocks_only() -> None:
    encoder = Encoder(
        token_channels=5, num_latents=3, latent_channels=8, num_cross_attends=1, num_blocks=3, num_layers_per_block=1,
        num_self_heads=2, share_blocks=False,
    ).eval()  # fmt: skip
    tokens = [Tokens(parts=(torch.randn(2, 6, 5),))]
    latents = encoder.cross_attends[0](encoder.latents[None], tokens)
    for block in encoder.blocks:
        latents = block(latents)
    torch.testing.assert_close(encoder(tokens), latents)
