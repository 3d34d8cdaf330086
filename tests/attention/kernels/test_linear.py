"""Linear layers on oneDNN: what F.linear computes, and F.linear itself wherever oneDNN is not asked for or cannot serve."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from perceiver.attention.forms.absorbed import _per_head
from perceiver.attention.kernels import linear as implementation
from perceiver.attention.kernels.linear import (
    FEW_ROWS,
    NARROWEST,
    WIDE,
    WORTH_ONEDNN,
    Linear,
    gains_from_onednn,
    linear,
    onednn,
)
from perceiver.attention.projection import lecun_linear


@pytest.fixture
def fresh() -> Any:
    """The decision of this process is taken anew in the test, and again after it."""
    onednn.cache_clear()
    yield
    onednn.cache_clear()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Size, torch.Size]]:
    """oneDNN for products of every size on every processor that has it; shapes (x, weight) of the products it computed."""
    try:
        implementation._try_operator()
    except Exception as error:
        pytest.skip(f"oneDNN's matrix product does not work in this torch: {error}")
    multiply = implementation._multiply
    computed: list[tuple[torch.Size, torch.Size]] = []

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        computed.append((x.shape, weight.shape))
        return multiply(x, weight, bias)

    monkeypatch.setattr(implementation, "_multiply", counted)
    monkeypatch.setattr(implementation, "onednn", lambda: (True, "forced"))
    monkeypatch.setattr(implementation, "WORTH_ONEDNN", 0)
    monkeypatch.setattr(implementation, "NARROWEST", 0)
    return computed


def close(found: Tensor | None, exact: Tensor | None, *, tolerance: float = 2e-6) -> None:
    """Within float32's rounding of the exact result, relative to its size."""
    assert found is not None
    assert exact is not None
    assert found.shape == exact.shape
    assert (found.double() - exact).norm() <= tolerance * exact.norm()


