"""Everything that only a GPU can tell, in one run of below eight minutes: values, times, memory, trainings.

    python benchmarks/gpu.py [--minutes 8] [--only image] [--json benchmarks/results/gpu.json]
    TRITON_INTERPRET=1 python benchmarks/gpu.py --quick    # without a GPU: tests the script, its times mean nothing

1. Values and gradients of Triton's kernels in float32, against the eager form in float64.
2. Forward and training of the cases of `attention.py` at batch 1 and 32 in float32 and bfloat16: the factored form against
   the dense reference with each backend of SDPA that accepts it. Times by CUDA events, medians; peak memory.
3. The training step of the ImageNet Perceiver against transformers' in float32 and under bfloat16 autocast.
4. Runs of `train.py`: compiled layers, bf16-mixed, the batch-size finder, a checkpoint of a CPU run continued on the GPU.
5. The tests that need a GPU.

A part that fails or exceeds the time is left out with its reason.

Expected, from arithmetic alone: 512 latents over 224 x 224 pixels at batch 32 take at most 30 microseconds a sample forward
and 80 with backward, 5 to 20 times less than the fastest dense form; at batch 1 below 100 microseconds forward.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from attention import CASES, Case, forward, learned_of, reference, set_up, training
from contenders import Contender, ours, transformers_perceiver
from measure import announce, machine, timed, write_json
from peers import SIZES
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from perceiver.attention.forms.factored import factored_attention
from perceiver.attention.kernels import eager, triton
from perceiver.attention.kernels.contract import Kernel
from perceiver.attention.projection import TokenProjection
from perceiver.tokens.tokens import Tokens

Attend = Callable[[Tensor], Tensor]

REPOSITORY = Path(__file__).resolve().parents[1]
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NOT_HERE = (RuntimeError, ValueError, NotImplementedError, ImportError)
"""What a backend raises for a call that it does not support, out of memory included."""


@dataclass
class Result:
    """A form on a case: medians of seconds, peak megabytes of training, or the reason why it was left out.

    Ratios are those of the fastest dense form's times to this form's.
    """

    case: str
    batch: int
    dtype: str
    form: str
    forward: float | None = None
    training: float | None = None
    megabytes: float | None = None
    forward_ratio: float | None = None
    training_ratio: float | None = None
    left_out: str = ""


class Clock:
    """Seconds left of the run."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    @property
    def seconds(self) -> float:
        return self._end - time.monotonic()


def seconds_of(work: Callable[[], object], device: torch.device, *, repetitions: int) -> float:
    """Return the median seconds of a call, by CUDA events on a GPU, after a call to warm up."""
    work()
    if device.type != "cuda":
        return statistics.median(timed(work) for _ in range(repetitions))
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repetitions)]
    torch.cuda.synchronize()
    for start, end in events:
        start.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


def peak_of(work: Callable[[], object], device: torch.device) -> float | None:
    """Return the peak megabytes that a call adds on the GPU; None without one."""
    if device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def on_device(case: Case, device: torch.device) -> tuple[Tensor, Tokens, TokenProjection]:
    """Return the inputs of a case on a device, learned parts as leaves."""
    query, tokens, projection = set_up(case)
    parts = tuple(part.detach().to(device).requires_grad_(part.requires_grad) for part in tokens.parts)
    return query.detach().to(device).requires_grad_(), Tokens(parts), projection.to(device)


def errors(case: Case, device: torch.device) -> dict[str, float]:
    """Return the largest errors of the kernels' read-outs and gradients, relative to the largest of their kind."""
    query, tokens, projection = on_device(case, device)
    learned = learned_of(query, tokens, projection)
    direction = torch.randn(case.batch, case.heads, case.latents, query.shape[-1], device=device)

    def results(kernel: Kernel, dtype: torch.dtype) -> list[Tensor]:
        own = projection.to(dtype)
        exact = [x.detach().to(dtype).requires_grad_(x.requires_grad) for x in (query, *tokens.parts)]
        inputs = [x for x in (*exact, *own.parameters()) if x.requires_grad]
        out = factored_attention(exact[0], [Tokens(tuple(exact[1:]))], own, kernel=kernel)
        found = [out, *torch.autograd.grad(out, inputs, direction.to(dtype))]
        return [x.detach().double() for x in found]

    assert learned
    found, exact = results(triton.KERNEL, torch.float32), results(eager.KERNEL, torch.float64)
    projection.float()
    largest = max(float(grad.abs().max()) for grad in exact[1:])
    return {
        "outputs": float((found[0] - exact[0]).abs().max() / exact[0].abs().max()),
        "gradients": max(float((own - other).abs().max()) for own, other in zip(found[1:], exact[1:], strict=True))
        / largest,
    }


