"""What is imported when: the command line needs no torch before it runs, the library neither Lightning nor plots."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra_runs import run

import perceiver
from perceiver.attention.kernels import dispatch

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "numpy", "lightning", "matplotlib", "sklearn", "scipy", "torchvision", "torchaudio", "timm", "pyarrow")
RUNNING = {*HEAVY, "torch._dynamo", "torch._inductor", "sympy", "hydra", "omegaconf"} - {"torch", "numpy"}


def imported(code: str) -> set[str]:
    """The modules of an interpreter after `code`."""
    quietly = "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):"
    program = f"import sys, contextlib, io\n{quietly}\n    {code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_alone() -> None:
    other = {"pytorch_lightning", "hydra", "omegaconf", "perceiver.testing"}
    assert not imported("import perceiver") & {*HEAVY, *other}


def test_all_public_names() -> None:
    """Models are built, loaded and used without what only trainings and plots need."""
    assert not imported("import perceiver; [getattr(perceiver, name) for name in perceiver.__all__]") & RUNNING


@pytest.mark.parametrize("argument", ["--help", "optimizer.l=3"])
def test_help_and_mistyped_overrides(argument: str) -> None:
    code = f"sys.argv = ['train.py', {argument!r}]; from perceiver.run.main import main; main()"
    assert not imported(code) & {*HEAVY}


def test_public_names_are_those_of_their_modules() -> None:
    from perceiver.encoders.encoder import Encoder

    assert perceiver.Encoder is Encoder
    assert set(perceiver.__all__) <= set(dir(perceiver))
    with pytest.raises(AttributeError, match="module 'perceiver' has no attribute 'Decoder'"):
        _ = perceiver.Decoder


def test_checks_are_constants_to_the_compiler_as_its_own_decorator_makes_them() -> None:
    """That decorator imports torch._dynamo."""

    def marked() -> None: ...

    torch.compiler.assume_constant_result(marked)
    assert set(vars(marked)) <= set(vars(dispatch._triton)) & set(vars(dispatch._native))


def test_the_command_line_still_tells_what_it_does() -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "mode: batch_size, compare, cross_validate, embed, export, fit, generate, lr_find, predict, shard, test" in out
