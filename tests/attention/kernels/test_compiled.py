"""The compiled form against the dense formula and the eager form; how often it compiles, and what serves where it cannot.

Each signature compiles for seconds, so sizes are random and signatures few: three content channels on grids, and lines.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pytest
import torch
from attention_cases import Layout, build, converted, leaves
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters

from perceiver import Tokens
from perceiver.attention.forms.dense import dense_attention
from perceiver.attention.forms.factored import factored_attention
from perceiver.attention.kernels import compiled, eager
from perceiver.attention.kernels.compiled import kernels, operator
from perceiver.attention.kernels.dispatch import WORTH_COMPILING, implementation
from perceiver.attention.projection import TokenProjection

CPU = compiled.availability("cpu")
needs_compiler = pytest.mark.skipif(not CPU.usable, reason=f"no compiled code: {CPU.reason}")
MASKS = ("none", "partial", "dead sample", "all dead")
CHANNELS = 12


@pytest.fixture(autouse=True)
def _nothing_falls_back() -> Iterator[None]:
    """A compilation that fails is a failure of these tests, though no warning would be an error in backward threads."""
    yield
    assert not kernels._failures


@st.composite
def grids(draw: st.DrawFn) -> Layout:
    """Three content channels, rows, columns and a condition: the grid's kernels, on any grid of two or three axes."""
    batch = draw(st.integers(1, 3))
    grid = draw(st.sampled_from([(8, 8), (8, 23), (9, 17), (31, 8), (3, 5, 11), (40, 19)]))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    own, ones = draw(st.sampled_from([1, batch])), (1,) * (len(grid) - 1)
    shapes = [
        (batch, *grid, 3),
        (1, grid[0], *ones, rows),
        (own, *ones, grid[-1], columns),
        (own, 1, *ones, CHANNELS - 3 - rows - columns),
    ]
    return _layout(draw, shapes)


@st.composite
def lines(draw: st.DrawFn) -> Layout:
    """Everything else: one axis, short axes, wide parts."""
    batch = draw(st.integers(1, 3))
    grid = draw(st.sampled_from([(1,), (2,), (13,), (700,), (1, 9), (5, 1), (4, 7), (9, 10), (2, 3, 4)]))
    wide = draw(st.sampled_from([9, 10]))
    other = [draw(st.sampled_from([1, size])) for size in grid]
    return _layout(draw, [(batch, *grid, wide), (draw(st.sampled_from([1, batch])), *other, CHANNELS - wide)])


def _layout(draw: st.DrawFn, shapes: list[tuple[int, ...]]) -> Layout:
    mask, offset = draw(st.sampled_from(MASKS)), draw(st.sampled_from([0.0, 1e4]))
    return Layout(tuple(shapes), mask, offset, draw(st.integers(0, 2**31)))


def of_equal_batch(plan: list[Layout]) -> list[Layout]:
    """The blocks that have the batch of the first."""
    return [layout for layout in plan if layout.shapes[0][0] == plan[0].shapes[0][0]]


blocks = st.lists(st.one_of(grids(), lines()), min_size=1, max_size=3).map(of_equal_batch)


@needs_compiler
@given(blocks, st.integers(1, 2), st.integers(1, 20))
@settings(max_examples=30)
def test_equals_dense_in_outputs_and_all_gradients(plan: list[Layout], heads: int, queries: int) -> None:
    # The gradients of content with an offset cancel to noise in every form: offsets are for the test of accuracy.
    plan = [Layout(layout.shapes, layout.mask, 0.0, layout.seed) for layout in plan]
    weights = TokenProjection(token_channels=CHANNELS, qk_channels=3 * heads, v_channels=2 * heads).double()
    torch.manual_seed(plan[0].seed)
    query = torch.randn(1, heads, queries, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for form in (dense_attention, _compiled):
        tokens = build(plan)
        out = form(query, tokens, weights)
        asked = [query, *leaves(tokens), *weights.parameters()]
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        grads = torch.autograd.grad(out, asked, upstream, allow_unused=True, materialize_grads=True)
        found.append([out.detach(), *grads])
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-10)


def _compiled(query: Tensor, tokens: list[Tokens], weights: TokenProjection) -> Tensor:
    return factored_attention(query, tokens, weights, read=compiled.read_tokens)


