"""New Python processes without the seconds that importing torch, Lightning and the package takes.

A server process imports them once, for all processes of the tests, without the tests' shape checks. Each
`python(...)` is a fork of it that takes the place of `python ...`: arguments, folder, environment, output, exit status
and signals. Where a program starts others by a command line, `command(...)` is one that does so. What happens while an
interpreter starts or imports needs a real one.
"""

import array
import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
ADDRESS = "PERCEIVER_TESTS_WARM_PROCESS"
"""Environment variable with the address of the server, for processes that start others."""

IMPORTED = (
    "lightning.pytorch", "matplotlib.backends.backend_agg", "torch._dynamo", "torch.distributed.fsdp", "torch.export",
    "torch.utils.tensorboard", "torchvision.transforms.v2", "hydra.main", "hydra.experimental",
    "fsspec.implementations.chained",
)  # fmt: skip
"""What trainings import, besides the package."""

spent: dict[str, float] = {"seconds": 0.0}
"""Processor time of the processes that ended."""


# ---- for tests


class Process:
    """A running `python ...`, as `subprocess.Popen` has it, whose output goes to files."""

    def __init__(self, arguments: tuple[str, ...], *, cwd: Path, env: Mapping[str, str], files: tuple[IO[Any], ...]) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._files = files
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.connect(address().replace("@", "\0"))
        request = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": dict(env)}).encode()
        descriptors = array.array("i", [file.fileno() for file in files])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        self._connection.sendmsg([struct.pack("<Q", len(request))], ancillary)
        self._connection.sendall(request)
        self._answers = self._connection.makefile("r")
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status.

        Raises:
            TimeoutExpired: it still runs.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and standard error once it has ended."""
        self.wait(timeout)
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        return texts[0], texts[1]

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                if not selector.select(timeout):
                    return None
            code, seconds = self._answers.readline().split()
            self.returncode = int(code)
            spent["seconds"] += float(seconds)
            self._answers.close()
            self._connection.close()
        return self.returncode


def start(*arguments: object, cwd: Path = REPOSITORY, env: Mapping[str, str] | None = None) -> Process:
    """Start `python *arguments`; its output is there once it has ended."""
    files = tuple(tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115  (`communicate` closes them)
    return Process(tuple(map(str, arguments)), cwd=cwd, env=os.environ if env is None else env, files=files)


def python(
    *arguments: object, cwd: Path = REPOSITORY, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run `python *arguments` to its end, as `subprocess.run` does with captured text.

    Raises:
        TimeoutExpired: it took longer, and was killed.
    """
    running = start(*arguments, cwd=cwd, env=env)
    try:
        out, err = running.communicate(timeout)
    except BaseException:
        running.kill()
        running.communicate()
        raise
    assert running.returncode is not None
    return subprocess.CompletedProcess(list(running.args), running.returncode, out, err)


def command(*arguments: object) -> list[str]:
    """A command line that does as `python *arguments`, for programs that start others; `env` has the server's address."""
    os.environ[ADDRESS] = address()
    return [sys.executable, "-S", "-E", __file__, *map(str, arguments)]


def address() -> str:
    """The address of the server, which is started if there is none."""
    return os.environ.get(ADDRESS) or _serve()


@functools.cache
def _serve() -> str:
    """The address of the server of this test session; the first of the tests' processes that asks starts it."""
    place = f"@perceiver-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"  # in no folder
    with open(__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lease = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lease.connect(_leases(place))
        except ConnectionRefusedError:
            lease.close()
            _start_server(place)
        else:
            atexit.register(lease.close)
    return place


def _start_server(place: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen([sys.executable, __file__, "--serve", place], env=environment, cwd=REPOSITORY, **pipes)
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    server.stdout.close()

    def end() -> None:
        server.stdin.close()  # type: ignore[union-attr]
        server.wait()

    atexit.register(end)


def _leases(place: str) -> str:
    """The address to which a process stays connected for as long as it needs the server."""
    return f"{place}-leases".replace("@", "\0")


# ---- the server


def serve(place: str) -> None:
    """Fork for each connection until the processes of the tests have ended: standard input and all leases are closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C ends the tests, and they end this
    import torch

    torch.set_num_threads(1)
    import perceiver

    modules = [module.name for module in pkgutil.walk_packages(perceiver.__path__, "perceiver.")]
    for name in (*IMPORTED, *modules):
        if not name.endswith("__main__") and not name.startswith("perceiver.serving.demo."):  # Gradio takes seconds
            importlib.import_module(name)
    gc.freeze()
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    listening, leasing = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2))
    leases: set[Any] = {sys.stdin}
    with listening, leasing, selectors.DefaultSelector() as selector:
        listening.bind(place.replace("@", "\0"))
        leasing.bind(_leases(place))
        for waiting in (listening, leasing):
            waiting.listen(64)
        for source in (listening, leasing, wake, sys.stdin):
            selector.register(source, selectors.EVENT_READ)
        os.write(1, b"ready\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        while leases:
            for key, _ in selector.select():
                if key.fileobj in leases:
                    selector.unregister(key.fileobj)
                    leases.remove(key.fileobj)
                elif key.fileobj is leasing:
                    lease, _ = leasing.accept()
                    leases.add(lease)
                    selector.register(lease, selectors.EVENT_READ)
                elif key.fileobj is wake:
                    wake.recv(4096)
                    _reap()
                else:
                    connection, _ = listening.accept()
                    if os.fork() == 0:
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        signal.set_wakeup_fd(-1)
                        for one in (listening, leasing, wake, waker, *leases - {sys.stdin}):
                            one.close()
                        selector.close()
                        _watch(connection)
                    connection.close()
    _reap()
    os._exit(0)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _watch(connection: socket.socket) -> NoReturn:
    """Fork the process itself, and report its id and its end."""
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(2 * array.array("i").itemsize))
    descriptors = array.array("i", b"".join(bytes(data) for _, _, data in ancillary))
    (left,) = struct.unpack("<Q", head)
    text = b""
    while len(text) < left:
        text += connection.recv(left - len(text))
    process = os.fork()
    if process == 0:
        connection.close()
        _become(json.loads(text), list(descriptors))
    for one in descriptors:
        os.close(one)
    connection.sendall(f"{process}\n".encode())
    _, status, usage = os.wait4(process, 0)
    with contextlib.suppress(BrokenPipeError):
        seconds = usage.ru_utime + usage.ru_stime
        connection.sendall(f"{os.waitstatus_to_exitcode(status)} {seconds}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Do as `python *arguments` does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    os.environ.setdefault("MPLBACKEND", "agg")
    atexit._clear()
    random.seed()
    sys.path[:] = [one for one in sys.path if one not in (str(REPOSITORY), str(Path(__file__).parent))]
    sys.path[:0] = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    sys.modules["warm_process"] = sys.modules["__main__"]  # test files import it, and may be run as scripts
    code = _outcome(request["arguments"])
    with contextlib.suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _outcome(arguments: list[str]) -> int:
    if arguments[0] == "-u":
        arguments = arguments[1:]
    try:
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            sys.path.insert(0, "")
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        elif arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
            return 1
        return stop.code or 0
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


# ---- the command


def stand_in(arguments: tuple[str, ...]) -> NoReturn:
    """Have the server start the process with this one's files, hand signals on to it, and end as it ends."""
    files = (sys.stdout, sys.stderr)
    running = Process(arguments, cwd=Path.cwd(), env=os.environ, files=files)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: os.kill(running.pid, number))
    code = running.wait()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    stand_in(tuple(sys.argv[1:]))
