"""Greedy generation with a cache: a translator of this package beside transformers' MarianMT of equal size, random weights.

    python benchmarks/greedy.py [--run RUN] [--sentences 1000] [--batch 128] [--rounds 3] [--threads 1]

Both read the same source ids (lengths like those of Multi30k) and generate the same number of ids for every batch, since
random weights would end at random places; batches hold sentences of similar length. Encoder and decoder have two layers of
128 channels each and share a vocabulary of 4,000 ids. Prints seconds of both and their ratio, taken in turns. With `--run`,
a run directory of `experiment=multi30k`, also the time to translate its test sentences with the trained weights, in the
order of the file, until each sentence ends.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import announce, machine
from omegaconf import OmegaConf
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

import perceiver
from perceiver import CausalDecoder, Encoder, LearnedTable, Perceiver, WrittenMemory, checkpoints
from perceiver.adapters import TextTokens
from perceiver.run.assembly.data import make_data

CHANNELS, VOCABULARY, LONGEST = 128, 4000, 96
Batch = tuple[Tensor, Tensor, int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    announce(machine())
    torch.manual_seed(0)
    batches = _batches(options.sentences, options.batch)
    contenders = {"perceiver": _ours(), "MarianMT": _marian()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(options.rounds + 1):
        for name, (generate, parameters) in contenders.items():
            start = time.process_time()
            for batch in batches:
                generate(batch)
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - start)
            else:
                print(f"{name}: {parameters:,} parameters")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(f"{name}: {medians[name]:.2f} s for {options.sentences} sentences ({min(times):.2f} to {max(times):.2f})")
    print(f"MarianMT / perceiver: {medians['MarianMT'] / medians['perceiver']:.2f}")
    if options.run is not None:
        _translate(options.run, options.batch)


def _batches(sentences: int, size: int) -> list[Batch]:
    lengths = (torch.randn(sentences) * 5 + 15.6).round().clamp(4, 40).long().sort().values
    batches = []
    for own in lengths.split(size):
        ids = torch.randint(3, VOCABULARY, (len(own), int(own.max())))
        batches.append((ids, torch.arange(ids.shape[1]) < own[:, None], int(own.max()) + 4))
    return batches


def _ours() -> tuple[Callable[[Batch], Any], int]:
    text = TextTokens(
        vocabulary_size=VOCABULARY,
        embedding_channels=CHANNELS,
        add_position=True,
        position=LearnedTable(grid=[LONGEST], channels=CHANNELS),
    )
    encoder = Encoder(
        token_channels=text.channels,
        num_latents=16,
        latent_channels=CHANNELS,
        num_layers_per_block=2,
        num_cross_heads=4,
        num_self_heads=4,
    )
    head = CausalDecoder(
        memory=WrittenMemory(latent_channels=CHANNELS, token_channels=text.channels),
        vocabulary_size=VOCABULARY,
        max_length=LONGEST,
    )
    model = Perceiver(adapters={"text": text}, encoder=encoder, head=head).eval()

    def generate(batch: Batch) -> Any:
        ids, mask, length = batch
        return perceiver.generate(model, {"text": ids}, {"text": mask}, max_length=length, min_length=length)

    return generate, sum(parameter.numel() for parameter in model.parameters())


def _marian() -> tuple[Callable[[Batch], Any], int]:
    config = MarianConfig(
        vocab_size=VOCABULARY,
        d_model=CHANNELS,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * CHANNELS,
        decoder_ffn_dim=2 * CHANNELS,
        max_position_embeddings=LONGEST,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
    )
    model = MarianMTModel(config).eval()

    def generate(batch: Batch) -> Any:
        ids, mask, length = batch
        return model.generate(
            ids, attention_mask=mask.long(), max_length=length, min_length=length, num_beams=1, do_sample=False
        )

    return generate, sum(parameter.numel() for parameter in model.parameters())


def _translate(run: Path, size: int) -> None:
    recipe, model = checkpoints.read(run), perceiver.load(run).eval()
    data: Any = make_data(OmegaConf.create({**recipe.config["data"], "batch_size": size}))
    data.prepare_data()
    data.spec = recipe.spec
    data.setup("test")
    loader = data.test_dataloader()
    batches = [(batch.inputs, batch.masks) for batch in loader]
    start = time.process_time()
    with torch.no_grad():
        found = [model.target_outputs(*batch) for batch in batches]
    seconds = time.process_time() - start
    ids = sum(int(one.lengths.sum()) for one in found)
    sentences = sum(len(one.ids) for one in found)
    print(f"{run}: {seconds:.2f} s for {sentences} test sentences, {ids / seconds:,.0f} ids per second")


if __name__ == "__main__":
    main()
