"""Imported models at published size on one core: the Fourier ImageNet model against transformers, and optical flow.

    pip install -e '.[bench,hf]'
    python benchmarks/imported.py [--only classifier|flow] [--seconds 120] [--json FILE]

All weights are random; speed, memory and the equality of logits do not depend on them. The two classifiers have the same
weights and get the same images of 224 x 224, batch 1. Their forwards are timed in turn in the same process, and ratios are
taken within each repetition (`benchmarks/measure.py`), for wall time and for processor time, which is steadier on a busy
machine. Memory is the peak that a forward adds to a fresh process that holds the weights and was warmed up with a tiny
image. Optical flow (368 x 496, all 182,528 queries decoded) has no comparison, because transformers decodes all queries at
once, for which memory does not suffice.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import added_peak, announce, interleaved, machine, numbers_of_fresh_process, timed, write_json
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from transformers_models import BY_NAME, SMALL, their_model

from perceiver.checkpoints.build import build_model
from perceiver.interop.architectures import model_config
from perceiver.interop.huggingface import from_transformers

CLASSIFIER, FLOW = BY_NAME["PerceiverForImageClassificationFourier"], BY_NAME["PerceiverForOpticalFlow"]
IMAGE, FRAMES = (224, 224), (368, 496)
SMALL_IMAGE, SMALL_FRAMES = (16, 16), (8, 10)
PEAKS = ("ours", "transformers", "flow", "flow decoder")


def classifier_values(*, quick: bool) -> dict[str, Any]:
    """Return the classifier's values of a PerceiverConfig."""
    return dict(SMALL) if quick else dict(CLASSIFIER.published)


def flow_values(*, quick: bool) -> dict[str, Any]:
    """Return the flow model's values of a PerceiverConfig."""
    return {**SMALL, "train_size": list(SMALL_FRAMES), "num_blocks": 1} if quick else {"num_labels": 2, **FLOW.published}


def image(size: Sequence[int]) -> Tensor:
    """Return an image `(1, 3, *size)`, always the same."""
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def compare(*, quick: bool, seconds: float, repetitions: int) -> dict[str, Any]:
    """Compare the two classifiers in the same process: largest difference of their logits, and times in turn."""
    theirs = their_model(CLASSIFIER, values=classifier_values(quick=quick), std=0.02)
    ours = from_transformers(theirs)
    x = image(SMALL_IMAGE if quick else IMAGE)
    expected, found = theirs(inputs=x).logits, ours({"image": x})

    def once(work: Callable[[], object]) -> Callable[[], tuple[float, float]]:
        """Return a function that measures wall and processor seconds of a forward."""

        def both() -> tuple[float, float]:
            start = time.process_time()
            wall = timed(work)
            return wall, time.process_time() - start

        return both

    candidates = {"ours": once(lambda: ours({"image": x})), "transformers": once(lambda: theirs(inputs=x))}
    times = interleaved(candidates, repetitions=repetitions, seconds=seconds)
    return {
        "parameters": sum(parameter.numel() for parameter in ours.parameters()),
        "largest_difference": float((found - expected).abs().max()),
        "deviation_of_logits": float(expected.std()),
        **{f"{name}_seconds": times[name] for name in candidates},
    }


def print_comparison(result: dict[str, Any]) -> None:
    """Print the result of `compare`."""
    print(f"{CLASSIFIER.name}, {result['parameters']:,} parameters, batch 1")
    print(
        f"  logits: largest difference {result['largest_difference']:.2e}, standard deviation "
        f"{result['deviation_of_logits']:.3g}"
    )
    for place, kind in enumerate(("wall time", "processor time")):
        ours, theirs = ([times[place] for times in result[f"{name}_seconds"]] for name in ("ours", "transformers"))
        ratios = [slower / faster for slower, faster in zip(theirs, ours, strict=True)]
        print(
            f"  forward, {kind}: ours {statistics.median(ours) * 1e3:.0f} ms, transformers "
            f"{statistics.median(theirs) * 1e3:.0f} ms, {statistics.median(ratios):.2f} times as long "
            f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} repetitions)",
            flush=True,
        )


