"""The machine's lock, by real scripts of a step and of a restore on a directory that stands for the machine's."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_lab import cluster

from live import machine_lock
from toolchain import paths

LIBRARY = paths.checkout() / "components" / "step.sh"
REAL_FLOCK = "/usr/bin/flock"
WAIT_SECONDS = 120.0


class Machine:
    """What scripts of a lab find on a machine, and who runs there."""

    def __init__(self, directory: Path) -> None:
        self.hardway = directory / "hardway"
        self.log = directory / "log"
        self._directory = directory
        self._started: list[subprocess.Popen[str]] = []
        tools = directory / "bin"
        tools.mkdir()
        for name, text in (
            ("systemctl", "#!/bin/sh\n"),
            # If the file exists, a wait of 300 s ends after a tenth of a second.
            (
                "flock",
                f'#!/bin/bash\n[ ! -e {directory}/short ] || set -- "${{@/#300/0.1}}"\nexec {REAL_FLOCK} "$@"\n',
            ),
        ):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self.environment = {"PATH": f"{tools}:/usr/bin:/bin:/usr/sbin:/sbin", "HARDWAY": str(self.hardway)}

    def short_timeouts(self) -> None:
        """Shortens the timeout of all waits from now on."""
        (self._directory / "short").touch()

    def start(self, script: str) -> subprocess.Popen[str]:
        """Begin a script, as an ssh session of its own does."""
        process = subprocess.Popen(
            ["bash", "-c", script],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def step(self, name: str, run: str, *, library: Path = LIBRARY) -> subprocess.Popen[str]:
        """Begin a step."""
        return self.start(f". {library}\nbegin {name} </dev/null\nfinish\n{run}")

    def undo(self, name: str) -> subprocess.Popen[str]:
        return self.start(f". {LIBRARY}\nundo {name}")

    def alone(self, script: str, *, command: str = "./hardway restore", seconds: float = 60) -> subprocess.Popen[str]:
        """Begin a script that changes the machine without Pulumi."""
        locked = machine_lock.alone(script, command=command, wait=300, seconds=seconds)
        return self.start(locked.replace("/var/lib/hardway", str(self.hardway)))

    def says(self, word: str) -> str:
        """The shell line that notes that a script has come this far."""
        return f"echo {word} >>{self.log}"

    def until_told(self, word: str) -> str:
        """The shell lines of a script that stands still until `tell`."""
        wait = f"until [ -e {self._directory}/{word} ]; do sleep 0.05; done"
        return f"{self.says(word)}\n{wait}\n{self.says(f'{word}-ends')}"

    def tell(self, word: str) -> None:
        (self._directory / word).touch()

    def said(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def waits_for(self, word: str) -> None:
        eventually(lambda: word in self.said())

    def is_waiting(self, process: subprocess.Popen[str]) -> None:
        """Wait until a script stands before a lock."""
        eventually(
            lambda: any(REAL_FLOCK in line or "flock -w" in line or "flock -s" in line for line in below(process))
        )

    def end(self) -> None:
        for process in self._started:
            kill_all(process)
            with process:
                pass


def kill_all(process: subprocess.Popen[str]) -> None:
    """End a script, and what it has started: `timeout` gives that a process group of its own in the same session."""
    subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=False)


def below(process: subprocess.Popen[str]) -> list[str]:
    """The command lines of a process's session."""
    listing = ["ps", "-o", "args=", "--sid", str(process.pid)]
    return subprocess.run(listing, capture_output=True, text=True, check=False).stdout.splitlines()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status of a script, and what it said on stderr."""
    _, error = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, error


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.end()


def test_a_step_waits_for_a_restore(machine: Machine) -> None:
    restore = machine.alone(machine.until_told("restore"))
    machine.waits_for("restore")
    step = machine.step("etcd", machine.says("step"))
    machine.is_waiting(step)
    machine.tell("restore")
    assert ended(restore) == (0, "")
    assert ended(step) == (0, "")
    assert machine.said() == ["restore", "restore-ends", "step"]


def test_a_step_that_waits_too_long_names_the_restore(machine: Machine) -> None:
    restore = machine.alone(machine.until_told("restore"))
    machine.waits_for("restore")
    machine.short_timeouts()
    status, error = ended(machine.step("etcd", machine.says("step")))
    assert status == 1
    assert (
        f"is in use, waited 300 s: ./hardway restore of root@{os.uname().nodename}, process {restore.pid}, since"
        in error
    )
    assert machine.said() == ["restore"]
    # So does what undoes a step.
    assert not (machine.hardway / "steps" / "etcd" / "manifest").exists()
    status, error = ended(machine.undo("etcd"))
    assert (status, "./hardway restore of" in error) == (1, True)


def test_a_restore_waits_for_a_step_and_names_it(machine: Machine) -> None:
    step = machine.step("etcd", machine.until_told("step"))
    machine.waits_for("step")
    restore = machine.alone(machine.says("restore"))
    machine.is_waiting(restore)
    machine.short_timeouts()
    status, error = ended(machine.alone(machine.says("another")))
    assert status == 75
    assert f"is in use, waited 300 s: step etcd (process {step.pid}, since" in error
    machine.tell("step")
    assert ended(step) == (0, "")
    assert ended(restore) == (0, "")
    assert machine.said() == ["step", "step-ends", "restore"]


def test_a_retry_waits_for_its_first_self(machine: Machine) -> None:
    """The connection broke: nobody reads what the script says, and it is still at work."""
    first = machine.alone(machine.until_told("first"))
    machine.waits_for("first")
    assert first.stdin and first.stdout and first.stderr
    for pipe in (first.stdin, first.stdout, first.stderr):
        pipe.close()
    again = machine.alone(machine.says("again"))
    machine.is_waiting(again)
    assert machine.said() == ["first"]
    machine.tell("first")
    assert ended(again) == (0, "")
    assert machine.said() == ["first", "first-ends", "again"]


def test_of_one_step_a_retry_waits_and_names_its_first_self(machine: Machine) -> None:
    first = machine.step("etcd", machine.until_told("first"))
    machine.waits_for("first")
    machine.short_timeouts()
    status, error = ended(machine.step("etcd", machine.says("again")))
    assert status == 1
    assert (
        f"another run of step etcd is at work on {os.uname().nodename}, waited 300 s: process {first.pid}, since"
        in error
    )
    assert machine.said() == ["first"]


def test_different_steps_work_side_by_side(machine: Machine) -> None:
    one = machine.step("one", machine.until_told("one"))
    machine.waits_for("one")
    assert ended(machine.step("two", machine.says("two"))) == (0, "")
    machine.tell("one")
    assert ended(one) == (0, "")
    assert machine.said() == ["one", "two", "one-ends"]


def test_a_killed_script_holds_nothing(machine: Machine) -> None:
    restore = machine.alone(machine.until_told("restore"))
    machine.waits_for("restore")
    kill_all(restore)
    machine.short_timeouts()
    assert ended(machine.step("etcd", machine.says("step"))) == (0, "")


def test_what_a_killed_script_has_started_still_holds_the_lock(machine: Machine) -> None:
    restore = machine.alone(machine.until_told("restore"))
    machine.waits_for("restore")
    restore.kill()
    restore.wait()
    machine.short_timeouts()
    status, error = ended(machine.step("etcd", machine.says("step")))
    assert (status, "./hardway restore of" in error) == (1, True)
    machine.tell("restore")


def test_a_script_ends_at_its_deadline_and_says_so(machine: Machine) -> None:
    status, error = ended(machine.alone("sleep 60", seconds=1))
    assert status == 124
    assert error == f"{os.uname().nodename}: not done within 1 s, and ended\n"


def test_the_status_and_output_of_the_script_are_its_own(machine: Machine) -> None:
    process = machine.alone('echo "it\'s" here; cat; echo wrong >&2; exit 3')
    out, error = process.communicate(input="given", timeout=WAIT_SECONDS)
    assert (process.returncode, out, error) == (3, "it's here\ngiven", "wrong\n")


def test_a_step_of_an_earlier_library_is_waited_for_too(machine: Machine) -> None:
    lock = machine.hardway / "steps" / "etcd" / "lock"
    lock.parent.mkdir(parents=True)
    # As begin did before there was a lock of the machine.
    old = machine.start(f'exec 9>"{lock}"\nflock -w 300 9\n{machine.until_told("old")}')
    machine.waits_for("old")
    machine.short_timeouts()
    status, error = ended(machine.alone(machine.says("restore")))
    assert status == 75
    assert "waited 300 s: step etcd;" in error
    machine.tell("old")
    assert ended(old) == (0, "")
    assert machine.said() == ["old", "old-ends"]


def test_the_last_step_leaves_no_lock_and_who_waited_has_a_real_one(machine: Machine) -> None:
    assert ended(machine.step("etcd", ":")) == (0, "")
    restore = machine.alone(machine.until_told("restore"))
    machine.waits_for("restore")
    undo = machine.undo("etcd")
    machine.is_waiting(undo)
    machine.tell("restore")
    assert ended(restore) == (0, "")
    assert ended(undo) == (0, "")
    assert not machine.hardway.exists()
    # Who has opened the file that was removed takes the new one.
    machine.hardway.mkdir()
    lock = machine.hardway / "lock"
    held = machine.start(f"exec 8>>{lock}; {REAL_FLOCK} 8; {machine.until_told('held')}; rm {lock}; :")
    machine.waits_for("held")
    first = machine.alone(machine.until_told("first"))
    machine.is_waiting(first)
    machine.tell("held")
    assert ended(held) == (0, "")
    machine.waits_for("first")
    machine.short_timeouts()
    status, error = ended(machine.step("etcd", machine.says("step")))
    assert (status, "./hardway restore of" in error) == (1, True)
    machine.tell("first")
    assert ended(first) == (0, "")


def test_a_restore_is_given_the_time_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = cluster(tmp_path)
    asked: list[tuple[list[str], float]] = []

    def run(command: list[str], **given: object) -> subprocess.CompletedProcess[str]:
        asked.append((command, float(str(given["timeout"]))))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("live.cluster.subprocess.run", run)
    lab.change(lab.machines[0], "true", command="./hardway restore", seconds=100)
    ((command, seconds),) = asked
    # The machine ends the script, and says so, before ssh is ended here.
    assert seconds > machine_lock.WAIT_SECONDS + 100
    assert "ServerAliveInterval=5" in command
    assert " timeout --kill-after=10 100 bash -c true" in command[-1].replace("\n", " ")
