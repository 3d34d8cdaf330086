"""The model: subsets and absences of modalities, samples on their own, precision, prediction, tracing, errors."""

import copy
import io
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from warm_process import python, start

from perceiver.adapters.audio import WaveformFrames
from perceiver.adapters.image import ImageConvStem, ImagePixels
from perceiver.adapters.points import Points
from perceiver.adapters.table import Table
from perceiver.decoders import ClassificationDecoder
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.encoder import Encoder
from perceiver.encoders.fusion import Fusion
from perceiver.masking.modality_dropout import ModalityDropout
from perceiver.model import Perceiver
from perceiver.samples.collate import Collate
from perceiver.targets.predict import prepare
from perceiver.tokens.positions import Fourier, LearnedTable

SPEC = {
    "modalities": {
        "image": {"kind": "image", "shape": [3, 6, 7], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "range": [0, 255]},
        "points": {"kind": "points", "shape": [None, 5]},
        "sound": {"kind": "audio", "shape": [1, None], "sample_rate": 100},
    },
    "target": {"kind": "classes", "names": ["cat", "dog", "owl"]},
    "num_classes": 3,
}
EVERY_SUBSET = [names for count in (1, 2, 3) for names in itertools.combinations(("image", "points", "sound"), count)]
READS = [None, [["image"], ["points", "sound"]], [["sound", "image"], ["points", "image"]]]
every_form = pytest.mark.parametrize("attention", ["dense", "factored"])


def adapters(*, stem: bool = False, table: bool = False) -> dict[str, nn.Module]:
    position = LearnedTable(grid=(6, 7), channels=5) if table else Fourier(num_bands=4, resolution=(6, 7))
    if stem:
        image: nn.Module = ImageConvStem(image_channels=3, stem_channels=4, position=position)
    else:
        image = ImagePixels(image_channels=3, position=position)
    return {
        "sound": WaveformFrames(
            audio_channels=1, frame=4, sample_rate=100, position=Fourier(num_bands=3, resolution=(10,)), duration_seconds=0.4
        ),
        "points": Points(point_channels=5, position=Fourier(num_bands=2, resolution=(8, 8, 8))),
        "image": image,
    }


def build(
    names: tuple[str, ...] = ("image", "points", "sound"),
    *,
    attention: str = "auto",
    pooled: bool = False,
    stem: bool = False,
    table: bool = False,
    dropout: float = 0.0,
    rates: dict[str, float] | None = None,
    reads: list[list[str]] | None = None,
) -> Perceiver:
    torch.manual_seed(0)
    own = {name: adapter for name, adapter in adapters(stem=stem, table=table).items() if name in names}
    fusion = Fusion(channels={name: int(getattr(adapter, "channels")) for name, adapter in own.items()})  # noqa: B009
    encoder = Encoder(
        token_channels=fusion.channels,
        num_latents=4,
        latent_channels=16,
        num_cross_attends=2,
        num_blocks=2,
        num_layers_per_block=1,
        num_self_heads=2,
        dropout=dropout,
        attention=attention,  # type: ignore[arg-type]
    )
    head: nn.Module = PooledHead(latent_channels=16, num_classes=3)
    if not pooled:
        head = ClassificationDecoder(latent_channels=16, num_classes=3)
    lost = None if rates is None else ModalityDropout(rates=rates)
    return Perceiver(adapters=own, encoder=encoder, head=head, fusion=fusion, spec=SPEC, modality_dropout=lost, reads=reads)


def some_inputs(batch: int = 3) -> dict[str, Tensor]:
    return {"image": torch.randn(batch, 3, 6, 7), "points": torch.randn(batch, 9, 5), "sound": torch.randn(batch, 1, 40)}


def some_masks(batch: int = 3) -> dict[str, Tensor]:
    """Elements of each kind, and a sample that lacks points."""
    masks = {
        "image": torch.rand(batch, 6, 7) > 0.3,
        "points": torch.rand(batch, 9) > 0.3,
        "sound": torch.ones(batch, 40) > 0,
    }
    masks["points"][0] = False
    masks["sound"][1, 13:] = False
    return masks


