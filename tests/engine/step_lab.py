"""Steps on a bare machine, made by the real engine; every run and every process there is watched for secrets."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from subprocess import Popen
from types import TracebackType

from engine import step_program
from engine.container_host import ContainerHost
from engine.project import Project, Ran
from engine.step_program import Plan, Work
from lab.polling import eventually
from lab.secrets_of import traces
from toolchain.recovery import clear_stale_locks
from toolchain.stack import Stack

_LOOK_EVERY = 0.005


class StepLab:
    """One project and one machine. A test's plan takes the place of the one before, so that its steps go.

    Args:
        project: the engine's side.
        host: the machine.
        secrets: private keys (PEM) that nobody may see, beside those of the machine.
    """

    def __init__(self, project: Project, host: ContainerHost, secrets: Sequence[str]) -> None:
        self.host = host
        self.project = project
        self.plan = Plan(machine=host.name, connection=host.connection, works=[])
        self.traces = set[str]().union(*map(traces, [*secrets, host.connection.private_key]))
        self.command_lines: set[str] = set()
        self._is_made: Plan | None = None
        self._done = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StepLab":
        self._watching.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A test that failed may have left an engine at work.
        self.project.kill()
        self._done.set()
        self._watching.join()

    def wants(self, *works: Work) -> None:
        """Make this the plan."""
        self._plans(replace(self.plan, works=works))

    def has(self, *works: Work) -> None:
        """Make this the plan, and the machine so, unless it is so already."""
        self.wants(*works)
        if self._is_made != self.plan:
            self.up()

    def up(self, *, ok: bool = True) -> Ran:
        """Bring the machine to the plan, or fail to."""
        self._is_made = None
        ran = self._checked(self.project.up(ok=ok))
        self._is_made = self.plan if ok else None
        return ran

    def preview(self) -> Ran:
        return self._checked(self.project.preview())

    def destroy(self) -> Ran:
        self._is_made = None
        return self._checked(self.project.destroy())

    def up_with(self, plan: Plan) -> Ran:
        """Fail to bring the machine to another plan, which is forgotten then."""
        usual = self.plan
        self._plans(plan)
        try:
            return self.up(ok=False)
        finally:
            self._plans(usual)

    def start(self) -> "Popen[bytes]":
        """Begin to bring the machine to the plan."""
        self._is_made = None
        return self.project.start("up", "--yes", "--skip-preview")

    def kill(self, engine: "Popen[bytes]") -> None:
        """kill -9 of the engine and all its plugins; the dead engine's lock goes as `./hardway up` removes it."""
        self.project.kill()
        engine.wait()
        stack = Stack(
            name="test",
            project="engine-test",
            settings_file=self.project.directory / "Pulumi.test.yaml",
            substrate="containers",
            engine="podman",
            kubernetes="",
        )
        assert clear_stale_locks(self.project.state.parents[3], stack), "the killed engine had no lock"

    def runs(self, words: str) -> bool:
        """Whether a process on the machine has these words in its command line."""
        return any(words in line for line in self.host.command_lines())

    def eventually_runs(self, words: str) -> None:
        eventually(f"a process with {words!r}", lambda: self.runs(words), seconds=40, pause=0.05)

    def shows_secret(self, text: str) -> bool:
        """Whether there is a part of a secret in a text."""
        return "PRIVATE KEY-" in text or any(trace in text for trace in self.traces)

    def _checked(self, ran: Ran) -> Ran:
        assert not self.shows_secret(ran.output), "the engine shows a secret"
        return ran

    def _plans(self, plan: Plan) -> None:
        self.plan = plan
        step_program.write(plan, self.project.directory)

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_EVERY):
            self.command_lines |= self.host.command_lines()
