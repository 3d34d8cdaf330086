"""Change the code in small ways, one change at a time, and count how many of the changes the tests notice.

    python benchmarks/mutants.py --targets perceiver/targets --tests tests/targets tests/objectives --sample 150 --seed 1

A change that no test notices is a missing test, dead code, or an equivalent, which changes no result. Equivalents are
listed in `equivalent_mutants.json` with their reasons, and are not tried.

One process imports the project and collects the tests. It first runs every test and records the lines it reaches.
Each change then gets a forked child, which replaces the code of one function and runs the tests that reach the changed
statement, fastest first, until one fails. A test that fails without the change as well is left out.

Not changed: messages of errors, arguments of log calls and warnings, `strict=` of zip, annotations, and code that runs at
import only (default arguments, class bodies). A statement that no test reaches in this process counts as survived.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import gc
import inspect
import json
import os
import random
import re
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, Literal, TextIO, get_args

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
EQUIVALENTS = Path(__file__).with_name("equivalent_mutants.json")

Line = tuple[str, int]
"""A file and a line in it."""

Result = Literal["killed", "timed_out", "survived", "unreached", "impossible"]
"""What the tests made of a change; it is impossible where the function's closure would differ."""

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_MOST_BYTES = 8 * 2**30  # memory of a child: a change may read a file without an end
_CACHED = type(functools.cache(int))
_SPOKEN = {"debug", "info", "warning", "warn", "error", "exception", "log"}
_NOT_RUN = {"annotation", "returns", "decorator_list", "type_params"}


@dataclass(frozen=True)
class Mutant:
    """One change of one function.

    Args:
        path: file, relative to the repository.
        function: name of the function, after its class if it has one.
        first_line: first line of the function, its decorators included.
        lines: first and last line of the changed statement; of a compound statement, its head.
        change: source before and after.
        code: code of the changed function.
    """

    path: str
    function: str
    first_line: int
    lines: tuple[int, int]
    change: str
    code: CodeType

    @property
    def name(self) -> str:
        """Name that outlives changes elsewhere in the file."""
        return f"{self.path}: {self.function}: {self.change}"

    def __str__(self) -> str:
        return f"{self.path}:{self.lines[0]}: {self.function}: {self.change}"


# ---- changes


