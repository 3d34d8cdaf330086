"""Triton's kernels compiled for GPUs that are not here: they compile, spill no register and fit the shared memory.

Triton caches what it compiled, so that only the first run takes long.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from perceiver.attention.kernels.triton import plan

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")

MOST_REGISTERS = 255
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that a program may have, by architecture."""
ALIGNED = re.compile(r"^R$|terms_stride$|rows_stride$|^line_stride$")
"""Arguments that are multiples of 16 in every call."""


@dataclass(frozen=True)
class Resources:
    """Resources of a compiled kernel, per thread and per program (shared)."""

    registers: int
    stack: int
    local: int
    shared: int


def resources(
    kernel: str, architecture: int, *, warps: int, stages: int = 3, content: str = "fp32", **constants: object
) -> Resources:
    """Compile a kernel and let `cuobjdump` from Triton's wheel say what it uses."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from perceiver.attention.kernels.triton import kernels

    function = getattr(kernels, kernel)
    kinds = {
        name: "constexpr"
        if name in constants
        else ("*u8" if name == "mask" else f"*{content}" if name in ("narrow", "wide") else _kind(name))
        for name in function.arg_names
    }
    aligned = [name for name, kind in kinds.items() if kind.startswith("*") or ALIGNED.search(name)]
    attributes = {(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(fn=function, signature=kinds, constexprs=constants, attrs=attributes)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps, "num_stages": stages}
    )
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found is not None, usage
    registers, stack, local = map(int, found.groups())
    return Resources(registers=registers, stack=stack, local=local, shared=compiled.metadata.shared)


def _kind(name: str) -> str:
    """Types of other arguments: sizes and strides of integers, the rest arrays of float32."""
    if name in ("R", "O", "I", "N", "S") or name.endswith(("blocks", "chunks", "lines", "groups", "pieces")):
        return "i32"
    return "i32" if name.endswith("stride") else "*fp32"


FORWARD = {"narrow": (3, 0), "most narrow": (plan.MOST_CONTENT, 0), "wide": (0, 261)}
BACKWARD = {f"{name}, level {level}": (*sizes, level) for name, sizes in FORWARD.items() for level in (0, 2)}
HEAVIEST_FORWARD, HEAVIEST_BACKWARD = ("narrow", "wide"), ("most narrow, level 2", "wide, level 2")
"""On other architectures than the first, only these: each takes a second and more to compile."""


def cases(names: Iterable[str], heaviest: tuple[str, ...]) -> list[tuple[int, str]]:
    return [(90, name) for name in names] + [(other, name) for other in (80, 100) for name in heaviest]


def constants(tile: plan.Tile, narrow: int, wide: int, precision: str) -> dict[str, object]:
    """Everything that a kernel can have to do, at once."""
    flags = dict.fromkeys(("HAS_OUTER", "HAS_INNER", "HAS_MASK", "NEED_OUTER"), True)
    sizes = {"BR": tile.rows, "BI": tile.inner, "BC": tile.channels, "BV": tile.sums}
    return {"NARROW": narrow, "WIDE": wide, **flags, **sizes, "PRECISION": precision}


def check(found: Resources, architecture: int) -> None:
    assert found.registers <= MOST_REGISTERS
    assert (found.stack, found.local) == (0, 0), "registers are spilled"
    assert found.shared <= SHARED[architecture]


@pytest.mark.parametrize(("architecture", "name"), cases(FORWARD, HEAVIEST_FORWARD))
def test_forward_spills_nothing(architecture: int, name: str) -> None:
    narrow, wide = FORWARD[name]
    tile = plan.forward_tile(narrow, wide)
    own = constants(tile, narrow, wide, "ieee")
    check(resources("forward", architecture, warps=tile.warps, stages=tile.stages, **own), architecture)


@pytest.mark.parametrize(("architecture", "name"), cases(BACKWARD, HEAVIEST_BACKWARD))
def test_backward_spills_nothing(architecture: int, name: str) -> None:
    narrow, wide, level = BACKWARD[name]
    tile = plan.backward_tile(narrow, wide, level)
    own = constants(tile, narrow, wide, "ieee")
    check(resources("backward", architecture, warps=tile.warps, stages=tile.stages, LEVEL=level, **own), architecture)


@pytest.mark.parametrize("content", ["fp32", "bf16"])
def test_products_on_tensor_cores_spill_nothing(content: str) -> None:
    tile = plan.forward_tile(0, 261)
    check(
        resources("forward", 90, warps=tile.warps, stages=tile.stages, content=content, **constants(tile, 0, 261, "tf32")),
        90,
    )
    tile = plan.backward_tile(0, 261, 2)
    own = constants(tile, 0, 261, "tf32")
    check(resources("backward", 90, warps=tile.warps, stages=tile.stages, content=content, LEVEL=2, **own), 90)


def test_merge_spills_nothing() -> None:
    check(resources("merge", 90, warps=4, BLOCK=64, BR=64, BN=16), 90)
