"""All forms and implementations together: one training, one loss curve; on a GPU as on the CPU."""

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perceiver import Fourier, Tokens
from perceiver.attention.forms.absorbed import absorbed_attention
from perceiver.attention.forms.dense import dense_attention
from perceiver.attention.forms.factored import factored_attention
from perceiver.attention.kernels import eager, native, triton
from perceiver.attention.projection import TokenProjection
from perceiver.tokens.positions import grid_coordinates

Attend = Callable[[Tensor, list[Tokens], TokenProjection], Tensor]

FORMS: dict[str, Attend] = {
    "absorbed": absorbed_attention,
    "eager": partial(factored_attention, kernel=eager.KERNEL),
    "native": partial(factored_attention, kernel=native.KERNEL),
    "triton": partial(factored_attention, kernel=triton.KERNEL),
}

SIZE, CLASSES = 8, 3


def images(count: int) -> tuple[Tensor, Tensor]:
    """Bars of three directions with noise, some pixels of some images missing."""
    torch.manual_seed(1)
    target = torch.arange(count) % CLASSES
    line = torch.arange(SIZE) % 2 == 0
    patterns = torch.stack([line[:, None].expand(SIZE, SIZE), line.expand(SIZE, SIZE), line[:, None] ^ line]).float()
    return patterns[target][..., None] + 0.3 * torch.randn(count, SIZE, SIZE, 1), target


def loss_curve(attend: Attend, *, steps: int = 40, device: str = "cpu") -> list[float]:
    """Training losses of queries, token projection, a learned embedding of the content and a classifier."""
    torch.manual_seed(0)
    position = Fourier(num_bands=3, resolution=(SIZE, SIZE))
    rows = [part.to(device) for part in position(grid_coordinates((SIZE, SIZE)))]
    channels = 4 + position.channels
    weights = TokenProjection(token_channels=channels, qk_channels=16, v_channels=16)
    embed, head, queries = nn.Linear(1, 4), nn.Linear(4 * 16, CLASSES), nn.Parameter(torch.randn(1, 2, 4, 8))
    model = nn.ModuleDict({"weights": weights, "embed": embed, "head": head}).to(device)
    queries = nn.Parameter(queries.to(device))
    optimizer = torch.optim.Adam([*model.parameters(), queries], lr=1e-2)
    content, target = (x.to(device) for x in images(24))
    mask = (torch.rand(24, SIZE, SIZE) < 0.9).to(device)
    losses = []
    for step in range(steps):
        batch = slice(step % 3 * 8, step % 3 * 8 + 8)
        tokens = Tokens((embed(content[batch]), *rows), mask=mask[batch])
        read = attend(queries, [tokens], weights)
        loss = F.cross_entropy(head(read.transpose(1, 2).flatten(1)), target[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


@cache
def dense_loss_curve() -> list[float]:
    """The reference of every form."""
    return loss_curve(dense_attention)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_training_has_the_same_loss_curve_in_all_forms(form: str) -> None:
    expected = dense_loss_curve()
    assert sum(expected[-6:]) < 0.5 * sum(expected[:6])
    assert loss_curve(FORMS[form]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("form", ["absorbed", "eager", "triton"])
def test_a_gpu_gives_the_same_loss_curve(form: str) -> None:
    expected = loss_curve(dense_attention)
    assert loss_curve(FORMS[form], device="cuda") == pytest.approx(expected, rel=1e-2, abs=1e-3)