def close(a: Tensor, b: Tensor) -> None:
    """As float32 has it: each form of attention is up to 4.4e-6 from what both compute in float64 (see below), of values
    about 2, wherever Fourier features of images are in it, and in whichever order their arguments are multiplied."""
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


# ---- modalities


@every_form
@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("names", EVERY_SUBSET)
def test_an_absent_modality_equals_one_that_is_all_masked(
    names: tuple[str, ...], reads: list[list[str]] | None, attention: str
) -> None:
    """A cross-attend that reads only what is absent included."""
    model, inputs, masks = build(attention=attention, reads=reads), some_inputs(), some_masks()
    given = {name: inputs[name] for name in names}
    expected = model(given, {name: masks[name] for name in names})
    assert expected.isfinite().all()
    filled = {name: x if name in names else torch.full_like(x, float("nan")) for name, x in inputs.items()}
    presence = {name: masks[name] if name in names else torch.zeros(3, dtype=torch.bool) for name in inputs}
    close(model(filled, presence), expected)
    elements = {name: masks[name] if name in names else torch.zeros_like(masks[name]) for name in inputs}
    close(model(filled, elements), expected)


@every_form
@pytest.mark.parametrize("names", EVERY_SUBSET)
def test_models_of_any_modalities(names: tuple[str, ...], attention: str) -> None:
    model, inputs = build(names, attention=attention), some_inputs()
    given = {name: inputs[name] for name in names}
    assert model(given).shape == (3, 3)
    assert model.encode(given).shape == (3, 4, 16)
    assert list(model.tokens(given)) == sorted(names)


def test_order_of_keys_does_not_matter() -> None:
    model, inputs, masks = build(), some_inputs(), some_masks()
    assert torch.equal(model(dict(reversed(inputs.items())), dict(reversed(masks.items()))), model(inputs, masks))


def test_a_mask_of_all_true_is_no_mask() -> None:
    model, inputs = build(), some_inputs()
    close(model(inputs, {name: torch.ones(3, dtype=torch.bool) for name in inputs}), model(inputs))


@every_form
@settings(max_examples=25)
@given(present=st.lists(st.sets(st.sampled_from(["image", "points", "sound"])), min_size=2, max_size=4))
def test_samples_that_lack_modalities_do_not_see_one_another(attention: str, present: list[set[str]]) -> None:
    """Each row of a mixed batch, a row without anything among them, equals the sample alone with what it has."""
    model, inputs = build(attention=attention), some_inputs(len(present))
    masks = {name: torch.tensor([name in own for own in present]) for name in inputs}
    for name, mask in masks.items():
        inputs[name][~mask] = float("nan")
    output = model(inputs, masks)
    nothing = model({"sound": torch.zeros(1, 1, 40)}, {"sound": torch.tensor([False])})[0]
    for row, own in enumerate(present):
        alone = model({name: inputs[name][row : row + 1] for name in own})[0] if own else nothing
        close(output[row], alone)


@every_form
@pytest.mark.parametrize("stem", [False, True])
def test_masked_content_changes_no_bit(attention: str, stem: bool) -> None:
    results = []
    for fill in (0.0, float("nan"), float("inf"), 1e30):
        torch.manual_seed(1)
        inputs, masks = some_inputs(), some_masks()
        model = build(attention=attention, stem=stem)
        for name, mask in masks.items():
            x = inputs[name]
            visible = mask[:, None] if name in ("image", "sound") else mask[..., None]
            inputs[name] = torch.where(visible, x, torch.tensor(fill)).requires_grad_()
        output = model(inputs, masks)
        output.square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None] + [inputs[name].grad for name in inputs]
        results.append([output.detach(), *gradients])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert all(x.isfinite().all() for x in results[0])


