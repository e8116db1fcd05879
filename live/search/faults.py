"""The faults of a seeded drill, as they are injected and repaired.

Each is repaired by the machine itself after a while where that is possible, should the Pulumi host be lost meanwhile.
"""

import contextlib
import signal
import subprocess
import sys
import time
from tempfile import TemporaryFile

from config.machine_paths import LIBRARY, USE_ETCD
from config.ports import PEER_PORT
from live.cluster import Cluster, LiveMachine
from live.drills import leadership
from live.drills.engine import Engine
from live.drills.faults import TABLE, Fault, Kill, PowerCut
from live.drills.probes import OWN_MEMBER
from live.programs import program
from live.search.delay import DelayingProxy
from live.search.plan import Planned
from toolchain import access, paths, processes
from toolchain.errors import ToolchainError
from toolchain.processes import Process

_REPAIRS_ITSELF = 120
"""Seconds after which a machine repairs what it can without the Pulumi host."""
_TIMER = "hardway-drill-repair"
_HEALTHY_SECONDS = 90
_START_SECONDS = 120
_UP_SECONDS = 600
_REPORTS_WITHIN = 10


class Freeze(Fault):
    """SIGSTOP of one program: its connections stay open, and nothing answers on them."""

    def __init__(self, cluster: Cluster, machine: LiveMachine, name: str) -> None:
        super().__init__(cluster, machine)
        self._name = name
        self._program = program(cluster, name)

    def inject(self) -> float:
        done = self._here(
            f"""{self._processes}
            [ -n "$all" ] || {{ echo "{self._name} does not run" >&2; exit 1; }}
            {_repairs_itself("kill -CONT $all")}
            kill -STOP $all && echo $EPOCHREALTIME""",
        )
        return float(done)

    def recover(self) -> None:
        self._here(f'{self._processes}\n[ -z "$all" ] || kill -CONT $all\n{_NO_TIMER}')

    @property
    def _processes(self) -> str:
        """The shell lines that have `all` its processes: HAProxy's main process serves no connection itself."""
        return f"""main=$({self._program.pid()}); all=${{main:+$main $(pgrep -P "$main" | tr "\\n" " ")}}"""


class Packets(Fault):
    """Rules of nftables on a machine; packets of the Pulumi host always pass, so that ssh works."""

    def __init__(self, cluster: Cluster, machine: LiveMachine, chains: str) -> None:
        super().__init__(cluster, machine)
        self._chains = chains

    def inject(self) -> float:
        done = self._here(
            f"""set -e
            host=${{SSH_CONNECTION%% *}}
            {_repairs_itself(f"nft delete table inet {TABLE}")}
            nft -f - <<END
table inet {TABLE} {{
{self._chains}
}}
END
            echo $EPOCHREALTIME""",
        )
        return float(done)

    def recover(self) -> None:
        self._here(
            f"! nft list table inet {TABLE} >/dev/null 2>&1 || nft delete table inet {TABLE} || exit 1\n{_NO_TIMER}",
        )


def loss(percent: int) -> str:
    """The chains that lose so many percent of what a machine gets from other machines."""
    return f"""  chain in {{
    type filter hook input priority -300; policy accept;
    iif lo accept
    ip saddr $host accept
    numgen random mod 100 < {percent} drop
  }}"""


def one_way(way: str) -> str:
    """The chains that let a machine get nothing (`in`), or send nothing (`out`)."""
    hook, interface, address = {"in": ("input", "iif", "saddr"), "out": ("output", "oif", "daddr")}[way]
    return f"""  chain {way} {{
    type filter hook {hook} priority -300; policy drop;
    {interface} lo accept
    ip {address} $host accept
  }}"""


