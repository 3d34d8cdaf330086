"""Mutated files and trees for every entry point that reads files of strangers; a clear error or a result must follow.

An entry point prepares good content once and then tries mutations of it. A mutation is determined by a seed, the entry point
and a number, so that `python benchmarks/fuzz.py --only NAME --number N` repeats it.
"""

import contextlib
import gzip
import json
import random
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from containers_written import write_container, write_film
from dense_cases import write_kitti, write_pfm
from hostile_models import MODEL, SPEC
from manifest_cases import animals, write_csv, write_json_lines
from omegaconf import OmegaConf
from onnx_files import METADATA, TEXT_METADATA, encoder_and_step, model, with_metadata
from PIL import Image
from point_cloud_files import pcd, ply

import perceiver
from perceiver import checkpoints, exported
from perceiver.checkpoints.build import build_model
from perceiver.checkpoints.file import Recipe, assemble
from perceiver.data import DataModule, Digits, Manifest
from perceiver.data.manifest import read_table
from perceiver.data.readers.flow_files import read_flow_channels, write_flow
from perceiver.data.readers.meshes import read_off, sample_surface
from perceiver.data.shards.folder import ShardFolder
from perceiver.interop.hub import from_pretrained, save_pretrained
from perceiver.run.assembly.spec import use_stored_spec
from perceiver.run.assembly.task import check_task
from perceiver.run.configuration.data_choice import data_of_checkpoint
from perceiver.run.configuration.folder import conf_directory
from perceiver.run.resuming import resume

MOST_SECONDS = 5
MOST_BYTES = 2**30

Try = Callable[[random.Random], object]
"""Tries one mutation; raises what the entry point raises."""


class HangError(BaseException):
    """An entry point took longer than `MOST_SECONDS`. Not an Exception: nothing may catch it."""


@dataclass
class Findings:
    """What a door did.

    Args:
        accepted: mutations that were read without an error.
        refused: mutations that ended in a clear error.
        faults: other ends: seed, number, and the last lines of the traceback.
    """

    accepted: int = 0
    refused: int = 0
    faults: list[tuple[str, int, str]] = field(default_factory=list)