@every_form
def test_ragged_samples_alone_and_padded(attention: str) -> None:
    model = build(attention=attention, table=True)
    counts, sides, lengths = (2, 9, 5), ((6, 7), (3, 4), (5, 2)), (40, 12, 23)
    inputs = {name: torch.full_like(x, float("nan")) for name, x in some_inputs().items()}
    masks = {name: torch.zeros_like(mask) for name, mask in some_masks().items()}
    samples = []
    for row, (count, (height, width), length) in enumerate(zip(counts, sides, lengths, strict=True)):
        sample = {"image": torch.randn(3, height, width), "points": torch.randn(count, 5), "sound": torch.randn(1, length)}
        inputs["image"][row, :, :height, :width], masks["image"][row, :height, :width] = sample["image"], True
        inputs["points"][row, :count], masks["points"][row, :count] = sample["points"], True
        inputs["sound"][row, :, :length], masks["sound"][row, :length] = sample["sound"], True
        samples.append(sample)
    output = model(inputs, masks)
    for row, sample in enumerate(samples):
        close(output[row], model({name: x[None] for name, x in sample.items()})[0])


def test_default_fusion_is_of_the_adapters() -> None:
    own = adapters()
    fusion = Fusion(channels={name: int(getattr(adapter, "channels")) for name, adapter in own.items()})  # noqa: B009
    encoder = Encoder(token_channels=fusion.channels, num_latents=2, latent_channels=8)
    model = Perceiver(adapters=own, encoder=encoder, head=PooledHead(latent_channels=8, num_classes=2))
    assert {name: v.shape for name, v in model.fusion.padding.items()} == {
        name: v.shape for name, v in fusion.padding.items()
    }
    assert list(model.adapters) == ["image", "points", "sound"]
    assert {name.split(".")[0] for name in model.state_dict()} == {"fusion", "encoder", "head"}


# ---- modality dropout, and what each cross-attend reads

RATES = {"image": 0.4, "points": 0.3, "sound": 0.6}


@every_form
@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("names", EVERY_SUBSET)
def test_gradients_are_those_of_a_modality_that_is_all_masked(
    names: tuple[str, ...], reads: list[list[str]] | None, attention: str
) -> None:
    """Zeros, not None, for what is absent: data-parallel training waits for the gradient of every parameter."""
    model = build(attention=attention, stem=True, table=True, reads=reads).double().train()
    inputs, gradients = {name: x.double() for name, x in some_inputs().items()}, []
    given = {name: x for name, x in inputs.items() if name in names}
    for own, masks in ((given, {}), (inputs, {name: torch.zeros(3) > 0 for name in inputs if name not in names})):
        model.zero_grad()
        model(own, masks).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-6, atol=1e-8, msg=lambda t, n=name: f"{n}: {t}")
        if name.startswith(tuple(f"{part}.{one}" for part in ("adapters", "fusion.padding") for one in inputs)):
            assert bool(gradient.any()) == (name.split(".")[1 if name.startswith("adapters") else 2] in names)


@every_form
@pytest.mark.parametrize("reads", READS)
def test_every_parameter_gets_a_gradient_with_modality_dropout(reads: list[list[str]] | None, attention: str) -> None:
    """All but one modality are lost more often than not, from all samples at once among them."""
    model = build(attention=attention, stem=True, table=True, rates=dict.fromkeys(RATES, 0.9), reads=reads).train()
    for _ in range(5):
        model.zero_grad()
        model(some_inputs(2)).square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_frozen_parameters_stay_without_gradient() -> None:
    model = build(table=True)
    model.adapters["image"].requires_grad_(False)
    model({"sound": torch.randn(3, 1, 40)}).sum().backward()
    assert all(p.grad is None for p in model.adapters["image"].parameters())
    with torch.no_grad():
        assert not model.encode({"sound": torch.randn(3, 1, 40)}).requires_grad


def test_modality_dropout_masks_samples_in_training_alone() -> None:
    model, inputs, masks = build(rates=RATES), some_inputs(64), some_masks(64)
    plain = build().eval()
    assert torch.equal(model.eval()(inputs, masks), plain(inputs, masks))
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(inputs, masks))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    torch.manual_seed(1)
    assert model.modality_dropout is not None
    left = model.modality_dropout(inputs, masks)
    assert not torch.equal(left["image"], masks["image"])
    # Training may take another form of attention than evaluation does.
    torch.testing.assert_close(outputs[0], plain(inputs, left), rtol=1e-5, atol=1e-5)


