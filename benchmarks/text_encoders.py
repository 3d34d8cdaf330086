"""A race of encoders: this package's against torch's Transformer encoder of equal size, in equal processor time.

    python benchmarks/text_encoders.py ROOT [--seconds 600] [--joined 10] [--threads 1]

ROOT holds Multi30k (multi30k/task1/raw). Sources are the UTF-8 bytes of consecutive English sentences, joined (about 620
bytes for ten); targets are their German translations, joined, in byte pairs. Both models have the same embedding of bytes,
the same decoder, the same batches in the same order, and the same schedule over their processor time; they train in turns.
The rate of each is chosen from `--rates` by the validation loss after a short training, `--trial` seconds each. Prints, by
processor time, the validation loss in nats per target id; at the end the loss on test 2016, steps, parameters, and the peak
memory of a training step in a fresh process.
"""

from __future__ import annotations

import argparse
import gzip
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from measure import added_peak, announce, machine, numbers_of_fresh_process
from torch import Tensor, nn

from perceiver import CausalDecoder, Encoder, Fourier, Perceiver, WrittenMemory
from perceiver.adapters import TextTokens
from perceiver.decoders.memory import Memory
from perceiver.decoders.sequence_loss import SequenceLoss, SequenceLosses
from perceiver.modalities.texts.text_bytes import VOCABULARY_SIZE, encode_bytes
from perceiver.modalities.texts.tokenizers import END, PAD, START, learn_tokenizer, tokenizer_of
from perceiver.tokens.tokens import Tokens

CHANNELS, HEADS, LAYERS, VOCABULARY, LONGEST = 128, 4, 2, 4000, 1024
DROPOUT = 0.1
PERCEIVER, TRANSFORMER = "perceiver", "transformer"
Pair = tuple[Tensor, Tensor]


class NoLatents(nn.Module):
    """Stands where an encoder is, for a head that encodes the tokens itself."""

    def __init__(self, *, token_channels: int) -> None:
        super().__init__()
        self.token_channels = token_channels
        self.latent_channels = CHANNELS

    def forward(self, tokens: Sequence[Tokens]) -> Tensor:
        """Return one empty latent for each sample."""
        return tokens[0].parts[0].new_zeros(tokens[0].batch, 1, CHANNELS)


class TransformerMemory(nn.Module):
    """Tokens after `nn.TransformerEncoder`, pre-norm, in which each attends to all."""

    def __init__(self, *, token_channels: int) -> None:
        super().__init__()
        self.channels = CHANNELS
        self.project = nn.Linear(token_channels, CHANNELS)
        layer = nn.TransformerEncoderLayer(
            CHANNELS, HEADS, 2 * CHANNELS, DROPOUT, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(CHANNELS), enable_nested_tensor=False)

    def forward(self, latents: Tensor, tokens: Mapping[str, Tokens]) -> Memory:
        """Fused tokens by modality -> a block for each."""
        blocks = {}
        for name, block in tokens.items():
            hidden = None if block.mask is None else ~block.mask
            encoded = self.encoder(self.project(block.dense()), src_key_padding_mask=hidden)
            blocks[name] = Tokens(parts=(encoded,), mask=block.mask)
        return Memory(blocks=blocks)


def make_model(name: str) -> Perceiver:
    """Return the model of a contender, with initial weights of seed 0."""
    torch.manual_seed(0)
    text = TextTokens(
        vocabulary_size=VOCABULARY_SIZE,
        embedding_channels=64,
        position=Fourier(num_bands=32, resolution=(LONGEST,)),
    )
    width = text.channels
    encoder: nn.Module
    memory: nn.Module
    if name == PERCEIVER:
        encoder = Encoder(
            token_channels=width,
            num_latents=64,
            latent_channels=CHANNELS,
            num_layers_per_block=LAYERS,
            num_cross_heads=HEADS,
            cross_qk_channels=CHANNELS,
            num_self_heads=HEADS,
            dropout=DROPOUT,
        )
        memory = WrittenMemory(latent_channels=CHANNELS, token_channels=width, dropout=DROPOUT)
    else:
        encoder, memory = NoLatents(token_channels=width), TransformerMemory(token_channels=width)
    head = CausalDecoder(memory=memory, vocabulary_size=VOCABULARY, max_length=400, dropout=DROPOUT)
    return Perceiver(adapters={"text": text}, encoder=encoder, head=head)  # type: ignore[arg-type]


@dataclass
class Training:
    """A model in training, on a budget of processor time."""

    name: str
    rate: float
    budget: float
    pairs: Sequence[Pair]
    batch: int
    spent: float = 0.0
    steps: int = 0
    curve: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = make_model(self.name)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.rate, betas=(0.9, 0.98), weight_decay=0.01)
        self.batches = _endless(self.pairs, self.batch)

    @property
    def done(self) -> bool:
        """Whether the budget is spent."""
        return self.spent >= self.budget

    def train(self, steps: int) -> None:
        """Train for some steps: warm-up over a twentieth of the budget, then half a cosine."""
        self.model.train()
        for _ in range(steps):
            start = time.process_time()
            share = min(self.spent / self.budget, 1.0)
            factor = max(share, 0.002) / 0.05 if share < 0.05 else 0.5 * (1 + math.cos(math.pi * (share - 0.05) / 0.95))
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * factor
            step(self.model, self.optimizer, next(self.batches))
            self.steps += 1
            self.spent += time.process_time() - start