@needs_compiler
@given(blocks, st.integers(1, 2), st.integers(1, 20))
@settings(max_examples=30)
def test_is_as_accurate_as_the_dense_form(plan: list[Layout], heads: int, queries: int) -> None:
    torch.manual_seed(plan[0].seed)
    exact_blocks = build(plan)
    weights = TokenProjection(token_channels=CHANNELS, qk_channels=2 * heads, v_channels=3 * heads)
    double = TokenProjection(token_channels=CHANNELS, qk_channels=2 * heads, v_channels=3 * heads).double()
    double.load_state_dict(weights.state_dict())
    query = torch.randn(1, heads, queries, 2)
    with torch.no_grad():
        exact = dense_attention(query.double(), exact_blocks, double)
        single = converted(exact_blocks, torch.float32)
        dense = dense_attention(query, single, weights)
        own = _compiled(query, single, weights)
    scale = max(1.0, float(exact.abs().max()))
    assert float((own - exact).abs().max()) / scale <= 2 * float((dense - exact).abs().max()) / scale + 1e-6


@dataclass(frozen=True)
class Call:
    """Arguments of the inner function."""

    queries: Tensor
    parts: list[Tensor]
    rstd: Tensor
    mask: Tensor | None

    def of(self, dtype: torch.dtype) -> list[Tensor]:
        """Leaves in another precision: queries, parts, rstd."""
        return [x.detach().to(dtype).requires_grad_() for x in (self.queries, *self.parts, self.rstd)]


def example(batch: int = 3, rows: int = 40, outer: int = 9, inner: int = 30, seed: int = 0) -> Call:
    """An image with learned rows and columns and a condition per sample, masked."""
    torch.manual_seed(seed)
    shapes = [(batch, outer, inner, 3), (1, outer, 1, 5), (1, 1, inner, 4), (batch, 1, 1, 2)]
    return Call(
        queries=torch.randn(1, rows, 14) * 0.3,
        parts=[torch.randn(shape) for shape in shapes],
        rstd=torch.rand(batch, outer, inner) + 0.5,
        mask=torch.rand(batch, outer, inner) < 0.8,
    )


def results(call: Call, dtype: torch.dtype = torch.float32, *, form: str = "compiled") -> list[Tensor]:
    """Sums, log-sum-exps and all gradients."""
    asked = call.of(dtype)
    read = compiled.read_tokens if form == "compiled" else eager.read_tokens
    sums, lse = read(asked[0], asked[1:-1], asked[-1], call.mask)
    grads = torch.autograd.grad((sums.square().sum() + lse.sum()), asked)
    return [sums.detach(), lse.detach(), *grads]


@needs_compiler
@pytest.mark.parametrize("tile", [2**8, 2**11, 2**30])
def test_tiles_of_any_size_give_the_same(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "TILE", tile)
    monkeypatch.setattr(operator, "ROWS", 16)
    for call in (example(batch=5), example(batch=1, outer=11, inner=19), example(outer=2)):
        for own, expected in zip(results(call, torch.float64), results(call, torch.float64, form="eager"), strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-11, atol=1e-11)


@needs_compiler
@pytest.mark.parametrize("sharpness", [30.0, 1000.0])
def test_scores_far_below_their_bound(sharpness: float) -> None:
    """No reference is known beforehand: the samples concerned go line by line."""
    call = example()
    call.parts[1][0, 3] *= 5
    queries = call.queries * sharpness
    own, lse = compiled.read_tokens(queries, call.parts, call.rstd, call.mask)
    exact, exact_lse = eager.read_tokens(
        queries.double(), [part.double() for part in call.parts], call.rstd.double(), call.mask
    )
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(own.double(), exact, rtol=1e-6 * sharpness, atol=1e-6 * sharpness)


@needs_compiler
def test_rows_without_a_token() -> None:
    for outer in (9, 2):
        call = example(outer=outer)
        assert call.mask is not None
        call.mask[1] = False
        sums, lse = compiled.read_tokens(call.queries, call.parts, call.rstd, call.mask)
        assert torch.equal(sums[1], torch.zeros_like(sums[1]))
        assert lse[1].isneginf().all()
        assert lse[[0, 2]].isfinite().all()


@needs_compiler
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("outer", [9, 1])
def test_masked_content_changes_no_bit(poison: float, outer: int) -> None:
    weights = TokenProjection(token_channels=8, qk_channels=6, v_channels=6)
    mask = torch.rand(2, outer, 30) < 0.5
    content, table = torch.randn(2, outer, 30, 3), torch.randn(1, outer, 1, 5)
    query = torch.randn(1, 2, 3, 3)
    clean = _compiled(query, [Tokens((content, table), mask)], weights)
    content[~mask] = poison
    assert torch.equal(_compiled(query, [Tokens((content, table), mask)], weights), clean)


