"""Import and export of transformers' six Perceiver classes: the same outputs, gradients and weights; clear errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers_models import (
    BY_NAME,
    CASES,
    SMALL,
    Case,
    inputs_for,
    our_logits,
    sampled,
    their_logits,
    their_model,
)

import perceiver
from perceiver import flow_in_tiles
from perceiver.interop.architectures import ArchitectureError, model_config
from perceiver.interop.correspondence import correspondence
from perceiver.interop.files import WeightFileError
from perceiver.interop.huggingface import from_transformers, to_transformers

ALL = [pytest.param(case, id=case.name.removeprefix("PerceiverFor")) for case in CASES]
MULTIMODAL = BY_NAME["PerceiverForMultimodalAutoencoding"]


def index_for(case: Case) -> Any:
    return sampled() if case is MULTIMODAL else None


def flat(outputs: Any) -> torch.Tensor:
    parts = outputs.values() if isinstance(outputs, dict) else [outputs]
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("case", ALL)
def test_same_outputs_and_gradients(case: Case) -> None:
    theirs = their_model(case).double()
    ours = from_transformers(theirs)
    inputs, arguments = inputs_for(case.name, torch.float64)
    expected = flat(their_logits(theirs, arguments, index_for(case)))
    found = flat(our_logits(ours, inputs, index_for(case)))
    assert (found - expected).abs().max() <= 1e-9
    assert expected.std() > 1e-4
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    our_gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    compared = 0
    for pair in correspondence(case.name, ours):
        own = our_gradients.get(pair.ours)
        if pair.ours not in our_gradients:
            continue
        for name, gradient in zip(pair.theirs, pair.split(own), strict=True):  # type: ignore[arg-type]
            expected_gradient = their_gradients[name]
            if expected_gradient is None:
                assert gradient.count_nonzero() == 0
                continue
            scale = max(float(expected_gradient.abs().max()), 1e-6)
            assert (gradient - expected_gradient).abs().max() <= 1e-4 * scale, name
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("case", ALL)
def test_import_export_import_is_exact(case: Case) -> None:
    theirs = their_model(case)
    ours = from_transformers(theirs)
    back = to_transformers(ours)
    assert type(back) is type(theirs)
    state, again = theirs.state_dict(), back.state_dict()
    assert list(state) == list(again)
    assert all(torch.equal(state[name], again[name]) for name in state)
    third = from_transformers(back)
    assert third.config == ours.config
    assert all(torch.equal(own, other) for own, other in zip(ours.parameters(), third.parameters(), strict=True))


@pytest.mark.parametrize("case", ALL)
def test_directories_and_checkpoints(case: Case, tmp_path: Path) -> None:
    """Both file formats load; what is saved in this package's format loads again."""
    theirs = their_model(case)
    ours = from_transformers(theirs)
    theirs.save_pretrained(tmp_path / "new")  # type: ignore[operator]
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text((tmp_path / "new" / "config.json").read_text())
    torch.save(theirs.state_dict(), old / "pytorch_model.bin")
    perceiver.save(ours, tmp_path / "model.ckpt")
    inputs, _ = inputs_for(case.name, torch.float32)
    expected = flat(our_logits(ours, inputs, index_for(case)))
    for model in (from_transformers(tmp_path / "new"), from_transformers(old), perceiver.load(tmp_path / "model.ckpt")):
        assert torch.equal(flat(our_logits(model, inputs, index_for(case))), expected)
        assert model.config == ours.config


@pytest.mark.parametrize("case", ALL)
def test_parameters_of_the_published_models(case: Case) -> None:
    values = case.published if "num_labels" in case.published else case.published | {"num_labels": 2}
    with torch.device("meta"):
        model = perceiver.checkpoints.build.build_model(model_config(case.name, values))
    assert sum(parameter.numel() for parameter in model.parameters()) == case.parameters


def test_masked_text() -> None:
    case = BY_NAME["PerceiverForMaskedLM"]
    theirs = their_model(case).double()
    inputs, arguments = inputs_for(case.name, torch.float64)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 6:], mask[1, 0] = False, False
    expected = their_logits(theirs, arguments | {"attention_mask": mask.long()})
    found = from_transformers(theirs)(inputs, {"text": mask})
    assert (found - expected).abs().max() <= 1e-9