def step(model: Perceiver, optimizer: torch.optim.Optimizer, batch: Sequence[Pair]) -> None:
    """Take a training step."""
    total, count = _loss(model, batch, smoothing=0.1)
    optimizer.zero_grad()
    (total / count).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both in turns and print what they reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--trial", type=float, default=60)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3])
    parser.add_argument("--joined", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", choices=[PERCEIVER, TRANSFORMER], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    splits = read(options.root, joined=options.joined)
    if options.memory:
        model = make_model(options.memory)
        optimizer = torch.optim.AdamW(model.parameters())
        batches = _endless(splits["train"], options.batch)
        print(added_peak(lambda: [step(model, optimizer, next(batches)) for _ in range(5)]))
        return
    announce(machine())
    lengths = [len(source) for source, _ in splits["train"]]
    print(f"{len(lengths):,} training pairs, {sum(lengths) / len(lengths):.0f} bytes on average, at most {max(lengths)}")
    rates = {}
    for name in (PERCEIVER, TRANSFORMER):
        found = {rate: _trial(name, rate, options, splits) for rate in options.rates}
        rates[name] = min(found, key=lambda rate: found[rate])
        print(name, "validation loss by rate:", {rate: round(value, 3) for rate, value in found.items()}, flush=True)
    runs = [Training(name, rates[name], options.seconds, splits["train"], options.batch) for name in rates]
    marks = iter(options.seconds * share for share in (0.25, 0.5, 0.75, 1.0))
    for mark in marks:
        while any(run.spent < mark for run in runs):
            for run in runs:
                if run.spent < mark:
                    run.train(5)
        print(
            f"{mark:.0f} s:", ", ".join(f"{run.name} {evaluate(run.model, splits['val']):.3f}" for run in runs), flush=True
        )
    for run in runs:
        flags = [str(options.root), "--joined", str(options.joined), "--batch", str(options.batch), "--memory", run.name]
        [memory] = numbers_of_fresh_process(__file__, flags, count=1)
        parameters = sum(parameter.numel() for parameter in run.model.parameters())
        print(
            f"{run.name}: test {evaluate(run.model, splits['test']):.3f} nats per id, {run.steps} steps, rate {run.rate}, "
            f"{parameters:,} parameters, {memory:.0f} MiB for training steps"
        )


def read(root: Path, *, joined: int) -> dict[str, list[Pair]]:
    """Return pairs of ids, source and target, by split; the target's tokenizer is learned from the training split."""
    folder = root / "multi30k" / "task1" / "raw"
    names = {"train": "train", "val": "val", "test": "test_2016_flickr"}
    texts = {
        split: [
            gzip.decompress((folder / f"{name}.{language}.gz").read_bytes()).decode().splitlines()
            for language in ("en", "de")
        ]
        for split, name in names.items()
    }
    tokenizer = tokenizer_of(learn_tokenizer("pairs", texts["train"][1], vocabulary_size=VOCABULARY))
    found = {}
    for split, (sources, targets) in texts.items():
        pairs = []
        for first in range(0, len(sources) - joined + 1, joined):
            source = encode_bytes(" ".join(line.strip() for line in sources[first : first + joined]))
            target = tokenizer.encode(" ".join(line.strip() for line in targets[first : first + joined]))
            if len(source) <= LONGEST and len(target) < 398:
                pairs.append((source, torch.tensor([START, *target, END])))
        found[split] = pairs
    return found


@torch.no_grad()
def evaluate(model: Perceiver, pairs: Sequence[Pair]) -> float:
    """Return the loss in nats per target id."""
    model.eval()
    total = count = 0.0
    for first in range(0, len(pairs), 32):
        loss, number = _loss(model, pairs[first : first + 32], smoothing=0.0)
        total, count = total + float(loss), count + number
    return total / count


def _trial(name: str, rate: float, options: argparse.Namespace, splits: Mapping[str, Sequence[Pair]]) -> float:
    run = Training(name, rate, options.trial, splits["train"], options.batch)
    while not run.done:
        run.train(5)
    return evaluate(run.model, splits["val"])


def _endless(pairs: Sequence[Pair], size: int) -> Iterator[list[Pair]]:
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(pairs), generator=generator).tolist()
        for first in range(0, len(order) - size + 1, size):
            yield [pairs[number] for number in order[first : first + size]]


def _loss(model: Perceiver, batch: Sequence[Pair], *, smoothing: float) -> tuple[Tensor, int]:
    sources, targets = ([pair[side] for pair in batch] for side in (0, 1))
    source, target = (nn.utils.rnn.pad_sequence(one, batch_first=True, padding_value=PAD) for one in (sources, targets))
    mask = torch.arange(source.shape[1]) < torch.tensor([len(one) for one in sources])[:, None]
    valid = torch.arange(1, target.shape[1]) < torch.tensor([len(one) for one in targets])[:, None]
    loss = SequenceLoss(labels=target[:, 1:], valid=valid, label_smoothing=smoothing)
    found: SequenceLosses = model({"text": source}, {"text": mask}, target_ids=target[:, :-1], target_loss=loss)
    return found.total, int(valid.sum())


if __name__ == "__main__":
    main()
