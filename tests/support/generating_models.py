"""Models that generate ids from an image and a text, for each kind of memory, and inputs for them."""

import torch
from torch import Tensor

import perceiver
from perceiver import CausalDecoder, Encoder, Fourier, LatentMemory, Perceiver, WrittenMemory
from perceiver.adapters import ImagePixels, TextTokens

VOCABULARY = 13


def model(memory: str, *, dtype: torch.dtype = torch.float64) -> Perceiver:
    image = ImagePixels(image_channels=1, position=Fourier(num_bands=2, resolution=(4, 5)))
    text = TextTokens(vocabulary_size=VOCABULARY, embedding_channels=6, position=Fourier(num_bands=1, resolution=(8,)))
    adapters = {"image": image, "text": text}
    fusion = perceiver.Fusion(channels={name: int(adapter.channels) for name, adapter in adapters.items()})
    encoder = Encoder(
        token_channels=fusion.channels, num_latents=3, latent_channels=8, num_layers_per_block=1, num_self_heads=2
    )
    kinds = {
        "latents": lambda: LatentMemory(latent_channels=8),
        "written": lambda: WrittenMemory(latent_channels=8, token_channels=fusion.channels, num_heads=2),
        "both": lambda: WrittenMemory(latent_channels=8, token_channels=fusion.channels, num_heads=2, with_latents=True),
    }
    head = CausalDecoder(memory=kinds[memory](), vocabulary_size=VOCABULARY, num_layers=2, num_heads=2, max_length=16)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Perceiver(adapters=adapters, encoder=encoder, head=head, fusion=fusion).to(dtype).eval()


def inputs(batch: int, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    x = {"image": torch.rand(batch, 1, 4, 5, dtype=dtype), "text": torch.randint(0, VOCABULARY, (batch, 6))}
    masks = {"image": torch.rand(batch) < 0.7, "text": torch.rand(batch, 6) < 0.7}
    return x, masks
