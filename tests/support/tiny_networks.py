"""Directories of tiny random models as transformers writes them, and weight files of tiny models of timm."""

from pathlib import Path
from typing import Any

import timm
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SPEECH = {
    **LAYERS,
    "conv_dim": [8, 8],
    "conv_kernel": [10, 4],
    "conv_stride": [8, 4],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2,
}
CONFIGS: dict[str, Any] = {
    "bert": transformers.BertConfig(**LAYERS, vocab_size=99, max_position_embeddings=20),
    "roberta": transformers.RobertaConfig(**LAYERS, vocab_size=99, max_position_embeddings=20, pad_token_id=1),
    "mpnet": transformers.MPNetConfig(**LAYERS, vocab_size=99, max_position_embeddings=20),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=99, max_position_embeddings=20, dim=16, n_layers=2, n_heads=2, hidden_dim=24
    ),
    "electra": transformers.ElectraConfig(**LAYERS, vocab_size=99, max_position_embeddings=20, embedding_size=8),
    "albert": transformers.AlbertConfig(**LAYERS, vocab_size=99, max_position_embeddings=20, embedding_size=8),
    "vit": transformers.ViTConfig(**LAYERS, image_size=16, patch_size=4),
    "deit": transformers.DeiTConfig(**LAYERS, image_size=16, patch_size=4),
    "dinov2": transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=16, patch_size=4
    ),
    "clip_vision_model": transformers.CLIPVisionConfig(**LAYERS, image_size=16, patch_size=4),
    "wav2vec2": transformers.Wav2Vec2Config(**SPEECH),
    "hubert": transformers.HubertConfig(**SPEECH),
    "wavlm": transformers.WavLMConfig(**SPEECH),
    "audio-spectrogram-transformer": transformers.ASTConfig(**LAYERS, max_length=64, num_mel_bins=32),
}


def tiny_directory(folder: Path, model_type: str, *, seed: int = 0) -> Path:
    """A directory with the config and random weights of a model, and a tokenizer if it takes texts."""
    torch.manual_seed(seed)
    config = CONFIGS[model_type]
    model = transformers.AutoModel.from_config(config)
    model.save_pretrained(folder)
    if hasattr(config, "vocab_size") and not hasattr(config, "conv_dim"):
        write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of words with [CLS] and [SEP], without a padding token."""
    words = ["[UNK]", "[CLS]", "[SEP]", *["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "under", "red"]]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    made.save(str(folder / "tokenizer.json"))


def timm_weights(file: Path, *, model: str = "test_resnet", seed: int = 0) -> Path:
    """Random weights of a model of timm, with a batch norm that is not the identity."""
    torch.manual_seed(seed)
    made = timm.create_model(model)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    save_file(made.state_dict(), file)
    return file
