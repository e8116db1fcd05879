"""`make test-hosts`: a Debian 13 virtual machine with its own kernel, systemd, cgroup v2 and AppArmor, step by step.

Labs of 1 controller and 1 worker, by an ordinary user with sudo: on podman, then on Docker. It ends with a table: what,
seconds, passed or failed. A step that fails does not end the others; the exit status is 1 then.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.polling import eventually
from labs.debian13.debian_root import PROJECT, USER
from labs.debian13.vm import VirtualMachine

_ENGINES = ("podman", "docker")
_FACTOR = 10
# So many in a row: without br_netfilter most answers get lost, and not all of them.
_QUERIES = 6
_BACK_SECONDS = 900
# Each try is a Python and a kubectl more, on processors that are emulated.
_PAUSE = 20
_DNS, _API_SERVICE = "10.173.0.10", "10.173.0.1"


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a step went."""

    what: str
    seconds: float
    failure: str = ""


def settings(engine: str) -> str:
    """The settings file of a lab."""
    return f"""config:
  hardway:lab:
    controllers: 1
    workers: 1
    timeout_factor: {_FACTOR}
    containers: {{engine: {engine}}}
    network: {{nodes: 10.153.0.0/24, pods: 10.163.0.0/16, services: 10.173.0.0/24}}
"""


def stack_of(engine: str) -> str:
    """The stack of the lab on an engine."""
    return f"vm-{engine}"


class Checks:
    """The steps on one virtual machine, and their results so far."""

    def __init__(self, machine: VirtualMachine) -> None:
        self._machine = machine
        self.results: list[Result] = []

    def step(self, what: str, do: Callable[[], object]) -> bool:
        """Do a step, show and keep how it went; return whether it passed."""
        print(f"{what} ...", flush=True)
        began = time.monotonic()
        failure = ""
        try:
            do()
        except Exception as error:
            failure = str(error) or type(error).__name__
            print(failure, flush=True)
        self.results.append(Result(what=what, seconds=time.monotonic() - began, failure=failure))
        return not failure

    def host_is_what_it_is_to_be(self) -> None:
        """Debian 13 with cgroup v2 and AppArmor; otherwise all that follows shows something else."""
        said = self._machine.run(
            ". /etc/os-release; echo $VERSION_ID; stat -f -c %T /sys/fs/cgroup; "
            "cat /sys/module/apparmor/parameters/enabled"
        )
        assert said.split() == ["13", "cgroup2fs", "Y"], said

    def make(self, engine: str, target: str, *, sudo: bool = False) -> str:
        """What the user's `make` prints."""
        command = f"cd {PROJECT} && {'sudo ' if sudo else ''}make {target} STACK={stack_of(engine)}"
        return self._machine.run(command, user=USER)

    def lab_works(self, engine: str) -> None:
        """The Node is Ready, and the cluster's DNS answers each of several queries."""

        def ready() -> bool:
            nodes = self.make(engine, "kubectl ARGS='get nodes --no-headers'").split()
            return nodes[:2] == ["worker-0", "Ready"]

        eventually("the Node's being Ready", ready, seconds=_BACK_SECONDS, pause=_PAUSE)
        dig = f"dig +short +time={_FACTOR} +tries=1 @{_DNS} kubernetes.default.svc.cluster.local || true"
        all_of_them = " ".join(map(str, range(_QUERIES)))

        def each_is_answered() -> bool:
            script = f"for each in {all_of_them}; do {dig}; done"
            said = self.make(engine, f"ssh MACHINE=worker-0 ARGS='{script}'").split()
            assert said == [_API_SERVICE] * _QUERIES, f"{_QUERIES} queries to DNS: {said}"
            return True

        eventually("an answer of DNS to each query", each_is_answered, seconds=_BACK_SECONDS, pause=_PAUSE)

    def pods_are_filtered_by_their_machine(self) -> None:
        """The module without which packets between pods and Services get lost."""
        assert self._machine.run("cat /proc/sys/net/bridge/bridge-nf-call-iptables").strip() in ("0", "1")

    def user_needs_no_sudo(self, engine: str) -> None:
        """status, kubectl and preview of the user, and no file of root's in the checkout."""

        def well() -> bool:
            return bool(self.make(engine, "status"))

        # An emulated machine that has just been busy fails a health check at times.
        eventually("a healthy lab", well, seconds=_BACK_SECONDS, pause=_PAUSE)
        assert "unchanged" in self.make(engine, "preview")
        foreign = self._machine.run(f"find {PROJECT} ! -user {USER}")
        assert not foreign, foreign

    def nothing_is_left(self, engine: str) -> None:
        """No container, network, unit or rule of the lab's."""
        prefix = f"hardway-{stack_of(engine)}"
        left = self._machine.run(
            f"{engine} ps --all --format '{{{{.Names}}}}'; {engine} network ls --format '{{{{.Name}}}}'; "
            "ls /etc/systemd/system /usr/local/lib; iptables -S"
        )
        assert prefix not in left, left


def run(machine: VirtualMachine) -> list[Result]:
    """All steps."""
    checks = Checks(machine)
    if not checks.step("disk made", lambda: machine.make_disk({stack_of(each): settings(each) for each in _ENGINES})):
        return checks.results
    try:
        if not checks.step("Debian 13 boots", machine.start):
            return checks.results
        checks.step("cgroup v2, AppArmor", checks.host_is_what_it_is_to_be)
        for engine in _ENGINES:
            _run_engine(checks, machine, engine)
    finally:
        machine.stop()
    return checks.results


def _run_engine(checks: Checks, machine: VirtualMachine, engine: str) -> None:
    checks.step(f"{engine}: node image", lambda: machine.load_node_image(engine))
    if checks.step(f"{engine}: sudo make up", lambda: checks.make(engine, "up", sudo=True)):
        checks.step(f"{engine}: Node Ready, DNS answers", lambda: checks.lab_works(engine))
        checks.step(f"{engine}: the user's commands without sudo", lambda: checks.user_needs_no_sudo(engine))
        if checks.step(f"{engine}: reboot", machine.reboot):
            checks.step(f"{engine}: br_netfilter after the reboot", checks.pods_are_filtered_by_their_machine)
            checks.step(f"{engine}: Node Ready, DNS answers after the reboot", lambda: checks.lab_works(engine))
    # Also what an `up` that failed has left.
    if checks.step(f"{engine}: sudo make destroy", lambda: checks.make(engine, "destroy", sudo=True)):
        checks.step(f"{engine}: nothing is left", lambda: checks.nothing_is_left(engine))


def table(results: list[Result]) -> str:
    """The results, a line each."""
    width = max(len(each.what) for each in results)
    lines = [
        f"{each.what:{width}}  {each.seconds:7.0f} s  {'FAILED' if each.failure else 'passed'}" for each in results
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    found = run(VirtualMachine())
    print(f"\n{table(found)}", flush=True)
    sys.exit(any(each.failure for each in found))