STRIDED: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.randn(6, 5, 24),
    "matrix": lambda: torch.randn(30, 24),
    "transposed": lambda: torch.randn(6, 24, 5).mT,
    "heads apart": lambda: torch.randn(6, 2, 5, 24).transpose(1, 2),
    "columns": lambda: torch.randn(6, 5, 31)[..., 3:27],
    "every second": lambda: torch.randn(6, 5, 48)[..., ::2],
    "expanded": lambda: torch.randn(1, 5, 24).expand(6, 5, 24),
    "one value": lambda: torch.randn(()).expand(6, 5, 24),
}


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients(
    layout: str, bias: bool, transposed: bool, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(24, 13).t() if transposed else torch.randn(13, 24)
    inputs = [STRIDED[layout](), weight, *([torch.randn(13)] if bias else [])]
    inputs = [x.detach().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out, expected = linear(*inputs), F.linear(*exact)
    close(out, expected)
    # A gradient that comes out of a sum has no memory of its own; that of a product has.
    for direction in (torch.randn_like(out), torch.randn(()).expand(out.shape)):
        for wide in (WIDE, 1):
            monkeypatch.setattr(implementation, "WIDE", wide)
            calls.clear()
            gradients = torch.autograd.grad(out, inputs, direction, retain_graph=True)
            assert len(calls) == (1 if wide == WIDE else 2)
            for found, right in zip(
                gradients, torch.autograd.grad(expected, exact, direction.double(), retain_graph=True), strict=True
            ):
                close(found, right)


def test_gradients_only_of_what_needs_them(calls: list[Any]) -> None:
    x, weight, bias = torch.randn(4, 3), torch.randn(5, 3, requires_grad=True), torch.randn(5)
    linear(x, weight, bias).sum().backward()
    assert x.grad is None
    assert bias.grad is None
    assert weight.grad is not None
    assert len(calls) == 1
    weight.grad = None
    with torch.no_grad():
        assert not linear(x, weight, bias).requires_grad
    assert len(calls) == 2


def test_second_derivatives(calls: list[Any]) -> None:
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((2, 4, 3), (5, 3), (5,))]
    exact = [x.detach().double().requires_grad_() for x in inputs]

    def twice(f: Callable[..., Tensor], arguments: list[Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(f(*arguments).pow(3).sum(), arguments, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), arguments)

    for found, right in zip(twice(linear, inputs), twice(F.linear, exact), strict=True):
        close(found, right)
    assert len(calls) > 2


def test_the_same_bits_every_time(calls: list[Any]) -> None:
    layer = Linear(96, 160)
    x = torch.randn(8, 33, 96, requires_grad=True)
    direction = torch.randn(8, 33, 160)
    results = []
    for _ in range(3):
        out = layer(x)
        results.append([out, *torch.autograd.grad(out, [x, layer.weight, layer.bias], direction)])
    assert len(calls) == 6
    for repeated in results[1:]:
        for first, again in zip(results[0], repeated, strict=True):
            assert torch.equal(first, again)


def test_flops_are_counted_as_those_of_torch(calls: list[Any]) -> None:
    ours, torchs = Linear(24, 16), nn.Linear(24, 16)
    counts = []
    for layer in (ours, torchs):
        x = torch.randn(2, 5, 24, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            out = layer(x)
            forward = counter.get_total_flops()
            out.sum().backward()
        counts.append((forward, counter.get_total_flops()))
    assert counts[0] == counts[1] == (2 * 2 * 5 * 24 * 16, 3 * 2 * 2 * 5 * 24 * 16)
    assert len(calls) == 2


def test_the_trial_is_nobodys_business(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modes that are on when the first product comes see nothing of the trial and do not disturb it."""
    monkeypatch.setattr(implementation, "_amd", lambda: True)
    monkeypatch.setattr(implementation.platform, "machine", lambda: "x86_64")
    undisturbed = onednn()
    onednn.cache_clear()
    state = torch.get_rng_state()
    with FlopCounterMode(display=False) as counter, torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
        assert onednn() == undisturbed
    assert counter.get_total_flops() == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_size_decides(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "WORTH_ONEDNN", WORTH_ONEDNN)
    monkeypatch.setattr(implementation, "NARROWEST", NARROWEST)
    threads = torch.get_num_threads()
    rows = -(-WORTH_ONEDNN // NARROWEST**2)
    weight = torch.empty(NARROWEST, NARROWEST)
    assert gains_from_onednn(torch.empty(1, threads * rows, NARROWEST), weight)
    assert not gains_from_onednn(torch.empty(1, threads * rows - 1, NARROWEST), weight)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert not gains_from_onednn(torch.empty(1, threads * rows, NARROWEST), weight)
    assert gains_from_onednn(torch.empty(1, (threads + 1) * rows, NARROWEST), weight)
    many = torch.empty(1, 4 * (threads + 1) * rows, NARROWEST)
    assert gains_from_onednn(many, weight)
    assert not gains_from_onednn(many, weight[1:])
    assert not gains_from_onednn(many[..., 1:], weight[:, 1:])


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "products"),
    [(2, WIDE, WIDE, 2), (2, WIDE - 1, WIDE, 1), (2, WIDE, WIDE - 1, 1), (FEW_ROWS + 1, WIDE, WIDE, 1)],
)
def test_shape_decides_for_the_gradient_of_the_weight(
    rows: int, inputs: int, outputs: int, products: int, calls: list[Any]
) -> None:
    x, weight = torch.randn(rows, inputs, requires_grad=True), torch.randn(outputs, inputs, requires_grad=True)
    out = linear(x, weight)
    calls.clear()
    out.backward(torch.randn(rows, outputs))
    assert len(calls) == products


FORWARD_MODE_WARNS = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
"""Torch's own forward mode compiles some rules with it."""

REFUSED: dict[str, Callable[[], tuple[Tensor, Tensor, Tensor | None]]] = {
    "float64": lambda: (torch.randn(4, 3).double(), torch.randn(5, 3).double(), torch.randn(5).double()),
    "bfloat16": lambda: (torch.randn(4, 3).bfloat16(), torch.randn(5, 3).bfloat16(), torch.randn(5).bfloat16()),
    "a vector": lambda: (torch.randn(3), torch.randn(5, 3), torch.randn(5)),
    "a weight that is a vector": lambda: (torch.randn(4, 3), torch.randn(3), None),
    "a bias of one number": lambda: (torch.randn(4, 3), torch.randn(5, 3), torch.randn(1)),
    "a bias with gaps": lambda: (torch.randn(4, 3), torch.randn(5, 3), torch.randn(10)[::2]),
    "an expanded bias": lambda: (torch.randn(4, 3), torch.randn(5, 3), torch.randn(1).expand(5)),
    "meta": lambda: (torch.empty(4, 3, device="meta"), torch.empty(5, 3, device="meta"), None),
    "a subclass": lambda: (torch.randn(4, 3).as_subclass(Marked), torch.randn(5, 3), None),
    "a weight of a subclass": lambda: (torch.randn(4, 3), torch.randn(5, 3).as_subclass(Marked), None),
}


class Marked(Tensor):
    """A subclass of tensors as other libraries define them."""


@pytest.mark.parametrize("case", REFUSED)
def test_plain_for_other_tensors(case: str, calls: list[Any]) -> None:
    x, weight, bias = REFUSED[case]()
    out, expected = linear(x, weight, bias), F.linear(x, weight, bias)
    assert type(out) is type(expected)
    assert out.dtype == expected.dtype
    assert out.shape == expected.shape
    if not out.is_meta:
        assert torch.equal(out, expected)
    assert not calls


def test_wrong_shapes_fail_as_in_torch(calls: list[Any]) -> None:
    with pytest.raises(RuntimeError) as ours:
        linear(torch.randn(4, 3), torch.randn(5, 2))
    with pytest.raises(RuntimeError) as torchs:
        F.linear(torch.randn(4, 3), torch.randn(5, 2))
    assert str(ours.value) == str(torchs.value)
    assert not calls


def test_plain_under_autocast(calls: list[Any]) -> None:
    layer = Linear(3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(4, 3)).dtype == torch.bfloat16
    assert not calls


def test_plain_where_onednn_is_switched_off_in_torch(calls: list[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what torch says about TF32 whenever these flags are set
        with torch.backends.mkldnn.flags(enabled=False):
            linear(torch.randn(4, 3), torch.randn(5, 3))
    assert not calls


def test_plain_for_fake_tensors(calls: list[Any]) -> None:
    with FakeTensorMode():
        assert Linear(3, 5)(torch.randn(4, 3)).shape == (4, 5)
    assert not calls


@FORWARD_MODE_WARNS
def test_plain_under_function_transforms(calls: list[Any]) -> None:
    layer, x = Linear(3, 5), torch.randn(7, 4, 3)
    expected = F.linear(x, layer.weight, layer.bias)
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(layer, parameters, (x,))
        return out.pow(2).sum()

    torch.testing.assert_close(torch.func.vmap(layer)(x), expected)
    single = torch.func.grad(loss)(parameters, x)
    samples = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    reference = torch.autograd.grad(expected.pow(2).sum(), list(parameters.values()))
    for name, right in zip(parameters, reference, strict=True):
        torch.testing.assert_close(single[name], right)
        torch.testing.assert_close(samples[name].sum(dim=0), right)
    tangent = torch.randn_like(x)
    torch.testing.assert_close(torch.func.jvp(layer, (x,), (tangent,))[1], F.linear(tangent, layer.weight))
    assert not calls


@FORWARD_MODE_WARNS
def test_plain_under_forward_mode(calls: list[Any]) -> None:
    layer, x, tangent = Linear(3, 5), torch.randn(4, 3), torch.randn(4, 3)
    with forward_ad.dual_level(), torch.no_grad():
        out = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent)))
    torch.testing.assert_close(out.tangent, F.linear(tangent, layer.weight))
    assert not calls


def test_batched_gradients(calls: list[Any]) -> None:
    """A Jacobian in one backward: there gradients are batches that oneDNN does not know."""
    layer, x = Linear(3, 5), torch.randn(4, 3, requires_grad=True)
    out = layer(x)
    assert len(calls) == 1
    found = torch.autograd.grad(out, [x, layer.weight], torch.eye(20).view(20, 4, 5), is_grads_batched=True)
    assert len(calls) == 1
    right = torch.autograd.functional.jacobian(lambda x, w: F.linear(x, w, layer.bias), (x, layer.weight.detach()))
    for jacobian, reference in zip(found, right, strict=True):
        torch.testing.assert_close(jacobian.view_as(reference), reference)


def test_compiled_and_exported_graphs_know_nothing_of_it(calls: list[Any], unchecked: None) -> None:
    layer, x = Linear(3, 5), torch.randn(4, 3)
    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(str(graph.graph))
        return graph.forward

    torch.testing.assert_close(torch.compile(layer, backend=keep, fullgraph=True)(x), F.linear(x, layer.weight, layer.bias))
    program = torch.export.export(layer, (x,))
    graphs.append(str(program.graph))
    torch.testing.assert_close(program.module()(x), F.linear(x, layer.weight, layer.bias))
    graphs.append(str(torch.fx.symbolic_trace(layer).graph))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated, and still used
        traced = torch.jit.trace(layer, (x,), check_trace=False)
    graphs.append(str(traced.graph))
    assert len(graphs) == 4
    assert all("linear" in graph and "mkldnn" not in graph and "_Product" not in graph for graph in graphs)
    assert not calls


def test_a_layer_of_torchs_by_name_and_file() -> None:
    ours, torchs = lecun_linear(24, 16), nn.Linear(24, 16)
    assert type(ours) is Linear
    assert isinstance(ours, nn.Linear)
    assert repr(ours) == repr(torchs)
    torchs.load_state_dict(ours.state_dict())
    assert list(ours.state_dict()) == list(torchs.state_dict())
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    ours.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(4, 24)
    for layer in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(layer(x), torchs(x))


@pytest.mark.parametrize("bias", [True, False])
def test_folded_weights_of_one_head(bias: bool, calls: list[Any]) -> None:
    """`(i, o)` weights, as absorbed attention folds them, with widths that are no multiples of 8."""
    shapes = [(3, 1, 17, 261), (1, 261, 19), *([(1, 1, 19)] if bias else [])]
    inputs = [torch.randn(*shape, requires_grad=True) for shape in shapes]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out, expected = _per_head(*inputs), exact[0] @ exact[1] + (exact[2] if bias else 0)
    close(out, expected)
    assert len(calls) == 1
    direction = torch.randn_like(out)
    for found, right in zip(
        torch.autograd.grad(out, inputs, direction), torch.autograd.grad(expected, exact, direction.double()), strict=True
    ):
        close(found, right)
    assert len(calls) == 2
    two_heads = [torch.randn(3, 2, 17, 261), torch.randn(2, 261, 19)]
    close(_per_head(*two_heads), two_heads[0].double() @ two_heads[1].double())
    assert len(calls) == 2


PROCESSORS = {"AuthenticAMD": True, "GenuineIntel": False}


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the process find itself on an x86 processor of the vendor given."""

    def pretend(vendor: str) -> None:
        file = tmp_path / "cpuinfo"
        file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: 25\nmodel name\t: Some AuthenticAMD\n\n")
        monkeypatch.setattr(implementation, "Path", lambda path: {"/proc/cpuinfo": file}[path])
        monkeypatch.setattr(implementation.platform, "machine", lambda: "x86_64")

    return pretend


@pytest.mark.parametrize("vendor", PROCESSORS)
def test_the_processor_decides(
    vendor: str, fresh: None, cpuinfo: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, calls: list[Any]
) -> None:
    monkeypatch.delenv("PERCEIVER_ONEDNN", raising=False)
    cpuinfo(vendor)
    if not torch.backends.mkl.is_available():
        pytest.skip("this torch does not use MKL for matrix products")
    assert onednn()[0] is PROCESSORS[vendor]


def test_no_cpuinfo_no_onednn(fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "Path", lambda path: tmp_path / "absent")
    assert not onednn()[0]


def test_the_environment_decides(fresh: None, cpuinfo: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo("AuthenticAMD")
    monkeypatch.setenv("PERCEIVER_ONEDNN", "0")
    assert onednn() == (False, "PERCEIVER_ONEDNN=0")


def raising(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """An operator that a later torch dropped."""
    raise AttributeError("no _linear_pointwise")


def wrong(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """An operator that a later torch gave another meaning."""
    return F.linear(x, weight, bias).relu()


@pytest.mark.parametrize("operator", [raising, wrong])
def test_an_operator_that_fails_its_trial_is_not_used(
    operator: Callable[..., Tensor], fresh: None, cpuinfo: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.backends.mkl.is_available():
        pytest.skip("this torch does not use MKL for matrix products")
    monkeypatch.delenv("PERCEIVER_ONEDNN", raising=False)
    cpuinfo("AuthenticAMD")
    monkeypatch.setattr(implementation, "_multiply", operator)
    monkeypatch.setattr(implementation, "WORTH_ONEDNN", 0)
    monkeypatch.setattr(implementation, "NARROWEST", 0)
    usable, reason = onednn()
    assert not usable
    assert "does not work in this torch" in reason
    x, weight = torch.randn(4, 3), torch.randn(5, 3)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_a_torch_without_what_is_asked_of_it(
    fresh: None, cpuinfo: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private names of torch are looked up in the trial first, so that a torch without them multiplies by itself."""
    monkeypatch.delenv("PERCEIVER_ONEDNN", raising=False)
    cpuinfo("AuthenticAMD")
    monkeypatch.delattr(forward_ad, "_current_level")
    monkeypatch.setattr(implementation, "WORTH_ONEDNN", 0)
    monkeypatch.setattr(implementation, "NARROWEST", 0)
    x, weight = torch.randn(4, 3), torch.randn(5, 3)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
