"""The latent transformer alone: matrix products as a share of its time.

    python benchmarks/latent.py [--threads 1] [--only 512] [--bfloat16] [--json FILE]

The products are those of the layers (queries, keys and values; scores; weighted values; output; the two of the feed-forward
layer; in training two more for each) at the same shapes, as bare `torch.mm` and `torch.bmm` into preallocated tensors. The
rest up to 100% is the time for norms, softmax, GELU, biases, residuals, Python and autograd. If the layers multiply with
oneDNN (perceiver/attention/kernels/linear.py; stated above the table, PERCEIVER_ONEDNN=0 disables it), the bare products are
still torch's slower ones, and the share can exceed 100%. Repetitions of both are interleaved, the share is taken within each
repetition, and the table shows the medians.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from measure import Seconds, announce, interleaved, machine, medians, ratios, timed, write_json
from torch import Tensor, nn

from perceiver.attention import SelfAttend
from perceiver.attention.kernels.linear import onednn

Context = Callable[[], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True)
class Case:
    """Self-attention layers of constant width on latents `(batch, latents, channels)`."""

    latents: int
    channels: int
    batch: int
    heads: int = 8
    layers: int = 6

    @property
    def name(self) -> str:
        """Name for tables and `--only`."""
        return f"{self.latents} x {self.channels}, batch {self.batch}, {self.heads} heads, {self.layers} layers"


CASES = (Case(512, 1024, 1), Case(64, 128, 64), Case(256, 512, 4), Case(32, 128, 64), Case(128, 256, 16, heads=4))


@dataclass(frozen=True)
class Product:
    """A product left @ right -> out; three-dimensional tensors are a batch of products."""

    left: Tensor
    right: Tensor
    out: Tensor

    def run(self) -> None:
        """Compute it."""
        (torch.mm if self.left.dim() == 2 else torch.bmm)(self.left, self.right, out=self.out)


@dataclass
class Result:
    """Medians: seconds of the layers and of their products, and products / layers within the same repetition."""

    case: str
    precision: str
    forward: float
    forward_products: float
    forward_share: float
    training: float
    training_products: float
    training_share: float


def linear_products(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> tuple[list[Product], list[Product]]:
    """Return the forward and backward products of a linear layer with weights `(outputs, inputs)`, as in torch."""
    x, y = torch.randn(rows, inputs, dtype=dtype), torch.randn(rows, outputs, dtype=dtype)
    weight = torch.randn(outputs, inputs, dtype=dtype)
    forward = [Product(x, weight.t(), torch.empty_like(y))]
    return forward, [Product(y, weight, torch.empty_like(x)), Product(y.t(), x, torch.empty_like(weight))]


def attention_products(batch: int, latents: int, width: int, dtype: torch.dtype) -> tuple[list[Product], list[Product]]:
    """Return the forward and backward products of scores and weighted values; `batch` is samples times heads."""
    query, key, value, read = (torch.randn(batch, latents, width, dtype=dtype) for _ in range(4))
    weights, scores = (torch.rand(batch, latents, latents, dtype=dtype) / latents for _ in range(2))
    empty = torch.empty_like
    forward = [Product(query, key.mT, empty(scores)), Product(weights, value, empty(read))]
    backward = [
        Product(read, value.mT, empty(weights)),
        Product(weights.mT, read, empty(value)),
        Product(scores, key, empty(query)),
        Product(scores.mT, query, empty(key)),
    ]
    return forward, backward


def products(case: Case, dtype: torch.dtype) -> tuple[list[Product], list[Product]]:
    """Return all forward and backward products in the order of the layers, each layer with separate tensors."""
    rows, channels = case.batch * case.latents, case.channels
    forward: list[Product] = []
    backward: list[Product] = []
    for _ in range(case.layers):
        for layer_forward, layer_backward in (
            linear_products(rows, channels, 3 * channels, dtype),
            attention_products(case.batch * case.heads, case.latents, channels // case.heads, dtype),
            linear_products(rows, channels, channels, dtype),
            linear_products(rows, channels, channels, dtype),
            linear_products(rows, channels, channels, dtype),
        ):
            forward += layer_forward
            backward += layer_backward
    return forward, backward


def run_all(chosen: list[Product]) -> None:
    """Run the products in order."""
    for product in chosen:
        product.run()


def time_products(forward: list[Product], backward: list[Product]) -> Seconds:
    """Return the seconds of a forward, and of a forward and backward."""
    return timed(lambda: run_all(forward)), timed(lambda: run_all(forward + backward))


def time_layers(layers: nn.Module, x: Tensor, grad: Tensor, autocast: Context) -> Seconds:
    """Return the seconds of a forward without gradients, and of a forward and backward for weights and latents."""

    def forward() -> None:
        with torch.no_grad(), autocast():
            layers(x)

    def training() -> None:
        with autocast():
            out = layers(x)
        out.backward(grad)

    seconds = timed(forward)
    layers.zero_grad()
    x.grad = None
    return seconds, timed(training)


def measure(case: Case, dtype: torch.dtype, *, seconds: float, repetitions: int) -> Result:
    """Measure layers and products interleaved; bfloat16 means autocast for the layers and bfloat16 tensors for products."""
    torch.manual_seed(0)
    layers = nn.Sequential(*(SelfAttend(channels=case.channels, num_heads=case.heads) for _ in range(case.layers)))
    x = torch.randn(case.batch, case.latents, case.channels, requires_grad=True)
    autocast = partial(torch.autocast, "cpu", dtype=dtype) if dtype != torch.float32 else contextlib.nullcontext
    forward, backward = products(case, dtype)
    times = interleaved(
        {
            "layers": partial(time_layers, layers, x, torch.randn_like(x), autocast),
            "products": partial(time_products, forward, backward),
        },
        repetitions=repetitions,
        seconds=seconds,
    )
    layers_forward, layers_training = medians(times["layers"])
    products_forward, products_training = medians(times["products"])
    forward_share, training_share = ratios(times["products"], times["layers"])
    return Result(
        case=case.name,
        precision=str(dtype).removeprefix("torch."),
        forward=layers_forward,
        forward_products=products_forward,
        forward_share=forward_share,
        training=layers_training,
        training_products=products_training,
        training_share=training_share,
    )


def main() -> None:
    """Measure, print the table, and write it to a file if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--bfloat16", action="store_true", help="measure bfloat16 autocast too")
    parser.add_argument("--seconds", type=float, default=20, help="approximate time per case")
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [case for case in CASES if options.only in case.name]
    if not cases:
        parser.error(f"--only {options.only}: no such case; available: {'; '.join(case.name for case in CASES)}")
    facts = machine()
    announce(facts)
    large, reason = onednn()
    print(f"float32 linear layers: {'oneDNN if large' if large else 'F.linear'} ({reason})")
    columns = f"{'forward':>10} {'products':>11} {'share':>6} {'training':>11} {'products':>11} {'share':>6}"
    print(f"{'latents':44} {'precision':9} {columns}")
    results = []
    for case in cases:
        for dtype in (torch.float32, torch.bfloat16) if options.bfloat16 else (torch.float32,):
            result = measure(case, dtype, seconds=options.seconds, repetitions=options.repetitions)
            print(
                f"{result.case:44} {result.precision:9} "
                f"{result.forward * 1e3:7.1f} ms {result.forward_products * 1e3:8.1f} ms {result.forward_share:6.0%} "
                f"{result.training * 1e3:8.1f} ms {result.training_products * 1e3:8.1f} ms {result.training_share:6.0%}",
                flush=True,
            )
            results.append(asdict(result))
    if options.json:
        write_json(options.json, facts, results)


if __name__ == "__main__":
    main()
