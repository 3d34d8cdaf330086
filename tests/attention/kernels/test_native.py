"""Native code against the eager form and the dense formula; its build, its fallbacks, its memory accesses."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attention_cases import Layout, calls, check_any_gradients, check_as_accurate_as_dense, layouts
from hypothesis import given, settings
from hypothesis import strategies as st
from inner_calls import Call, assert_as_accurate, example, results
from warm_process import python

from perceiver import Tokens
from perceiver.attention.forms.factored import factored_attention
from perceiver.attention.kernels import eager, native
from perceiver.attention.kernels.dispatch import implementation
from perceiver.attention.kernels.native import cache, loader, operator
from perceiver.attention.projection import TokenProjection

COMPILER = loader.find_compiler()
needs_compiler = pytest.mark.skipif(COMPILER is None or sys.platform == "win32", reason="needs a C compiler")
AVAILABLE = native.availability()
needs_native = pytest.mark.skipif(AVAILABLE.library is None, reason=f"no native code: {AVAILABLE.reason}")
QUICK = (*loader.FLAGS, "-O0")
"""Flags for builds that are tested, not timed."""


CALLS = calls(batches=(1, 2, 3), rows=(1, 5, 8, 16, 17, 33), outer=(1, 2, 5, 7), inner=(1, 3, 8, 13, 63, 65, 130))
"""Sizes around the vector widths and the tiles' lengths."""


@needs_native
@given(CALLS)
@settings(max_examples=40)
def test_equals_the_eager_form(call: Call) -> None:
    assert_as_accurate(native.read_tokens, call)


@needs_native
@given(CALLS, st.data())
@settings(max_examples=40)
def test_gradients_do_not_depend_on_which_are_asked_for(call: Call, data: st.DataObject) -> None:
    needs = [data.draw(st.booleans()) for _ in range(len(call.parts) + 2)]
    check_any_gradients(native.read_tokens, call, needs)


@needs_native
@given(layouts(), st.integers(1, 2), st.integers(1, 4))
@settings(max_examples=40)
def test_is_as_accurate_as_the_dense_form(plan: list[Layout], heads: int, rows: int) -> None:
    check_as_accurate_as_dense(native.KERNEL, plan, heads=heads, rows=rows)


@pytest.fixture(params=["team", "own threads"])
def threads_of(request: pytest.FixtureRequest) -> Iterator[str]:
    """With the threads of torch's OpenMP, and with threads that live for one call, as in programs without OpenMP."""
    library = native.availability().library
    assert library is not None
    if request.param == "team" and loader.team() is None:
        pytest.skip("torch uses no OpenMP here")
    library.perceiver_use_team(loader.team() if request.param == "team" else None)
    yield request.param
    library.perceiver_use_team(loader.team())


@needs_native
def test_repeats_to_the_bit_with_any_number_of_threads(monkeypatch: pytest.MonkeyPatch, threads_of: str) -> None:
    call = example(rows=1000)  # enough work for several threads
    expected = results(native.read_tokens, call)
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for found, other in zip(results(native.read_tokens, call), expected, strict=True):
            assert torch.equal(found, other)


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """OpenMP's threads stay behind in the parent: waiting for them would take for ever."""
    done = python("-c", FORKED, timeout=120)
    assert done.stdout.split() == ["child", "0"], done.stderr[-2000:]