def test_samples_lose_modalities_where_nothing_else_is_masked() -> None:
    model, inputs = build(rates={"image": 0.5}).train(), some_inputs(64)
    torch.manual_seed(1)
    assert model.modality_dropout is not None
    left = model.modality_dropout(inputs)
    assert list(left) == ["image"]
    torch.manual_seed(1)
    output = model(inputs)
    for lost in (False, True):
        rows = left["image"] != lost
        assert rows.any()
        own = {name: x[rows] for name, x in inputs.items() if not (lost and name == "image")}
        close(output[rows], model.eval()(own))


@pytest.mark.parametrize("pooled", [False, True])
def test_what_is_not_read_makes_no_difference_there(pooled: bool) -> None:
    """The first cross-attend reads the image alone; with the second silenced, sound and points change nothing."""
    model, inputs = build(pooled=pooled, reads=[["image"], ["points", "sound"]]).eval(), some_inputs()
    with torch.no_grad():
        model.encoder.cross_attends[1].attention.output.weight.zero_()
    before = model(inputs)
    assert torch.equal(model({**inputs, "sound": inputs["sound"] + 1, "points": inputs["points"] * 2}), before)
    assert not torch.allclose(model({**inputs, "image": inputs["image"] + 1}), before)


@every_form
def test_an_order_of_names_does_not_matter(attention: str) -> None:
    inputs, masks = some_inputs(), some_masks()
    one = build(attention=attention, reads=[["image"], ["points", "sound"]])
    other = build(attention=attention, reads=[["image"], ["sound", "points"]])
    assert torch.equal(one(inputs, masks), other(inputs, masks))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forms_read_the_same(dtype: torch.dtype) -> None:
    for names in EVERY_SUBSET:
        dense, factored = (build(attention=form, reads=READS[1]).to(dtype) for form in ("dense", "factored"))
        masks = {name: mask for name, mask in some_masks().items() if name in names}
        inputs = {name: x.to(dtype) for name, x in some_inputs().items() if name in names}
        one, other = dense(inputs, masks), factored(inputs, masks)
        if dtype == torch.float32:
            close(one, other)
        else:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("reads", "text"),
    [
        ([["image", "points", "sound"]], r"list of modalities for each of the 2 cross-attends, .*got 1 entries"),
        ([["image", "points", "sound"]] * 3, "got 3 entries"),
        ([["image", "points", "sound"], []], r"\[1\]: .*at least one in each; got \[\]"),
        ([["image", "points", "sound"], ["imgae"]], r"\[1\]: .*\['image', 'points', 'sound'\].*got \['imgae'\]"),
        ([["image", "points", "sound"], ["image", "image"]], "each at most once"),
        (["image", "sound"], r"\[0\]: expected a list .* got 'image'"),
        ("ab", "got 2 entries"),
        ([["image"], ["image"]], r"no cross-attend reads \['points', 'sound'\]"),
    ],
)
def test_reads_are_checked(reads: Any, text: str) -> None:
    with pytest.raises(ValueError, match=rf"Perceiver\.reads.*{text}"):
        build(reads=reads)


def test_rates_are_for_modalities_of_the_model() -> None:
    with pytest.raises(ValueError, match=r"Perceiver\.modality_dropout\.rates: .*'sound'\], got \['video'\]"):
        build(rates={"video": 0.3})


def train_in_two_processes(rank: int, place: str) -> None:
    """Data-parallel steps in which each process has modalities that the other lacks, or samples that lose them."""
    distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    model = DistributedDataParallel(build(table=True, rates=RATES, reads=[["image"], ["points", "sound"]]).train())
    for step, names in enumerate([(["image"], ["sound"]), (["points", "sound"], ["image", "points"]), (list(RATES),) * 2]):
        torch.manual_seed(10 * step + rank)
        inputs = {name: x for name, x in some_inputs().items() if name in names[rank]}
        model.zero_grad()
        model(inputs).square().sum().backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        mean = gradients.clone()
        distributed.all_reduce(mean)
        torch.testing.assert_close(mean / 2, gradients, msg="both processes have the same")
        assert model.module.fusion.padding["image"].grad.any() == ("image" in {*names[0], *names[1]})
    distributed.destroy_process_group()