@pytest.mark.parametrize("absent", ["audio", "video"])
def test_absent_modalities(absent: str) -> None:
    """transformers has no way to leave one out (KeyError); what it computes where all tokens of it are masked is ours."""
    theirs = their_model(MULTIMODAL).double()
    ours = from_transformers(theirs)
    inputs, arguments = inputs_for(MULTIMODAL.name, torch.float64)
    index = sampled()
    tokens = {"audio": 5, "video": 125, "label": 1}
    # Theirs lie in the order audio, image, label.
    mask = torch.cat([torch.full((2, tokens[name]), int(name != absent)) for name in ("audio", "video", "label")], dim=1)
    left = {name: x for name, x in arguments["inputs"].items() if name != {"video": "image"}.get(absent, absent)}
    with pytest.raises(KeyError):
        their_logits(theirs, {"inputs": left}, index)
    expected = flat(their_logits(theirs, arguments | {"attention_mask": mask}, index))
    rest = {name: x for name, x in inputs.items() if name != absent}
    assert (flat(our_logits(ours, rest, index)) - expected).abs().max() <= 1e-9
    nothing = {absent: torch.zeros(2, dtype=torch.bool)}
    assert (flat(our_logits(ours, inputs, index, masks=nothing)) - expected).abs().max() <= 1e-9


def test_all_outputs_are_those_that_are_sampled() -> None:
    ours = from_transformers(their_model(MULTIMODAL))
    inputs, _ = inputs_for(MULTIMODAL.name, torch.float32)
    whole, index = ours(inputs), sampled()
    assert {name: tuple(output.shape) for name, output in whole.items()} == {
        "audio": (2, 5, 16), "label": (2, 1, 5), "video": (2, 4, 8, 8, 3)
    }  # fmt: skip
    chosen = ours(inputs, index=index)
    torch.testing.assert_close(chosen["video"], whole["video"].flatten(1, 3)[:, index["video"]])
    torch.testing.assert_close(chosen["audio"], whole["audio"][:, index["audio"]])


@pytest.mark.parametrize("form", ["dense", "factored"])
def test_every_form_of_attention_gives_their_logits(form: str) -> None:
    case = BY_NAME["PerceiverForImageClassificationFourier"]
    theirs = their_model(case)
    ours = from_transformers(theirs)
    ours.encoder.cross_attends[0].attention.attention = form
    inputs, arguments = inputs_for(case.name, torch.float32)
    torch.testing.assert_close(ours(inputs), their_logits(theirs, arguments), atol=1e-5, rtol=1e-4)


def test_forms_of_gelu_and_widths_of_queries() -> None:
    for values in (
        {"hidden_act": "gelu_new"},
        {"cross_attention_shape_for_attention": "q", "use_query_residual": False, "cross_attention_widening_factor": 2},
        {"self_attention_widening_factor": 3, "attention_probs_dropout_prob": 0.0},
    ):
        case = BY_NAME["PerceiverForImageClassificationLearned"]
        theirs = their_model(case, values=SMALL | case.config | values).double()
        ours = from_transformers(theirs)
        inputs, arguments = inputs_for(case.name, torch.float64)
        assert (ours(inputs) - their_logits(theirs, arguments)).abs().max() <= 1e-9
        back = to_transformers(ours).config
        assert isinstance(back, type(theirs.config))
        assert back.attention_probs_dropout_prob == theirs.config.attention_probs_dropout_prob  # type: ignore[union-attr]


def test_attention_dropout_can_be_set() -> None:
    theirs = their_model(CASES[0])
    assert from_transformers(theirs).encoder.cross_attends[0].attention.dropout == 0.1
    ours = from_transformers(theirs, attention_dropout=0.0)
    inputs, _ = inputs_for(CASES[0].name, torch.float32)
    ours.train()
    assert torch.equal(ours(inputs), ours(inputs))


def test_types_of_weights_are_kept() -> None:
    theirs = their_model(CASES[0]).bfloat16()
    assert {parameter.dtype for parameter in from_transformers(theirs).parameters()} == {torch.bfloat16}


# ---- bad input


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """As transformers writes it, of the model with learned positions."""
    their_model(BY_NAME["PerceiverForImageClassificationLearned"]).save_pretrained(tmp_path)  # type: ignore[operator]
    return tmp_path