def fuzz(name: str, attempt: Try, *, seed: str, first: int = 0, count: int = sys.maxsize, seconds: float = 1e9) -> Findings:
    """Try `count` mutations, or as many as the processor time allows."""
    findings = Findings()
    until = time.process_time() + seconds
    number = first
    while number < first + count and time.process_time() < until:
        chance = random.Random(f"{seed}/{name}/{number}")
        before = _peak_bytes()
        fault = ""
        try:
            with _limited(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                attempt(chance)
            findings.accepted += 1
        except (Exception, HangError) as error:
            if is_clear(error):
                findings.refused += 1
            else:
                fault = "".join(traceback.format_exception(error)[-4:])
        if (grown := _peak_bytes() - before) > MOST_BYTES:
            fault += f"took {grown:,} bytes"
        if fault:
            findings.faults.append((seed, number, fault))
        number += 1
    return findings


def is_clear(error: BaseException) -> bool:
    """Whether an error is meant for users: a type of this package, or a ValueError or OSError that this package raised."""
    cause: BaseException | None = error
    while cause is not None:
        is_refusal = type(cause).__module__.startswith("perceiver.")  # such as that of a model which would not fit
        if isinstance(cause, MemoryError | RecursionError | HangError) and not is_refusal:
            return False
        cause = cause.__cause__
    if type(error).__module__.startswith("perceiver.") and str(error):
        return True
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    ours = raised_in.startswith(str(Path(perceiver.__file__).parent))
    return isinstance(error, ValueError | OSError) and ours and bool(str(error))


@contextmanager
def _limited() -> Iterator[None]:
    def hang(number: int, frame: FrameType | None) -> None:
        raise HangError(f"took longer than {MOST_SECONDS} seconds")

    earlier = signal.signal(signal.SIGPROF, hang)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ----- mutations

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_WORDS = (
    b"", b'"', b"''", b"\x00", b"\n", b"\r", b",", b";", b"\t", b"[", b"]", b"{", b"}", b"[" * 2000, b"-1", b"1e999", b"NaN",
    b"null", b"true", b"9" * 400, b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"${oc.env:HOME}", b"???", b"../../x",
    b"\xf0\x9f\x92\xa9", b"&a [*a]", b"!!python/object:os.system x", b"|", b"=1+1",
)  # fmt: skip


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return the content with one to four changes."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(content) + 1) if chance.random() < 0.5 else chance.randrange(min(len(content), 64) + 1)
        span = chance.choice((1, 2, 4, 8, 40))
        match chance.randrange(7):
            case 0:
                content = content[:place]
            case 1:
                content = content[:place] + content[place + span :]
            case 2:
                content = (
                    content[:place] + content[place : place + span] * chance.choice((2, 3, 50)) + content[place + span :]
                )
            case 3:
                content = content[:place] + chance.choice(_WORDS) + content[place:]
            case 4:
                content = content[:place] + chance.randbytes(span) + content[place + span :]
            case 5:
                form = chance.choice(("<I", ">I", "<Q", ">Q", "<H", ">H"))
                number = chance.choice(_NUMBERS) % 2 ** (8 * struct.calcsize(form))
                content = content[:place] + struct.pack(form, number) + content[place + struct.calcsize(form) :]
            case _:
                bits = bytearray(content or b"\x00")
                bits[min(place, len(bits) - 1)] ^= 1 << chance.randrange(8)
                content = bytes(bits)
    return content


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 2**31, 2**63 - 1, -(2**63), 10**9, 0.5, -0.5, 1e-300, 1e308, float("nan"),
    float("inf"), "", "x", "1", "image", "text", "???", "${oc.env:HOME}", "${seed}", "../../x", "os.system", "a" * 10_000,
    [], {}, [None], [[]], [1, 2], [0], ["a"], [1e30], [-1], {"a": 1}, {"_target_": "os.system"},
    {"_target_": "perceiver.Fourier"},
    [[[[1]]]], {"kind": "image"}, ["x"] * 1000, [0.0] * 1000,
)  # fmt: skip


def mutated_tree(tree: Any, chance: random.Random) -> Any:
    """Return a copy of a plain tree with one to three changes: values replaced, entries deleted, copied or renamed."""
    tree = deepcopy(tree)
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return chance.choice(_VALUES)
        node, key = chance.choice(places)
        match chance.randrange(6):
            case 0 if isinstance(node, dict):
                del node[key]
            case 1 if isinstance(node, dict):
                node[chance.choice(("x", "", "_target_", "0", "kind"))] = node.pop(key)
            case 2:
                other, at = chance.choice(places)
                node[key] = deepcopy(other[at])
            case 3 if type(node[key]) in (int, float):
                node[key] = chance.choice((-1, 0, 2, 1000, 2**40)) * node[key]
            case _:
                node[key] = deepcopy(chance.choice(_VALUES))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict | list):
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                yield node, key
                stack.append(node[key])


# ----- entry points


def of_tables(folder: Path) -> Try:
    """Manifests as CSV (also compressed), TSV, JSON, JSON lines and Parquet, through all of `data=manifest`."""
    rows = [
        {
            "id": f"a{number}", "age": number, "sex": "fm"[number % 2], "note": f'Ein "Hund", {number}',
            "vitals": f"[{number}, 1, 2]", "seen": f"2026-01-{number + 1:02}", "label": ("cat", "dog")[number % 2],
        }
        for number in range(16)
    ]  # fmt: skip
    csv = write_csv(folder / "good.csv", rows).read_bytes()
    lines = [rows[0].keys(), *(row.values() for row in rows)]
    tsv = "\n".join("\t".join(str(cell).replace('"', "") for cell in line) for line in lines).encode()
    pq.write_table(pa.Table.from_pylist(rows), folder / "good.parquet")
    good = {
        "csv": csv, "tsv": tsv, "jsonl": write_json_lines(folder / "good.jsonl", rows).read_bytes(),
        "json": json.dumps(rows).encode(), "csv.gz": gzip.compress(csv, mtime=0),
        "parquet": (folder / "good.parquet").read_bytes(),
    }  # fmt: skip
    modalities = {"facts": {"kind": "table", "columns": ["age", "sex", "seen"]}, "note": "text", "vitals": "timeseries"}

    def attempt(chance: random.Random) -> None:
        suffix = chance.choice(list(good))
        path = folder / f"m.{suffix}"
        path.write_bytes(mutated(good[suffix], chance))
        table = read_table(path)
        for column in table.columns:
            table.cell(0, column)
        data = DataModule.of(Manifest, manifest=path, modalities=modalities, on_bad_row="skip", batch_size=4)
        data.setup("fit")
        next(iter(data.val_dataloader()))

    return attempt