FORKED = """
import os, warnings, torch
from perceiver.attention.kernels import native
torch.set_num_threads(2)
warnings.filterwarnings("ignore", message=".*fork.*")
def read():
    torch.manual_seed(0)
    queries, part, rstd = torch.randn(1, 500, 8), torch.randn(1, 40, 40, 8), torch.ones(1, 40, 40)
    return native.read_tokens(queries, [part], rstd, None)
expected = read()
child = os.fork()
if child == 0:
    same = all(torch.equal(a, b) for a, b in zip(read(), expected))
    print("child", flush=True)
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_native
def test_result_of_a_sample_does_not_depend_on_its_batch_by_a_bit() -> None:
    call = example()
    own = [part.shape[0] > 1 for part in call.parts]
    together = results(native.read_tokens, call)
    for index in range(3):
        sample = slice(index, index + 1)
        alone = Call(
            queries=call.queries,
            parts=[part[sample] if varies else part for part, varies in zip(call.parts, own, strict=True)],
            rstd=call.rstd[sample],
            mask=None if call.mask is None else call.mask[sample],
            grad_sums=call.grad_sums[sample],
            grad_lse=call.grad_lse[sample],
        )
        single = results(native.read_tokens, alone)
        assert torch.equal(single[0], together[0][sample])
        assert torch.equal(single[1], together[1][sample])
        for found, other, varies in zip(single[3:], together[3:], [*own, True], strict=True):
            if varies:
                assert torch.equal(found, other[sample])


@needs_native
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_masked_content_changes_no_bit(poison: float) -> None:
    weights = TokenProjection(token_channels=9, qk_channels=6, v_channels=6)
    mask = torch.rand(2, 5, 30) < 0.5
    content, table = torch.randn(2, 5, 30, 4), torch.randn(1, 5, 1, 5)
    query = torch.randn(1, 2, 3, 3)
    clean = factored_attention(query, [Tokens((content, table), mask)], weights, kernel=native.KERNEL)
    content[~mask] = poison
    assert torch.equal(factored_attention(query, [Tokens((content, table), mask)], weights, kernel=native.KERNEL), clean)


@needs_native
def test_nan_in_valid_content_shows() -> None:
    call = example()
    call.parts[0][1, 0, 0, 0] = torch.nan
    assert call.mask is not None
    call.mask[1, 0, 0] = True
    sums, _ = native.read_tokens(call.queries, call.parts, call.rstd, call.mask)
    assert sums[1].isnan().any()
    assert sums[[0, 2]].isfinite().all()


@needs_native
@pytest.mark.parametrize("sharpness", [30.0, 1000.0])
def test_scores_far_below_their_bound(sharpness: float) -> None:
    """The one-pass softmax cannot serve: the bound of a row's scores is far above them."""
    call = example()
    queries, parts = call.queries * sharpness, [part.clone() for part in call.parts[:4]]
    parts[1][0, 3] *= 5
    own, lse = native.read_tokens(queries[..., :14].contiguous(), parts, call.rstd, call.mask)
    exact, exact_lse = eager.read_tokens(
        queries[..., :14].double(), [part.double() for part in parts], call.rstd.double(), call.mask
    )
    assert own.isfinite().all()
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(own.double(), exact, rtol=1e-6 * sharpness, atol=1e-6 * sharpness)


@needs_native
def test_long_axis_goes_tile_by_tile() -> None:
    torch.manual_seed(0)
    size = operator.LONGEST_PANEL + 77
    parts = [torch.randn(1, 1, size, 12), torch.randn(1, 1, size, 2), torch.randn(1, 1, 1, 3)]
    rstd, mask = torch.rand(1, 1, size) + 0.5, torch.rand(1, 1, size) < 0.9
    assert_as_accurate(
        native.read_tokens, Call(torch.randn(1, 9, 17) * 0.3, parts, rstd, mask, torch.randn(1, 9, 17), torch.randn(1, 9))
    )


@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_operator_is_well_formed() -> None:
    parts = [torch.randn(2, 3, 4, 2, requires_grad=True), torch.randn(1, 3, 1, 3)]
    rstd = torch.rand(2, 3, 4, requires_grad=True)
    torch.library.opcheck(native.read_tokens, (torch.randn(1, 5, 5, requires_grad=True), parts, rstd, None))
    torch.library.opcheck(native.read_tokens, (torch.randn(2, 5, 5), parts, rstd, torch.rand(2, 3, 4) < 0.5))


def test_the_choice_names_a_reason() -> None:
    cpu = torch.device("cpu")
    assert implementation(cpu, torch.float64).name == "eager"
    assert "float64" in implementation(cpu, torch.float64).reason
    assert "meta" in implementation(torch.device("meta"), torch.float32).reason
    own = implementation(cpu, torch.float32)
    assert own.name == ("native" if native.availability().library else "eager")
    assert own.reason == native.availability().reason


def test_float64_is_the_eager_form() -> None:
    call, double = example(), torch.float64
    for found, other in zip(
        results(native.read_tokens, call, double), results(eager.read_tokens, call, double), strict=True
    ):
        assert torch.equal(found, other)


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    call = example()
    rounded = replace(call, **{name: getattr(call, name).to(dtype).float() for name in ("queries", "rstd", "grad_sums")})
    rounded = replace(rounded, parts=[part.to(dtype).float() for part in call.parts])
    found, expected = results(native.read_tokens, call, dtype), results(native.read_tokens, rounded)
    assert [x.dtype for x in found[:2]] == [dtype, torch.float32], "the backward pass exponentiates log-sum-exps"
    for own, other in zip(found, expected, strict=True):
        error = float((own.float() - other).abs().max()) / max(1.0, float(other.abs().max()))
        assert error <= 4 * torch.finfo(dtype).eps