def dense(query: Tensor, *, tokens: Tokens, projection: TokenProjection, backend: SDPBackend) -> Tensor:
    """Compute the dense reference with a single backend of SDPA."""
    with sdpa_kernel(backend):
        return reference(query, tokens, projection)


def factored(query: Tensor, *, tokens: Tokens, projection: TokenProjection) -> Tensor:
    """Compute the factored form by Triton's kernels."""
    return factored_attention(query, [tokens], projection, kernel=triton.KERNEL)


def measure(case: Case, dtype: str, device: torch.device, *, repetitions: int) -> list[Result]:
    """Measure all forms of a case; those that cannot run are left out with the reason."""
    query, tokens, projection = on_device(case, device)
    learned = learned_of(query, tokens, projection)
    half = torch.autocast(device.type, dtype=DTYPES[dtype]) if dtype != "float32" else nullcontext()
    forms: dict[str, Attend] = {"triton": partial(factored, tokens=tokens, projection=projection)}
    for name, backend in BACKENDS.items():
        forms[f"dense, {name}"] = partial(dense, tokens=tokens, projection=projection, backend=backend)
    results = []
    for form, attend in forms.items():
        result = Result(case=case.name, batch=case.batch, dtype=dtype, form=form)
        results.append(result)
        try:
            with half:
                result.forward = seconds_of(partial(forward, attend, query), device, repetitions=repetitions)
                step = partial(training, attend, query, learned)
                result.training = seconds_of(step, device, repetitions=repetitions)
                result.megabytes = peak_of(step, device)
        except NOT_HERE as error:
            result.left_out = short(error)
            result.forward = result.training = None
    for kind in ("forward", "training"):
        fastest = min((getattr(x, kind) for x in results if x.form != "triton" and getattr(x, kind)), default=None)
        for result in results:
            own = getattr(result, kind)
            if fastest and own:
                setattr(result, f"{kind}_ratio", fastest / own)
    return results


def short(error: Exception) -> str:
    """Return the first line of an error, for a table."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:160]


def model_steps(device: torch.device, *, quick: bool, repetitions: int) -> Iterator[Result]:
    """Measure training steps of the ImageNet Perceiver and transformers' in float32 and under bfloat16 autocast."""
    size = next(size for size in SIZES if size.name.startswith("imagenet perceiver 224"))
    size = size.small() if quick else size
    batch = 2 if quick else 8
    makers: dict[str, Callable[..., Contender]] = {"ours": ours}
    if not quick:
        makers["transformers"] = transformers_perceiver
    for name, make in makers.items():
        for dtype in DTYPES:
            result = Result(case=f"training step, {size.name}", batch=batch, dtype=dtype, form=name)
            try:
                result.training = _model_step(
                    make(size).model.to(device), size.grid, size.channels, batch, dtype, repetitions
                )
            except NOT_HERE as error:
                result.left_out = short(error)
            yield result


def _model_step(
    model: torch.nn.Module, grid: Sequence[int], channels: int, batch: int, dtype: str, repetitions: int
) -> float:
    device = next(model.parameters()).device
    x = torch.randn(batch, channels, *grid, device=device)
    target = torch.zeros(batch, dtype=torch.int64, device=device)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype != "float32"):
            loss = F.cross_entropy(model(x).float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return seconds_of(step, device, repetitions=repetitions)


def runs(folder: Path) -> dict[str, list[str]]:
    """Return the commands of whole trainings by name; later ones build on earlier ones."""
    train = [sys.executable, str(REPOSITORY / "train.py"), "trainer.max_epochs=1", "data=digits"]
    first = folder / "cpu"
    return {
        "bf16-mixed": [*train, "trainer.accelerator=gpu", "trainer.precision=bf16-mixed", f"run_dir={folder / 'bf16'}"],
        "compile=layers": [*train, "trainer.accelerator=gpu", "compile=layers", f"run_dir={folder / 'compiled'}"],
        "batch-size finder": [*train, "trainer.accelerator=gpu", "mode=batch_size", f"run_dir={folder / 'batch_size'}"],
        "run on the CPU": [*train, "trainer.accelerator=cpu", f"run_dir={first}"],
        "continued on the GPU": [*train, "trainer.accelerator=gpu", "trainer.max_epochs=2", f"run_dir={first}"],
    }


GPU_TESTS = [
    *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", "gpu"),
    *("tests/attention/test_forms.py", "tests/test_synchronisation.py"),
]
"""The tests that need a GPU have it in their names."""


def outcome(command: Sequence[str], *, seconds: float) -> str:
    """Run a command; return "ok" with its seconds, or the last line that it printed."""
    start = time.monotonic()
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=max(seconds, 1), check=False)
    except subprocess.TimeoutExpired:
        return "left out: out of time"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return f"ok, {time.monotonic() - start:.0f} s" if done.returncode == 0 else f"failed: {lines[-1] if lines else ''}"[:300]


