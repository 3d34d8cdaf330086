"""Triton's kernels against the eager form and the dense formula, in Triton's interpreter: no GPU is needed.

The interpreter must be chosen before Triton is imported, so the tests run in a process of their own, started by the first.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_cases import Layout, calls, check_any_gradients, check_as_accurate_as_dense, layouts
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from inner_calls import Call, assert_as_accurate, example, results
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from perceiver import Tokens
from perceiver.attention.forms.dense import dense_attention
from perceiver.attention.forms.factored import factored_attention
from perceiver.attention.kernels import eager, triton
from perceiver.attention.kernels.dispatch import implementation
from perceiver.attention.kernels.triton import availability, operator, plan
from perceiver.attention.projection import TokenProjection

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
UNSHRUNK = (Phase.explicit, Phase.generate)
"""Shrinking a failure takes minutes in the interpreter."""
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in Triton's interpreter, in the process of the first test")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


VALUES = "eager_form or as_accurate or changes_no_bit or well_formed"
"""The tests that compare values; the others take as long again."""


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="starts the interpreter")
@pytest.mark.parametrize("selected", [VALUES, pytest.param("", marks=pytest.mark.slow)], ids=["values", "all"])
def test_in_the_interpreter(selected: str, repository: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(repository)}
    for name in list(environment):
        if name.startswith("PYTEST_XDIST"):
            del environment[name]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", selected]
    command.append(str(Path(__file__)))
    done = subprocess.run(command, env=environment, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


CALLS = calls(batches=(1, 2), rows=(1, 5, 17, 33), outer=(1, 2, 5), inner=(1, 3, 13, 33, 65))
"""Sizes around those of the tiles."""


@interpreted
@given(CALLS)
@settings(max_examples=10, phases=UNSHRUNK)
def test_equals_the_eager_form(call: Call) -> None:
    assert_as_accurate(triton.read_tokens, call)


@interpreted
@given(CALLS, st.data())
@settings(max_examples=3, phases=UNSHRUNK)
def test_gradients_do_not_depend_on_which_are_asked_for(call: Call, data: st.DataObject) -> None:
    needs = [data.draw(st.booleans()) for _ in range(len(call.parts) + 2)]
    check_any_gradients(triton.read_tokens, call, needs)


@interpreted
@given(layouts(), st.integers(1, 2), st.integers(1, 4))
@settings(max_examples=6, phases=UNSHRUNK)
def test_is_as_accurate_as_the_dense_form(layout: list[Layout], heads: int, rows: int) -> None:
    check_as_accurate_as_dense(triton.KERNEL, layout, heads=heads, rows=rows)


def wide_example(batch: int = 2, rows: int = 9) -> Call:
    return example(batch=batch, rows=rows, grid=(3, 35))


def narrow_example(batch: int = 2, rows: int = 9) -> Call:
    """The example without its wide part, whose content the kernels unroll."""
    call = wide_example(batch=batch, rows=rows)
    return replace(call, queries=call.queries[..., :14], parts=call.parts[:4], grad_sums=call.grad_sums[..., :14])


EXAMPLES: dict[str, Callable[..., Call]] = {"narrow": narrow_example, "wide": wide_example}


@interpreted
@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_division_gives_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk or many, one group of rows or many, waves of samples."""
    call = EXAMPLES[kind](batch=2, rows=17)
    expected = results(triton.read_tokens, call)
    monkeypatch.setattr(plan, "PROGRAMS", 1)
    monkeypatch.setattr(plan, "GROUPS", 1)
    monkeypatch.setattr(operator, "WORKSPACE", 1)
    for found, other in zip(results(triton.read_tokens, call), expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-5, atol=2e-5)