def test_processes_may_have_different_modalities(tmp_path: Path) -> None:
    """Not even `find_unused_parameters` is needed."""
    code = f"import runpy, sys; runpy.run_path({__file__!r})['train_in_two_processes'](int(sys.argv[1]), sys.argv[2])"
    running = [start("-c", code, rank, tmp_path / "meeting") for rank in (0, 1)]
    try:
        errors = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], errors


# ---- what it attends to


@pytest.mark.parametrize("stem", [False, True])
def test_attention_weights(stem: bool) -> None:
    model, inputs, masks = build(stem=stem).eval(), some_inputs(), some_masks()
    masks["image"][2] = masks["points"][2] = masks["sound"][2] = False
    steps = model.attention_weights(inputs, masks)
    tokens = model.tokens(inputs, masks)
    assert len(steps) == 2
    for step in steps:
        assert list(step) == ["image", "points", "sound"]
        total = torch.stack([weights.flatten(3).sum(-1) for weights in step.values()]).sum(0)
        close(total, torch.tensor([1.0, 1.0, 0.0])[:, None, None].expand(3, 1, 4))
        for name, weights in step.items():
            assert weights.shape == (3, 1, 4, *tokens[name].grid)
            mask = tokens[name].mask
            assert mask is not None
            assert (weights.movedim(0, 2)[:, :, ~mask] == 0).all()


@every_form
@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("names", EVERY_SUBSET)
def test_attention_by_modality(names: tuple[str, ...], reads: list[list[str]] | None, attention: str) -> None:
    """Against the weights; a sample without anything, and cross-attends that read nothing or not all, included."""
    model, masks = build(attention=attention, reads=reads).eval(), some_masks()
    masks["image"][2] = masks["points"][2] = masks["sound"][2] = False
    given = {name: x for name, x in some_inputs().items() if name in names}
    masks = {name: masks[name] for name in names}
    steps, weights = model.attention_by_modality(given, masks), model.attention_weights(given, masks)
    assert len(steps) == len(weights) == 2
    for number, (step, own) in enumerate(zip(steps, weights, strict=True)):
        assert list(step) == list(own) == sorted(names)
        for name, share in step.items():
            close(share, own[name].flatten(3).sum(-1).mean(dim=(1, 2)))
            if reads is not None and name not in reads[number]:
                assert not share.any()
        total = torch.stack(list(step.values())).sum(0)
        assert all(min(abs(one), abs(one - 1)) < 1e-5 for one in total.tolist())
        assert total[2] == 0
    if reads is None:
        close(total[:2], torch.tensor([float(names != ("points",)), 1.0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_attention_by_modality_in_other_precisions(dtype: torch.dtype) -> None:
    inputs, masks = some_inputs(), some_masks()
    expected = build(reads=READS[1]).eval().attention_by_modality(inputs, masks)
    found = build(reads=READS[1]).eval().to(dtype).attention_by_modality(
        {name: x.to(dtype) for name, x in inputs.items()}, masks
    )  # fmt: skip
    for step, other in zip(found, expected, strict=True):
        assert {share.dtype for share in step.values()} == {torch.promote_types(dtype, torch.float32)}
        for name, share in step.items():
            torch.testing.assert_close(share.float(), other[name], rtol=0.02, atol=0.02)


def test_attention_by_modality_follows_the_tokens() -> None:
    """Keys that answer to the modality embedding of the image alone draw nearly all attention there."""
    model, inputs = build().eval(), some_inputs()
    with torch.no_grad():
        for name, padding in model.fusion.padding.items():
            padding.fill_(30.0 if name == "image" else 0.0)
            padding[::2] *= -1
    before = model.attention_by_modality(inputs)[0]
    with torch.no_grad():
        for layer in model.encoder.cross_attends:
            tokens = model.tokens(inputs)["image"].dense()[:, 0]
            layer.attention.query.weight.zero_()
            layer.attention.query.bias.copy_(layer.attention.tokens.key(layer.attention.tokens.norm(tokens))[0] * 5)
    after = model.attention_by_modality(inputs)[0]
    assert (after["image"] > 0.9).all()
    assert (after["image"] > before["image"]).all()


# ---- copies, precision, tracing


def test_state_dict_pickle_and_deepcopy() -> None:
    model, inputs, masks = build(stem=True, table=True).eval(), some_inputs(), some_masks()
    expected = model(inputs, masks)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = build(stem=True, table=True).eval()
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(inputs, masks), expected)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(inputs, masks), expected)
        assert copied.spec == SPEC


@every_form
@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_other_precisions(attention: str, stem: bool, masked: bool) -> None:
    model, inputs = build(attention=attention, stem=stem), some_inputs()
    masks = some_masks() if masked else None
    expected = copy.deepcopy(model)(inputs, masks)
    double = copy.deepcopy(model).double()({name: x.double() for name, x in inputs.items()}, masks)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-4)
    half = copy.deepcopy(model).bfloat16()
    output = half({name: x.bfloat16() for name, x in inputs.items()}, masks)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.15)
    # Float32 inputs are as welcome: predict() has no others.
    torch.testing.assert_close(copy.deepcopy(model).bfloat16()(inputs, masks).float(), expected, rtol=0.1, atol=0.15)
    output.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in half.parameters() if p.grad is not None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = copy.deepcopy(model)(inputs, masks)
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)


