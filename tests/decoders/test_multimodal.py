"""Outputs of several kinds: each is what a decoder of its padded queries alone would make."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perceiver import Fourier, LearnedQueries, MultimodalDecoder, PositionalQueries
from perceiver.tokens.tokens import Tokens

WIDTHS = {"label": 4, "sound": 3}


def decoder(**changes: Any) -> MultimodalDecoder:
    torch.manual_seed(0)
    queries = {
        "sound": PositionalQueries(position=Fourier(num_bands=1, resolution=(6,)), grid=[6]),
        "label": LearnedQueries(grid=[1], channels=5),
    }
    arguments = {"latent_channels": 8, "queries": queries, "output_channels": WIDTHS, "hidden_channels": 7, **changes}
    own = MultimodalDecoder(**arguments)
    for parameter in own.parameters():
        nn.init.normal_(parameter, std=0.5)
    return own.eval()


def latents() -> Tensor:
    return torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))


def test_outputs_have_one_width_of_queries() -> None:
    own = decoder()
    assert own.query_channels == 5 + 2
    outputs = own(latents())
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {"label": (2, 1, 4), "sound": (2, 6, 3)}
    sound = own.queries["sound"]({}).dense()
    padded = torch.cat([sound, own.fusion.padding["sound"].expand(1, 6, -1)], dim=-1)
    read = own.cross_attend(padded, [Tokens(parts=(latents(),))])
    torch.testing.assert_close(outputs["sound"], own.outputs["sound"](own.hidden(read)))


def test_without_hidden_channels() -> None:
    assert decoder(hidden_channels=None).outputs["sound"].in_features == 7


def test_index_and_mask_by_output() -> None:
    own = decoder()
    whole = own(latents())
    index = torch.tensor([4, 1])
    chosen = own(latents(), index={"sound": index, "label": None})
    torch.testing.assert_close(chosen["sound"], whole["sound"][:, index])
    torch.testing.assert_close(chosen["label"], whole["label"])
    mask = torch.tensor([[True, False], [False, True]])
    masked = own(latents(), index={"sound": index}, mask={"sound": mask})
    torch.testing.assert_close(masked["sound"], chosen["sound"] * mask[..., None])


def test_chunks_and_gradients() -> None:
    own = decoder()
    own(latents())["sound"].sum().backward()
    expected = own.fusion.padding["sound"].grad
    own.zero_grad()
    own.chunk_size = 4
    outputs = own(latents())
    outputs["sound"].sum().backward()
    torch.testing.assert_close(own.fusion.padding["sound"].grad, expected)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"a positive number of output_channels .*\['label', 'sound'\]"):
        decoder(output_channels={"label": 4})
    with pytest.raises(ValueError, match=r"expected any of the outputs \['label', 'sound'\], got \['image'\]"):
        decoder()(latents(), index={"image": torch.tensor([0])})
    with pytest.raises(ValueError, match=r"MultimodalDecoder\.chunk_size"):
        decoder(chunk_size=0)
