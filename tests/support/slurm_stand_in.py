"""Stands for SLURM on this machine: `install(folder)` makes sbatch, srun, scontrol and sacct there, to be put on the PATH.

A job is its batch script, run in the background with the variables that SLURM sets; srun starts its tasks and hands signals
on to them; `scontrol requeue` runs the script again once it has ended. What was submitted and asked for is in the folder:
<job>.sh, <job>.requests, <job>.runs (a line for each time it ran) and <job>.tasks (process ids of the tasks).
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

FIRST_JOB = 1000


def install(folder: Path) -> None:
    """Make the commands."""
    folder.mkdir(parents=True, exist_ok=True)
    for command in ("sbatch", "srun", "scontrol", "sacct"):
        script = folder / command
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {folder} {command} "$@"\n')
        script.chmod(0o755)


def options(text: str) -> dict[str, str]:
    """Return the options in the lines `#SBATCH --name=value`."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, flags=re.MULTILINE))


def sbatch(folder: Path, arguments: list[str]) -> None:
    job = FIRST_JOB + len(list(folder.glob("*.sh")))
    text = Path(arguments[0]).read_text()
    (folder / f"{job}.sh").write_text(text)
    chosen = options(text)
    tasks, nodes = chosen.get("ntasks-per-node", "1"), chosen.get("nodes", "1")
    variables = {
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NAME": chosen.get("job-name", "job"),
        "SLURM_JOB_NUM_NODES": nodes,
        "SLURM_NNODES": nodes,
        "SLURM_NTASKS": str(int(tasks) * int(nodes)),
        "SLURM_NTASKS_PER_NODE": tasks,
        "SLURM_NODELIST": "localhost",
        "SLURM_JOB_NODELIST": "localhost",
    }
    command = [sys.executable, __file__, str(folder), "run", str(job), chosen.get("array", "")]
    nowhere = subprocess.DEVNULL  # whoever reads what sbatch says, waits until nothing can be said any more
    subprocess.Popen(
        command, env={**os.environ, **variables}, start_new_session=True, stdin=nowhere, stdout=nowhere, stderr=nowhere
    )
    print(f"Submitted batch job {job}")


def run(folder: Path, arguments: list[str]) -> None:
    """A job until nobody asks for it any more; the members of an array one after another."""
    job, array = arguments
    for member in range(int(re.split("[-%]", array)[1]) + 1) if array else [None]:
        name = job if member is None else f"{job}_{member}"
        own = {} if member is None else {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(member)}
        requests = folder / f"{name}.requests"
        while True:
            asked = requests.read_text() if requests.exists() else ""
            with (folder / f"{name}.runs").open("a") as file:
                file.write("run\n")
            subprocess.run(["bash", str(folder / f"{job}.sh")], env={**os.environ, **own})
            if (requests.read_text() if requests.exists() else "") == asked:
                break
        (folder / f"{name}.done").touch()


def srun(folder: Path, arguments: list[str]) -> None:
    environment = os.environ
    name = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environment:
        name = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    files = {}
    while arguments[0].startswith("--"):
        option = arguments.pop(0)
        if option in ("--output", "--error"):
            files[option] = arguments.pop(0)
    if arguments[0] == sys.executable:  # spares the imports of a training
        arguments[:1] = [sys.executable, "-S", "-E", str(Path(__file__).with_name("warm_process.py"))]
    tasks = []
    for rank in range(int(environment["SLURM_NTASKS"])):
        own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_STEP_ID": "0"}
        places = {option: re.sub("%j|%A_%a", name, path).replace("%t", str(rank)) for option, path in files.items()}
        for place in places.values():  # a job starts later than here, when whoever submitted it has made the folder
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        out, error = (
            os.open(places[option], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if option in places else None
            for option in ("--output", "--error")
        )
        tasks.append(subprocess.Popen(arguments, env={**environment, **own}, stdout=out, stderr=error))
    (folder / f"{name}.tasks").write_text(" ".join(str(task.pid) for task in tasks))

    def hand_on(number: int, frame: object) -> None:
        for task in tasks:
            task.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, hand_on)
    sys.exit(max(abs(task.wait()) for task in tasks))


def scontrol(folder: Path, arguments: list[str]) -> None:
    word, name = arguments
    with (folder / f"{name}.requests").open("a") as file:
        file.write(f"{word}\n")


def sacct(folder: Path, arguments: list[str]) -> None:
    print("JobID|State|NodeList")
    for script in folder.glob("*.runs"):
        state = "COMPLETED" if script.with_suffix(".done").exists() else "RUNNING"
        print(f"{script.stem}|{state}|localhost")


if __name__ == "__main__":
    commands = {"sbatch": sbatch, "run": run, "srun": srun, "scontrol": scontrol, "sacct": sacct}
    commands[sys.argv[2]](Path(sys.argv[1]), sys.argv[3:])