@needs_compiler
def test_nan_in_valid_content_shows() -> None:
    call = example()
    assert call.mask is not None
    call.parts[0][1, 0, 0, 0] = torch.nan
    call.mask[1, 0, 0] = True
    sums, _ = compiled.read_tokens(call.queries, call.parts, call.rstd, call.mask)
    assert sums[1].isnan().any()
    assert sums[[0, 2]].isfinite().all()


@needs_compiler
def test_repeats_to_the_bit() -> None:
    for own, again in zip(results(example()), results(example()), strict=True):
        assert torch.equal(own, again)


@needs_compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_operator_is_well_formed() -> None:
    call = example(rows=5)
    asked = call.of(torch.float32)
    torch.library.opcheck(compiled.read_tokens, (asked[0], asked[1:-1], asked[-1], None))
    torch.library.opcheck(compiled.read_tokens, (call.queries, call.parts, call.rstd, call.mask))


# ------------------------------------------------------------------------------------------------ how often it compiles


@needs_compiler
def test_lengths_modalities_and_modes_compile_once_for_each_kind() -> None:
    """Twenty lengths in any subset of three modalities, in training, evaluation and inference mode."""
    modalities = {
        "image": lambda n: Tokens((torch.randn(2, 8 + n, 9, 3), torch.randn(1, 8 + n, 1, CHANNELS - 3))),
        "sound": lambda n: Tokens((torch.randn(2, 5 * n, 9), torch.randn(1, 5 * n, 3)), torch.rand(2, 5 * n) < 0.9),
        "lone": lambda n: Tokens((torch.randn(1, n, CHANNELS),)),
    }
    weights = TokenProjection(token_channels=CHANNELS, qk_channels=4, v_channels=4)
    before = counters["stats"]["unique_graphs"]
    kernels.kernel.cache_clear()
    subsets = [subset for size in (1, 2, 3) for subset in combinations(modalities.values(), size)]
    for length in range(1, 21):
        for subset in subsets:
            query = torch.randn(1, 1, length, 4, requires_grad=True)
            _compiled(query, [modality(length) for modality in subset], weights).sum().backward()
            with torch.no_grad():
                _compiled(query, [modality(length) for modality in subset], weights)
            with torch.inference_mode():
                _compiled(query * 1.0, [modality(length) for modality in subset], weights)
    # One forward and one backward on grids, one each along lines; inference mode's tensors are another kind to torch.
    assert kernels.kernel.cache_info().currsize == 4
    assert 4 <= counters["stats"]["unique_graphs"] - before <= 8


WHOLE = """
import torch
from perceiver import Tokens
from perceiver.attention.kernels import compiled
from perceiver.attention.forms.factored import factored_attention
from perceiver.attention.projection import TokenProjection

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = TokenProjection(token_channels=6, qk_channels=6, v_channels=6)
    def forward(self, query, content, table):
        return factored_attention(query, [Tokens((content, table))], self.weights, read=compiled.read_tokens)

model = Model()
arguments = (torch.randn(1, 2, 3, 3, requires_grad=True), torch.randn(2, 9, 8, 3), torch.randn(1, 9, 1, 3))
expected = model(*arguments)
expected_grad, = torch.autograd.grad(expected.sum(), arguments[:1])
for backend in ("eager", "aot_eager"):
    out = torch.compile(model, fullgraph=True, backend=backend)(*arguments)
    grad, = torch.autograd.grad(out.sum(), arguments[:1])
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(grad, expected_grad)
exported = torch.export.export(model, arguments)
assert "read_tokens_compiled" in exported.graph_module.print_readable(print_output=False)
torch.testing.assert_close(exported.module()(*arguments), expected)
print("passes")
"""


@needs_compiler
def test_passes_compilation_and_export_of_a_whole_model(repository: Path) -> None:
    """In a process of its own: the tests' checks of shapes and types are nothing that can be compiled."""
    done = _in_fresh_process(WHOLE, repository)
    assert done.stdout.strip() == "passes", done.stderr[-3000:]


def _in_fresh_process(code: str, repository: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {**os.environ, "PYTHONPATH": str(repository), **environment}
    return subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=False)


