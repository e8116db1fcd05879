"""What machines print while `view` runs: one SSH connection each, which stays, with machine.sh on the other end."""

import subprocess
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

from config.machines import Role
from live.background import Background
from live.cluster import Cluster, LiveMachine
from live.probe import expected_pods, expected_units
from toolchain import access

_SCRIPT = Path(__file__).with_name("machine.sh")
_KEEPALIVE = ("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=3", "-o", "ControlPath=none")
_AGAIN_SECONDS = 0.5
SILENT_SECONDS = 0.75
"""A machine that has printed nothing for so long, times `timeout_factor`, does not answer: it prints every 0.25 s."""
_LONGEST_SILENCE = 5.0
_GAPS, _FEW_GAPS = 40, 8
"""From so many of its last lines is known how late they come; from few nothing. An overloaded host delays them all."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A unit, or a program that kubeadm runs as a pod.

    Args:
        name: of the unit, or of the program.
        state: systemd's word: active, inactive, failed, activating, ...
        pid: of its main process; 0 or empty where it has none.
    """

    name: str
    state: str
    pid: str = ""

    @property
    def runs(self) -> bool:
        """Whether it is active."""
        return self.state == "active"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a machine has printed; kept when it falls silent.

    Args:
        programs: its units and programs; None before it has named them.
        member: what its etcd member says of itself, see machine.sh: the four words, or "-" and why it does not answer.
        backends: backend/server -> HAProxy's word, and that for the last check.
        holds: whether it has the API's address; None where load balancers do not share it.
    """

    programs: tuple[Program, ...] | None = None
    member: tuple[str, ...] | None = None
    backends: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    holds: bool | None = None


class Follower(Background):
    """Follows one machine, and connects again whenever the connection ends."""

    _END_SECONDS = 2

    def __init__(self, cluster: Cluster, machine: LiveMachine) -> None:
        super().__init__(f"view {machine.name}")
        self.machine = machine
        self.facts = Facts()
        self.message = ""
        """Why the last connection ended."""
        self.began = time.monotonic()
        self._heard: float | None = None
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._cluster = cluster
        self._process: subprocess.Popen[str] | None = None

    def asks_as(self, cluster: Cluster, machine: LiveMachine) -> bool:
        """Whether a new one for this machine would do the same."""
        return self.machine == machine and script(self._cluster, self.machine) == script(cluster, machine)

    def silent_for(self, now: float) -> float | None:
        """Seconds since it was heard, by `time.monotonic`; None if it never was."""
        return None if self._heard is None else now - self._heard

    @property
    def allowed_silence(self) -> float:
        """The silence after which it does not answer: longer where its lines have come late."""
        if len(self._gaps) < _FEW_GAPS:
            return _LONGEST_SILENCE
        late = min(2 * max(self._gaps), _LONGEST_SILENCE)
        return max(self._cluster.allowed(SILENT_SECONDS), late)

    def hear(self, now: float, *, first: bool = False) -> None:
        """Note that it has printed something; `first` of a connection."""
        if self._heard is not None and not first:
            self._gaps.append(now - self._heard)
        self._heard = now

    def _work(self) -> None:
        while not self._over.is_set():
            self._follow()
            self._over.wait(self._cluster.allowed(_AGAIN_SECONDS))

    def _follow(self) -> None:
        command = [*access.ssh_command(self._cluster.stack), *_KEEPALIVE, self.machine.name]
        with subprocess.Popen(
            [*command, self.machine.as_root(script(self._cluster, self.machine))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C is for `view`, which ends them.
            start_new_session=True,
        ) as self._process:
            assert self._process.stdout is not None and self._process.stderr is not None
            if self._over.is_set():
                self._process.kill()
            for number, line in enumerate(self._process.stdout):
                self.hear(time.monotonic(), first=number == 0)
                # The first words may be all that came of the last line of a machine that was lost.
                if line.endswith("\n") and not line.startswith("."):
                    self.facts = read(self.facts, line)
            said = self._process.stderr.read().strip().splitlines()
        self.message = said[-1].strip() if said else "the connection was closed"

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()


def script(cluster: Cluster, machine: LiveMachine) -> str:
    """What runs on a machine."""
    is_balancer = Role.LOAD_BALANCER in machine.roles
    shared = is_balancer and len(cluster.with_role(Role.LOAD_BALANCER)) > 1
    given = {
        "units": " ".join(expected_units(cluster, machine)),
        "programs": " ".join(expected_pods(cluster, machine)),
        "member": "1" if machine in cluster.etcd_members else "",
        "balancer": "1" if is_balancer else "",
        "address": (urlsplit(cluster.endpoint).hostname or "") if shared else "",
    }
    return "".join(f"{name}={quote(value)}\n" for name, value in given.items()) + _SCRIPT.read_text()


def read(facts: Facts, line: str) -> Facts:
    """The facts after one line of machine.sh. A line that is none of its own changes nothing."""
    what, _, value = line.strip().partition(" ")
    words = value.split()
    known = {each.name: each for each in facts.programs or ()}
    backends = facts.backends
    member, holds = facts.member, facts.holds
    match what:
        case "units" | "programs":
            known |= {each.name: each for each in map(_program, words) if each}
        case "etcd":
            member = tuple(words) if words[:1] != ["-"] else ("-", value.removeprefix("- "))
        case "backends":
            rows = (word.partition("=") for word in words)
            split = {name: said.partition(":") for name, _, said in rows}
            backends = {name: (status.replace("_", " "), check) for name, (status, _, check) in split.items()}
        case "holds":
            holds = value == "yes"
        case _:
            return facts
    programs = tuple(known.values()) if known else facts.programs
    return Facts(programs=programs, member=member, backends=backends, holds=holds)


def _program(word: str) -> Program | None:
    name, _, said = word.partition("=")
    state, _, pid = said.partition(":")
    return Program(name=name, state=state, pid=pid) if state else None