def of_cells(folder: Path) -> Try:
    """Files that cells of a manifest name: sound, image, video, points and series, as rows of `data=manifest`."""
    files = _good_files(folder / "good")
    names = {
        "photo": "0.png", "sound": "0.wav", "vitals": "0.csv", "cloud": "0.npy", "scan": "0.ply", "film": "0.mp4",
        "animation": "0.gif", "frames": "1.npy",
    }  # fmt: skip
    for modality, name in names.items():
        (folder / name).write_bytes(files[modality][0])
    rows = [{**names, "label": ("cat", "dog")[number % 2]} for number in range(8)]
    clip = {"kind": "video", "num_frames": 2, "size": [8, 8]}
    modalities: dict[str, Any] = {
        "photo": "image", "sound": "audio", "vitals": "timeseries", "cloud": "points", "scan": "points", "film": clip,
        "animation": clip, "frames": clip,
    }  # fmt: skip
    settings: dict[str, Any] = {"image_size": (8, 8), "sample_rate": 8000, "modalities": modalities}
    data = DataModule.of(Manifest, manifest=write_csv(folder / "m.csv", rows), **settings)
    data.setup("fit")
    samples = data.split("train")

    def attempt(chance: random.Random) -> None:
        chosen = chance.choice(list(files))
        [modality] = [one for one in samples.modalities if one.name == chosen]
        (folder / names[chosen]).write_bytes(mutated(chance.choice(files[chosen]), chance))
        samples.read(0, modality)

    return attempt


def _good_files(folder: Path) -> dict[str, list[bytes]]:
    """Contents of files by modality."""
    folder.mkdir()
    tone = 0.3 * np.sin(np.arange(800, dtype=np.float32) / 5)
    for form in ("WAV", "FLAC", "AIFF", "AU", "OGG", "MP3", "CAF"):
        soundfile.write(folder / f"sound {form}", tone, 8000, format=form)
    for form, codec in (("mp4", "aac"), ("matroska", "libopus"), ("ogg", "flac")):
        rate = 48_000 if codec == "libopus" else 8000
        write_container(folder / f"sound {form}", tone[None], rate=rate, codec=codec, form=form)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    images = [Image.fromarray(frame) for frame in pixels]
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "PPM"):
        images[0].save(folder / f"photo {form}", format=form)
    Image.fromarray(256 * pixels[0, ..., 0].astype(np.uint16)).save(folder / "photo deep", format="PNG")
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        images[0].save(folder / f"animation {form}", format=form, save_all=True, append_images=images[1:])
    for form in ("mp4", "matroska", "avi", "mpegts"):
        write_film(folder / f"film {form}", pixels, form=form)
    np.save(folder / "frames.npy", pixels)
    np.save(folder / "cloud.npy", np.ones((5, 3)))
    (folder / "scan text").write_bytes(b"x,y,z\n1.5,2,3\n4,5,6\n")
    for form in ("ascii", "binary_little_endian", "binary_big_endian"):
        (folder / f"scan {form}.ply").write_bytes(ply(form))
    for form in ("ascii", "binary", "binary_compressed"):
        (folder / f"scan {form}.pcd").write_bytes(pcd(form))
    (folder / "vitals").write_bytes(b"time,pulse,pressure\n0,60.5,120\n0.5,61,\n1,59,118\n")
    (folder / "vitals dates").write_bytes(b"time;pulse\n2026-01-01 10:00;60,5\n2026-01-01 10:01;61,0\n")
    kinds = ("photo", "sound", "vitals", "cloud", "scan", "film", "animation", "frames")
    return {kind: [file.read_bytes() for file in sorted(folder.glob(f"{kind}*"))] for kind in kinds}