def trace_all() -> None:
    """What the test below runs: both forms, with and without masks, traced whole and compared."""
    for attention, masks, reads in ("dense", None, None), ("factored", some_masks(), READS[1]):
        model = build(attention=attention, table=masks is None, stem=masks is not None, rates=RATES, reads=reads).eval()
        inputs = some_inputs()
        if reads is not None:  # the first cross-attend finds nothing to read
            del inputs["image"], masks["image"]
        expected = model(inputs, masks)
        torch.compiler.reset()
        close(torch.compile(model, fullgraph=True, backend="eager")(inputs, masks), expected)
        close(torch.export.export(model, (inputs, masks)).module()(inputs, masks), expected)
    model.modality_dropout.train()
    traced = torch.compile(model, fullgraph=True, backend="eager")
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = model(inputs, masks)
        torch.manual_seed(seed)
        close(traced(inputs, masks), expected)


@pytest.mark.slow
def test_traces_whole() -> None:
    """`torch.compile` without graph breaks, and `torch.export`, of the model with dicts in and logits out.

    In a process of its own: dynamo cannot trace the shape checks that the tests' import hook adds.
    """
    code = f"import runpy; runpy.run_path({__file__!r})['trace_all']()"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


# ---- prediction


def raw_samples() -> list[dict[str, Any]]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return [
        {"image": Image.fromarray(pixels), "points": torch.randn(4, 5), "sound": torch.randn(40)},
        {"image": pixels},
        {"points": np.random.default_rng(1).normal(size=(2, 5)), "sound": (np.zeros(80, dtype=np.int16), 200)},
        {"image": torch.rand(3, 6, 7), "sound": torch.randn(2, 13)},
        {"image": pixels / 255},
    ]


def test_predictions_are_the_same_alone_and_together() -> None:
    model = build().eval()
    samples = raw_samples()
    together = model.predict(samples)
    alone = [model.predict([raw])[0] for raw in samples[1:]]
    assert [one.label for one in model.predict(iter(samples), batch_size=2)] == [one.label for one in together]
    for one, other in zip(together[1:], alone, strict=True):
        assert list(one.probabilities) == ["cat", "dog", "owl"]
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert one.probability == one.probabilities[one.label] == max(one.probabilities.values())
    assert together[1].probabilities == pytest.approx(together[4].probabilities, abs=1e-5)
    assert model.predict([]) == []


