"""The six published models at full size against transformers: parameters, outputs, and memory of optical flow; not speed.

    python benchmarks/parity.py                    # all models in turn, each in a fresh process
    python benchmarks/parity.py Fourier MaskedLM   # models whose class names contain any of these words

All parameters and buffers are random, including norms and biases. Prints for each model the parameter count, the largest
absolute difference of the outputs in float32 for each form of attention, and whether import, export, import is bit-exact.
For optical flow it also prints the peak memory that decoding all 182,528 queries adds to that of the process before,
weights included.
"""

from __future__ import annotations

import argparse
import gc
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from transformers_models import CASES, Case, inputs_for, our_logits, sampled, their_logits, their_model

from perceiver.interop.huggingface import from_transformers, to_transformers

FULL = {
    "image": (224, 224),
    "frames": (368, 496),
    "text": (2048, 262),
    "clip": (16, 224, 224),
    "samples": 30_720,
    "labels": 700,
}
AT_A_TIME = 4096
"""Flow queries per call of transformers' decoder: all queries at once would need tens of gigabytes."""


def main() -> None:
    """Run each model in a separate process, so that memory figures are independent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of class names; default: all")
    parser.add_argument("--here", action="store_true", help="run in this process")
    arguments = parser.parse_args()
    chosen = [case for case in CASES if not arguments.names or any(name in case.name for name in arguments.names)]
    for case in chosen:
        if arguments.here:
            compare(case)
        else:
            subprocess.run([sys.executable, __file__, "--here", case.name], check=True)


@torch.no_grad()
def compare(case: Case) -> None:
    """Compare a model with transformers and print the results."""
    values = {"num_labels": 2, **case.published}
    theirs = their_model(case, values=values, std=0.02)
    ours = from_transformers(theirs)
    count = sum(parameter.numel() for parameter in ours.parameters())
    print(f"{case.name}: {count:,} parameters, published {case.parameters:,}", flush=True)
    inputs, arguments = inputs_for(case.name, torch.float32, batch=1, sizes=FULL)
    index = sampled(1024, video=16 * 224 * 224, audio=1920) if "Multimodal" in case.name else None
    start = time.perf_counter()
    expected = flow_in_pieces(theirs, arguments) if "Flow" in case.name else their_logits(theirs, arguments, index)
    print(f"  transformers: {time.perf_counter() - start:.1f} s, standard deviation {flat(expected).std():.3g}", flush=True)
    back = to_transformers(ours)
    state, again = theirs.state_dict(), back.state_dict()
    same = list(state) == list(again) and all(torch.equal(state[name], again[name]) for name in state)
    print(f"  import, export, import: {'bit-exact' if same else 'DIFFERENT'}", flush=True)
    del theirs, back, state, again
    gc.collect()
    for form in ("auto", "factored", "dense"):
        ours.encoder.cross_attends[0].attention.attention = form
        start = time.perf_counter()
        found = our_logits(ours, inputs, index)
        seconds = time.perf_counter() - start
        difference = (flat(found) - flat(expected)).abs().max()
        print(f"  {form}: {seconds:.1f} s, largest difference {difference:.2e}", flush=True)
    if "Flow" in case.name:
        ours.encoder.cross_attends[0].attention.attention = "auto"
        print(f"  decoding: {decoding_memory(ours, inputs) / 1e9:.2f} GB of additional memory", flush=True)


def flat(outputs: Any) -> torch.Tensor:
    """Concatenate all outputs."""
    parts = outputs.values() if isinstance(outputs, dict) else [outputs]
    return torch.cat([part.flatten() for part in parts])


def flow_in_pieces(model: Any, arguments: dict[str, Any]) -> torch.Tensor:
    """Compute the outputs of transformers' flow model with its decoder called on a few queries at a time.

    Queries are decoded independently, so the outputs are the same.
    """
    perceiver = model.perceiver
    tokens, _, _ = perceiver.input_preprocessor(arguments["inputs"])
    latents = perceiver.encoder(perceiver.embeddings(batch_size=1), inputs=tokens).last_hidden_state
    decoder = perceiver.decoder
    pieces = [decoder.decoder(piece, latents).logits for piece in tokens.split(AT_A_TIME, dim=1)]
    return (torch.cat(pieces, dim=1) / decoder.rescale_factor).reshape(1, *decoder.output_image_shape, 2)


def decoding_memory(model: Any, inputs: dict[str, torch.Tensor]) -> int:
    """Return the peak growth of resident memory in bytes while decoding the queries, given tokens and latents."""
    tokens = model.tokens(inputs)
    latents = torch.randn(1, model.encoder.num_latents, model.encoder.latent_channels)
    gc.collect()
    before, most, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model.head(latents, tokens=tokens, adapters=model.adapters)
    done.set()
    watcher.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"  resident before decoding {before / 1e9:.2f} GB, overall peak of the process {peak / 1e9:.2f} GB", flush=True)
    return most[0] - before


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
