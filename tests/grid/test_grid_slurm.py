"""A grid on SLURM: what is asked of sbatch, and jobs that are cut off in every way. SLURM itself is a stand-in."""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_slurm
import patient_cell
import pytest

from fastlt.core.errors import UserError
from fastlt.grid import slurm
from fastlt.grid.config import SlurmConfig
from fastlt.grid.slurm import submit, time_limit

ROOT = Path(__file__).parents[2]


class Cluster:
    """The stand-in's jobs, each with one patient cell."""

    def __init__(self, place: Path):
        self.place = place
        self.states = place / "slurm"

    def submit(self, cells: int = 1, files: tuple[str, ...] = (), **options: Any) -> str:
        frozen = [self.place / "cells" / f"cell{number}.yaml" for number in range(cells)]
        for cell in frozen:
            cell.with_suffix("").mkdir(parents=True)
            for name in files:
                (cell.with_suffix("") / name).touch()
        return submit(frozen, self.place / "jobs", SlurmConfig(**{"gpus": 0, "cpus": 1, **options}))

    def cell(self, number: int = 0) -> Path:
        return self.place / "cells" / f"cell{number}"

    def script(self) -> str:
        (script,) = self.states.glob("*.sh")
        return script.read_text()

    def send(self, job: str, number: int) -> None:
        os.kill(int((self.states / f"{job}.step").read_text()), number)

    def cancel(self, job: str) -> None:
        (self.states / f"{job}.state").write_text("CANCELLED")
        self.send(job, signal.SIGTERM)

    def state(self, job: str) -> str:
        path = self.states / f"{job}.state"
        return path.read_text() if path.exists() else ""

    def queued_again(self, job: str) -> int:
        path = self.states / f"{job}.queued"
        return len(path.read_text().split()) if path.exists() else 0

    def wait(self, job: str) -> str:
        until(lambda: self.state(job) in ("COMPLETED", "FAILED"))
        return self.state(job)

    def log(self, job: str) -> str:
        return (self.place / "jobs" / f"{job}_0_log.out").read_text()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    cluster.states.mkdir()
    fake_slurm.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(cluster.states))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    monkeypatch.setattr(slurm, "run_cell", patient_cell.run_cell)
    yield cluster
    for node in cluster.states.glob("*.node"):
        try:
            os.killpg(int(node.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def until(condition: Callable[[], bool]) -> None:
    """Waits for it; a minute is an error."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def numbers(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def pausing(cluster: Cluster) -> Callable[[], bool]:
    """Whether the training waits after the step PAUSE."""
    return lambda: patient_cell.PAUSE in numbers(cluster.cell() / "steps")


def test_all_cells_are_one_array_with_what_was_asked_for(cluster: Cluster) -> None:
    job = cluster.submit(
        3, ("go",), partition="gpu,spare", time="1-02:03:04", gpus=2, cpus=5, memory=1.5, account="lab", qos="long",
        constraint="h100", at_once=2, signal_seconds=90, setup=["export FROM_SETUP=1"], extra={"exclude": "node7"},
    )  # fmt: skip
    assert job == "1"
    assert [cluster.wait(f"1_{task}") for task in range(3)] == ["COMPLETED"] * 3
    for number in range(3):
        assert numbers(cluster.cell(number) / "steps") == [1, 2, 3, 4, 5, 6]
        assert json.loads((cluster.cell(number) / "results.json").read_text()) == {"threads": 5}
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", cluster.script(), re.MULTILINE))
    told = {
        "array": "0-2%2", "partition": "gpu,spare", "time": str(26 * 60 + 4), "gpus-per-node": "2",
        "cpus-per-task": "5", "mem": "1536M", "account": "lab", "qos": "long", "constraint": "h100",
        "signal": "USR2@90", "requeue": "", "exclude": "node7",
    }  # fmt: skip
    assert {key: flags.get(key) for key in told} == told
    lines = cluster.script().splitlines()
    (step,) = (line for line in lines if line.startswith("srun "))
    assert "--cpus-per-task=5" in step.split()
    assert lines.index("export FROM_SETUP=1") < lines.index(step)


def test_one_cell_is_a_plain_job_and_what_is_not_asked_for_is_left_to_the_cluster(cluster: Cluster) -> None:
    assert cluster.submit(1, ("go",)) == "1"
    assert cluster.wait("1") == "COMPLETED"
    for flag in ("array", "gpus-per-node", "partition", "mem", "account", "qos", "constraint"):
        assert f"--{flag}" not in cluster.script()


def test_a_cell_that_fails_fails_its_job(cluster: Cluster) -> None:
    cluster.submit(1, ("broken",))
    assert cluster.wait("1") == "FAILED"
    assert "ValueError: a broken cell" in cluster.log("1")
    assert cluster.queued_again("1") == 0


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_before_its_end_a_training_saves_is_queued_again_and_goes_on(cluster: Cluster, number: int) -> None:
    """USR2: the time limit is near. SIGTERM while the job counts as running: it must make room."""
    cluster.submit(2)
    until(pausing(cluster))
    cluster.send("1_0", number)
    (cluster.cell(1) / "go").touch()
    assert cluster.wait("1_0") == cluster.wait("1_1") == "COMPLETED"
    assert numbers(cluster.cell() / "starts") == [0, 3]
    assert numbers(cluster.cell() / "steps") == [1, 2, 3, 4, 5, 6]
    assert [cluster.queued_again(f"1_{task}") for task in range(2)] == [1, 0]
    assert numbers(cluster.cell(1) / "starts") == [0]


@pytest.mark.parametrize("first", [signal.SIGUSR2, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGUSR2, signal.SIGTERM])
def test_a_second_signal_does_not_cut_off_the_checkpoint(cluster: Cluster, first: int, second: int) -> None:
    cluster.submit(1, ("slow",))
    until(pausing(cluster))
    cluster.send("1", first)
    until((cluster.cell() / "saving").exists)
    cluster.send("1", second)
    time.sleep(0.3)  # it has come
    (cluster.cell() / "slow").unlink()
    assert cluster.wait("1") == "COMPLETED"
    assert numbers(cluster.cell() / "starts") == [0, 3]
    assert cluster.queued_again("1") == 1


def test_a_signal_behind_the_last_step_is_not_lost(cluster: Cluster) -> None:
    cluster.submit(1, ("go", "late"))
    until((cluster.cell() / "finished").exists)
    cluster.send("1", signal.SIGUSR2)
    assert cluster.wait("1") == "COMPLETED"
    assert numbers(cluster.cell() / "starts") == [0, 6]
    assert cluster.queued_again("1") == 1


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_where_nothing_can_be_saved_the_job_is_queued_again_at_once(cluster: Cluster, number: int) -> None:
    cluster.submit(1, ("stage2",))
    (cluster.cell() / "checkpoint").write_text("6")
    until((cluster.cell() / "classifying").exists)
    cluster.send("1", number)
    until(lambda: len(numbers(cluster.cell() / "classifying")) == 2)
    (cluster.cell() / "go").touch()
    assert cluster.wait("1") == "COMPLETED"
    assert numbers(cluster.cell() / "starts") == [6, 6]
    assert cluster.queued_again("1") == 1


def test_a_cancelled_job_saves_and_is_not_called_back(cluster: Cluster) -> None:
    cluster.submit()
    until(pausing(cluster))
    cluster.cancel("1")
    assert cluster.wait("1") == "FAILED"
    assert (cluster.cell() / "checkpoint").read_text() == "3"
    assert cluster.queued_again("1") == 0
    assert "checkpoint holds step 3" in cluster.log("1").splitlines()


def test_a_cancelled_job_ends_where_nothing_can_be_saved(cluster: Cluster) -> None:
    cluster.submit(1, ("stage2",))
    (cluster.cell() / "checkpoint").write_text("6")
    until((cluster.cell() / "classifying").exists)
    cluster.cancel("1")
    assert cluster.wait("1") == "FAILED"
    assert cluster.queued_again("1") == 0


@pytest.mark.parametrize("program", ["squeue", "scontrol"])
def test_a_controller_that_is_busy_is_asked_again(program: str, cluster: Cluster) -> None:
    (cluster.states / f"{program}.busy").write_text("2")
    cluster.submit()
    until(pausing(cluster))
    cluster.send("1", signal.SIGTERM)
    assert cluster.wait("1") == "COMPLETED"
    assert numbers(cluster.cell() / "starts") == [0, 3] and cluster.queued_again("1") == 1
    assert len(re.findall(r"^SLURM does not answer \(.*\): asking again in [12] s$", cluster.log("1"), re.M)) == 2


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
@pytest.mark.parametrize("programs", [("squeue",), ("scontrol",), ("squeue", "scontrol")])
def test_a_node_without_slurms_programs_says_how_to_queue_by_hand(
    programs: tuple[str, ...], number: int, cluster: Cluster
) -> None:
    for program in programs:
        (cluster.place / "bin" / program).unlink()
    cluster.submit()
    until(pausing(cluster))
    cluster.send("1", number)
    by_hand = "scontrol requeue 1, or give the command of the grid again"
    if programs == ("squeue",) and number == signal.SIGUSR2:  # nobody cancels a job by that signal
        assert cluster.wait("1") == "COMPLETED" and cluster.queued_again("1") == 1
        return
    assert cluster.wait("1") == "FAILED" and cluster.queued_again("1") == 0
    assert (cluster.cell() / "checkpoint").read_text() == "3"
    told = {
        False: f"the job could not be queued again (there is no scontrol on this node): {by_hand}",
        True: f"SLURM does not tell whether this job was cancelled (there is no squeue on this node); if it was not: "
        f"{by_hand}",
    }
    lines = cluster.log("1").splitlines()
    assert told["squeue" in programs and number == signal.SIGTERM] in lines
    assert not any("Traceback" in line for line in lines)


def test_the_time_limit_is_reached_no_more_often_than_allowed(cluster: Cluster) -> None:
    cluster.submit(1, requeue=0, time="5")
    until(pausing(cluster))
    cluster.send("1", signal.SIGUSR2)
    assert cluster.wait("1") == "FAILED"
    assert (cluster.cell() / "checkpoint").read_text() == "3"
    assert cluster.queued_again("1") == 0
    assert "timed-out too many times" in cluster.log("1")


def test_a_refusal_is_told_in_the_words_of_sbatch(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as refused:
        cluster.submit(2, partition="nowhere")
    assert str(refused.value) == (
        "sbatch refused the grid: invalid partition specified: nowhere; Batch job submission failed: Invalid partition "
        "name specified"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("missing", ["sbatch", "srun"])
def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    fake_slurm.install(tmp_path / "bin")
    (tmp_path / "bin" / missing).unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match=f"no {missing} on this machine; use a login node, or launcher=local"):
        submit([tmp_path / "cell.yaml"], tmp_path / "jobs", SlurmConfig())


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        ("90", 90),
        ("4", 4),
        ("1:30:00", 90),
        ("01:30:01", 91),
        ("0-00:05:00", 5),
        ("2-03:04:59", 3065),
        ("100:00:00", 6000),
    ],
)
def test_time_limits(time: str, minutes: int) -> None:
    assert time_limit(SlurmConfig(time=time)) == minutes


@pytest.mark.parametrize("time", ["", "1h", "01:30", "1-2", "-5", "1.5", "1:2:3", "1-12:00"])
def test_a_time_that_may_mean_two_things_is_refused(time: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"slurm.time={time}: write minutes, hours:MM:SS or days-HH:MM:SS")):
        time_limit(SlurmConfig(time=time))


def test_a_limit_with_no_time_before_the_warning_is_refused() -> None:
    """SLURM may send its signal a minute early."""
    assert time_limit(SlurmConfig(time="00:03:01", signal_seconds=120)) == 4
    with pytest.raises(UserError, match=r"slurm\.time=3 leaves no time before slurm\.signal_seconds=120"):
        time_limit(SlurmConfig(time="3", signal_seconds=120))


@pytest.mark.parametrize(
    ("key", "least"), [("gpus", 0), ("cpus", 1), ("at_once", 1), ("requeue", 0), ("signal_seconds", 1)]
)
def test_numbers_that_are_too_small(key: str, least: int) -> None:
    time_limit(SlurmConfig(**{key: least}))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=rf"slurm\.{key}={least - 1}: it must be at least {least}"):
        time_limit(SlurmConfig(**{key: least - 1}))  # pyright: ignore[reportArgumentType]