class Delay(Fault):
    """What the clients send to the balancer, and its answers, are delayed by a proxy on the Pulumi host.

    Args:
        machine: the balancer.
        proxy: the clients'; nothing where a run that was killed has left none.
        delay: seconds.
    """

    def __init__(self, cluster: Cluster, machine: LiveMachine, proxy: DelayingProxy | None, delay: float) -> None:
        super().__init__(cluster, machine)
        self._proxy, self._delay = proxy, delay

    def inject(self) -> float:
        assert self._proxy is not None
        self._proxy.seconds = self._delay
        return time.time()

    def recover(self) -> None:
        if self._proxy is not None:
            self._proxy.seconds = 0


class FullDisk(Fault):
    """The file system with etcd's data is full.

    A machine that is a container has its disk in common with the Pulumi host, so the member's data are moved to a small
    file system in memory, which is filled. There is one copy of the data at any time, and the unit cannot start without
    it: a member must not begin with old data, or with none, should the machine be restarted before the repair.
    """

    def __init__(self, cluster: Cluster, machine: LiveMachine) -> None:
        super().__init__(cluster, machine)
        self._verbs = f"""set -e
            data=/var/lib/etcd aside=/var/lib/etcd-hardway-drill
            drop_in=/etc/systemd/system/etcd.service.d/hardway-drill.conf
            {_healthy(cluster)}"""

    def inject(self) -> float:
        done = self._here(
            f"""{self._verbs}
            install -d "${{drop_in%/*}}"
            printf '[Unit]\\nConditionPathIsMountPoint=%s\\n' $data >"$drop_in"
            systemctl daemon-reload
            systemctl stop etcd.service
            install -d -m 0700 $aside
            mv $data/member $aside/member
            mount -t tmpfs -o size=1g,mode=0700,uid=etcd,gid=etcd tmpfs $data
            cp -a --sparse=always $aside/member $data/member
            touch $data/complete
            rm -rf $aside/member
            systemctl start etcd.service
            healthy
            used=$(du -sk $data | cut -f 1)
            mount -o remount,size=$((used + 512))k $data
            ! head -c 4M /dev/zero 2>/dev/null >$data/fill || {{ echo "$data does not become full" >&2; exit 1; }}
            echo $EPOCHREALTIME""",
            seconds=180,
        )
        return float(done)

    def recover(self) -> None:
        self._here(
            f"""{self._verbs}
            if mountpoint -q $data; then
              if [ -e $data/complete ]; then
                mount -o remount,size=1g $data
                rm -f $data/fill
                # With the data as they were when it was full: that is what is to be seen.
                systemctl start etcd.service
                healthy
                systemctl stop etcd.service
                rm -rf $aside/member $aside/part
                cp -a --sparse=always $data/member $aside/part
                sync -f $aside
                mv $aside/part $aside/member
              fi
              umount $data
            fi
            if [ -d $aside/member ]; then
              mv $aside/member $data/member
            elif [ ! -d $data/member ]; then
              echo "the data of its etcd member were lost when it was restarted: recreate the machine:" \\
                "./hardway replace $HOSTNAME" >&2
              exit 1
            fi
            rm -rf $aside "$drop_in"
            rmdir "${{drop_in%/*}}" 2>/dev/null || true
            systemctl daemon-reload
            systemctl start etcd.service
            healthy""",
            seconds=240,
        )