# ------------------------------------------------------------------------------------------------ where it cannot compile


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing compiled and nothing known about failures."""
    monkeypatch.setattr(kernels, "_failures", {})
    monkeypatch.delenv("PERCEIVER_COMPILE", raising=False)
    kernels.kernel.cache_clear()


def assert_eager_serves() -> None:
    call = example(batch=1, rows=2)
    for found, other in zip(results(call), results(call, form="eager"), strict=True):
        assert torch.equal(found, other)


@pytest.mark.usefixtures("fresh")
def test_switched_off_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEIVER_COMPILE", "0")
    assert compiled.availability("cpu") == compiled.Availability(False, "switched off by PERCEIVER_COMPILE=0")
    assert_eager_serves()
    assert kernels.kernel.cache_info().currsize == 0


@pytest.mark.usefixtures("fresh")
def test_no_compiler_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert compiled.availability("cpu").reason == "no C++ compiler (g++, clang++ or $CXX)"
    assert_eager_serves()
    assert kernels.kernel.cache_info().currsize == 0


@pytest.mark.usefixtures("fresh")
def test_failing_compilation_warns_once_and_eager_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Tensor) -> None:
        raise torch._dynamo.exc.InternalTorchDynamoError("no such instruction")

    monkeypatch.setattr(kernels, "_prerequisites", lambda *_: compiled.Availability(True, ""))
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    call = example(batch=1, rows=2)
    with pytest.warns(RuntimeWarning, match="no such instruction.*PERCEIVER_COMPILE=0") as caught:
        sums, _ = compiled.read_tokens(call.queries, call.parts, call.rstd, call.mask)
    assert len(caught) == 1
    assert torch.equal(sums, eager.read_tokens(call.queries, call.parts, call.rstd, call.mask)[0])
    assert compiled.availability("cpu").reason == "compilation failed"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_eager_serves()
    kernels._failures.clear()


BROKEN = """
import warnings
import torch
from perceiver.attention.kernels import compiled, eager
arguments = (torch.randn(1, 3, 2), [torch.randn(2, 1, 9, 2)], torch.rand(2, 1, 9) + 0.5, None)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    results = [compiled.read_tokens(*arguments) for _ in range(3)]
own = [str(warning.message) for warning in caught if "PERCEIVER_COMPILE" in str(warning.message)]
assert len(own) == 1, caught
for sums, lse in results:
    assert torch.equal(sums, eager.read_tokens(*arguments)[0])
print(compiled.availability("cpu").reason)
"""


@needs_compiler
@pytest.mark.skipif(sys.platform == "win32", reason="scripts of POSIX")
def test_broken_compiler_warns_once_and_eager_serves(repository: Path, tmp_path: Path) -> None:
    """A real compilation with a compiler that refuses, in a process of its own."""
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho no such instruction >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = _in_fresh_process(BROKEN, repository, CXX=str(compiler), TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert done.stdout.strip() == "compilation failed", done.stderr[-3000:]


def test_other_precisions_are_the_eager_form() -> None:
    call = example()
    own = compiled.read_tokens(*_converted(call, torch.bfloat16))
    for found, other in zip(own, eager.read_tokens(*_converted(call, torch.bfloat16)), strict=True):
        assert torch.equal(found, other)


def _converted(call: Call, dtype: torch.dtype) -> tuple[Tensor, list[Tensor], Tensor, Tensor | None]:
    return call.queries.to(dtype), [part.to(dtype) for part in call.parts], call.rstd.to(dtype), call.mask


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_equals_the_eager_form_on_cuda() -> None:
    call = example()
    asked = [x.cuda() for x in (call.queries, *call.parts, call.rstd)]
    own, lse = compiled.read_tokens(asked[0], asked[1:-1], asked[-1], None)
    exact, exact_lse = eager.read_tokens(asked[0].double(), [x.double() for x in asked[1:-1]], asked[-1].double(), None)
    torch.testing.assert_close(own.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------ the choice


def test_the_choice_follows_from_sizes_and_names_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(kernels, "_prerequisites", lambda *_: compiled.Availability(True, "torch.compile"))
    monkeypatch.delenv("PERCEIVER_COMPILE", raising=False)
    large = implementation(cpu, torch.float64, scores=WORTH_COMPILING)
    assert (large.name, large.read) == ("compiled", compiled.read_tokens)
    assert "float64" in large.reason
    small = implementation(cpu, torch.float64, scores=WORTH_COMPILING - 1)
    assert (small.name, small.read) == ("eager", eager.read_tokens)
    assert "too few scores" in small.reason
    assert implementation(cpu, torch.float64).name == "eager"
    assert implementation(cpu, torch.bfloat16, scores=2**40).name == "eager"
    monkeypatch.setenv("PERCEIVER_COMPILE", "0")
    off = implementation(cpu, torch.float64, scores=2**40)
    assert off.name == "eager"
    assert "PERCEIVER_COMPILE" in off.reason
