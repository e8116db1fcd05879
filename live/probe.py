"""What a machine says about itself: one ssh, all questions at once, each with a deadline of its own.

A machine that is dead, slow or half broken still gives an answer: that it did not give one, and why. All deadlines are
multiplied by the lab's `timeout_factor`. What depends on other machines' answers is asked by a second ssh (`ask_more`).
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from config import health
from config.machines import Role
from live.cluster import Cluster, LiveMachine

_EACH_SECONDS = 5
_ALL_SECONDS = 20
"""A machine that takes a connection and then says nothing costs this."""

# Of ssh: the host key is not the one that the lab has pinned.
_OTHER_HOST_KEY = "Host key verification failed"
_UNITS: Mapping[Role, tuple[str, ...]] = {
    Role.ETCD: ("etcd.service", "etcd-snapshot.timer"),
    Role.CONTROLLER: (
        "kube-apiserver.service",
        "kube-controller-manager.service",
        "kube-scheduler.service",
        "nginx.service",
    ),
    Role.WORKER: ("containerd.service", "kubelet.service", "kube-proxy.service"),
    Role.LOAD_BALANCER: ("haproxy.service",),
}
_CHAPTERS: Mapping[Role, str] = {
    Role.ETCD: "etcd",
    Role.CONTROLLER: "control-plane",
    Role.WORKER: "workers",
    Role.LOAD_BALANCER: "load-balancer",
}
"""The chapter that creates the units of a role."""
# Where kubeadm made the cluster.
_KUBEADM_UNITS: Mapping[Role, tuple[str, ...]] = {
    Role.ETCD: ("etcd-snapshot.timer",),
    Role.CONTROLLER: ("containerd.service", "kubelet.service"),
    Role.WORKER: ("containerd.service", "kubelet.service"),
    Role.LOAD_BALANCER: ("haproxy.service",),
}
_KUBEADM_PODS: Mapping[Role, tuple[str, ...]] = {
    Role.CONTROLLER: ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"),
    Role.WORKER: ("kube-proxy",),
}


_HEALTH = Path(__file__).parents[1] / "components" / "etcd_health.sh"
NODES_LISTED = 100
"""So many Nodes are asked for, whatever their names are."""
SNAPSHOT_SERVICE = "etcd-snapshot.service"
# For each route that the machine is to have: pods, next hop, and what the kernel would do with a packet to these pods.
_ROUTES = """\
while read -r verb _ pods _ hop _ || [ -n "$verb" ]; do
  [ "$verb" = route ] || continue
  echo "$pods $hop $(ip -4 route get "${pods%/*}" 2>&1 | head -n 1)"
done </etc/hardway/pod-routes"""
# Where the last snapshot failed: the last that it said. Its own words only, without systemd's.
_SNAPSHOT = f"""\
if systemctl -q is-failed {SNAPSHOT_SERVICE}; then
  said=$(journalctl -q --no-pager -o cat -n 1 _SYSTEMD_UNIT={SNAPSHOT_SERVICE})
  echo "failed ${{said:-it says no reason}}"
fi"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How one question ended on a machine.

    Args:
        status: the command's exit status; 124 where it took too long.
        out: what it printed.
        error: what it said on stderr.
        seconds: how long it was allowed to take.
    """

    status: int
    out: str
    error: str = ""
    seconds: int = _EACH_SECONDS

    @property
    def why(self) -> str:
        """Its last word, for a report."""
        if self.status == 124:
            return f"no answer within {self.seconds} s"
        lines = (self.error.strip() or self.out.strip() or f"exit status {self.status}").splitlines()
        return lines[-1].strip()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one machine said.

    Args:
        machine: which.
        missing: why it was not reached; empty where it was.
        is_foreign: whether it was not reached because another checkout or another state has recreated it.
        answers: question -> answer, see `questions`.
    """

    machine: LiveMachine
    missing: str = ""
    is_foreign: bool = False
    answers: Mapping[str, Answer] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether the machine answered at all."""
        return not self.missing

    def answer(self, question: str) -> Answer:
        """The answer to a question; a failed one where the machine was not reached or not asked."""
        return self.answers.get(question, Answer(status=255, out="", error=self.missing or "not asked"))

    def json(self, question: str) -> Any:
        """What a machine answered as JSON; an empty mapping where there is nothing to be read."""
        answer = self.answer(question)
        # kubectl prints an empty list where it got no answer.
        if answer.status != 0:
            return {}
        try:
            return json.loads(answer.out) or {}
        except ValueError:
            return {}


def probe_all(cluster: Cluster) -> list[Probe]:
    """Ask all machines side by side, and return their answers in the order of the lab."""
    with ThreadPoolExecutor(max_workers=len(cluster.machines)) as threads:
        return list(threads.map(lambda machine: probe(cluster, machine), cluster.machines))


def ask_more(cluster: Cluster, probes: Sequence[Probe], asked: Mapping[str, Mapping[str, str]]) -> list[Probe]:
    """Ask further questions side by side, and return the probes with the answers added.

    Args:
        cluster: the lab.
        probes: what its machines said before.
        asked: name of a machine -> question -> shell command; the other machines are not asked.
    """

    def more(before: Probe) -> Probe:
        questions = asked.get(before.machine.name)
        if not questions:
            return before
        answers = _ask(cluster, before.machine, questions)
        if isinstance(answers, Probe):
            failed = Answer(status=255, out="", error=answers.missing)
            answers = dict.fromkeys(questions, failed)
        return replace(before, answers={**before.answers, **answers})

    with ThreadPoolExecutor(max_workers=len(probes)) as threads:
        return list(threads.map(more, probes))


def probe(cluster: Cluster, machine: LiveMachine, asked: Mapping[str, str] | None = None) -> Probe:
    """Ask one machine.

    Args:
        cluster: the lab.
        machine: which.
        asked: question -> shell command; everything that its roles can answer if not given.
    """
    answers = _ask(cluster, machine, questions(cluster, machine) if asked is None else asked)
    return answers if isinstance(answers, Probe) else Probe(machine=machine, answers=answers)


def _ask(cluster: Cluster, machine: LiveMachine, asked: Mapping[str, str]) -> dict[str, Answer] | Probe:
    """The answers; where there are none, a probe that says why."""
    each = _EACH_SECONDS * cluster.timeout_factor
    try:
        done = cluster.ssh(machine, script(asked, seconds=each), seconds=_ALL_SECONDS)
    except subprocess.TimeoutExpired:
        return Probe(machine=machine, missing=f"no answer within {_ALL_SECONDS * cluster.timeout_factor} s")
    answers = parse(done.stdout, seconds=each)
    if answers:
        return answers
    said = done.stderr.strip().splitlines() or [f"ssh ended with status {done.returncode}"]
    return Probe(machine=machine, missing=said[-1].strip(), is_foreign=_OTHER_HOST_KEY in done.stderr)


def expected_units(cluster: Cluster, machine: LiveMachine) -> list[str]:
    """The units that are to run on a machine."""
    roles = set(machine.roles) | ({Role.ETCD} if machine in cluster.etcd_members else set())
    roles = {role for role in roles if cluster.has(_CHAPTERS[role])}
    known = _KUBEADM_UNITS if cluster.by_kubeadm else _UNITS
    units = [unit for role in Role if role in roles for unit in known[role]]
    if Role.LOAD_BALANCER in roles and len(cluster.with_role(Role.LOAD_BALANCER)) > 1:
        units.append("keepalived.service")
    return units


def expected_pods(cluster: Cluster, machine: LiveMachine) -> list[str]:
    """The containers of kubeadm's own pods that are to run on a machine; none where all programs are units."""
    if not cluster.by_kubeadm:
        return []
    return [pod for role, pods in _KUBEADM_PODS.items() if role in machine.roles for pod in pods]


def _pods_running(names: Sequence[str]) -> str:
    """The shell command that prints for each container, by its name in its pod, active or inactive."""
    # Asked of containerd: that needs neither kubelet nor API.
    return (
        "running=$(ctr -n k8s.io tasks ls | awk '$3 == \"RUNNING\" { print $1 }'); "
        f"for name in {' '.join(names)}; do "
        'ids=$(ctr -n k8s.io containers ls -q "labels.\\"io.kubernetes.container.name\\"==$name"); '
        'if [ -n "$ids" ] && grep -qxF "$ids" <<<"$running"; then echo active; else echo inactive; fi; done'
    )


def unit_questions(cluster: Cluster, machine: LiveMachine) -> dict[str, str]:
    """Name -> shell command: whether the programs of a machine's roles run."""
    # Without names it prints nothing.
    asked = {"units": f"systemctl is-active {' '.join(expected_units(cluster, machine))} || true"}
    if pods := expected_pods(cluster, machine):
        asked["pods"] = _pods_running(pods)
    return asked


def firewall_question(cluster: Cluster, machine: LiveMachine) -> str | None:
    """The shell lines that print a machine's own rules; nothing where no packets of pods pass through it."""
    if machine not in cluster.nodes:
        return None
    script: str = cluster.stack.traits.load_operations().FIREWALL_SCRIPT.read_text()
    return script


def member_health() -> str:
    """The shell functions `member_health` and `member_is_healthy`; TIMEOUT_FACTOR stands before them."""
    return _HEALTH.read_text()


def own_etcdctl(cluster: Cluster) -> str:
    """The beginning of a shell command that asks a machine's own etcd member for JSON."""
    seconds = 3 * cluster.timeout_factor
    return (
        ". /etc/etcd/etcdctl.env && ETCDCTL_ENDPOINTS=https://127.0.0.1:2379 "
        f"etcdctl --command-timeout={seconds}s -w json"
    )


def questions(cluster: Cluster, machine: LiveMachine) -> dict[str, str]:
    """Name -> shell command, of all that a machine is asked."""
    # Each command gives up before the question's own deadline: then it says why.
    most = 4 * cluster.timeout_factor
    command_timeout = 3 * cluster.timeout_factor
    etcdctl = own_etcdctl(cluster)
    asked = {
        **unit_questions(cluster, machine),
        "clock": "date +%s.%N",
        "failed": "systemctl list-units --state=failed --plain --no-legend",
        "addresses": "ip -4 -o address show",
        **({"routes": _ROUTES} if cluster.has("pod-network") else {}),
    }
    if machine in cluster.etcd_members and cluster.has("etcd"):
        asked |= {
            "etcd": f"{etcdctl} endpoint status",
            # Its own list, not the cluster's: it can be had without a quorum.
            "members": f"{etcdctl} member list --consistency=s",
            "health": f"TIMEOUT_FACTOR={cluster.timeout_factor}\n{member_health()}\nmember_health",
            "snapshot": _SNAPSHOT,
        }
    if Role.CONTROLLER in machine.roles and cluster.has("control-plane"):
        kubectl = (
            "kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig --cache-dir /var/lib/hardway/kubectl "
            f"--server https://127.0.0.1:6443 --request-timeout={most}s"
        )
        asked |= {
            "readyz": f"curl -sS --max-time {most} --cacert /etc/kubernetes/pki/ca.crt -w '\\n%{{http_code}}' "
            f"'https://{machine.address}:6443{health.API_READY}?verbose'",
            # Its own API server: the balancer may be what is broken.
            "objects": f"{kubectl} --namespace kube-system get leases,pods,deployments "
            # There is a pod of each DaemonSet for every Node.
            "--selector 'k8s-app notin (kube-proxy,calico-node)' -o json",
            "nodes": _nodes_question([each.name for each in cluster.nodes], kubectl),
        }
    if cluster.by_kubeadm and Role.CONTROLLER in machine.roles:
        # By its files alone: without a kubeconfig it does not wait for an API that may be what is broken.
        asked["certificates"] = "kubeadm certs check-expiration --kubeconfig /nonexistent -o json"
    if Role.LOAD_BALANCER in machine.roles and cluster.has("load-balancer"):
        asked["backends"] = f"echo 'show stat' | socat -t {command_timeout} - UNIX-CONNECT:/run/haproxy/admin.sock"
    if (rules := firewall_question(cluster, machine)) is not None:
        asked["firewall"] = rules
    return asked


def _nodes_question(names: Sequence[str], kubectl: str) -> str:
    """The shell lines that print the Nodes as a JSON array of lists: the first NODES_LISTED; then, if there are more,
    the lab's own, so that the answer does not grow with the number of others.
    """
    return f"""
page=$({kubectl} get --raw '/api/v1/nodes?limit={NODES_LISTED}') || exit
printf '[%s' "$page"
case $page in *'"continue":"'[!\\"]*)
  own=$({kubectl} get nodes {" ".join(names)} --ignore-not-found -o json) || exit
  printf ',%s' "${{own:-null}}" ;;
esac
echo ]"""


def script(asked: Mapping[str, str], *, seconds: int) -> str:
    """The bash script that asks all questions side by side; each may take so many seconds.

    It prints for each question a line "== NAME STATUS", then what the command printed with a blank before each line,
    and what it said on stderr with a "!" before each.
    """
    lines = [
        'export LC_ALL=C; answers=$(mktemp -d) && trap \'rm -rf "$answers"\' EXIT && cd "$answers" || exit 1',
        f'ask() {{ timeout {seconds} bash -c "$2" >"$1.out" 2>"$1.error" </dev/null; echo $? >"$1.status"; }}',
        *(f"ask {name} {quote(command)} &" for name, command in asked.items()),
        "wait",
        f"for name in {' '.join(asked)}; do",
        '  echo "== $name $(cat "$name.status")"',
        '  sed "s/^/ /" "$name.out"; echo; sed "s/^/!/" "$name.error"; echo',
        "done",
    ]
    return "\n".join(lines)


def parse(printed: str, *, seconds: int) -> dict[str, Answer]:
    """Question -> answer, out of what `script` printed, given the same deadline."""
    answers: dict[str, Answer] = {}
    for part in f"\n{printed}".split("\n== ")[1:]:
        head, _, body = part.partition("\n")
        name, _, status = head.partition(" ")
        lines = body.splitlines()
        answers[name] = Answer(
            status=int(status) if status.isdigit() else 255,
            out="\n".join(line[1:] for line in lines if line.startswith(" ")),
            error="\n".join(line[1:] for line in lines if line.startswith("!")),
            seconds=seconds,
        )
    return answers
