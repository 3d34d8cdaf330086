"""A run of task=masked_tokens on bytes against baselines fitted to the same text that predict the same bytes.

    python benchmarks/masked_text.py RUN_DIR            # the validation split
    python benchmarks/masked_text.py RUN_DIR --split test

Baselines count contexts in the training split: none (the most frequent byte); the byte before; the bytes on both sides (the
"bigram on both sides"); and two bytes on both sides. Contexts with a hidden byte are not used. Each baseline is
interpolated with the next simpler one, weighted by the number of different bytes seen in its context (Witten and Bell 1991)
times a strength. Each baseline uses the strength that is best on the evaluated bytes themselves.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate

from perceiver import checkpoints
from perceiver.inference.infilling import vocabulary_of
from perceiver.modalities.texts.text_bytes import NUM_SPECIAL
from perceiver.objectives.self_supervised.masked_tokens import cross_entropies, generators_of
from perceiver.run.assembly.data import make_data
from perceiver.runtime.evaluating import evaluating

EDGE, HIDDEN = 256, 257
Context = tuple[int, ...]


class Contexts:
    """Counts of bytes by context, from the simplest context to the richest.

    Args:
        texts: texts of the training split.
        shapes: contexts, each as positions relative to the byte, such as `(-1, 1)`.
    """

    def __init__(self, texts: Sequence[bytes], *, shapes: Sequence[Context]) -> None:
        self.shapes = list(shapes)
        self.counts: list[dict[Context, Counter[int]]] = [defaultdict(Counter) for _ in self.shapes]
        for text in texts:
            for place, byte in enumerate(text):
                for counts, shape in zip(self.counts, self.shapes, strict=True):
                    counts[around(text, place, shape)][byte] += 1

    def probabilities(self, text: Sequence[int], place: int, *, up_to: int, strength: float = 1.0) -> np.ndarray[Any, Any]:
        """Return the probabilities `(256,)` of the hidden byte at `place`, using the first `up_to` shapes."""
        p = np.full(256, 1 / 256)
        for counts, shape in zip(self.counts[:up_to], self.shapes[:up_to], strict=True):
            context = around(text, place, shape)
            seen = counts.get(context) if HIDDEN not in context else None
            if seen:
                counted = np.zeros(256)
                counted[list(seen.keys())] = list(seen.values())
                weight = strength * len(seen)
                p = (counted + weight * p) / (counted.sum() + weight)
        return p


def around(text: Sequence[int], place: int, shape: Context) -> Context:
    """Return the bytes at positions relative to `place`; `EDGE` beyond the ends of the text."""
    return tuple(text[place + step] if 0 <= place + step < len(text) else EDGE for step in shape)


SHAPES: list[Context] = [(), (-1,), (1,), (-1, 1), (-2, -1, 1), (-1, 1, 2), (-2, -1, 1, 2)]
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
BASELINES = {
    "the most frequent byte": 1,
    "the byte before": 2,
    "the bytes on both sides": 4,
    "two bytes on both sides": 7,
}


def compare(run: Path, *, split: str, device: str) -> list[tuple[str, float, float]]:
    """Return (name, accuracy, cross-entropy in bits) over the hidden bytes of a split, the model last."""
    recipe = checkpoints.read(run)
    model = checkpoints.load(run, device=device)
    config = recipe.config
    data = make_data(config["data"])
    data.prepare_data()
    data.spec = recipe.spec
    data.setup("fit")
    contexts = Contexts([stretch.raw for stretch in data.split("train").stretches], shapes=SHAPES)
    if split == "test":
        data.setup("test")
    settings = config["task"]
    masking, seed, name = instantiate(settings["masking"], _convert_="all"), settings["seed"], settings["modality"]
    size = vocabulary_of(model, name)

    totals = {label: np.zeros((len(STRENGTHS), 2)) for label in [*BASELINES, "the model"]}
    count = 0
    for number, batch in enumerate(data.val_dataloader() if split == "val" else data.test_dataloader()):
        ids, valid = batch.inputs[name], batch.masks.get(name)
        masked = masking(ids, valid, vocabulary_size=size, generators=generators_of(batch, seed=seed, number=number))
        with evaluating(model):
            masks = {} if valid is None else {name: valid.to(device)}
            logits = model({name: masked.ids.to(device)}, masks, index=masked.index.to(device)).float().cpu()
        right = (logits.argmax(dim=-1) == masked.target) & masked.real
        totals["the model"] += [float(right.sum()), float(cross_entropies(logits, masked).sum())]
        count += int(masked.real.sum())
        for row in range(batch.size):
            length = ids.shape[1] if valid is None else int(valid[row].sum())
            text = (masked.ids[row, :length] - NUM_SPECIAL).tolist()
            places = masked.index[row][masked.real[row]].tolist()
            for place in places:
                text[place] = HIDDEN
            targets = (masked.target[row][masked.real[row]] - NUM_SPECIAL).tolist()
            for place, target in zip(places, targets, strict=True):
                for label, up_to in BASELINES.items():
                    for row_of, strength in enumerate(STRENGTHS):
                        p = contexts.probabilities(text, place, up_to=up_to, strength=strength)
                        totals[label][row_of] += [float(p.argmax() == target), -float(np.log(p[target]))]
    best = {label: (total[:, 0].max(), total[:, 1].min()) for label, total in totals.items()}
    return [(label, right / count, nats / count / float(np.log(2))) for label, (right, nats) in best.items()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory or checkpoint")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    print(f"{'predicted from':<26} {'accuracy':>9} {'bits per byte':>14}")
    for label, accuracy, bits in compare(arguments.run, split=arguments.split, device=arguments.device):
        print(f"{label:<26} {accuracy:>9.2%} {bits:>14.3f}")


if __name__ == "__main__":
    main()
