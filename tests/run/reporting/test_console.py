"""The table before training, the lines after it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from perceiver.adapters.image import ImagePixels
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.encoder import Encoder
from perceiver.model import Perceiver
from perceiver.run.reporting.console import forward_flops, print_model, print_result
from perceiver.samples.batch import Batch
from perceiver.tokens.positions import Fourier


def model(attention: str = "dense") -> Perceiver:
    adapter = ImagePixels(image_channels=2, position=Fourier(num_bands=3, resolution=[8, 8]))
    encoder = Encoder(
        token_channels=adapter.channels,
        num_latents=4,
        latent_channels=16,
        num_self_heads=2,
        num_layers_per_block=1,
        attention=attention,  # type: ignore[arg-type]
    )
    return Perceiver(adapters={"image": adapter}, encoder=encoder, head=PooledHead(latent_channels=16, num_classes=3))


def batch(size: int = 2) -> Batch:
    return Batch(inputs={"image": torch.randn(size, 2, 8, 8)}, target=torch.zeros(size, dtype=torch.long))


def test_flops_are_those_of_the_matrix_products() -> None:
    n, d, m, c, classes = 4, 16, 64, 16, 3
    # Cross: q, k, v, scores, read-out, output; feed-forward; then the same among the latents; the head.
    cross = n * d * c + 2 * m * c * c + 2 * n * m * c + n * c * d
    latent = 3 * n * d * d + 2 * n * n * d + n * d * d
    feed_forward = 2 * n * d * d
    expected = 2 * (cross + latent + 2 * feed_forward + d * classes)
    assert forward_flops(model().eval(), batch(1)) == expected


def test_attention_is_counted_whatever_kernel_would_run() -> None:
    """A kernel without a formula would count as nothing."""
    from torch.utils.flop_counter import FlopCounterMode

    from perceiver.inspection.model_summary import SDPBackend, sdpa_kernel

    query = torch.randn(1, 1, 5, 8)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        F.scaled_dot_product_attention(query, query, query)
    assert counter.get_total_flops() == 2 * 2 * 5 * 5 * 8


def test_the_table_names_modules_and_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    perceiver = model()
    perceiver.train()
    batches = [batch()]
    before = torch.random.get_rng_state()
    print_model(perceiver, batches, torch.device("cpu"))
    assert perceiver.training
    assert torch.equal(before, torch.random.get_rng_state()), "reporting changes no random state"
    printed = capsys.readouterr().out
    assert "adapters.image" in printed
    assert "64 tokens × 16" in printed
    assert "4 latents × 16" in printed
    assert f"{sum(parameter.numel() for parameter in perceiver.parameters()):,}" in printed
    assert "Estimated FLOPs, forward, one sample" in printed


def test_cross_attends_that_read_differently_are_explained_apart(capsys: pytest.CaptureFixture[str]) -> None:
    own = {name: ImagePixels(image_channels=2, position=Fourier(num_bands=3, resolution=[8, 8])) for name in ("a", "b")}
    encoder = Encoder(token_channels=20, num_latents=4, latent_channels=8, num_blocks=3, num_cross_attends=3)
    head = PooledHead(latent_channels=8, num_classes=3)
    reads = [["a"], ["a", "b"], ["a"]]
    images = {name: torch.randn(1, 2, 8, 8) for name in own}
    for reading, present, lines in ((None, own, [""]), (reads, own, [" to a", " to a, b"]), (reads, {"b": 1}, [" to a, b"])):
        perceiver = Perceiver(adapters=own, encoder=encoder, head=head, reads=reading)
        print_model(perceiver, [Batch(inputs={name: images[name] for name in present})], torch.device("cpu"))
        printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Cross-attention")]
        assert [line.split(":")[0].removeprefix("Cross-attention") for line in printed] == lines


def test_the_result_says_what_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints").mkdir()
    metrics = {"val/accuracy": 0.9812, "test/accuracy": 0.975, "best_epoch": 4, "epochs": 10, "seconds": 3.21}
    print_result(metrics, tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "Validation accuracy 98.12% in epoch 5 of 10 (best)",
        "Test accuracy 97.50%",
        "Time 3.2 s",
        f"Run directory {tmp_path}: checkpoints",
        f'In Python: model = perceiver.load("{tmp_path}")',
    ]


def test_other_metrics_than_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"val/r2": 0.91234, "test/loss": 0.1, "test/mae": 12.3456, "test/r2": 0.9}
    metrics |= {"epochs": 2, "best_epoch": 0, "seconds": 1.0}
    print_result(metrics, tmp_path, chosen_by="val/r2")
    assert capsys.readouterr().out.splitlines()[:2] == [
        "Validation r2 0.9123 in epoch 1 of 2 (best)",
        "Test r2 0.9, mae 12.35",
    ]
