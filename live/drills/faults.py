"""What a drill breaks, and how that is repaired.

A fault is prepared (before anything is measured), injected and recovered. `recover` must succeed even if `inject` never
ran, or `recover` ran already: so the next run can clean up what a run that was killed has left.
"""

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

from live import machine_lock
from live.cluster import Cluster, LiveMachine
from live.drills import leadership
from live.drills.engine import Engine
from live.drills.leadership import COMMAND
from live.drills.probes import ETCD_PREFIX, OWN_MEMBER
from live.last_lines import Logged, last_lines
from live.programs import program
from toolchain import access
from toolchain.errors import ToolchainError

_SERVES_WITHIN = 90
TABLE = "hardway_drill"
_SAID = "/run/hardway-drill-said"
_FILL = f"{ETCD_PREFIX}fill/"


def check_packet_filter(cluster: Cluster, machines: Sequence[LiveMachine]) -> None:
    """See that machines have nft, by which packets are dropped: on existing hosts only workers get it with the lab.

    Raises:
        ToolchainError: with all that have none, or cannot be asked; nothing was changed.
    """
    problems = []
    for machine in machines:
        try:
            done = cluster.ssh(machine, "command -v nft >/dev/null && echo yes || echo no")
        except subprocess.TimeoutExpired as error:
            problems.append(f"{machine.name} has not answered within {error.timeout:.0f} s")
            continue
        if done.returncode != 0:
            problems.append(f"{machine.name} does not answer: {done.stderr.strip()}")
        elif done.stdout.strip() != "yes":
            problems.append(f"{machine.name} has no nft: install the package nftables there")
    if problems:
        raise ToolchainError("Nothing was changed:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _https(port: int, path: str) -> str:
    # Not verified: it is the machine's own, and kubeadm's controller manager and scheduler sign for themselves.
    return f"curl -skf --max-time 2 https://127.0.0.1:{port}{path}"


SERVES: Mapping[str, str] = {
    "etcd": ". /etc/etcd/etcdctl.env && ETCDCTL_ENDPOINTS=https://127.0.0.1:2379 etcdctl endpoint health",
    "kube-apiserver": _https(6443, "/readyz"),
    "kube-controller-manager": _https(10257, "/healthz"),
    "kube-scheduler": _https(10259, "/healthz"),
    "kubelet": "curl -sf --max-time 2 http://127.0.0.1:10248/healthz",
    "containerd": "ctr version",
    "kube-proxy": 'curl -sf --max-time 2 "http://$address:10256/livez"',
    "haproxy": "(exec 3<>/dev/tcp/127.0.0.1/6443)",
}
"""The programs that can be killed -> the shell command that succeeds when one serves; $address is the machine's."""


class Fault:
    """Something that is broken on machines.

    Attributes:
        hits: the machines that may not answer meanwhile.
        served: when what was broken served again by itself, in seconds since the epoch, as soon as that is known.
    """

    def __init__(self, cluster: Cluster, *hits: LiveMachine) -> None:
        self.hits: Sequence[LiveMachine] = list(hits)
        self.served: float | None = None
        self._cluster = cluster

    @property
    def _machine(self) -> LiveMachine:
        return self.hits[0]

    def prepare(self) -> None:
        """What comes before the measurement."""

    def inject(self) -> float:
        """Break it, and return when that was, in seconds since the epoch."""
        raise NotImplementedError

    def recover(self) -> None:
        """Repair it."""

    def _here(self, script: str, *, seconds: float = 60) -> str:
        """What a script on its first machine prints."""
        return self._ssh(self._machine, script, seconds=seconds)

    def _ssh(self, machine: LiveMachine, script: str, *, seconds: float = 60) -> str:
        done = self._cluster.change(machine, script, command=COMMAND, seconds=seconds)
        if done.returncode != 0:
            raise ToolchainError(f"{machine.name}: {(done.stderr or done.stdout).strip()}")
        return done.stdout


class Kill(Fault):
    """kill -9 of one program; systemd or the kubelet starts it again."""

    def __init__(self, cluster: Cluster, machine: LiveMachine, name: str) -> None:
        super().__init__(cluster, machine)
        self._name = name
        self._program = program(cluster, name)
        self._serves_within = _SERVES_WITHIN * cluster.timeout_factor
        self._process: subprocess.Popen[str] | None = None
        self._waiting: threading.Thread | None = None

    def inject(self) -> float:
        script = f"""
            export LC_ALL=C
            read -r _ _ address _ <<<"$SSH_CONNECTION"
            pid() {{ {self._program.pid()}; }}
            old=$(pid)
            [ -n "$old" ] || {{ echo "{self._name} does not run" >&2; exit 1; }}
            echo "$EPOCHREALTIME"
            kill -9 "$old"
            until new=$(pid); [ -n "$new" ] && [ "$new" != "$old" ] && {SERVES[self._name]} >/dev/null 2>&1; do
              [ $SECONDS -lt {self._serves_within} ] || exit 1
              sleep 0.1
            done
            echo "$EPOCHREALTIME"
            """
        locked = machine_lock.alone(
            script,
            command=COMMAND,
            wait=self._cluster.allowed(machine_lock.WAIT_SECONDS),
            seconds=self._serves_within + 10,
        )
        # What it prints is waited for without a deadline here: a machine that is frozen must end the wait.
        ssh = [*access.ssh_command(self._cluster.stack), *access.keepalive(self._cluster.stack)]
        self._process = subprocess.Popen(
            [*ssh, self._machine.name, self._machine.as_root(locked)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A terminal's Ctrl-C is not for it: it is what sees that the program serves again.
            start_new_session=True,
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        killed = self._process.stdout.readline()
        if not killed:
            raise ToolchainError(f"{self._machine.name}: {self._process.stderr.read().strip()}")
        self._waiting = threading.Thread(target=self._wait, args=(self._process,), daemon=True)
        self._waiting.start()
        return float(killed)

    def recover(self) -> None:
        if self._process is None or self._waiting is None:
            return
        self._waiting.join(timeout=self._serves_within + 10)
        self._process.kill()
        if self.served is None:
            logs = last_lines(self._cluster, [Logged(self._machine, self._name)])
            raise ToolchainError(
                f"{self._name} on {self._machine.name} does not serve again within {self._serves_within} s.{logs}"
            )

    def _wait(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        if line := process.stdout.readline():
            self.served = float(line)


class PowerCut(Fault):
    """A machine stops as in a power cut, and is started again in the end."""

    def __init__(self, cluster: Cluster, machine: LiveMachine, engine: Engine) -> None:
        super().__init__(cluster, machine)
        self._engine = engine

    def inject(self) -> float:
        injected_at = time.time()
        self._engine.cut_power(self._machine)
        return injected_at

    def recover(self) -> None:
        self._engine.start(self._machine)


class LeadersPowerCut(PowerCut):
    """The power cut of a machine on which all that leads was gathered before."""

    def prepare(self) -> None:
        leadership.gather(self._cluster, self._machine)

    def recover(self) -> None:
        super().recover()
        leadership.release(self._cluster)


class Partition(Fault):
    """A machine is cut off from all other machines of the lab, in both directions; only the host still reaches it."""

    def prepare(self) -> None:
        leadership.gather(self._cluster, self._machine)

    def inject(self) -> float:
        # The rules are the machine's own. The Pulumi host's packets pass, so that ssh does.
        rules = f"""
            table inet {TABLE} {{
              chain in {{
                type filter hook input priority -300; policy drop;
                iif lo accept
                ip saddr $host accept
              }}
              chain out {{
                type filter hook output priority -300; policy drop;
                oif lo accept
                ip daddr $host accept
              }}
            }}"""
        injected_at = time.time()
        self._here(f"host=${{SSH_CONNECTION%% *}}\nnft -f - <<END\n{rules}\nEND")
        return injected_at

    def recover(self) -> None:
        self._here(f"nft list table inet {TABLE} >/dev/null 2>&1 || exit 0; nft delete table inet {TABLE}")
        leadership.release(self._cluster)


class FullQuota(Fault):
    """One member's database reaches its quota: etcd raises an alarm, and all members refuse to write.

    The member gets a small quota for a while, by its environment.
    """

    _ROOM = 8_000_000

    def __init__(self, cluster: Cluster, machine: LiveMachine) -> None:
        super().__init__(cluster, machine)
        self._etcd = program(cluster, "etcd")
        tries = 150 * cluster.timeout_factor
        self._healthy = (
            f"for try in $(seq {tries}); do etcdctl endpoint health >/dev/null 2>&1 && break; sleep 0.2; done"
        )

    def prepare(self) -> None:
        self._here(
            f"""{OWN_MEMBER}
            set -e
            size=$(etcdctl endpoint status -w json | grep -o '"dbSize":[0-9]*')
            {self._etcd.run_with(f"ETCD_QUOTA_BACKEND_BYTES=$((${{size#*:}} + {self._ROOM}))")}
            {self._healthy}""",
            seconds=180,
        )

    def inject(self) -> float:
        done = self._here(
            f"""{OWN_MEMBER}
            for number in $(seq 100); do
              head -c 500000 /dev/urandom | base64 -w 0 | etcdctl put {_FILL}$number >/dev/null 2>{_SAID} && continue
              grep -q 'database space exceeded' {_SAID} && echo "$EPOCHREALTIME" && exit
              sleep 0.5
            done
            cat {_SAID} >&2; exit 1""",
        )
        return float(done)

    def recover(self) -> None:
        # As etcd's own page on maintenance has it: what is too much goes, then its history, then its space.
        self._here(
            f"""{OWN_MEMBER}
            left=$(etcdctl alarm list; etcdctl get --prefix --keys-only {_FILL})
            {self._etcd.is_changed()} || [ -n "$left" ] || exit 0
            set -e
            etcdctl del --prefix {_FILL} >/dev/null
            revision=$(etcdctl endpoint status -w json | grep -o '"revision":[0-9]*')
            etcdctl compact --physical ${{revision#*:}} >/dev/null
            etcdctl --command-timeout={30 * self._cluster.timeout_factor}s defrag --cluster >/dev/null
            etcdctl alarm disarm >/dev/null
            rm -f {_SAID}
            if {self._etcd.is_changed()}; then
              {self._etcd.run_without()}
              {self._healthy}
            fi""",
            seconds=240,
        )


class PowerCutForAll(Fault):
    """Every machine stops at once, as in a power cut; all are started as the host's unit of the lab does at boot."""

    def __init__(self, cluster: Cluster, engine: Engine) -> None:
        super().__init__(cluster, *cluster.machines)
        self._engine = engine

    def inject(self) -> float:
        injected_at = time.time()
        self._engine.cut_power(*self._cluster.machines)
        self._engine.boot()
        return injected_at

    def recover(self) -> None:
        self._engine.boot()


class EngineRestart(PowerCutForAll):
    """The container engine is restarted, and the machines are started as the host's unit of the lab does at boot."""

    def inject(self) -> float:
        injected_at = time.time()
        self._engine.restart()
        return injected_at