COMPILED = """
import torch
from perceiver import Tokens
from perceiver.attention.forms.factored import factored_attention
from perceiver.attention.projection import TokenProjection

weights = TokenProjection(token_channels=6, qk_channels=6, v_channels=6)
tokens = [Tokens((torch.randn(2, 4, 5, 3), torch.randn(1, 4, 1, 3)))]
query = torch.randn(1, 2, 3, 3)
compiled = torch.compile(factored_attention, fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(query, tokens, weights), factored_attention(query, tokens, weights))
print("one graph")
"""


def test_passes_torch_compile_in_one_graph() -> None:
    """In a process of its own: the tests' checks of shapes and types are nothing that can be compiled."""
    done = python("-c", COMPILED)
    assert done.stdout.strip() == "one graph", done.stderr[-3000:]


# -------------------------------------------------------------------------------------------------- building


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder, and nothing known about availability; quick builds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PERCEIVER_NATIVE", raising=False)
    monkeypatch.setattr(loader, "FLAG_SETS", (QUICK,))
    # A cache of its own leaves the process's one alone.
    monkeypatch.setattr(operator, "availability", loader.availability.__wrapped__)
    return tmp_path / "perceiver"


def available() -> loader.Availability:
    """What a new process would find."""
    found: loader.Availability = loader.availability.__wrapped__()
    return found


def assert_eager_serves() -> None:
    call = example(batch=1, rows=2)
    for found, other in zip(results(native.read_tokens, call), results(eager.read_tokens, call), strict=True):
        assert torch.equal(found, other)