def test_prediction_preprocesses_as_training_did() -> None:
    model, pixels = build(("image",)).eval(), np.random.default_rng(0).integers(0, 256, (2, 6, 7, 3), dtype=np.uint8)
    spec: Any = SPEC["modalities"]
    model.spec = {**SPEC, "modalities": {"image": spec["image"]}}
    x = (torch.from_numpy(pixels / 255).float() - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.2, 0.3, 0.4])
    expected = model({"image": x.permute(0, 3, 1, 2)}).softmax(-1)
    for samples in (list(pixels), [{"image": one} for one in pixels], [Image.fromarray(one) for one in pixels]):
        predictions = model.predict(samples)
        for prediction, row in zip(predictions, expected, strict=True):
            assert list(prediction.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_prediction_evaluates_and_gives_the_mode_back(training: bool) -> None:
    model = build(stem=True, dropout=0.5).train(training)
    before = copy.deepcopy(model.state_dict())
    samples = raw_samples()
    assert model.predict(samples) == model.predict(samples)
    assert model.training == training
    with pytest.raises(ValueError, match="sample 0"):
        model.predict([{"image": np.zeros((2, 2, 3), dtype=np.uint8)}])
    assert model.training == training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (
            [{"points": torch.ones(2, 5)}, {"image": np.zeros((2, 2, 3), dtype=np.uint8)}],
            r"sample 1, modality 'image'.*shape",
        ),
        ([{"imgae": 1}], r"sample 0: .*\['image', 'points', 'sound'\].*\['imgae'\]"),
        ([torch.ones(3, 6, 7)], "sample 0: expected a dict .* got Tensor"),
        ([{}], "sample '0': expected one or more"),
        ([{"points": torch.full((2, 5), float("nan"))}], "sample '0', modality 'points': 10 of 10 values are NaN"),
        ([{"points": torch.ones(0, 5)}], "is empty"),
    ],
)
def test_prediction_names_the_sample_that_does_not_fit(samples: list[Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build().predict(samples)


def test_prediction_needs_class_names() -> None:
    model = build()
    with pytest.raises(ValueError, match="expected batch_size of at least 1"):
        model.predict(raw_samples(), batch_size=0)
    specs: list[dict[str, Any] | None] = [None, {"modalities": {}}, {**SPEC, "target": {"kind": "number"}}]
    for spec in specs:
        model.spec = spec
        with pytest.raises(ValueError, match="whose spec has class names"):
            model.predict(raw_samples())
    model.spec = {"target": SPEC["target"]}
    with pytest.raises(ValueError, match="the spec of this model has no modalities"):
        model.predict(raw_samples())


def test_prediction_of_labels_and_values() -> None:
    model, samples = build().eval(), raw_samples()[:1]
    batch = Collate(modalities=SPEC["modalities"])([prepare(samples[0], SPEC["modalities"], number=0)])
    outputs = model(batch.inputs, batch.masks)[0].tolist()
    model.spec = {**SPEC, "target": {"kind": "labels", "names": ["a", "b", "c"]}}
    [labels] = model.predict(samples)
    assert labels.labels == tuple(name for name, output in zip("abc", outputs, strict=True) if output >= 0)
    model.spec = {**SPEC, "target": {"kind": "values", "names": ["x", "y", "z"], "mean": [1.0, 2.0, 3.0], "std": [2.0] * 3}}
    [values] = model.predict(samples)
    expected = {"x": 1 + 2 * outputs[0], "y": 2 + 2 * outputs[1], "z": 3 + 2 * outputs[2]}
    assert values.values == pytest.approx(expected, abs=1e-5)


# ---- errors


@pytest.mark.parametrize(
    ("inputs", "masks", "text"),
    [
        ({}, None, r"one or more of the modalities \['image', 'points', 'sound'\], got \[\]"),
        ({"imgae": torch.ones(2, 3, 6, 7)}, None, r"got \['imgae'\]"),
        (
            {"points": torch.ones(2, 3, 5)},
            {"image": torch.ones(2) > 0},
            r"masks for \['image'\], which are not among the inputs",
        ),
        ({"points": torch.ones(2, 3, 5), "image": torch.ones(3, 3, 6, 7)}, None, "one batch size.*'points': 2.*"),
        ({"points": torch.ones(1, 3, 5), "image": torch.ones(3, 3, 6, 7)}, None, "one batch size"),
        ({"points": torch.ones(0, 3, 5)}, None, r"at least one sample, got an empty batch: \{'points': 0\}"),
        ({"points": torch.ones(2, 3, 5)}, {"points": torch.ones(3) > 0}, r"\(2,\).*or \(2, 3\).*got \(3,\)"),
        ({"points": torch.ones(2, 3, 4)}, None, r"expected \(batch, points, 5\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_inputs(inputs: dict[str, Tensor], masks: dict[str, Tensor] | None, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()(inputs, masks)


@pytest.mark.usefixtures("unchecked")
def test_a_bare_tensor_is_no_input() -> None:
    with pytest.raises(TypeError, match=r"expected a dict from modality to tensor, e\.g\. \{'image': x\}; got Tensor"):
        build()(torch.ones(2, 3, 6, 7))


def test_parts_must_go_together() -> None:
    head = PooledHead(latent_channels=8, num_classes=2)
    encoder = Encoder(token_channels=7, num_latents=2, latent_channels=8)
    with pytest.raises(ValueError, match="at least one modality"):
        Perceiver(adapters={}, encoder=encoder, head=head)
    with pytest.raises(ValueError, match="'keys' cannot name a modality"):
        Perceiver(adapters={"keys": adapters()["image"]}, encoder=encoder, head=head)
    with pytest.raises(ValueError, match=r"Perceiver\.encoder: expected token_channels = \d+.*got 7"):
        Perceiver(adapters=adapters(), encoder=encoder, head=head)
    fusion = Fusion(channels={"image": 3, "video": 4})
    with pytest.raises(ValueError, match=r"Perceiver\.fusion: .*\['image', 'points', 'sound'\], got \['image', 'video'\]"):
        Perceiver(adapters=adapters(), encoder=encoder, head=head, fusion=fusion)


def test_only_a_decoder_of_text_has_a_memory() -> None:
    with pytest.raises(ValueError, match=r"Perceiver\.memory: ClassificationDecoder reads no memory"):
        build().memory({"image": torch.ones(2, 3, 6, 7)})


def test_the_tensors_of_a_modality_have_one_batch_size() -> None:
    row = Table(num_numbers=1, category_sizes=[3], embedding_channels=4)
    encoder = Encoder(token_channels=row.channels, num_latents=2, latent_channels=8, num_self_heads=2)
    perceiver = Perceiver(adapters={"row": row}, encoder=encoder, head=PooledHead(latent_channels=8, num_classes=2))
    inputs = {"numbers": torch.ones(2, 1), "categories": torch.ones(3, 1, dtype=torch.long), "present": torch.ones(2, 2) > 0}
    with pytest.raises(ValueError, match=r"one batch size.*'row\.numbers': 2, 'row\.categories': 3"):
        perceiver({"row": inputs})


def test_the_target_is_hidden_where_it_is_an_input_too() -> None:
    """By its mask token if there is one, and by nothing else."""
    own = adapters()
    channels = {name: int(getattr(adapter, "channels")) for name, adapter in own.items()}  # noqa: B009
    fusion = Fusion(channels=channels, mask_rates={"sound": 0.5, "points": 0.5})
    encoder = Encoder(token_channels=fusion.channels, num_latents=2, latent_channels=8, num_self_heads=2)
    model = Perceiver(adapters=own, encoder=encoder, head=PooledHead(latent_channels=8, num_classes=3), fusion=fusion)
    model.head.target = "sound"
    inputs, masks = some_inputs(), some_masks()
    hidden = model.without_target(inputs, masks)
    assert (list(hidden["inputs"]), list(hidden["masks"])) == (["image", "points"], ["image", "points"])
    assert hidden["mask_rates"] == {"sound": 1.0}
    assert model.without_target(inputs)["masks"] == {}
    assert list(model.tokens(**hidden)) == ["image", "points", "sound"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"adapters": {}}, r"Perceiver\.adapters: expected at least one modality"),
        ({"fusion": Fusion(channels={"image": 3, "sound": 9})}, r"Perceiver\.fusion: expected a fusion of the modalities"),
        (
            {"encoder": Encoder(token_channels=3, num_latents=2, latent_channels=8)},
            r"Perceiver\.encoder: expected token_channels = \d+, the width of the fused tokens, got 3",
        ),
    ],
)
def test_parts_that_do_not_fit(change: dict[str, Any], text: str) -> None:
    model = build(("image",))
    parts = {"adapters": dict(model.adapters.items()), "encoder": model.encoder, "head": model.head}
    assert Perceiver(**parts).spec is None
    with pytest.raises(ValueError, match=text):
        Perceiver(**{**parts, **change})
