"""Command lines of one job, for its other ranks and for people."""

import shlex
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from perceiver.run.configuration.command_line import (
    PROGRAM,
    present_override,
    rank_command,
    remember_program,
    typed_command,
    typed_override,
)
from perceiver.run.configuration.folder import conf_directory


def hydra(*, config_name: str = "train", main: str | None = None, config_dir: str | None = None) -> DictConfig:
    """The node of a job of a sweep."""
    sources = [
        {"provider": "hydra", "schema": "pkg", "path": "hydra.conf"},
        {"provider": "main", "schema": "file", "path": main or str(conf_directory())},
    ]
    if config_dir is not None:
        sources.append({"provider": "command-line", "schema": "file", "path": config_dir})
    overrides = {
        "task": ["seed=3", "cluster=joblib", "data.augment=null"],
        "hydra": ["hydra.mode=MULTIRUN", "hydra.sweep.dir=other", "hydra.searchpath=[file://mine]", "hydra.verbose=true"],
    }
    job = {"config_name": config_name, "num": 4}
    return OmegaConf.create({"overrides": overrides, "runtime": {"config_sources": sources}, "job": job})


def test_ranks_run_the_job_alone_in_its_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRAM, "/somewhere/train.py")
    assert rank_command(hydra(), Path("/runs/it's here")) == [
        sys.executable, "/somewhere/train.py", "seed=3", "cluster=joblib", "data.augment=null",
        "hydra.searchpath=[file://mine]", "hydra.verbose=true", "hydra.job.num=4", "hydra.mode=RUN",
        r"hydra.run.dir='/runs/it\'s here'", "hydra.output_subdir=null", "hydra/job_logging=none",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "words"),
    [("-m my_package.train", ["-m", "my_package.train"]), (None, ["-m", "perceiver.run.main"])],
)
def test_ranks_run_what_the_first_process_ran(
    program: str | None, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a launcher's processes that is said by the environment; else the package's own module does the same."""
    monkeypatch.delenv(PROGRAM, raising=False)
    if program is not None:
        monkeypatch.setenv(PROGRAM, program)
    assert rank_command(hydra(), Path("/run"))[1:3] == words


def test_the_program_is_remembered_with_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(PROGRAM, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    remember_program()
    assert rank_command(hydra(), Path("/run"))[1] == str(tmp_path / "train.py")


@pytest.mark.parametrize("kind", ["rank", "typed"])
def test_configuration_of_the_command_line_comes_along(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    node = hydra(config_name="mine", main="/other conf", config_dir="/plug-ins")
    command = rank_command(node, Path("/run")) if kind == "rank" else shlex.split(typed_command(node, ["seed=3"]))
    flags = ["--config-path", "/other conf", "--config-dir", "/plug-ins", "--config-name", "mine"]
    start = command.index("--config-path")
    assert command[start : start + 6] == flags
    assert "--config-path" not in rank_command(hydra(), Path("/run"))


def test_people_get_the_job_without_the_choices_of_its_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=1,2,3"])
    typed = typed_command(hydra(), ["seed=3", "cluster=joblib", "hparams_search=optuna", "data.augment=null"])
    assert typed == "python train.py 'hydra.searchpath=[file://mine]' seed=3 data.augment=null"
    monkeypatch.setattr(sys, "argv", ["/bin/perceiver-train"])
    assert typed_command(hydra(), ["seed=3"]).startswith("perceiver-train ")


@pytest.mark.parametrize(
    "path", ["runs/a", "runs/a b", "it's", "a=b", "x,y", "123", "null", "a(b)", "[x]", "{a}", r"back\slash", r"C:\x\'y'\\"]
)
def test_hints_can_be_typed(path: str) -> None:
    """A shell and Hydra make of them what they were made of."""
    [word] = shlex.split(typed_override("ckpt_path", path))
    assert OverridesParser.create().parse_override(word).value() == path


def test_former_keys_of_figures() -> None:
    for former, present in (
        ("callbacks.samples=null", "callbacks.figures.draw.samples=null"),
        ("~callbacks.fields", "~callbacks.figures.draw.fields"),
        ("callbacks.attention.draw.num_samples=3", "callbacks.figures.draw.attention.num_samples=3"),
        ("callbacks.samples.every_n_epochs=2", "callbacks.figures.every_n_epochs=2"),
        ("callbacks.attention_by_modality=null", "callbacks.attention_by_modality=null"),
        ("callbacks.samples_of_mine=null", "callbacks.samples_of_mine=null"),
    ):
        assert present_override(former) == present


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which no shell does behind `=`; only where a path begins, and not in sweeps and quoted values."""
    monkeypatch.setenv("HOME", "/home/it's me")
    parser = OverridesParser.create()
    for word in ("data.manifest=~/x y.csv", "+data.root=~", "ckpt_path=~/runs/a=b"):
        value = parser.parse_override(present_override(word)).value()
        assert value == word.partition("=")[2].replace("~", "/home/it's me")
    for word in ("~callbacks.figures", "data.root=x~/y", "data.root=~else/y", "ckpt_path=~/a,~/b", "data.root='~/x'"):
        assert present_override(word) == word
