"""Benchmarks: each script runs, its table and JSON hold what they should; references and memory are held against others."""

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch

import perceiver
from perceiver import Fourier, Fusion, Perceiver, VelocityHead
from perceiver.adapters import ImagePatches, Vector
from perceiver.attention.forms.dense import dense_attention
from perceiver.generation.flow import generate
from perceiver.objectives import FlowMatching
from perceiver.samples.batch import Batch

SCRIPTS = (
    "measure", "dense_reference", "contenders", "peers", "attention", "sweep", "plot", "cores", "scaling_estimate",
    "imported", "pretraining", "dense_tasks", "mutants", "generate", "dense_generator",
)  # fmt: skip


@pytest.fixture
def load(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark as a script does: its folder is on the path. Other tests see none of it."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    for name in SCRIPTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def small(load: Any, fragment: str) -> Any:
    """A tiny version of one of the sizes of `peers.py`."""
    (size,) = [size for size in load("peers").SIZES if fragment in size.name]
    return size.small()


# ---- references


@pytest.mark.parametrize("heads", [1, 3])
def test_frozen_attention_equals_the_dense_form(load: Any, heads: int) -> None:
    attention = load("attention")
    case = attention.Case("case", (5, 7), 3, bands=4, latents=6, batch=2, heads=heads)
    query, tokens, projection = attention.set_up(case)
    torch.nn.init.normal_(projection.key.bias)
    torch.nn.init.normal_(projection.value.bias)
    torch.nn.init.normal_(projection.norm.weight)
    torch.nn.init.normal_(projection.norm.bias)
    frozen = attention.reference(query, tokens, projection)
    torch.testing.assert_close(frozen, dense_attention(query, [tokens], projection), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fragment", ["imagenet perceiver 224", "imagenet perceiver-io", "million video"])
def test_dense_reference_is_the_same_function_as_ours(load: Any, fragment: str) -> None:
    contenders = load("contenders")
    size = small(load, fragment)
    ours, reference = contenders.ours(size).model, contenders.dense_reference(size).model
    # Modules are in the same order, parameters of their own come first in each.
    own = [parameter for name, parameter in ours.named_parameters() if name != "model.head.query"]
    other = [parameter for name, parameter in reference.named_parameters() if name != "query"]
    with torch.no_grad():
        for parameter in own:
            parameter.normal_(std=0.3)
        for target, source in zip(other, own, strict=True):
            target.copy_(source.reshape(target.shape))
        if size.decoder:
            reference.query.copy_(ours.model.head.query)
        x = torch.randn(2, size.channels, *size.grid)
        expected = reference(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


# ---- contenders


def test_sizes_are_the_published_ones(load: Any) -> None:
    contenders, published = load("contenders"), [size for size in load("peers").SIZES if size.published]
    assert len(published) == 2
    for size in published:
        with torch.device("meta"):
            assert contenders.dense_reference(size).parameters == size.published
            assert sum(p.numel() for p in contenders.our_model(size).parameters()) == size.published


@pytest.mark.parametrize("fragment", ["classifier", "imagenet perceiver-io", "million video"])
def test_peers_are_built_at_the_same_size(load: Any, fragment: str) -> None:
    pytest.importorskip("transformers", reason="the peers need pip install -e '.[bench]'")
    pytest.importorskip("perceiver_pytorch", reason="the peers need pip install -e '.[bench]'")
    contenders, size = load("contenders"), small(load, fragment)
    x = torch.randn(2, size.channels, *size.grid)
    counts = {}
    for name, build in contenders.CONTENDERS.items():
        contender = build(size)
        counts[name] = contender.parameters
        assert contender.model(x).shape == (2, size.num_classes)
        latents = {tuple(p.shape) for key, p in contender.model.named_parameters() if key.endswith("latents")}
        assert latents == {(size.num_latents, size.width)}, name
        assert not any(module.p for module in contender.model.modules() if isinstance(module, torch.nn.Dropout)), name
        assert contender.note
    assert counts["ours"] == counts["dense reference"] == counts["transformers"]


def test_peers_read_the_input_as_often(load: Any) -> None:
    pytest.importorskip("transformers", reason="the peers need pip install -e '.[bench]'")
    pytest.importorskip("perceiver_pytorch", reason="the peers need pip install -e '.[bench]'")
    contenders, size = load("contenders"), small(load, "classifier")
    for name, build in contenders.CONTENDERS.items():
        model, calls = build(size).model, Counter[str]()
        for module in model.modules():
            if (
                type(module).__name__ in ("CrossAttention", "CrossLayer")
                or getattr(module, "norm_context", None) is not None
            ):
                module.register_forward_hook(lambda *_, calls=calls: calls.update(["cross"]))
            elif type(module).__name__ == "PerceiverLayer":
                cross = not isinstance(module.attention.self.layernorm2, torch.nn.Identity)
                kind = "cross" if cross else "self"
                module.register_forward_hook(lambda *_, calls=calls, kind=kind: calls.update([kind]))
        model(torch.randn(1, size.channels, *size.grid))
        assert calls["cross"] == size.num_cross_attends == 4, name


# ---- scripts


def run(module: ModuleType, capsys: pytest.CaptureFixture[str], path: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What a script prints, and the JSON that it writes."""
    threads = torch.get_num_threads()
    try:
        module.main([*arguments, "--threads", "1", "--json", str(path)])
    finally:
        torch.set_num_threads(threads)
    written = json.loads(path.read_text())
    assert written["machine"]["threads"] == 1
    return capsys.readouterr().out, written


def test_attention(load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ("--quick", "--only", "points", "--forms", "eager", "absorbed")
    printed, written = run(load("attention"), capsys, tmp_path / "out.json", *arguments)
    results = written["results"]
    assert [result["form"] for result in results] == ["dense", "absorbed", "eager"]
    assert all(result["error"] < 1e-5 and result["training"] > 0 for result in results)
    assert results[0]["forward_ratio"] == 1
    assert "points 2048" in printed


def test_attention_names_its_cases(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("attention").main(["--only", "nothing of that name"])
    assert "points 2048" in capsys.readouterr().err


def test_cores(load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if load("attention").missing("native"):
        pytest.skip(load("attention").missing("native"))
    before = torch.get_num_threads()
    load("cores").main(["--quick", "--only", "video", "--json", str(tmp_path / "out.json")])
    assert torch.get_num_threads() == before
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [result["case"][:5] for result in results] == ["video", "milli"]
    assert all(result["training_ratio"] == result["training_alone"] / result["training"] for result in results)
    assert "2 threads" in capsys.readouterr().out


def test_peers(load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the peers need pip install -e '.[bench]'")
    pytest.importorskip("perceiver_pytorch", reason="the peers need pip install -e '.[bench]'")
    printed, written = run(load("peers"), capsys, tmp_path / "out.json", "--quick", "--only", "classifier")
    rows = {row["model"]: row for row in written["results"]}
    assert list(rows) == ["ours", "dense reference", "transformers", "perceiver-pytorch"]
    assert rows["ours"]["forward_ratio"] == rows["ours"]["training_ratio"] == 1
    fastest = min(("transformers", "perceiver-pytorch"), key=lambda name: rows[name]["training"])
    assert f"training step {rows[fastest]['training_ratio']:.2f}x ({fastest})" in printed
    assert "ours against the dense reference" in printed
    assert all(f"  {name}: {row['note']}" in printed for name, row in rows.items())


def test_peers_leave_out_what_is_not_installed(
    load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "perceiver_pytorch", None)
    arguments = ("--quick", "--only", "classifier", "--models", "ours", "perceiver-pytorch")
    printed, written = run(load("peers"), capsys, tmp_path / "out.json", *arguments)
    assert [row["model"] for row in written["results"]] == ["ours"]
    assert "perceiver-pytorch: left out" in printed


def test_heavy_peers_are_refused_where_memory_would_not_suffice(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("peers")
    (size,) = [size for size in peers.SIZES if "million video" in size.name]
    grids = []

    def peak(name: str, size: Any, *, grid: list[int], **_: Any) -> float:
        grids.append(grid)
        return 1000.0

    monkeypatch.setattr(peers, "peak_megabytes", peak)
    monkeypatch.setattr(peers, "available_megabytes", lambda: 20_000.0)
    assert peers.fits("transformers", size, batch=1, threads=1) == ""
    monkeypatch.setattr(peers, "available_megabytes", lambda: 15_000.0)
    assert "refused" in peers.fits("transformers", size, batch=1, threads=1)
    assert grids == [[16, 64, 64]] * 2


def test_imported(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    imported = load("imported")
    result = imported.compare(quick=True, seconds=0, repetitions=1)
    assert result["largest_difference"] < 1e-5 < result["deviation_of_logits"], "the same model, and it says something"
    imported.print_comparison(result)
    assert "processor time: ours " in capsys.readouterr().out
    for name in imported.PEAKS:
        warm_up, work = imported.work_of(name, quick=True)
        warm_up()
        work()
    assert imported.flow_values(quick=False)["num_latents"] == 2048
    assert imported.classifier_values(quick=False)["num_blocks"] == 8


def test_pretraining(load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Both sides get the same seeds; runs that are there are not repeated, and the table is of their metrics."""
    pretraining = load("pretraining")
    for seed, (own, other) in {4: (0.9, 0.8), 5: (0.94, 0.82)}.items():
        for name, accuracy in (("pretrain", 0.0), ("mnist_finetune", own), ("mnist_few_labels", other)):
            (tmp_path / f"{name}_{seed}").mkdir()
            metrics = {"test/accuracy": accuracy, "seconds": 7.0}
            (tmp_path / f"{name}_{seed}" / "metrics.json").write_text(json.dumps(metrics))
    pretraining.main(["--seeds", "4", "5", "--folder", str(tmp_path)])
    out = capsys.readouterr().out
    assert "pretrained 92.00 ± 2.83 %, from scratch 81.00 ± 1.41 %" in out
    assert "difference: 11.00 ± 1.41 points over 2 seeds" in out
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command[2:])
        return subprocess.CompletedProcess(command, 1, "", "error: what went wrong")

    with mock.patch.object(pretraining.subprocess, "run", run), pytest.raises(RuntimeError, match="what went wrong"):
        pretraining.main(["--seeds", "6", "--folder", str(tmp_path), "--set", "trainer.max_epochs=1"])
    assert commands == [
        ["experiment=mnist_pretrain", "seed=6", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'pretrain_6'}"]
    ]


def test_generate(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        load("generate").main(["--samples", "2", "--steps", "1", "--rounds", "1"])
    finally:
        torch.set_num_threads(before)
    printed = capsys.readouterr().out
    assert "2 images, 1 steps, guidance 3:" in printed
    assert "aten::addmm" in printed


def test_dense_generator_trains_in_the_place_of_an_interface(load: Any) -> None:
    dense = load("dense_generator").DenseTransformer
    image: Any = ImagePatches(image_channels=1, patch=2, position=Fourier(num_bands=2, resolution=(4, 4)))
    adapters = {"image": image, "label": Vector(vector_channels=3)}
    fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()})
    encoder = dense(token_channels=fusion.channels, channels=8, num_layers=1, num_heads=2)
    head = VelocityHead(state_channels=8, adapters=adapters, modality="image", condition_dropout=0.1)
    model = Perceiver(adapters=adapters, encoder=encoder, head=head, fusion=fusion)
    objective = FlowMatching(label="label")
    objective.check_model(model)
    batch = Batch(inputs={"image": torch.rand(2, 1, 6, 8)}, target=torch.tensor([0, 2]))
    objective.loss(model, batch).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert generate(model, {"label": torch.eye(3)}, shape_of=(1, 6, 8), steps=1, guidance=2.0).shape == (3, 1, 6, 8)
    # Runs print it before they train.
    [attention] = perceiver.summary(model, {**batch.inputs, "label": torch.eye(3)[:2]}).attention
    assert attention == "Cross-attention: dense, of 12 tokens to each other"
    assert encoder.latent_layers() == []


def test_sweep(load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sweep = load("sweep")
    case = load("attention").Case("image", (6, 6), 3, bands=4, latents=8)
    choice = sweep.measure(case, seconds=0, repetitions=1)
    assert set(choice.forward) == set(choice.training) == {"dense", "absorbed", "factored"}
    assert min(choice.forward_regret, choice.training_regret) >= 1
    made_up = [sweep.Choice(case, {"dense": 1.0, "factored": 3.0}, {"dense": 2.0, "factored": 2.1}, c, c, 3)
                     for c in ("dense", "factored")]  # fmt: skip
    forward, training = sweep.summary(made_up)
    assert "1 of 2 within 10%" in forward
    assert "worst 3.00x" in forward
    assert "2 of 2 within 10%" in training
    assert [one.missed for one in made_up] == [False, True]


def test_sweep_script(
    load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load("sweep")
    cases = [load("attention").Case("points", (16,), 3, bands=4, points=3, latents=8)]
    monkeypatch.setattr(sweep, "shapes", lambda number, seed: cases)
    printed, written = run(sweep, capsys, tmp_path / "out.json", "--seconds", "0")
    assert len(written["results"]) == 1
    assert "within 10% of the best form" in printed
    assert written["results"][0]["forward_regret"] >= 1


def test_shapes_of_the_sweep_cover_what_they_should(load: Any) -> None:
    sweep = load("sweep")
    cases = sweep.shapes(48, 0)
    assert cases == sweep.shapes(48, 0) != sweep.shapes(48, 1)
    assert len(set(cases)) == 48
    assert {len(case.grid) for case in cases} == {1, 2, 3}
    assert {case.heads for case in cases} == {1, 4, 8, 16}
    assert {case.latents for case in cases} >= {16, 512}
    assert {case.batch for case in cases} >= {1, 64}
    assert all(sweep.channels(case) == case.tokens().channels for case in cases if case.batch * case.grid[0] < 1000)


def test_plot(load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plot = load("plot")
    monkeypatch.setattr(plot, "peak_megabytes", lambda case, form, threads: case.grid[0] ** 2 * 1.0)
    picture = tmp_path / "out.png"
    arguments = ("--sides", "8", "16", "32", "--forms", "dense", "absorbed", "--seconds", "0", "--most-megabytes", "500")
    printed, written = run(plot, capsys, tmp_path / "out.json", *arguments, "--out", str(picture))
    assert [(point["form"], point["side"]) for point in written["results"]] == [
        ("dense", 8), ("absorbed", 8), ("dense", 16), ("absorbed", 16),
    ]  # fmt: skip
    assert printed.count("left out: it would take") == 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.png"
    plot.main(["--from", str(tmp_path / "out.json"), "--out", str(again)])
    assert again.is_file()


# ---- memory


def test_memory_in_a_fresh_process(repository: Path) -> None:
    """From the command line to the number: dense must add at least its dense array, keys and values."""
    case = {"name": "x", "grid": [64, 64], "content": 3, "bands": 64, "latents": 16}
    command = [
        sys.executable,
        str(repository / "benchmarks/attention.py"),
        "--one-peak",
        "dense",
        "--case",
        json.dumps(case),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    array = 64 * 64 * 261 * 4 / 2**20
    assert 3 * array < float(done.stdout) < 12 * array


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_added_peak_sees_what_a_sampling_thread_sees_below_an_earlier_peak(load: Any) -> None:
    """After 400 MB came and went, 160 MB more are 160 MB: what ru_maxrss would not show."""
    measure = load("measure")
    earlier = torch.ones(100 * 2**20)
    del earlier
    resident: list[int] = []
    before: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.is_set():
            if before:
                resident.append(measure._status("VmRSS"))
            time.sleep(0.001)

    def work() -> None:
        before.append(measure._status("VmRSS"))
        x = torch.ones(30 * 2**20)
        y = x[: 10 * 2**20] + 1
        # Long enough for the thread to see it.
        time.sleep(0.1)
        del x, y

    thread = threading.Thread(target=sample)
    thread.start()
    added = measure.added_peak(work)
    done.set()
    thread.join()
    assert added == pytest.approx(160, abs=4)
    assert (max(resident) - before[0]) / 2**10 == pytest.approx(added, abs=4)


# ---- the estimate of large trainings


def test_ring_all_reduce_moves_what_a_simulated_ring_moves(load: Any) -> None:
    """n - 1 steps of adding and n - 1 of handing on, each with one nth of the bytes."""
    devices, size, bandwidth = 8, 1000.0, 10.0
    sent = sum(size / devices for _ in range(2 * (devices - 1)))
    assert load("scaling_estimate").ring_all_reduce(size, devices, bandwidth) == pytest.approx(sent / bandwidth)


# ---- dense tasks


def test_block_matching_finds_whole_displacements(load: Any) -> None:
    """A texture moved by two columns and minus one row, away from the edges."""
    dense = load("dense_tasks")
    first = torch.rand(2, 3, 20, 20)
    frames = torch.stack([first, first.roll((-1, 2), dims=(2, 3))], dim=2)
    flow = dense.block_matching(frames, reach=3, window=3)
    assert flow.shape == (2, 2, 20, 20)
    inner = flow[:, :, 5:-5, 5:-5]
    assert torch.equal(inner, torch.tensor([2.0, -1.0])[None, :, None, None].expand_as(inner))


def test_scores_of_baselines(load: Any) -> None:
    dense = load("dense_tasks")
    image = {"image": torch.zeros(2, 1, 2, 2)}
    batches = [
        Batch(inputs=image, target=torch.full((2, 2, 2, 2), 3.0), target_mask=torch.ones(2, 2, 2, dtype=torch.bool)),
        Batch(inputs=image, target=torch.zeros(2, 2, 2, 2), target_mask=torch.zeros(2, 2, 2, dtype=torch.bool)),
    ]
    still = dense.end_point_error(batches, lambda batch: torch.zeros_like(batch.target))
    assert still == pytest.approx(18**0.5)
    classes = [Batch(inputs=image, target=torch.tensor([[[0, 0], [0, 1]]]).expand(2, -1, -1))]
    assert dense.mean_iou(classes, lambda batch: torch.zeros_like(batch.target), classes=2) == pytest.approx(0.375)


# ---- changes of the code


def test_mutants_find_what_no_test_notices(repository: Path, tmp_path: Path) -> None:
    """A function with good tests, one whose boundary is not tested, and one that no test calls; then only the survivors."""
    (tmp_path / "sums.py").write_text(
        "def clipped(x, most=3):\n    if x > most:\n        raise ValueError(f'{x + 1} is too much')\n    return x + 1\n\n\n"
        "def larger(x, y):\n    return x if x >= y else y\n\n\ndef unused(x):\n    return x - 1\n"
    )
    (tmp_path / "test_sums.py").write_text(
        "import pytest\nfrom sums import clipped, larger\n\n\n"
        "def test_clipped():\n    assert [clipped(x) for x in (2, 3)] == [3, 4]\n"
        "    with pytest.raises(ValueError):\n        clipped(4)\n\n\n"
        "def test_larger():\n    assert larger(1, 2) == larger(2, 1) == 2\n\n\n"
        "def test_broken():\n    assert larger(0, 0)\n"
    )

    def run(name: str, *options: str) -> tuple[str, dict[str, list[str]]]:
        command = [sys.executable, str(repository / "benchmarks" / "mutants.py"), "--root", str(tmp_path), *options]
        command += ["--targets", "sums.py", "--tests", "test_sums.py", "--json", str(tmp_path / name)]
        few = {
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "-p xdist.plugin",
        }  # starts in half the time
        done = subprocess.run(command, env=few, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout, json.loads((tmp_path / name).read_text())

    output, found = run("all.json")
    assert "left out, fails without a change: test_sums.py::test_broken" in output
    assert "9 of 13 killed" in output, "the message of the error is not changed"
    assert found == {
        "timed_out": [],
        "survived": ["sums.py:8: larger: return x if x >= y else y  ->  return x if x > y else y"],
        "unreached": [f"sums.py:12: unused: return x - 1  ->  return {new}" for new in ("None", "x + 1", "x - 2")],
        "impossible": [],
    }
    assert "0 of 4 killed" in run("again.json", "--only", str(tmp_path / "all.json"))[0]
    assert "0 of 5 killed" in run("same.json", "--unchanged", "--sample", "5", "--seed", "1")[0]


def test_listed_equivalents_name_changes_of_the_code_and_their_reason(load: Any, repository: Path) -> None:
    mutants = load("mutants")
    for entry in json.loads(mutants.EQUIVALENTS.read_text()):
        assert entry["reason"]
        for path in {name.partition(":")[0] for name in entry["changes"]}:
            made = {mutant.name for mutant in mutants.mutants_of(repository / path, root=repository)}
            assert {name for name in entry["changes"] if name.startswith(f"{path}:")} <= made
