"""Small models of transformers with random weights, and inputs for them and for ours."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

SMALL: dict[str, Any] = {
    "num_latents": 4,
    "d_latents": 8,
    "num_blocks": 2,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 1,
    "num_labels": 5,
}


@dataclass(frozen=True)
class Case:
    """One class of transformers.

    Args:
        name: of the class.
        config: what differs from `SMALL`; sizes at which Fourier coordinates have no rounding errors.
        parameters: of the published model, in all.
        published: values of its published config.
    """

    name: str
    config: dict[str, Any]
    parameters: int
    published: dict[str, Any]


IMAGENET = {
    "num_latents": 512,
    "d_latents": 1024,
    "num_blocks": 8,
    "num_self_attends_per_block": 6,
    "num_self_attention_heads": 8,
    "num_cross_attention_heads": 1,
    "num_labels": 1000,
}
CASES = [
    Case("PerceiverForImageClassificationFourier", {}, 48_440_627, IMAGENET),
    Case("PerceiverForImageClassificationLearned", {"image_size": 4}, 62_255_848, IMAGENET | {"image_size": 224}),
    Case("PerceiverForImageClassificationConvProcessing", {}, 48_646_522, IMAGENET),
    Case(
        "PerceiverForOpticalFlow",
        {"train_size": [5, 9], "num_blocks": 1},
        41_057_134,
        {
            "num_latents": 2048,
            "d_latents": 512,
            "num_blocks": 1,
            "num_self_attends_per_block": 24,
            "num_self_attention_heads": 16,
            "num_cross_attention_heads": 1,
        },
    ),
    Case(
        "PerceiverForMaskedLM",
        {
            "num_cross_attention_heads": 2,
            "qk_channels": 4,
            "v_channels": 8,
            "d_model": 16,
            "vocab_size": 11,
            "max_position_embeddings": 9,
        },
        201_108_230,
        {"qk_channels": 256, "v_channels": 1280},
    ),
    Case(
        "PerceiverForMultimodalAutoencoding",
        {
            "num_frames": 5,
            "image_size": 20,
            "audio_samples_per_frame": 16,
            "samples_per_patch": 16,
            "output_shape": [1, 4, 8, 8],
            "output_num_channels": 6,
            "_label_trainable_num_channels": 7,
        },
        19_858_855,
        {
            "num_latents": 784,
            "d_latents": 512,
            "num_blocks": 1,
            "num_self_attends_per_block": 8,
            "num_self_attention_heads": 8,
            "num_cross_attention_heads": 1,
            "image_size": 224,
            "num_labels": 700,
        },
    ),
]
BY_NAME = {case.name: case for case in CASES}


def their_model(case: Case, *, values: dict[str, Any] | None = None, seed: int = 0, std: float = 0.1) -> nn.Module:
    """With every parameter and buffer perturbed, norms and biases too; in evaluation mode."""
    torch.manual_seed(seed)
    config = transformers.PerceiverConfig(**(SMALL | case.config if values is None else values))
    model = getattr(transformers, case.name)(config)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.add_(std * torch.randn_like(tensor))
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)
            else:
                tensor.add_(3)
    return model.eval()


def patches_of(frames: Tensor) -> Tensor:
    """`(B, 3, 2, H, W)` -> `(B, 2, 27, H, W)`: rows, columns, colours of the 3 x 3 pixels around each."""
    batch, colours, num, height, width = frames.shape
    flat = frames.transpose(1, 2).flatten(0, 1)
    cut = F.unfold(flat, kernel_size=3, padding=1).reshape(batch, num, colours, 9, height, width)
    return cut.transpose(2, 3).flatten(2, 3)


def inputs_for(name: str, dtype: torch.dtype, *, batch: int = 2, sizes: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """(inputs of ours, arguments of theirs), with the same content."""
    torch.manual_seed(1)
    size = {"image": (9, 9), "frames": (5, 9), "text": (9, 11), "clip": (5, 20, 20), "samples": 80, "labels": 5}
    size |= sizes or {}
    if "Flow" in name:
        frames = torch.randn(batch, 3, 2, *size["frames"], dtype=dtype)
        return {"frames": frames}, {"inputs": patches_of(frames)}
    if "MaskedLM" in name:
        length, vocabulary = size["text"]
        ids = torch.randint(0, vocabulary, (batch, length))
        return {"text": ids}, {"inputs": ids}
    if "Multimodal" in name:
        video = torch.randn(batch, 3, *size["clip"], dtype=dtype)
        audio = torch.randn(batch, 1, size["samples"], dtype=dtype)
        label = torch.zeros(batch, size["labels"], dtype=dtype)
        theirs = {"image": video.transpose(1, 2), "audio": audio.transpose(1, 2), "label": label}
        return {"video": video, "audio": audio, "label": label}, {"inputs": theirs}
    side = size["image"]
    if "Conv" in name and side == (9, 9):
        side = (36, 36)
    if "Learned" in name and side == (9, 9):
        side = (4, 4)
    image = torch.randn(batch, 3, *side, dtype=dtype)
    return {"image": image}, {"inputs": image}


def sampled(samples: int = 3, *, video: int = 256, audio: int = 5) -> dict[str, Tensor]:
    """Places of outputs of the autoencoder to compute."""
    torch.manual_seed(2)
    return {"audio": torch.randperm(audio)[:samples], "video": torch.randperm(video)[:samples]}


def their_logits(model: nn.Module, arguments: dict[str, Any], index: dict[str, Tensor] | None = None) -> Any:
    """A tensor, or one by modality with our names."""
    if index is not None:
        arguments = arguments | {
            "subsampled_output_points": {"audio": index["audio"], "image": index["video"], "label": None}
        }
    logits = model(**arguments).logits
    if not isinstance(logits, dict):
        return logits
    return {"audio": logits["audio"], "label": logits["label"], "video": logits["image"]}


def our_logits(model: nn.Module, inputs: Any, index: dict[str, Tensor] | None = None, **more: Any) -> Any:
    """The same for ours, in the shapes of theirs."""
    output = model(inputs, **more) if index is None else model(inputs, index=index, **more)
    if not isinstance(output, dict):
        return output
    return {"audio": output["audio"].flatten(1), "label": output["label"][:, 0], "video": output["video"]}
