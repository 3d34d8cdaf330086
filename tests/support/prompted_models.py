"""A tiny model that generates 8 x 8 images from prompts."""

from perceiver import Fourier, Fusion, Interface, Perceiver, VelocityHead
from perceiver.adapters import ImagePatches, TextTokens


def prompted(*, condition_dropout: float = 0.1) -> Perceiver:
    """Images `(1, 8, 8)` in patches of 4, texts of bytes."""
    image = ImagePatches(image_channels=1, patch=4, embed_channels=8, position=Fourier(num_bands=2, resolution=(2, 2)))
    text = TextTokens(vocabulary_size=262, embedding_channels=8, position=Fourier(num_bands=2, resolution=(32,)))
    adapters = {"image": image, "text": text}
    fusion = Fusion(channels={name: int(adapter.channels) for name, adapter in adapters.items()})
    encoder = Interface(
        token_channels=fusion.channels,
        num_latents=4,
        latent_channels=16,
        state_channels=16,
        num_blocks=1,
        num_layers_per_block=1,
        num_cross_heads=2,
        num_write_heads=2,
        num_self_heads=2,
        local_kernel=[3, 3],
    )
    head = VelocityHead(state_channels=16, adapters=adapters, modality="image", condition_dropout=condition_dropout)
    spec = {
        "modalities": {
            "image": {"kind": "image", "shape": [1, 8, 8], "range": [0, 16], "mean": [0.5], "std": [0.5]},
            "text": {"kind": "text", "shape": [None], "vocabulary_size": 262},
        },
        "target": {"kind": "classes", "names": [str(digit) for digit in range(10)], "counts": [1] * 10},
        "num_classes": 10,
    }
    model = Perceiver(adapters=adapters, encoder=encoder, head=head, fusion=fusion, spec=spec)
    # The head starts at zero, so that nothing would depend on the conditions.
    head.output.weight.data.normal_(std=0.5)
    return model.eval()
