"""A run of task=next_tokens on bytes: what its prefix is worth, and baselines fitted to the same text.

    python benchmarks/long_text.py RUN_DIR              # the validation split
    python benchmarks/long_text.py RUN_DIR --split test
    python benchmarks/long_text.py --baselines          # without a run

The model is evaluated twice on the windows of the split: as it is, and with all ids before those with a latent masked. The
5-gram interpolates contexts of 0 to 4 bytes, each weighted by the number of different bytes seen in it (Witten and Bell
1991). `xz` is what the split adds to the compressed size of the training text.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from perceiver import checkpoints
from perceiver.data import LongTexts, PythonTexts
from perceiver.modalities.texts.text_bytes import NUM_SPECIAL
from perceiver.objectives import NextTokenPrediction
from perceiver.run.assembly.data import make_data
from perceiver.runtime.evaluating import evaluating
from perceiver.samples.collate import Collate


def ngram_bits(training: Sequence[int], text: Sequence[int], *, size: int = 5, vocabulary: int = 257) -> float:
    """Return the bits of all symbols of `text` but the first, under an n-gram of the training symbols."""
    counts: list[dict[tuple[int, ...], Counter[int]]] = [defaultdict(Counter) for _ in range(size)]
    for place in range(1, len(training)):
        for order in range(min(size, place + 1)):
            counts[order][tuple(training[place - order : place])][training[place]] += 1
    bits = 0.0
    for place in range(1, len(text)):
        p = 1 / vocabulary
        for order in range(min(size, place + 1)):
            seen = counts[order].get(tuple(text[place - order : place]))
            if seen:
                different, total = len(seen), seen.total()
                p = (seen[text[place]] + different * p) / (total + different)
        bits -= math.log2(p)
    return bits


def xz_bits(training: bytes, text: bytes) -> float:
    """Return by how many bits `text` lengthens the compressed training text."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**26}]

    def size(raw: bytes) -> int:
        return len(lzma.compress(raw, format=lzma.FORMAT_RAW, filters=filters))

    return 8.0 * (size(training + text) - size(training))


def baselines(training: torch.Tensor, stream: torch.Tensor) -> dict[str, float]:
    """Return the bits per byte of both baselines on a stream of ids."""
    num_bytes = int((stream[1:] >= NUM_SPECIAL).sum())
    raw = [bytes((ids[ids >= NUM_SPECIAL] - NUM_SPECIAL).tolist()) for ids in (training, stream)]
    return {
        "5-gram": ngram_bits(training.tolist(), stream.tolist()) / num_bytes,
        "xz": xz_bits(raw[0], raw[1]) / num_bytes,
    }


def measured(model: Any, samples: Any, spec: dict[str, Any], *, read_prefix: bool, batch_size: int = 4) -> dict[str, float]:
    """Return the results of the objective on a split."""
    task = NextTokenPrediction(vocabulary_size=spec["target"]["vocabulary_size"], read_prefix=read_prefix)
    task.check_model(model)
    metrics = task.metrics(model)
    with evaluating(model), torch.no_grad():
        for batch in DataLoader(samples, batch_size=batch_size, collate_fn=Collate(modalities=spec["modalities"])):
            task.evaluate(model, task.check(model, batch), metrics)
    return {name: float(value) for name, value in task.results(metrics).items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--baselines", action="store_true", help="also fit the baselines")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"split": options.split}
    if options.run is None:
        source = LongTexts(texts=PythonTexts(docstrings="training", split_by="document"), context=4096, predicted=256)
        splits = {"train": source.read_training()[0], "val": source.read_training()[1], "test": source.read_test()}
    else:
        recipe = checkpoints.read(checkpoints.find(options.run))
        data = make_data(recipe.config["data"])
        data.prepare_data()
        data.spec = recipe.spec
        splits = {name: data.split(name) for name in ("train", options.split)}
        model = checkpoints.load(options.run)
        for name, read in (("bits_per_byte", True), ("bits_per_byte, prefix masked", False)):
            found[name] = measured(model, splits[options.split], data.spec, read_prefix=read)["bits_per_byte"]
    if options.baselines or options.run is None:
        found |= baselines(splits["train"].stream, splits[options.split].stream)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
