"""Directories as the six models were released in: configs of their time, with values of then, and pytorch_model.bin.

The releases (deepmind/vision-perceiver-fourier, -learned and -conv, optical-flow-perceiver, language-perceiver and
multimodal-perceiver on the Hugging Face Hub) were written by transformers 4.11 to 4.13: values that classes have got since
are absent, and some are there that no class reads any more. All hold pytorch_model.bin, a pickled OrderedDict of tensors;
some a model.safetensors of the same, too. Sizes are small here.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
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

from perceiver.interop.huggingface import from_transformers

OLD_VALUES: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1,
    "audio_samples_per_frame": 1920,
    "cross_attention_shape_for_attention": "kv",
    "cross_attention_widening_factor": 1,
    "d_model": 768,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "image_size": 56,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "model_type": "perceiver",
    "num_frames": 16,
    "position_embedding_init_scale": 0.02,
    "qk_channels": None,
    "samples_per_patch": 16,
    "self_attention_widening_factor": 1,
    "seq_len": 2048,
    "torch_dtype": "float32",
    "train_size": [368, 496],
    "transformers_version": "4.11.0.dev0",
    "use_query_residual": True,
    "v_channels": None,
    "vocab_size": 262,
}
"""What the oldest of these configs say besides sizes; they know no max_position_embeddings and no output_shape."""


def released(case: Case, directory: Path) -> torch.nn.Module:
    """Write the small model of a class as it would have been released; returns transformers' own."""
    theirs = their_model(case)
    sizes = dict(SMALL)
    labels = sizes.pop("num_labels")
    values = OLD_VALUES | sizes | case.config | {"architectures": [case.name]}
    if case.name.startswith(("PerceiverForImage", "PerceiverForMultimodal")):
        values["id2label"] = {str(number): f"class {number}" for number in range(labels)}
        values["label2id"] = {f"class {number}": number for number in range(labels)}
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True))
    (directory / "preprocessor_config.json").write_text("{}")
    torch.save(theirs.state_dict(), directory / "pytorch_model.bin")
    return theirs


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name.removeprefix("PerceiverFor")) for case in CASES])
def test_a_released_directory_loads(case: Case, tmp_path: Path) -> None:
    theirs = released(case, tmp_path)
    ours = from_transformers(tmp_path)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    inputs, arguments = inputs_for(case.name, torch.float32)
    index = sampled() if "Multimodal" in case.name else None
    with torch.no_grad():
        expected, found = their_logits(theirs, arguments, index), our_logits(ours, inputs, index)
    for name in expected if isinstance(expected, dict) else [None]:
        one, other = (expected, found) if name is None else (expected[name], found[name])
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


def test_both_files_hold_the_same_and_safetensors_is_read(tmp_path: Path) -> None:
    theirs = released(BY_NAME["PerceiverForImageClassificationConvProcessing"], tmp_path)
    pickled = from_transformers(tmp_path).state_dict()
    save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    converted = from_transformers(tmp_path).state_dict()
    assert all(torch.equal(converted[name], value) for name, value in pickled.items())