def test_switched_off_by_the_environment(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEIVER_NATIVE", "0")
    assert available().library is None
    assert "PERCEIVER_NATIVE" in available().reason
    assert_eager_serves()
    assert not fresh.exists()


def test_no_compiler_is_no_error(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert available() == loader.Availability(None, "no C compiler (cc, gcc, clang or $CC)")
    assert_eager_serves()


@pytest.mark.skipif(sys.platform == "win32", reason="scripts of POSIX")
def test_failing_compiler_warns_and_eager_serves(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = fresh.parent / "cc"
    compiler.write_text("#!/bin/sh\necho no such instruction >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.warns(RuntimeWarning, match="no such instruction"):
        assert available().reason == "the C compiler failed"
    assert [file.name for file in fresh.iterdir()] == []


@needs_compiler
def test_unwritable_cache_is_no_error(fresh: Path) -> None:
    fresh.write_text("a file where the folder should be")
    assert available().library is not None


@needs_compiler
def test_library_is_built_once_and_again_if_damaged(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available().library is not None
    (library,) = fresh.iterdir()
    built = library.stat().st_mtime_ns
    assert available().library is not None
    assert library.stat().st_mtime_ns == built
    # Elsewhere, since this process keeps what it has loaded from a path.
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh.parent / "other"))
    damaged = fresh.parent / "other" / "perceiver" / library.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not a library")
    assert available().library is not None
    assert damaged.stat().st_size > 1000


@needs_compiler
def test_several_first_builds_at_once(fresh: Path) -> None:
    assert COMPILER is not None
    with ThreadPoolExecutor(3) as pool:
        libraries = list(pool.map(loader.build, [COMPILER] * 3))
    assert len({library.perceiver_lanes() for library in libraries}) == 1
    assert len(list(fresh.iterdir())) == 1


@needs_compiler
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_every_vector_width(lanes: int, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths that the processor lacks are pieced together by the compiler: slow, but the same code."""
    monkeypatch.setattr(loader, "FLAG_SETS", ((*QUICK, f"-DLANES={lanes}", "-Wno-psabi"),))
    found = available()
    assert found.library is not None
    assert found.library.perceiver_lanes() == lanes
    monkeypatch.setattr(operator, "availability", lambda: found)
    for seed, rows in enumerate((3, 40)):
        assert_as_accurate(native.read_tokens, example(rows=rows, seed=seed))


# ----------------------------------------------------------------------------------------- what is loaded from the cache

PLANTED = '#include <stdio.h>\n__attribute__((constructor)) static void ran(void) { fclose(fopen(MARK, "w")); }\n'


@pytest.fixture
def planted(fresh: Path, tmp_path: Path) -> tuple[bytes, Path]:
    """A library that leaves a mark when it is loaded, and the mark."""
    assert COMPILER is not None
    source, library, mark = tmp_path / "planted.c", tmp_path / "planted.so", tmp_path / "RAN"
    source.write_text(PLANTED)
    command = [*COMPILER, "-shared", "-fPIC", f'-DMARK="{mark}"', "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return library.read_bytes(), mark


def built_name(fresh: Path) -> str:
    """The name that the library gets in the cache; the folder is emptied."""
    assert available().library is not None
    (library,) = fresh.iterdir()
    library.unlink()
    return library.name


@needs_compiler
def test_the_folder_is_private(fresh: Path) -> None:
    assert available().library is not None
    assert fresh.stat().st_mode & 0o777 == 0o700
    (library,) = fresh.iterdir()
    assert library.stat().st_mode & 0o077 == 0


@needs_compiler
def test_a_planted_library_is_not_loaded(fresh: Path, planted: tuple[bytes, Path]) -> None:
    content, mark = planted
    name = built_name(fresh)
    fresh.chmod(0o777)
    digest = hashlib.sha256(content).hexdigest()
    honest = f"{name.rpartition('-')[0]}-{digest}.so"
    (fresh / name).write_bytes(content)  # under the right name, with another content
    (fresh / honest).write_bytes(content)
    (fresh / honest).chmod(0o666)  # its digest is right; anybody could have written it
    assert available().library is not None
    assert not mark.exists()
    assert fresh.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in fresh.iterdir()] == [name]


@needs_compiler
def test_links_are_not_followed(fresh: Path, planted: tuple[bytes, Path], tmp_path: Path) -> None:
    content, mark = planted
    name = built_name(fresh)
    outside = tmp_path / "outside.so"
    outside.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (fresh / f"{name.rpartition('-')[0]}-{digest}.so").symlink_to(outside)
    assert available().library is not None
    assert not mark.exists()
    fresh.rename(tmp_path / "elsewhere")
    fresh.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(RuntimeWarning, match=r"compiled for this process only\. .*perceiver: expected a folder, got a link"):
        assert available().library is not None


@needs_compiler
def test_a_folder_of_somebody_else_is_not_used(
    fresh: Path, planted: tuple[bytes, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, mark = planted
    name = built_name(fresh)
    digest = hashlib.sha256(content).hexdigest()
    own = f"{name.rpartition('-')[0]}-{digest}.so"
    (fresh / own).write_bytes(content)
    user = os.geteuid()
    monkeypatch.setattr(cache.os, "geteuid", lambda: user + 1)
    with pytest.raises(cache.InsecureCacheError, match="is owned by user"):
        cache.LibraryFolder(fresh)
    with pytest.warns(RuntimeWarning):
        available()
    assert not mark.exists()
    assert (fresh / own).exists()


CORRUPTED = """
import sys
from perceiver.attention.kernels.native import loader
loader.FLAG_SETS = ((*loader.FLAGS, "-O0"),)
print("loaded" if loader.availability().library is not None else loader.availability().reason)
"""


@needs_compiler
@pytest.mark.parametrize("harm", ["truncated", "flipped"])
def test_a_damaged_library_is_made_anew(harm: str, fresh: Path) -> None:
    """In a process of its own: loading a truncated one would end this one."""
    assert available().library is not None
    (library,) = fresh.iterdir()
    content = bytearray(library.read_bytes())
    good = bytes(content)
    if harm == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 0xFF
    library.unlink()  # this process goes on with what it has loaded
    library.write_bytes(content)
    library.chmod(0o700)
    done = python("-c", CORRUPTED)
    assert done.stdout.strip() == "loaded", (done.returncode, done.stderr[-2000:])
    (again,) = fresh.iterdir()
    assert hashlib.sha256(again.read_bytes()).hexdigest() in again.name
    assert len(again.read_bytes()) == len(good)


@needs_compiler
def test_leftovers_of_killed_builds_are_removed(fresh: Path) -> None:
    fresh.mkdir(mode=0o700)
    for name, age in ((".build-1-abc.so", 7200), ("tmpabcdefgh.so", 7200), (".build-2-abc.so", 0), ("other.txt", 7200)):
        (fresh / name).touch()
        os.utime(fresh / name, (time.time() - age,) * 2)
    assert available().library is not None
    names = sorted(file.name for file in fresh.iterdir() if not file.name.startswith("kernel-"))
    assert names == [".build-2-abc.so", "other.txt"], "one may still be building"


@needs_compiler
def test_a_compiler_behind_a_launcher(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert COMPILER is not None
    launcher = tmp_path / "my launcher"
    launcher.write_text('#!/bin/sh\necho "$@" >> "$0.log"\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("CC", f"'{launcher}' {COMPILER[0]}")
    assert loader.find_compiler() == (str(launcher), COMPILER[0])
    assert available().library is not None
    assert "-shared" in (tmp_path / "my launcher.log").read_text()
    monkeypatch.setenv("CC", "'gcc")
    assert loader.find_compiler() == loader.find_compiler() != ()


@pytest.mark.parametrize("error", [RuntimeError("Could not determine home directory."), KeyError("uid not found: 12345")])
@needs_compiler
def test_a_user_without_a_home(error: Exception, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise error

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(cache.Path, "home", home)
    assert cache.cache_folder() is None
    assert available().library is not None


@pytest.mark.parametrize("error", [AttributeError("perceiver_lanes"), KeyError("x"), ValueError("y"), MemoryError()])
def test_availability_never_raises(error: Exception, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(compiler: object) -> None:
        raise error

    monkeypatch.setattr(loader, "find_compiler", lambda: ("cc",))
    monkeypatch.setattr(loader, "build", fail)
    with pytest.warns(RuntimeWarning, match="could not be built"):
        assert available().library is None


@needs_compiler
def test_a_rebuilt_library_is_not_taken_for_the_loaded_one(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dynamic loader knows libraries by their paths."""
    first = available()
    for file in fresh.iterdir():
        file.unlink()
    assert first.library is not None
    other = 4 if first.library.perceiver_lanes() != 4 else 8
    monkeypatch.setattr(loader, "_key", lambda *_: "same")
    monkeypatch.setattr(loader, "FLAG_SETS", ((*QUICK, "-Wno-psabi"),))
    assert available().library is not None
    for file in fresh.iterdir():
        file.unlink()
    monkeypatch.setattr(loader, "FLAG_SETS", ((*QUICK, f"-DLANES={other}", "-Wno-psabi"),))
    again = available().library
    assert again is not None
    assert again.perceiver_lanes() == other


SANITIZED = """
import random, sys
from pathlib import Path
import torch
from perceiver.attention.kernels.native import loader, moments, operator

library = loader._load(Path(sys.argv[1]))
operator.availability = moments.availability = lambda: loader.Availability(library, "")
pick = random.Random(0)
torch.manual_seed(0)
for _ in range(40):
    batch, rows = pick.choice([1, 3]), pick.choice([1, 7, 9, 17, 33])
    outer, inner = pick.choice([1, 2, 5]), pick.choice([1, 3, 13, 130, 200])
    sizes = [[pick.choice([1, size]) for size in (batch, outer, inner)] for _ in range(pick.choice([1, 2, 3, 4]))]
    parts = [torch.randn(*size, pick.choice([1, 2, 3, 5, 8, 9, 21])) for size in sizes]
    parts = [part.requires_grad_(pick.random() < 0.6) for part in parts]
    channels = sum(part.shape[-1] for part in parts)
    queries = torch.randn(pick.choice([1, batch]), rows, channels, requires_grad=True)
    rstd = torch.rand(pick.choice([1, batch]), outer, inner).requires_grad_(pick.random() < 0.8)
    mask = None if pick.random() < 0.5 else torch.rand(batch, outer, inner) < 0.7
    sums, lse = operator.read_tokens(queries, parts, rstd, mask)
    sums.sum().backward()
    whole = [part for part in parts if part.shape[1] == outer and part.shape[2] == inner]
    if whole:
        moments.moments(parts, mask, pick.randrange(-1, len(parts)), 1e-5, [outer, inner])
print("clean")
"""


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="preloads the sanitizers as Linux does")
def test_sanitizers_find_nothing(tmp_path: Path, repository: Path) -> None:
    """Addresses and undefined behaviour, on sizes that are no multiple of anything; torch's tensors are watched too."""
    assert COMPILER is not None
    library = tmp_path / "kernel.so"
    flags = [*QUICK, "-g", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        [*COMPILER, *flags, "-o", library, *loader.SOURCES, "-lm"], capture_output=True, text=True, check=False
    )
    names = [f"lib{name}.so" for name in ("asan", "ubsan")]
    paths = [
        subprocess.run([*COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=False).stdout.strip()
        for name in names
    ]
    if built.returncode or not all(os.path.isabs(path) for path in paths):
        pytest.skip(f"{COMPILER} has no sanitizers as shared libraries: {built.stderr[-200:]}")
    environment = {
        **os.environ,
        "LD_PRELOAD": ":".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(repository),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", SANITIZED, str(library)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "clean", done.stderr[-3000:]