def alternatives(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the changed copies of a node."""
    match node:
        case ast.Compare() if type(node.ops[0]) in _COMPARISONS:
            yield _with(node, ops=[_COMPARISONS[type(node.ops[0])](), *node.ops[1:]])
        case ast.BinOp() | ast.AugAssign() if type(node.op) in _OPERATORS:
            yield _with(node, op=_OPERATORS[type(node.op)]())
        case ast.BoolOp():
            yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield copy.deepcopy(node.operand)
        case ast.IfExp():
            yield _with(node, body=node.orelse, orelse=node.body)
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float() as number):
            yield ast.Constant(number + 1)
        case ast.If():
            yield from (_with(node, test=ast.Constant(value)) for value in (True, False))
        case ast.While():
            yield _with(node, test=ast.Constant(False))
        case ast.Raise() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Return() if node.value is not None and not (
            isinstance(node.value, ast.Constant) and node.value.value is None
        ):
            yield ast.Return(ast.Constant(None))


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    changed = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


Site = tuple[ast.AST, str, int | None, ast.AST, ast.stmt]
"""A parent, its field, the index in it, the node there, and the innermost statement that holds the node."""


def sites(parent: ast.AST, statement: ast.stmt) -> Iterator[Site]:
    """Yield every place below a node whose change a test should notice."""
    for name, value in ast.iter_fields(parent):
        if name in _NOT_RUN or (name == "args" and isinstance(parent, ast.FunctionDef | ast.Lambda)):
            continue
        if isinstance(parent, ast.Raise) or (isinstance(parent, ast.Call) and name != "func" and _is_spoken(parent)):
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or (isinstance(node, ast.keyword) and node.arg == "strict"):
                continue
            within = node if isinstance(node, ast.stmt) else statement
            yield parent, name, index, node, within
            yield from sites(node, within)


def _is_spoken(call: ast.Call) -> bool:
    """Whether a call only logs or warns."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name.lstrip("_") in _SPOKEN


def mutants_of(path: Path, *, root: Path) -> Iterator[Mutant]:
    """Yield the changes of all functions and methods of a file; inner functions are parts of their outer ones."""
    tree = ast.parse(path.read_text())
    owners: list[ast.Module | ast.ClassDef] = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for owner in owners:
        for function in owner.body:
            if isinstance(function, ast.FunctionDef):
                prefix = f"{owner.name}." if isinstance(owner, ast.ClassDef) else ""
                yield from _function_mutants(path, tree, function, name=prefix + function.name, root=root)


def _function_mutants(path: Path, tree: ast.Module, function: ast.FunctionDef, *, name: str, root: Path) -> Iterator[Mutant]:
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    for parent, field_name, index, node, statement in list(sites(function, function)):
        for changed in alternatives(node):
            ast.copy_location(changed, node)
            ast.fix_missing_locations(changed)
            _set(parent, field_name, index, changed)
            try:
                code = _code_at(compile(tree, str(path), "exec"), function.name, first)
                after = _head(changed if node is statement else statement)
            finally:
                _set(parent, field_name, index, node)
            lines = (statement.lineno, max(statement.lineno, _last_line(statement)))
            change = f"{_head(statement)}  ->  {after}"
            assert code is not None, f"{path}: no code of {name}"
            yield Mutant(str(path.relative_to(root)), name, first, lines, change, code)


def _file_of(function: Any) -> str:
    return function.__code__.co_filename if isinstance(function, FunctionType) else ""


def _set(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


def _head(statement: ast.AST) -> str:
    """Return the source of a statement in one line, a compound one without its body."""
    shallow = copy.copy(statement)
    for name in ("body", "orelse", "handlers", "finalbody"):
        if isinstance(getattr(shallow, name, None), list):
            setattr(shallow, name, [])
    return " ".join(ast.unparse(shallow).split())


def _last_line(statement: ast.stmt) -> int:
    body = getattr(statement, "body", None)
    return body[0].lineno - 1 if isinstance(body, list) and body else statement.end_lineno or statement.lineno


def _code_at(module: CodeType, name: str, line: int) -> CodeType | None:
    """Return the code of the function that begins at a line of a compiled module."""
    for constant in module.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_name == name and constant.co_firstlineno == line:
                return constant
            if (found := _code_at(constant, name, line)) is not None:
                return found
    return None


# ---- runs of tests


@dataclass
class Run:
    """A pytest plug-in that replaces the loop over the tests.

    Args:
        mutants: changes to try.
        limit: most seconds of tests for each.
        root: folder that their paths begin at.
        unchanged: run the tests of each change without it, as a control: all must survive.
    """

    mutants: Sequence[Mutant]
    limit: float
    root: Path
    unchanged: bool = False
    results: dict[Result, list[Mutant]] = field(default_factory=lambda: {name: [] for name in get_args(Result)})
    out: TextIO = field(default_factory=lambda: os.fdopen(os.dup(1), "w"))  # pytest captures the standard output
    _failed: bool = False
    _items: Sequence[pytest.Item] = ()
    _seconds: dict[int, float] = field(default_factory=dict)
    _sound: dict[int, bool] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a failure."""
        self._failed = self._failed or report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run all tests once, then those of each change."""
        if session.testsfailed:
            raise session.Interrupted("some tests could not be collected")
        session.config.pluginmanager.unregister(name="terminalreporter")
        self._items = session.items
        files = {str(self.root / mutant.path) for mutant in self.mutants}
        reached = self._record(files)
        print(f"{len(self._items)} tests, {sum(self._seconds.values()):.0f} s", file=self.out, flush=True)
        gc.unfreeze()  # frozen objects are not listed
        functions: dict[Line, list[FunctionType]] = {}
        for function in gc.get_objects():
            if type(function) is FunctionType and function.__code__.co_filename in files:
                functions.setdefault((function.__code__.co_filename, function.__code__.co_firstlineno), []).append(function)
        for cached in gc.get_objects():
            if type(cached) is _CACHED and _file_of(inspect.unwrap(cached)) in files:
                cached.cache_clear()  # of results without the change
        gc.collect()
        gc.freeze()
        for number, mutant in enumerate(self.mutants):
            path = str(self.root / mutant.path)
            tests = {test for line in range(mutant.lines[0], mutant.lines[1] + 1) for test in reached.get((path, line), ())}
            result = self._result(tests, functions.get((path, mutant.first_line), ()), mutant)
            self.results[result].append(mutant)
            if result not in ("killed", "impossible"):
                print(f"[{number + 1}/{len(self.mutants)}] {result} {mutant}", file=self.out, flush=True)
        return True

    def _record(self, files: set[str]) -> dict[Line, set[int]]:
        """Run each test once; return the tests that reach each line."""
        reached: dict[Line, set[int]] = {}
        for index, item in enumerate(self._items):
            lines: set[Line] = set()

            def trace(frame: FrameType, event: str, _: Any, lines: set[Line] = lines) -> Any:
                if frame.f_code.co_filename not in files:
                    return None
                lines.add((frame.f_code.co_filename, frame.f_lineno))
                return trace

            self._failed, start = False, time.perf_counter()
            sys.settrace(trace)
            try:
                following = self._items[index + 1] if index + 1 < len(self._items) else None
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            finally:
                sys.settrace(None)
            self._seconds[index] = time.perf_counter() - start
            if self._failed:
                print(f"left out, fails without a change: {item.nodeid}", file=self.out, flush=True)
                continue
            for line in lines:
                reached.setdefault(line, set()).add(index)
        return reached

    def _result(self, reached: Iterable[int], functions: Iterable[FunctionType], mutant: Mutant) -> Result:
        live = [function for function in functions if function.__code__.co_freevars == mutant.code.co_freevars]
        if not live:
            return "impossible" if any(functions) else "unreached"
        if self.unchanged:
            live = []
        while tests := self._affordable(reached):
            result, test = self._fork(tests, live, mutant)
            if test is None or self.unchanged:
                return result
            if test not in self._sound:
                self._sound[test] = self._fork([test], [], mutant)[0] == "survived"
            if self._sound[test]:
                return result
            print(f"left out, fails when repeated: {self._items[test].nodeid}", file=self.out, flush=True)
        return "unreached"

    def _affordable(self, reached: Iterable[int]) -> list[int]:
        """Return sound tests, fastest first, as many as the limit allows and at least one."""
        chosen: list[int] = []
        spent = 0.0
        for test in sorted((test for test in reached if self._sound.get(test, True)), key=self._seconds.__getitem__):
            spent += self._seconds[test]
            if chosen and spent > self.limit:
                break
            chosen.append(test)
        return chosen

    def _fork(self, tests: Sequence[int], functions: Sequence[FunctionType], mutant: Mutant) -> tuple[Result, int | None]:
        """Run tests in a child until one fails; also return the test that failed."""
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            for function in functions:
                function.__code__ = mutant.code
            for test in tests:
                self._failed = False
                try:
                    self._items[test].config.hook.pytest_runtest_protocol(item=self._items[test], nextitem=None)
                except BaseException:
                    self._failed = True
                if self._failed:
                    os.write(send, str(test).encode())
                    os._exit(1)
            os._exit(0)
        os.close(send)
        end = time.monotonic() + 20 + 5 * sum(self._seconds[test] for test in tests)
        try:
            while time.monotonic() < end:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    failed = os.read(receive, 20).decode()
                    survived = os.waitstatus_to_exitcode(status) == 0
                    return "survived" if survived else "killed", int(failed) if failed else None
                time.sleep(0.002)
        finally:
            os.close(receive)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "timed_out", None


# ---- command line


def equivalents(path: Path = EQUIVALENTS) -> set[str]:
    """Return the names of the changes that change no result."""
    return {name for entry in json.loads(path.read_text()) for name in entry["changes"]}


def chosen(settings: argparse.Namespace) -> list[Mutant]:
    """Return the changes that the command line asks for."""
    places = [settings.root / name for name in settings.targets]
    paths = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
    same = equivalents()
    mutants = [mutant for path in paths for mutant in mutants_of(path, root=settings.root)]
    different = [mutant for mutant in mutants if mutant.name not in same]
    print(f"{len(mutants)} changes, {len(mutants) - len(different)} of them listed as equivalent", flush=True)
    if settings.only is not None:
        record = json.loads(settings.only.read_text())
        names = {re.sub(r":\d+:", ":", line, count=1) for line in record["survived"] + record["unreached"]}
        different = [mutant for mutant in different if mutant.name in names]
    if settings.sample is not None and settings.sample < len(different):
        different = random.Random(settings.seed).sample(different, settings.sample)
    return different


def main(arguments: Sequence[str] | None = None) -> dict[Result, list[Mutant]]:
    """Read the command line, try the changes, and print how many were noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", required=True, help="files and folders to change")
    parser.add_argument("--tests", nargs="+", required=True, help="tests to run")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="folder that targets and tests are in")
    parser.add_argument("--sample", type=int, help="how many changes to draw; default: all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--only", type=Path, help="an earlier --json: try only what was not killed there")
    parser.add_argument("--limit", type=float, default=30.0, help="most seconds of tests for a change")
    parser.add_argument("--unchanged", action="store_true", help="a control: run the tests of each change without it")
    parser.add_argument("--json", type=Path, help="file for the changes that were not killed")
    settings = parser.parse_args(arguments)
    settings.root = settings.root.resolve()
    mutants = chosen(settings)
    run = Run(mutants, settings.limit, settings.root, unchanged=settings.unchanged)
    if settings.json is not None:
        settings.json = settings.json.resolve()
    os.chdir(settings.root)
    status = pytest.main([*settings.tests, "-n", "0", "-q", "-p", "no:cacheprovider"], plugins=[run])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"the tests did not run: {status!r}")
    count = {name: len(found) for name, found in run.results.items()}
    killed = count["killed"] + count["timed_out"]
    tried = len(mutants) - count["impossible"]
    print(
        f"{killed} of {tried} killed ({killed / max(tried, 1):.1%}; {count['timed_out']} by time), {count['survived']} "
        f"survived, {count['unreached']} unreached; seed {settings.seed}"
    )
    if settings.json is not None:
        settings.json.write_text(json.dumps({name: [str(one) for one in found] for name, found in run.results.items()
                                             if name != "killed"}, indent=1))  # fmt: skip
    return run.results


if __name__ == "__main__":
    main()