@interpreted
@pytest.mark.parametrize("kind", EXAMPLES)
def test_result_of_a_sample_does_not_depend_on_its_batch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a bit forward. Gradients also pass through torch's products, whose rounding depends on the batch size.

    On some processors that of products forward does, too, so they are taken in float64 here: the kernels are under test.
    """
    product = Tensor.__matmul__
    monkeypatch.setattr(Tensor, "__matmul__", lambda a, b: product(a.double(), b.double()).to(a.dtype))
    call = EXAMPLES[kind]()
    own = [part.shape[0] > 1 for part in call.parts]
    together = results(triton.read_tokens, call)
    for found, other in zip(results(triton.read_tokens, call), together, strict=True):
        assert torch.equal(found, other), "the same call gives the same bits"
    for index in range(2):
        sample = slice(index, index + 1)
        alone = Call(
            queries=call.queries,
            parts=[part[sample] if varies else part for part, varies in zip(call.parts, own, strict=True)],
            rstd=call.rstd[sample],
            mask=None if call.mask is None else call.mask[sample],
            grad_sums=call.grad_sums[sample],
            grad_lse=call.grad_lse[sample],
        )
        single = results(triton.read_tokens, alone)
        assert torch.equal(single[0], together[0][sample])
        assert torch.equal(single[1], together[1][sample])
        for found, other, varies in zip(single[3:], together[3:], [*own, True], strict=True):
            if varies:
                torch.testing.assert_close(found, other[sample], rtol=1e-5, atol=1e-6)


@interpreted
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_masked_content_changes_no_bit(poison: float) -> None:
    """Not even if it reaches the kernels, as it does not: tokens are cleaned before."""
    for channels in (4, 11):
        call = wide_example(batch=1, rows=5)
        call.parts[-1] = call.parts[-1][..., :channels]
        call = replace(call, queries=call.queries[..., : 14 + channels])
        clean = triton.read_tokens(call.queries, call.parts, call.rstd, call.mask)
        assert call.mask is not None
        for content in (call.parts[0], call.parts[-1]):
            content[~call.mask] = poison
        for found, other in zip(triton.read_tokens(call.queries, call.parts, call.rstd, call.mask), clean, strict=True):
            assert torch.equal(found, other)


@interpreted
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_nan_in_valid_content_shows() -> None:
    call = narrow_example(rows=5)
    call.parts[0][1, 0, 0, 0] = torch.nan
    assert call.mask is not None
    call.mask[1, 0, 0] = True
    sums, _ = triton.read_tokens(call.queries, call.parts, call.rstd, call.mask)
    assert sums[1].isnan().any()
    assert sums[0].isfinite().all()


@interpreted
@pytest.mark.parametrize("sharpness", [30.0, 1000.0])
def test_sharp_attention(sharpness: float) -> None:
    """The reference of a row grows again and again."""
    call = narrow_example(rows=17)
    queries, parts = call.queries * sharpness, [part.clone() for part in call.parts]
    parts[1][0, 2] *= 5
    own, lse = triton.read_tokens(queries, parts, call.rstd, call.mask)
    exact, exact_lse = eager.read_tokens(queries.double(), [part.double() for part in parts], call.rstd.double(), call.mask)
    assert own.isfinite().all()
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(own.double(), exact, rtol=1e-6 * sharpness, atol=1e-6 * sharpness)


@interpreted
@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_accumulated_in_float32(kind: str, dtype: torch.dtype) -> None:
    call = EXAMPLES[kind](batch=1, rows=17)
    rounded = replace(call, **{name: getattr(call, name).to(dtype).float() for name in ("queries", "rstd", "grad_sums")})
    rounded = replace(rounded, parts=[part.to(dtype).float() for part in call.parts])
    found, expected = results(triton.read_tokens, call, dtype), results(eager.read_tokens, rounded, torch.float64)
    assert [x.dtype for x in found[:2]] == [dtype, torch.float32], "the backward pass exponentiates log-sum-exps"
    for own, other in zip(found, expected, strict=True):
        error = float((own.double() - other).abs().max()) / max(1.0, float(other.abs().max()))
        assert error <= 4 * torch.finfo(dtype).eps


class _NoValues(TorchDispatchMode):
    """Refuses operators that return values to Python, for which a GPU would have to be waited."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), func
        return func(*args, **(kwargs or {}))


@interpreted
@pytest.mark.parametrize("kind", EXAMPLES)
def test_asks_for_no_values(kind: str) -> None:
    call = EXAMPLES[kind](batch=1, rows=5)
    inputs = (call.queries, call.parts, call.rstd, call.mask)
    with torch.no_grad(), _NoValues():
        sums, lse = triton.read_tokens._init_fn(*inputs)
        needs = [True] * (len(call.parts) + 2)
        triton.read_tokens_backward._init_fn(call.grad_sums[:1], call.grad_lse[:1], *inputs, sums, lse, needs)
    with pytest.raises(AssertionError), _NoValues():
        sums.sum().item()


@interpreted
def test_long_lines_and_no_content() -> None:
    torch.manual_seed(0)
    parts, rstd = [torch.randn(1, 2, 1, 3), torch.randn(1, 1, 130, 2), torch.randn(1, 1, 1, 4)], torch.rand(1, 2, 130) + 0.5
    call = Call(torch.randn(1, 9, 9) * 0.3, parts, rstd, None, torch.randn(1, 9, 9), torch.randn(1, 9))
    assert_as_accurate(triton.read_tokens, call)