class Promotion(Fault):
    """A member joins its cluster again as a learner, and etcd is killed while the learner is promoted.

    Its data are removed, and the cluster forgets it, by the lab's own verbs: as for a machine that was made again.
    """

    def __init__(self, cluster: Cluster, machine: LiveMachine, victim: str, delay: float) -> None:
        super().__init__(cluster, machine)
        self._victim, self._delay = victim, delay
        self._peer = f"https://{machine.address}:{PEER_PORT}"
        self._verbs = f"""{_library(cluster)}
            {USE_ETCD}"""
        self._join = f"""if [ ! -d "$ETCD_DATA/member" ]; then
              systemctl stop etcd.service
              join_what_answers {machine.name} {self._peer}
            fi
            systemctl start --no-block etcd.service"""
        self._promoting: subprocess.Popen[str] | None = None

    def inject(self) -> float:
        self._here(
            f"""{self._verbs}
            ctl endpoint health --cluster >/dev/null
            systemctl stop etcd.service
            rm -rf "$ETCD_DATA.removed"
            mv "$ETCD_DATA/member" "$ETCD_DATA.removed"
            {self._join}
            is_learner() {{ local said; said=$(curl -sf http://127.0.0.1:2381/metrics) &&
              grep -q '^etcd_server_is_learner 1' <<<"$said"; }}
            wait_for 60 'a learner' is_learner""",
            seconds=200,
        )
        victim = self._machine if self._victim == "learner" else leadership.etcd_leader(self._cluster)
        self.hits = [self._machine, victim]
        injected_at = time.time()
        promote = f"""{self._verbs}
            end=$((SECONDS + 20))
            until member_serves {self._peer} || [ $SECONDS -ge $end ]; do :; done"""
        self._promoting = subprocess.Popen(
            [*access.ssh_command(self._cluster.stack), self._machine.name, self._machine.as_root(promote)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._ssh(victim, kill_etcd(self._delay))
        return injected_at

    def recover(self) -> None:
        if self._promoting is not None:
            self._promoting.wait(timeout=self._cluster.allowed(60))
        self._here(
            f"""{self._verbs}
            {self._join}
            wait_for {_HEALTHY_SECONDS} 'a healthy voting member' 'member_serves {self._peer}'
            rm -rf $ETCD_DATA.removed""",
            seconds=300,
        )


class KilledUp(Fault):
    """`pulumi up` is killed while it replaces a machine; `./hardway up` then finishes what it began.

    Args:
        machine: which is replaced.
        victim: `pulumi` for its process alone: its plugins learn of it by themselves; `all` for all that
            `./hardway replace` has started, and itself.
        after: seconds from the start of `pulumi up` to the kill.
    """

    def __init__(self, cluster: Cluster, machine: LiveMachine, victim: str, after: float) -> None:
        super().__init__(cluster, machine)
        self._victim, self._after = victim, after
        self._is_finished = False

    def inject(self) -> float:
        with (
            TemporaryFile("w+", errors="replace") as said,
            subprocess.Popen(
                self._command("replace", self._machine.name),
                cwd=paths.checkout(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as replacing,
        ):
            injected_at = time.time()
            try:
                self._let_it_work(replacing)
                if replacing.poll() is None:
                    injected_at = time.time()
                    self._kill(replacing)
                    return injected_at
            except BaseException:
                _kill_session(replacing.pid)
                raise
            if replacing.returncode != 0:
                said.seek(0)
                raise ToolchainError(f"`./hardway replace {self._machine.name}` failed:\n{_last_lines(said.read())}")
        self._is_finished = True
        return injected_at

    def recover(self) -> None:
        if self._is_finished:
            return
        try:
            done = subprocess.run(
                self._command("up"),
                cwd=paths.checkout(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=self._cluster.allowed(_UP_SECONDS),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            said = error.output.decode(errors="replace") if isinstance(error.output, bytes) else ""
            raise ToolchainError(
                f"`./hardway up` after a kill of `pulumi up` did not end within {error.timeout:.0f} s:\n"
                f"{_last_lines(said)}"
            ) from None
        if done.returncode != 0:
            raise ToolchainError(f"`./hardway up` after a kill of `pulumi up` failed:\n{_last_lines(done.stdout)}")
        self._is_finished = True

    def _let_it_work(self, replacing: subprocess.Popen[bytes]) -> None:
        """Wait until `pulumi up` has run for a while, or all has ended."""
        deadline = time.monotonic() + self._cluster.allowed(_START_SECONDS)
        while replacing.poll() is None and _pulumi_up(replacing.pid) is None:
            if time.monotonic() > deadline:
                raise ToolchainError(f"`./hardway replace` has not started `pulumi up` within {_START_SECONDS} s.")
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            replacing.wait(timeout=self._after)

    def _kill(self, replacing: subprocess.Popen[bytes]) -> None:
        if self._victim == "all":
            _kill_session(replacing.pid)
            return
        if (pulumi := _pulumi_up(replacing.pid)) is not None:
            pulumi.send(signal.SIGKILL)
            # It reports the end of `pulumi up`, unless plugins go on: these are for `./hardway up` to end.
            with contextlib.suppress(subprocess.TimeoutExpired):
                replacing.wait(timeout=_REPORTS_WITHIN)
        replacing.kill()

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "cli", "--stack", self._cluster.stack.name, *words]


def kill_etcd(delay: float) -> str:
    """The script that kills a machine's etcd after a while.

    Of a unit that is only starting, too: a learner that has just joined may not have told systemd that it is ready.
    """
    return f"""pid=$(systemctl show --property MainPID --value etcd.service)
        [ "$pid" -gt 0 ] || {{ echo "etcd does not run" >&2; exit 1; }}
        sleep {delay}
        kill -9 $pid"""


def of(planned: Planned, cluster: Cluster, proxy: DelayingProxy | None = None) -> Fault:
    """The fault that was planned.

    Args:
        planned: as it was planned.
        cluster: the lab.
        proxy: what the clients go through, where it is a delay.
    """
    machine = cluster.machine(planned.machine)
    match planned.kind:
        case "kill":
            return Kill(cluster, machine, planned.program)
        case "freeze":
            return Freeze(cluster, machine, planned.program)
        case "loss":
            return Packets(cluster, machine, loss(planned.percent))
        case "delay":
            return Delay(cluster, machine, proxy, planned.delay)
        case "one-way":
            return Packets(cluster, machine, one_way(planned.way))
        case "restart":
            return PowerCut(cluster, machine, Engine(cluster))
        case "full-disk":
            return FullDisk(cluster, machine)
        case "promotion":
            return Promotion(cluster, machine, planned.way, planned.seconds)
        case "killed-up":
            return KilledUp(cluster, machine, planned.way, planned.seconds)
    raise ToolchainError(f"There is no fault of the kind {planned.kind!r}.")


def _repairs_itself(command: str) -> str:
    """The shell lines that have a machine run a command after a while."""
    return f"{_NO_TIMER}\nsystemd-run --quiet --collect --unit={_TIMER} --on-active={_REPAIRS_ITSELF} {command}"


_NO_TIMER = f"systemctl stop {_TIMER}.timer 2>/dev/null || true"


def _library(cluster: Cluster) -> str:
    return f". {LIBRARY}\nTIMEOUT_FACTOR={cluster.timeout_factor}"


def _healthy(cluster: Cluster) -> str:
    """The shell function `healthy`, which waits for the machine's own member."""
    return f"""healthy() {{
              local end=$((SECONDS + {_HEALTHY_SECONDS * cluster.timeout_factor}))
              until ({OWN_MEMBER}; etcdctl endpoint health) >/dev/null 2>&1; do
                [ $SECONDS -lt $end ] || {{
                  echo "its etcd member is not healthy; the last lines of its log:" >&2
                  {program(cluster, "etcd").log()} >&2
                  return 1
                }}
                sleep 0.2
              done
            }}"""


def _kill_session(leader: int) -> None:
    """SIGKILL to all processes of a session: the tool chain gives Pulumi's CLI a process group of its own."""
    while living := [each for each in processes.every() if each.session == leader and not each.has_ended]:
        for each in living:
            each.send(signal.SIGKILL)
        time.sleep(0.05)


def _pulumi_up(leader: int) -> Process | None:
    """The process of a session that is `pulumi up`."""
    ours = (each for each in processes.every() if each.session == leader and not each.has_ended)
    return next((each for each in ours if each.name == "pulumi" and each.command[1:2] == ("up",)), None)


def _last_lines(said: str) -> str:
    return "\n".join(said.strip().splitlines()[-20:])
