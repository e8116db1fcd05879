"""The machines' side of `hardway trace pod`: one login on each, for the whole life of the Pod (pod_watch.sh).

A login answers commands. What its programs see meanwhile has the machine's own time: `Login.offset` is measured in the
same login, by a few questions for the time of which the fastest counts.
"""

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Self

from config.machine_paths import AUDIT_LOG
from config.machines import Role
from live.cluster import Cluster, LiveMachine
from toolchain import access

_SCRIPT = Path(__file__).with_name("pod_watch.sh")
_CLOCK_QUESTIONS = 5
_SECONDS = 20

Answers = dict[str, list[list[str]]]
"""First word of a line -> the further fields of each such line."""


class Login:
    """A login on a machine that runs pod_watch.sh.

    Attributes:
        machine: where.
        offset: seconds by which its clock is ahead of the Pulumi host's.
        problem: why it could not be asked, or no longer; empty while it can.
        answers: all that it has answered.
    """

    def __init__(self, cluster: Cluster, machine: LiveMachine, settings: Mapping[str, str]) -> None:
        self.machine = machine
        self.offset = 0.0
        self.problem = ""
        self.answers: Answers = {}
        self._cluster = cluster
        assignments = "\n".join(f"{key}={quote(value)}" for key, value in settings.items())
        script = f"{assignments}\n{_SCRIPT.read_text()}"
        command = [*access.ssh_command(cluster.stack), *access.keepalive(cluster.stack), machine.name]
        self._process = subprocess.Popen(
            [*command, machine.as_root(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            bufsize=1,
            # Ctrl-C is for this program, which ends the login itself.
            start_new_session=True,
        )

    def start(self) -> None:
        """Wait until its programs run, and measure its clock."""
        self._read(_SECONDS)
        if self.problem or self._cluster.stack.traits.on_engine:
            # Containers have their host's clock.
            return
        found = []
        for _ in range(_CLOCK_QUESTIONS):
            asked = time.time()
            told = self.do("clock").get("clock")
            answered = time.time()
            if told:
                found.append((answered - asked, float(told[-1][0]) - (asked + answered) / 2))
        if found:
            self.offset = min(found)[1]

    def do(self, *words: str, seconds: float = _SECONDS) -> Answers:
        """Give a command, and return its answer; what has been answered is in `answers`, too.

        Args:
            words: the command.
            seconds: how long it may take, before the lab's `timeout_factor`.
        """
        if self.problem:
            return {}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(" ".join(words) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            self.problem = str(error)
            return {}
        return self._read(seconds)

    def end(self) -> None:
        """End the login; what it started on the machine ends with it."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self, seconds: float) -> Answers:
        assert self._process.stdout is not None
        found: Answers = {}
        # A machine that freezes says nothing: the read below has no deadline of its own.
        watchdog = threading.Timer(self._cluster.allowed(seconds), self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                key, *fields = line.rstrip("\n").split("\t")
                if key == "done":
                    return found
                found.setdefault(key, []).append(fields)
                self.answers.setdefault(key, []).append(fields)
        finally:
            watchdog.cancel()
        assert self._process.stderr is not None
        said = self._process.stderr.read().strip().splitlines()
        self.problem = said[-1] if said else "it did not answer in time"
        return found


class Logins:
    """The logins on the machines that can have evidence; a context, at whose end they are ended."""

    def __init__(
        self, cluster: Cluster, namespace: str, name: str, *, node: str | None = None, since: float | None = None
    ) -> None:
        """Args:
        cluster: the lab.
        namespace, name: the Pod's.
        node: the Pod's, if it is followed; the other workers are not asked then.
        since: when it was created, if it is followed.
        """
        self._cluster = cluster
        self._node = node
        self._settings = {
            "namespace": namespace,
            "name": name,
            "followed": "no" if since is None else "yes",
            "audit": AUDIT_LOG,
            **({} if since is None else {"since": str(int(since) - 1)}),
        }
        self.all: list[Login] = []

    def __enter__(self) -> Self:
        cluster = self._cluster
        etcd = cluster.etcd_members[0]
        nodes = [machine for machine in cluster.nodes if self._node in (None, machine.name)]
        controllers = cluster.with_role(Role.CONTROLLER)
        try:
            for machine in cluster.machines:
                roles = {"etcd": machine == etcd, "controller": machine in controllers, "node": machine in nodes}
                if any(roles.values()):
                    flags = {role: "yes" if has else "no" for role, has in roles.items()}
                    self.all.append(Login(cluster, machine, self._settings | flags))
            self.each(Login.start)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def each(self, do: Callable[[Login], object]) -> None:
        """Do something with all logins side by side."""
        with ThreadPoolExecutor(max_workers=max(1, len(self.all))) as threads:
            list(threads.map(do, self.all))

    def on(self, name: str | None) -> Login | None:
        """The login on a machine, if it can be asked."""
        return next((login for login in self.all if login.machine.name == name and not login.problem), None)

    def workers(self) -> Sequence[Login]:
        """Those on nodes that can be asked. kubeadm's controllers are nodes too: they are the last."""
        return [login for machine in self._cluster.nodes if (login := self.on(machine.name))]

    def _end(self) -> None:
        self.each(Login.end)