@interpreted
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_operator_is_well_formed() -> None:
    parts = [torch.randn(2, 3, 4, 2, requires_grad=True), torch.randn(1, 3, 1, 3)]
    rstd = torch.rand(2, 3, 4, requires_grad=True)
    torch.library.opcheck(triton.read_tokens, (torch.randn(1, 5, 5, requires_grad=True), parts, rstd, None))


@interpreted
def test_of_a_cross_attention_module() -> None:
    """Several blocks, masks, heads: the sums of all gradients through the layer, against the dense form."""
    torch.manual_seed(0)
    weights = TokenProjection(token_channels=7, qk_channels=8, v_channels=8)
    blocks = [
        Tokens((torch.randn(2, 3, 5, 3), torch.randn(1, 3, 1, 2), torch.randn(1, 1, 5, 2)), torch.rand(2, 3, 5) < 0.5),
        Tokens((torch.randn(2, 9, 7),), torch.zeros(2, 9, dtype=torch.bool)),
    ]
    query = torch.randn(1, 2, 3, 4, requires_grad=True)
    grads = []
    for read in (
        factored_attention(query, blocks, weights, kernel=triton.KERNEL),
        dense_attention(query, blocks, weights),
    ):
        grads.append([read, *torch.autograd.grad(read.square().sum(), [query, *weights.parameters()])])
    for own, other in zip(*grads, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@interpreted
def test_the_prepared_script_works(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    gpu = importlib.import_module("gpu")
    gpu.main(["--quick", "--only", "64 bands", "--json", str(tmp_path / "results" / "gpu.json")])
    found = json.loads((tmp_path / "results" / "gpu.json").read_text())
    forms = {(row["form"], row["dtype"]) for row in found["results"] if row["forward"]}
    assert {("triton", "float32"), ("triton", "bfloat16"), ("dense, math", "float32")} <= forms
    assert all(error < 1e-5 for errors in found["errors"].values() for error in errors.values())
    assert "| bfloat16 | triton |" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------- without the interpreter


def test_choice_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(sys.modules["perceiver.attention.kernels.triton.availability"], "_installed", lambda: True)
    for dtype in triton.DTYPES:
        chosen = implementation(cuda, dtype)
        assert (chosen.name, chosen.reason, chosen.kernel) == ("triton", "Triton, compute capability 9.0", triton.KERNEL)
    assert implementation(cuda, torch.float64).reason == "no Triton code for float64"
    assert implementation(torch.device("mps"), torch.float32).reason == "no Triton code for mps"
    assert implementation(torch.device("cpu"), torch.float32).name != "triton"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert implementation(cuda, torch.float32).reason == "no Triton code for compute capability 7.5"
    monkeypatch.setattr(sys.modules["perceiver.attention.kernels.triton.availability"], "_installed", lambda: False)
    assert implementation(cuda, torch.float32).reason == "Triton is not installed"
    monkeypatch.setenv("PERCEIVER_TRITON", "0")
    assert implementation(cuda, torch.float32).reason == "switched off by PERCEIVER_TRITON=0"


@pytest.mark.skipif(INTERPRETED, reason="the interpreter computes on the CPU")
def test_eager_serves_on_other_devices() -> None:
    call = example(batch=1, rows=2)
    assert not availability(torch.device("cpu")).usable
    for found, other in zip(results(triton.read_tokens, call), results(eager.read_tokens, call), strict=True):
        assert torch.equal(found, other)


def shapes(*sizes: Sequence[int]) -> list[torch.Size]:
    return [torch.Size(size) for size in sizes]


def test_plan_of_an_image() -> None:
    own = plan.plan(shapes((2, 6, 70, 3), (1, 6, 1, 5), (1, 1, 70, 4), (2, 1, 1, 2)), 6, 70)
    assert (own.narrow, own.wide, own.on_outer, own.on_inner) == ((0,), (), (1, 3), (2,))
    assert own.lines(plan.forward_tile(3, 0)) == (6, 70)


def test_plan_of_one_axis_cuts_it_into_lines() -> None:
    own = plan.plan(shapes((2, 1, 1000, 40), (1, 1, 1, 5)), 1, 1000)
    tile = plan.forward_tile(0, 40)
    assert (own.narrow, own.wide, own.on_outer, own.on_inner) == ((), (0,), (1,), ())
    assert own.lines(tile) == (-(-1000 // tile.inner), tile.inner)