def of_grids(folder: Path) -> Try:
    """Meshes and optical flow."""
    mesh = b"OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
    writers: tuple[Callable[[Path, Any], None], ...] = (write_flow, write_pfm, write_kitti)
    flows = []
    for write in writers:
        write(folder / "good", np.ones((2, 3, 4), dtype=np.float32))
        flows.append((folder / "good").read_bytes())

    def attempt(chance: random.Random) -> None:
        if chance.random() < 0.5:
            (folder / "x.off").write_bytes(mutated(mesh, chance))
            vertices, triangles = read_off(folder / "x.off")
            sample_surface(vertices, triangles, num_points=8, random=np.random.RandomState(0))
        else:
            (folder / "x.flo").write_bytes(mutated(chance.choice(flows), chance))
            read_flow_channels(folder / "x.flo", channels=3)

    return attempt


def of_models(folder: Path) -> Try:
    """Config and spec of a checkpoint, to predictions."""
    config: dict[str, Any] = {
        "model": MODEL, "task": {"_target_": "perceiver.objectives.classification"}, "data": {"_target_": "x"},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.1}, "trainer": {"max_epochs": 3},
    }  # fmt: skip
    image = {**SPEC["modalities"]["image"], "range": [0, 16]}
    good = checkpoints.entry(config, {**SPEC, "modalities": {"image": image}})
    state = {name: value.detach() for name, value in build_model(MODEL, spec=SPEC).state_dict().items()}
    task = OmegaConf.create({"_target_": "perceiver.objectives.classification"})
    file, picture = folder / "x.ckpt", Image.new("L", (8, 8))

    def attempt(chance: random.Random) -> None:
        recipe: Recipe = checkpoints.recipe_of({"perceiver": mutated_tree(good, chance)}, file)
        check_task(task, recipe)
        for name in ("optimizer", "trainer"):
            recipe.section(name)
        resume._differences(recipe.config, config, "")
        model = assemble(recipe, state)
        model.eval().predict([picture])
        use_stored_spec(DataModule(Digits()), recipe.spec, file=file, trained_on=recipe.section("data"))

    return attempt


def of_specs(folder: Path) -> Try:
    """Specs of all kinds of modality, to the rows of a manifest."""
    rows = animals(folder, 8)
    modalities = {
        "photo": "image", "sound": "audio", "vitals": "timeseries", "cloud": "points", "note": "text",
        "facts": {"kind": "table", "columns": ["age", "sex"]},
    }  # fmt: skip
    settings: dict[str, Any] = {"image_size": (8, 8), "sample_rate": 8000, "batch_size": 4}
    path = write_csv(folder / "m.csv", rows)
    data = DataModule.of(Manifest, manifest=path, modalities=modalities, **settings)
    data.setup("fit")
    entry, file = checkpoints.entry({"model": MODEL}, data.spec), folder / "x.ckpt"

    def attempt(chance: random.Random) -> None:
        changed = {**entry, "spec": mutated_tree(entry["spec"], chance)}
        recipe = checkpoints.recipe_of({"perceiver": changed}, file)
        again = DataModule.of(Manifest, manifest=path, on_bad_row="skip", **settings)
        use_stored_spec(again, recipe.spec, file=file)
        again.setup("predict")
        next(iter(again.predict_dataloader()), None)

    return attempt


def of_directories(folder: Path) -> Try:
    """Directories of `save_pretrained`: bytes of the config and of the weights."""
    torch.manual_seed(0)
    save_pretrained(build_model(MODEL, spec=SPEC), folder / "good")
    good = {name: (folder / "good" / name).read_bytes() for name in ("config.json", "model.safetensors")}

    def attempt(chance: random.Random) -> None:
        changed = chance.choice(list(good))
        for name, content in good.items():
            (folder / "good" / name).write_bytes(mutated(content, chance) if name == changed else content)
        from_pretrained(folder / "good")

    return attempt