def change_config(directory: Path, **values: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_no_directory_no_config_no_weights(directory: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: expected a directory written by"):
        from_transformers(directory / "nowhere")
    (directory / "model.safetensors").rename(directory / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        from_transformers(directory)
    (directory / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json.*found other\.safetensors"):
        from_transformers(directory)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architectures": ["PerceiverForSequenceClassification"]}, "one of the architectures .*; got .*ForSequenceC"),
        ({"architectures": None}, "expected one of the architectures PerceiverFor.*; got None"),
        ({"model_type": "vit"}, "expected model_type 'perceiver', got 'vit'"),
        ({"hidden_act": "relu"}, "hidden_act: expected one of gelu.*got 'relu'"),
        ({"cross_attention_shape_for_attention": "v"}, "expected q or kv, got 'v'"),
        ({"v_channels": 6}, "v_channels: expected d_latents = 8, got 6"),
        ({"num_self_attention_heads": 3}, "invalid config: .*multiple of num_heads = 3"),
        ({"num_latents": "many"}, "invalid config: .*num_latents: expected int, got str"),
    ],
)
def test_bad_configs(directory: Path, values: dict[str, Any], message: str) -> None:
    change_config(directory, **values)
    with pytest.raises(ArchitectureError, match=message):
        from_transformers(directory)


def test_config_that_is_no_json(directory: Path) -> None:
    (directory / "config.json").write_text("{")
    with pytest.raises(WeightFileError, match=r"config\.json: expected JSON"):
        from_transformers(directory)
    (directory / "config.json").write_text("[" * 100_000)
    with pytest.raises(WeightFileError, match=r"config\.json: expected JSON: its lists or objects are nested too deeply"):
        from_transformers(directory)
    (directory / "config.json").write_text("[]")
    with pytest.raises(WeightFileError, match=r"expected a JSON object, got list"):
        from_transformers(directory)


def test_weights_that_do_not_fit(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = directory / "model.safetensors"
    weights = load_file(file)
    weights["perceiver.embeddings.latents"] = torch.zeros(4, 7)
    weights["superfluous"] = torch.zeros(3)
    del weights["perceiver.encoder.self_attends.1.mlp.dense1.bias"]
    save_file(weights, file)
    with pytest.raises(WeightFileError) as raised:
        from_transformers(directory)
    message = str(raised.value)
    assert "missing: 1\n    perceiver.encoder.self_attends.1.mlp.dense1.bias (8,)" in message
    assert "not in this architecture: 1\n    superfluous (3,)" in message
    assert "different shape: 1\n    perceiver.embeddings.latents file (4, 7), config (4, 8)" in message


def test_checkpoint_of_another_model(directory: Path) -> None:
    change_config(directory, architectures=["PerceiverForImageClassificationFourier"])
    with pytest.raises(WeightFileError, match=r"not in this architecture: 5\n    perceiver\.input_preprocessor"):
        from_transformers(directory)


def test_files_of_other_formats(directory: Path, tmp_path: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightFileError, match=r"model\.safetensors: not a safetensors file, or damaged"):
        from_transformers(directory)
    file.unlink()
    old = directory / "pytorch_model.bin"
    old.write_bytes(b"not a file of torch")
    with pytest.raises(WeightFileError, match=r"pytorch_model\.bin"):
        from_transformers(directory)
    torch.save({"weights": [1, 2]}, old)
    with pytest.raises(WeightFileError, match="expected tensors by name"):
        from_transformers(directory)


class Hostile:
    """Unpickled, it would write a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_nothing_in_a_file_is_run(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    trace = directory / "trace"
    torch.save({"weight": Hostile(trace)}, directory / "pytorch_model.bin")
    with pytest.raises(WeightFileError, match="refused, and none of its code was run"):
        from_transformers(directory)
    assert not trace.exists()


def test_models_that_cannot_be_converted() -> None:
    with pytest.raises(ArchitectureError, match="Linear: expected a model of one of transformers' classes"):
        from_transformers(nn.Linear(1, 1))
    ours = from_transformers(their_model(CASES[0]))
    assert ours.config is not None
    ours.config["encoder"]["num_cross_attends"] = 2
    with pytest.raises(ArchitectureError, match=r"model\.encoder\.num_cross_attends: expected None, got 2"):
        to_transformers(ours)
    ours.config["adapters"] = {"image": {"_target_": "perceiver.adapters.points.Points"}}
    with pytest.raises(ArchitectureError, match="adapters: expected the adapters of one of the six.*'Points'"):
        to_transformers(ours)
    ours.config = None
    with pytest.raises(ArchitectureError, match="the model has no config"):
        to_transformers(ours)


def test_imported_flow_in_tiles() -> None:
    """Frames of the model's own size are evaluated directly; of larger ones each tile is, where no other covers it."""
    case = BY_NAME["PerceiverForOpticalFlow"]
    theirs = their_model(case)
    ours = from_transformers(theirs)
    inputs, arguments = inputs_for(case.name, torch.float32)
    with torch.no_grad():
        expected = 20 * their_logits(theirs, arguments, None).movedim(-1, 1)
    found = flow_in_tiles(ours, inputs["frames"], tile=[5, 9], overlap=2, scale=20)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    wide = torch.cat([inputs["frames"], torch.randn_like(inputs["frames"])], dim=-1)
    blended = flow_in_tiles(ours, wide, tile=[5, 9], overlap=2, scale=20)
    assert blended.shape == (2, 2, 5, 18)
    torch.testing.assert_close(blended[..., :7], expected[..., :7], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(blended[..., 7:9], expected[..., 7:9], atol=1e-4)