def built(name: str, values: dict[str, Any]) -> nn.Module:
    """Build an untrained model of this package with the architecture of a transformers class."""
    torch.manual_seed(0)
    return build_model(model_config(name, values)).eval()


def work_of(name: str, *, quick: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a tiny forward to warm up, and the forward to measure, of the model `name`."""
    if name == "transformers":
        theirs = their_model(CLASSIFIER, values=classifier_values(quick=quick), std=0.02)
        return lambda: theirs(inputs=image(SMALL_IMAGE)), lambda: theirs(inputs=image(SMALL_IMAGE if quick else IMAGE))
    if name == "ours":
        ours = built(CLASSIFIER.name, classifier_values(quick=quick))
        return (
            lambda: ours({"image": image(SMALL_IMAGE)}),
            lambda: ours({"image": image(SMALL_IMAGE if quick else IMAGE)}),
        )
    model: Any = built(FLOW.name, flow_values(quick=quick))

    def frames(size: Sequence[int]) -> Tensor:
        return torch.stack([image(size), image(size)], dim=2)

    def flow(size: Sequence[int]) -> object:
        return model({"frames": frames(size)})

    size = SMALL_FRAMES if quick else FRAMES
    if name == "flow":
        return lambda: flow(SMALL_FRAMES), lambda: flow(size)
    tokens = model.tokens({"frames": frames(size)})
    latents = torch.randn(1, model.encoder.num_latents, model.encoder.latent_channels)
    return lambda: flow(SMALL_FRAMES), lambda: model.head(latents, tokens=tokens, adapters=model.adapters)


@torch.no_grad()
def print_peak(name: str, *, quick: bool) -> None:
    """Measure and print the results of `cost`, inside its process."""
    warm_up, work = work_of(name, quick=quick)
    warm_up()
    gc.collect()
    seconds: list[float] = []

    def measured() -> None:
        start = time.process_time()
        seconds.append(timed(work))
        seconds.append(time.process_time() - start)

    megabytes = added_peak(measured)
    print(*seconds, megabytes)


def cost(name: str, *, quick: bool, threads: int) -> list[float]:
    """Run a forward in a fresh process; return wall seconds, processor seconds and added megabytes."""
    command = ["--one-peak", name, "--threads", str(threads), *(["--quick"] if quick else [])]
    return numbers_of_fresh_process(__file__, command, count=3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("classifier", "flow"))
    parser.add_argument("--seconds", type=float, default=120, help="approximate; at least three repetitions")
    parser.add_argument("--repetitions", type=int, default=15, help="at most")
    parser.add_argument("--quick", action="store_true", help="tiny models, one repetition, to test the script")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one-peak", choices=PEAKS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    quick = options.quick
    if options.one_peak:
        print_peak(options.one_peak, quick=quick)
        return
    facts = machine()
    announce(facts)
    results: list[dict[str, Any]] = []
    if options.only != "flow":
        result = compare(
            quick=quick, seconds=0 if quick else options.seconds, repetitions=1 if quick else options.repetitions
        )
        print_comparison(result)
        ours, theirs = (cost(name, quick=quick, threads=options.threads)[-1] for name in ("ours", "transformers"))
        ratio = ours / max(theirs, 1e-9)
        print(f"  memory of a forward: ours {ours:.0f} MB, transformers {theirs:.0f} MB, ratio {ratio:.3f}", flush=True)
        results.append({**result, "ours_megabytes": ours, "transformers_megabytes": theirs})
    if options.only != "classifier":
        rows, columns = SMALL_FRAMES if quick else FRAMES
        print(f"{FLOW.name}, {rows} x {columns}: {rows * columns:,} queries")
        for name in ("flow decoder", "flow"):
            wall, processor, megabytes = cost(name, quick=quick, threads=options.threads)
            print(
                f"  {'decoding' if name == 'flow decoder' else 'the whole forward'} adds {megabytes:.0f} MB and takes "
                f"{wall:.1f} s ({processor:.1f} s of processor time)",
                flush=True,
            )
            results.append({"model": name, "seconds": wall, "processor_seconds": processor, "megabytes": megabytes})
    if options.json:
        write_json(options.json, facts, results)


if __name__ == "__main__":
    main()
