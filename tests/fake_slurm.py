"""As much of SLURM as a grid needs, for machines without one: sbatch, srun, scontrol requeue and squeue of one node.

Installed under their names in a folder of PATH; the folder FAKE_SLURM holds, for every job, its state, the process of
its step and how often it was queued again. Signals are for the tests to send.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

PROGRAMS = "sbatch", "srun", "scontrol", "squeue"
PLACE = Path(os.environ.get("FAKE_SLURM", "."))


def install(folder: Path) -> None:
    """Puts the commands into a folder that is for PATH."""
    folder.mkdir(parents=True)
    for program in PROGRAMS:
        path = folder / program
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{Path(__file__).resolve()}" {program} "$@"\n')
        path.chmod(0o755)


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    if flags.get("partition") == "nowhere":
        sys.stderr.write("sbatch: error: invalid partition specified: nowhere\n")
        sys.exit("sbatch: error: Batch job submission failed: Invalid partition name specified")
    number = len(list(PLACE.glob("*.sh"))) + 1
    (PLACE / f"{number}.sh").write_text(text)
    array = re.fullmatch(r"0-(\d+)%\d+", flags.get("array", ""))
    tasks = [f"{number}_{task}" for task in range(int(array[1]) + 1)] if array else [f"{number}"]
    node = subprocess.Popen(
        [sys.executable, __file__, "node", str(number), *tasks],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (PLACE / f"{number}.node").write_text(str(node.pid))
    sys.stdout.write(f"Submitted batch job {number}\n")


def node(number: str, *jobs: str) -> None:
    """Runs all jobs of an array side by side."""
    threads = [threading.Thread(target=_job, args=(number, job)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _job(number: str, job: str) -> None:
    array, _, task = job.partition("_")
    own = {"SLURM_JOB_ID": f"{int(array) * 100 + int(task or 0)}", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    if task:
        own |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task}
    else:
        own["SLURM_JOB_ID"] = array
    state, queued = PLACE / f"{job}.state", PLACE / f"{job}.queued"
    while True:
        state.write_text("RUNNING")
        code = subprocess.call(["bash", str(PLACE / f"{number}.sh")], env={**os.environ, **own})
        if state.read_text() != "PENDING":
            break
        queued.write_text(queued.read_text() + "again\n" if queued.exists() else "again\n")
    state.write_text("COMPLETED" if code == 0 else "FAILED")


def srun(*arguments: str) -> None:
    given = list(arguments)
    output = given[given.index("--output") + 1].replace("%t", "0")
    job = _this_job()
    array, _, task = job.partition("_")
    output = output.replace("%A", array).replace("%a", task).replace("%j", job)
    command = given[next(at for at, word in enumerate(given) if "python" in word) :]
    with Path(output).open("a") as log:
        step = subprocess.Popen(command, stdout=log, stderr=log)
        (PLACE / f"{job}.step").write_text(str(step.pid))
        sys.exit(step.wait() % 256)


def scontrol(action: str, job: str) -> None:
    _busy("scontrol")
    assert action == "requeue"
    (PLACE / f"{job}.state").write_text("PENDING")
    os.kill(int((PLACE / f"{job}.step").read_text()), signal.SIGTERM)


def _busy(program: str) -> None:
    """Fails as a controller that does not answer, as often as a file says."""
    path = PLACE / f"{program}.busy"
    if path.exists() and (left := int(path.read_text())):
        path.write_text(str(left - 1))
        sys.exit(f"{program}: error: Socket timed out on send/recv operation")


def squeue(*arguments: str) -> None:
    _busy("squeue")
    assert "--format=%T" in arguments
    (job,) = (word.removeprefix("--jobs=") for word in arguments if word.startswith("--jobs="))
    sys.stdout.write((PLACE / f"{job}.state").read_text() + "\n")


def _this_job() -> str:
    if "SLURM_ARRAY_JOB_ID" not in os.environ:
        return os.environ["SLURM_JOB_ID"]
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"


if __name__ == "__main__":
    {"sbatch": sbatch, "node": node, "srun": srun, "scontrol": scontrol, "squeue": squeue}[sys.argv[1]](*sys.argv[2:])