def of_shards(folder: Path) -> Try:
    """`shards.json` and `index.json` of shards, as bytes and as trees."""
    from shard_cases import manifest, pack

    shards = pack(manifest(folder, 16, modalities={"note": "text"}), folder / "shards")
    good = {name: (shards / name).read_bytes() for name in ("shards.json", "train/index.json", "train/shard-000000.bin")}

    def attempt(chance: random.Random) -> None:
        changed = chance.choice(list(good))
        for name, content in good.items():
            if name == changed and name.endswith("json") and chance.random() < 0.5:
                content = json.dumps(mutated_tree(json.loads(content), chance)).encode()
            elif name == changed:
                content = mutated(content, chance)
            (shards / name).write_bytes(content)
        ShardFolder.read(shards).check()

    return attempt


def of_runs(folder: Path) -> Try:
    """The `config.yaml` of a run directory, and the training state of its checkpoint."""
    (folder / "config.yaml").write_text(OmegaConf.to_yaml({"data": {"_target_": "perceiver.data.Digits"}, "model": MODEL}))
    good = (folder / "config.yaml").read_bytes()
    state: dict[str, Any] = {
        "epoch": 1, "global_step": 7, "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 1, "ready": 1}}}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}], "lr_schedulers": [{"last_epoch": 7}],
        "callbacks": {"BestEpoch": {"epoch": 1}}, "perceiver_epoch": {"world_size": 1, "row": {"train/loss": 1.0}},
        "perceiver": checkpoints.entry({"model": MODEL}, SPEC),
    }  # fmt: skip
    file = folder / "checkpoints" / "last.ckpt"
    file.parent.mkdir()
    file.touch()

    def attempt(chance: random.Random) -> None:
        (folder / "config.yaml").write_bytes(mutated(good, chance))
        arguments = ["mode=predict", f"ckpt_path={folder}"]
        data_of_checkpoint(arguments, conf_directory())
        changed = mutated_tree(state, chance)
        with (
            mock.patch.object(checkpoints, "read", lambda path: checkpoints.recipe_of(changed, Path(path))),
            mock.patch.object(resume, "_trainer_state", lambda path: resume.checked_state(changed, path)),
        ):
            found = resume.find_resumed(folder, directory=folder)
            assert found is not None
            resume.check_unfinished(found.file, {"max_epochs": 5})

    return attempt


def of_exported(folder: Path) -> Try:
    """Exported models: their metadata as a tree, their bytes, and programs of torch; then a prediction."""
    encoder, step = encoder_and_step()
    facts = {
        "interpretation": "step", "format": 1, "versions": METADATA["versions"], "generation": TEXT_METADATA["generation"]
    }  # fmt: skip
    good = {"model.onnx": (model(), METADATA), "text.onnx": (encoder, TEXT_METADATA), "text.step.onnx": (step, facts)}
    for name, (graph, metadata) in good.items():
        (folder / name).write_bytes(with_metadata(graph, metadata))
    program = b"PK\x03\x04" + bytes(200)

    def attempt(chance: random.Random) -> None:
        changed = chance.choice(list(good))
        graph, metadata = good[changed]
        way = chance.random()
        if way < 0.6:
            content = with_metadata(graph, mutated_tree(metadata, chance))
        else:
            content = mutated(program if way > 0.97 else with_metadata(graph, metadata), chance)
        file = folder / changed
        before = file.read_bytes()
        file.write_bytes(content)
        try:
            loaded = exported.load(folder / changed.replace(".step", ""), threads=1)
            loaded.predict([np.ones((2, 2), np.uint8)])
            if changed != "model.onnx":
                loaded.generate({"image": np.ones((2, 1, 2, 2), np.float32)}, max_length=5)
            file.rename(folder / "model.pt2")
            with contextlib.suppress(exported.ExportedFileError):
                exported.load(folder / "model.pt2")
        finally:
            file.write_bytes(before)

    return attempt


DOORS: dict[str, Callable[[Path], Try]] = {
    "tables": of_tables,
    "cells": of_cells,
    "grids": of_grids,
    "models": of_models,
    "specs": of_specs,
    "directories": of_directories,
    "shards": of_shards,
    "runs": of_runs,
    "exported": of_exported,
}
"""Entry points by name; each is prepared with an empty folder."""