def print_result(result: Result) -> None:
    """Print a row of the table."""
    row = f"| {result.case} | {result.batch} | {result.dtype} | {result.form} |"
    if result.left_out:
        print(f"{row} left out: {result.left_out} | | |", flush=True)
        return
    times = " / ".join("-" if x is None else f"{x * 1e6 / result.batch:.1f}" for x in (result.forward, result.training))
    ratio = " / ".join("-" if x is None else f"{x:.1f}x" for x in (result.forward_ratio, result.training_ratio))
    memory = "-" if result.megabytes is None else f"{result.megabytes:.0f} MB"
    print(f"{row} {times} | {ratio} | {memory} |", flush=True)


def tiny(case: Case) -> Case:
    """Return a case that takes a second in Triton's interpreter."""
    return replace(case, grid=tuple(min(size, 3) for size in case.grid), bands=min(case.bands, 2), table=min(case.table, 9),
                   content=min(case.content, 9), latents=3, heads=1)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write them to a file if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="what does not fit is left out")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, one repetition, no runs and tests, to test the script"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    usable = triton.availability(device)
    if not usable.usable:
        parser.error(
            f"Triton's kernels cannot run here: {usable.reason}. Use a machine with an NVIDIA GPU, or test the script with "
            "TRITON_INTERPRET=1 python benchmarks/gpu.py --quick"
        )
    if device.type == "cpu" and not options.quick:
        parser.error("no GPU: in Triton's interpreter only --quick ends in reasonable time.")
    clock = Clock(options.minutes)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "none, Triton's interpreter"
    facts = {"gpu": name, "reason": usable.reason, "cuda": torch.version.cuda, **machine()}
    announce(facts)
    chosen = [case for case in CASES if options.only in case.name]
    if not chosen:
        parser.error(f"--only {options.only}: no such case; available: {'; '.join(case.name for case in CASES)}")
    cases = list({replace(case, batch=1, name=case.name.split(", batch")[0]): None for case in chosen})
    cases = [tiny(case) for case in cases[:1]] if options.quick else cases
    batches, repetitions = ((1,), 1) if options.quick else ((1, 32), options.repetitions)

    values = {}
    print("\nErrors against float64, relative to the largest value:")
    for case in cases:
        # The eager form in float64 is slow: smaller grids suffice.
        small = replace(case, grid=tuple(min(size, 128) for size in case.grid))
        values[case.name] = errors(small, device)
        print(f"{case.name}: outputs {values[case.name]['outputs']:.1e}, gradients {values[case.name]['gradients']:.1e}")

    print("\nMicroseconds per sample, forward / forward + backward; ratios to the fastest dense form; memory of training:")
    print("\n| input | batch | type | form | time | ratio | memory |\n| --- | --- | --- | --- | --- | --- | --- |")
    results: list[Result] = []
    for case in cases:
        for batch in batches:
            for dtype in DTYPES:
                if clock.seconds < 60 * options.minutes * 0.4:
                    results.append(Result(case.name, batch, dtype, "all", left_out="out of time"))
                    print_result(results[-1])
                    continue
                for result in measure(replace(case, batch=batch), dtype, device, repetitions=repetitions):
                    results.append(result)
                    print_result(result)
    for result in model_steps(device, quick=options.quick, repetitions=min(repetitions, 5)):
        results.append(result)
        print_result(result)

    outcomes = {}
    if not options.quick:
        with tempfile.TemporaryDirectory() as folder:
            for title, command in {"tests": GPU_TESTS, **runs(Path(folder))}.items():
                outcomes[title] = outcome(command, seconds=clock.seconds)
                print(f"{title}: {outcomes[title]}", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, facts, [asdict(result) for result in results], errors=values, runs=outcomes)


if __name__ == "__main__":
    main()
