"""Networks of transformers: the same features as transformers, padding, cuts, directories of another kind."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_networks import CONFIGS, tiny_directory, write_tokenizer

from perceiver.adapters import Backbone
from perceiver.checkpoints.build import build_part
from perceiver.interop.backbones import TransformersImages, TransformersSounds, TransformersTexts
from perceiver.interop.backbones.request import BackboneError
from perceiver.interop.backbones.transformers_models import FAMILIES, made
from perceiver.interop.files import WeightFileError
from perceiver.modalities.preprocess import preprocess
from perceiver.testing import adapter_checks

REQUESTS = {"text": TransformersTexts, "image": TransformersImages, "audio": TransformersSounds}
TYPES = [name for name in CONFIGS if name in FAMILIES]


def raw_input(kind: str, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    if kind == "text":
        return torch.randint(3, 99, (batch, 9), generator=generator)
    return torch.rand(batch, *((3, 16, 16) if kind == "image" else (1, 3000)), generator=generator)


@pytest.mark.parametrize("model_type", TYPES)
def test_features_are_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    folder, family = tiny_directory(tmp_path, model_type), FAMILIES[model_type]
    adapter = REQUESTS[family.kind](model_name=str(folder)).build()
    x = raw_input(family.kind)
    tokens = adapter(x)
    assert len(tokens.grid) == {"text": 1, "image": 2}.get(family.kind, 2 if "spectrogram" in model_type else 1)
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    if model_type == "audio-spectrogram-transformer":
        extractor = transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=32)
        x = extractor([row.numpy() for row in x[:, 0]], sampling_rate=16000, return_tensors="pt").input_values
    elif family.kind == "audio":
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
        x = extractor([row.numpy() for row in x[:, 0]], sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        expected = torch.cat([reference(x[row : row + 1]).last_hidden_state for row in range(2)])
    features = tokens.parts[0].flatten(1, -2)
    valid = torch.ones(features.shape[:2], dtype=torch.bool) if tokens.mask is None else tokens.mask.flatten(1)
    torch.testing.assert_close(features[valid], expected[:, family.prefix_tokens :][valid], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "changed"),
    [
        ("bert", {"vocab_size": 2**27}),
        ("bert", {"hidden_size": 2**14, "intermediate_size": 2**12}),
        ("vit", {"num_hidden_layers": 2**30}),
    ],
)
def test_a_config_that_is_larger_than_the_weights_is_refused(
    model_type: str, changed: dict[str, int], tmp_path: Path
) -> None:
    folder, kind = tiny_directory(tmp_path, model_type), FAMILIES[model_type].kind
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BackboneError, match="its config does not match them"):
        REQUESTS[kind](model_name=str(folder)).build()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20


@pytest.mark.parametrize("model_type", ["bert", "roberta", "wav2vec2", "audio-spectrogram-transformer"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_sample_alone_and_padded(model_type: str, frozen: bool, tmp_path: Path) -> None:
    family = FAMILIES[model_type]
    adapter = REQUESTS[family.kind](model_name=str(tiny_directory(tmp_path, model_type)), frozen=frozen).build()
    x = raw_input(family.kind, batch=3)
    lengths = [x.shape[-1], 5 if family.kind == "text" else 900, 0]
    mask = torch.arange(x.shape[-1]) < torch.tensor(lengths)[:, None]
    together = adapter(x, mask)
    assert together.mask is not None
    assert not together.mask[2].any()
    for row in (0, 1):
        alone = adapter(x[row : row + 1, ..., : lengths[row]])
        mine = alone.dense()[0] if alone.mask is None else alone.dense()[0][alone.mask.flatten(1)[0]]
        torch.testing.assert_close(together.dense()[row][together.mask.flatten(1)[row]], mine, rtol=1e-5, atol=1e-5)
    together.dense().sum().backward() if not frozen else None
    assert all(one.grad is not None and one.grad.isfinite().all() for one in adapter.parameters() if one.requires_grad)


def test_conformance_of_a_text_encoder(tmp_path: Path) -> None:
    request = TransformersTexts(model_name=str(tiny_directory(tmp_path, "bert")), frozen=False)
    node = request.adapter(request.facts())
    checks = adapter_checks(lambda: build_part(node, name="adapter"), lambda: torch.randint(3, 99, (3, 9)), grid_axes=(1,))
    chosen = ("mask_of_elements", "alone_equals_padded", "masked_content_never_matters", "gradients_to_every_parameter")
    for check in checks:
        if check.name in chosen:
            check()


def test_tokenizer_without_padding_token(tmp_path: Path) -> None:
    request = TransformersTexts(model_name=str(tiny_directory(tmp_path, "bert")), max_length=6)
    facts = request.facts()
    assert (facts["vocabulary_size"], facts["max_length"]) == (99, 6)
    spec = {"kind": "text", "shape": [None], **facts}
    assert preprocess("the cat sat", spec=spec, name="x").tolist() == [1, 3, 5, 7, 2]
    assert preprocess("the red dog ran under the mat", spec=spec, name="x").tolist() == [1, 3, 12, 6, 8, 2], (
        "ends with [SEP]"
    )
    assert preprocess("a [SEP] cat", spec=spec, name="x").tolist() == [1, 4, 0, 0, 0, 2], "a text cannot name special tokens"
    assert TransformersTexts(model_name=str(tiny_directory(tmp_path / "r", "roberta"))).facts()["max_length"] == 18


def test_cut_behind_a_layer(tmp_path: Path) -> None:
    folder = tiny_directory(tmp_path, "distilbert")
    whole, cut = (TransformersTexts(model_name=str(folder), layers=layers).build() for layers in (None, 1))
    x = raw_input("text")
    with torch.no_grad():
        hidden = whole.network.model(x, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(cut(x).parts[0], hidden)
    assert len(cut.network.state_dict()) < len(whole.network.state_dict())
    with pytest.raises(BackboneError, match="layers: expected 1 to 2"):
        TransformersTexts(model_name=str(folder), layers=3).build()


def changed(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_directories_that_do_not_fit(tmp_path: Path) -> None:
    text = tiny_directory(tmp_path / "text", "bert")
    with pytest.raises(BackboneError, match=r"expected a model of type .*vit.*, got 'bert'"):
        TransformersImages(model_name=str(text)).build()
    changed(text, hidden_size=32)
    with pytest.raises(WeightFileError, match="its weights"):
        TransformersTexts(model_name=str(text)).build()
    changed(text, hidden_size=16, num_hidden_layers=5)
    with pytest.raises(WeightFileError, match="of another architecture than bert"):
        TransformersTexts(model_name=str(text)).build()
    changed(text, num_hidden_layers=2, position_embedding_type="relative_key")
    with pytest.raises(BackboneError, match="absolute position embeddings"):
        TransformersTexts(model_name=str(text)).build()
    changed(text, position_embedding_type="absolute", vocab_size=9)
    with pytest.raises(BackboneError, match="its tokenizer has 13 ids, but its model 9"):
        TransformersTexts(model_name=str(text)).facts()
    (text / "tokenizer.json").write_text("{}")
    with pytest.raises(BackboneError, match=r"tokenizer.json: tokenizer: expected the JSON text"):
        TransformersTexts(model_name=str(text)).facts()
    (text / "tokenizer.json").unlink()
    with pytest.raises(BackboneError, match=r"has no tokenizer.json. Write it with transformers"):
        TransformersTexts(model_name=str(text)).facts()
    write_tokenizer(text)
    changed(text, model_type="llama")
    with pytest.raises(BackboneError, match=r"expected a model of type albert, bert.* Wrap a network of another type"):
        TransformersTexts(model_name=str(text)).build()
    (text / "model.safetensors").write_bytes(b"damaged")
    changed(text, model_type="bert", vocab_size=99)
    with pytest.raises(WeightFileError, match="weights"):
        TransformersTexts(model_name=str(text)).build()
    with pytest.raises(BackboneError, match="expected a directory, or owner/name on the Hub, got './no/such'"):
        TransformersTexts(model_name="./no/such")


def test_code_of_a_directory_is_never_run(tmp_path: Path) -> None:
    folder = tiny_directory(tmp_path, "bert")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'w')\n")
    changed(folder, auto_map={"AutoModel": "code.Model", "AutoConfig": "code.Config"}, attn_implementation="owner/kernel")
    adapter = TransformersTexts(model_name=str(folder)).build()
    assert adapter.network.model.config._attn_implementation == "sdpa"
    assert not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("bert", {"attn_implementation": "owner/kernel"}),
        ("bert", {"auto_map": {"AutoModel": "code.Model"}}),
        ("bert", {"name_or_path": "/etc"}),
        ("bert", {"hidden_act": "https://example.org"}),
        ("bert", {"hidden_size": [16, "x"]}),
        ("bert", {"hidden_size": float("nan")}),
        ("llama", {}),
        ("vit", {}),
    ],
)
def test_only_listed_arguments_are_taken(model_type: Any, config: dict[str, Any]) -> None:
    with pytest.raises(BackboneError, match="transformers: "):
        made(model_type, config, kind="text")


def test_image_facts(tmp_path: Path) -> None:
    folder = tiny_directory(tmp_path, "vit")
    assert TransformersImages(model_name=str(folder)).facts()["mean"] == [0.5] * 3
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "size": {"shortest_edge": 20}, "do_center_crop": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "resample": 3}))
    facts = TransformersImages(model_name=str(folder)).facts()
    assert facts == {
        "shape": [3, 16, 16],
        "mean": [0.1, 0.2, 0.3],
        "std": [1.0, 1.0, 1.0],
        "crop_fraction": 0.8,
        "interpolation": "bicubic",
    }
    adapter = TransformersImages(model_name=str(folder)).build()
    assert adapter(torch.rand(1, 3, 16, 16)).grid == (4, 4)
    with pytest.raises(ValueError, match=r"TransformersImageNetwork rejects an input of shape \(1, 3, 20, 20\)"):
        adapter(torch.rand(1, 3, 20, 20))


def test_the_described_network_needs_no_files(tmp_path: Path) -> None:
    request = TransformersTexts(model_name=str(tiny_directory(tmp_path / "here", "bert")))
    node, adapter = request.adapter(request.facts()), request.build()
    (tmp_path / "here").rename(tmp_path / "gone")
    rebuilt = build_part(node, name="adapter").eval()
    assert isinstance(rebuilt, Backbone)
    rebuilt.load_state_dict(adapter.state_dict())
    x = raw_input("text")
    assert torch.equal(rebuilt(x).dense(), adapter(x).dense())
