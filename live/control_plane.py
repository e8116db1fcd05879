"""etcd and the control plane of a lab, stopped and started as a whole: the shell lines for each of its machines.

On the hard way they are units. Where kubeadm made the cluster they are static pods, and the kubelet starts them all:
while it is stopped, what was killed stays dead.
"""

from dataclasses import dataclass

from config.machine_paths import LIBRARY
from config.ports import API_PORT
from live.cluster import Cluster
from live.probe import member_health
from live.programs import LEADERS, MANIFESTS, Pod

_PROGRAMS = ("kube-apiserver", *LEADERS)
_SECONDS = 120
# etcd's default: kubeadm gives it no other.
_DEFAULT_TOKEN = "etcd-cluster"

_MEMBER = "a healthy etcd member of a cluster with a leader"
_READY = f"curl -sf --max-time $((3 * TIMEOUT_FACTOR)) --cacert /etc/kubernetes/pki/ca.crt https://127.0.0.1:{API_PORT}/readyz"
_READY_MEANS = f"https://127.0.0.1:{API_PORT}/readyz says ok"


@dataclass(frozen=True, kw_only=True)
class ControlPlane:
    """The shell lines for a machine that has a part in it.

    Args:
        facts: print `unit=yes` and `token=...` (--initial-cluster-token) where etcd is to run here, and can, and
            `control_plane=yes` where the API server is.
        owner: user:group of etcd's data.
        etcd_unit: the unit without which etcd does not start.
        stop: ends the control plane, so that nothing that it has not written yet is written.
        stop_etcd: ends etcd, after that.
        start_etcd: starts it, and waits until its cluster has a leader.
        start_api_server: likewise, until it is ready.
        start_leaders: starts controller manager and scheduler.
    """

    facts: str
    owner: str
    etcd_unit: str
    stop: str
    stop_etcd: str
    start_etcd: str
    start_api_server: str
    start_leaders: str


def control_plane(cluster: Cluster) -> ControlPlane:
    """How it runs in a lab."""
    library = _library(cluster.timeout_factor)
    return _pods(library, cluster.timeout_factor) if cluster.by_kubeadm else _units(library)


def _library(timeout_factor: int) -> str:
    """The step library: it waits, and says what did not come. With it the definition of an etcd member's health."""
    return (
        f". {LIBRARY}\nTIMEOUT_FACTOR={timeout_factor}\ndeclare -gA ready_check=() ready_seconds=() ready_what=()\n"
        f"{member_health()}"
    )


def _units(library: str) -> ControlPlane:
    etcd = "/etc/systemd/system/etcd.service"
    units = " ".join(f"{name}.service" for name in _PROGRAMS)
    return ControlPlane(
        facts=f"""
[ -e {etcd} ] && etcd --version >/dev/null 2>&1 && echo unit=yes &&
  sed -n 's/.*--initial-cluster-token=\\([^ ]*\\).*/token=\\1/p' {etcd}
[ -e /etc/systemd/system/kube-apiserver.service ] && echo control_plane=yes""",
        owner="etcd:etcd",
        etcd_unit="etcd.service",
        # Killed: without etcd they would take 90 s to see that they are to end.
        stop=f"""systemctl stop --no-block {units}
systemctl kill --signal=KILL {units} 2>/dev/null || true
systemctl stop {units}
""",
        stop_etcd="systemctl stop etcd.service\n",
        start_etcd=_start_unit(library, "etcd", _MEMBER, "member_is_healthy"),
        start_api_server=_start_unit(library, "kube-apiserver", _READY_MEANS, _READY),
        start_leaders=f"""{library}
for unit in {" ".join(f"{name}.service" for name in LEADERS)}; do
  systemctl reset-failed "$unit" 2>/dev/null || true
  systemctl start --no-block "$unit"
  serving "$unit"
done
""",
    )


def _start_unit(library: str, name: str, means: str, check: str) -> str:
    return f"""{library}
systemctl reset-failed {name}.service 2>/dev/null || true
systemctl start --no-block {name}.service
healthy() {{ {check}; }}
ready {name}.service {_SECONDS} '{means}' healthy
serving {name}.service
"""


def _pods(library: str, timeout_factor: int) -> ControlPlane:
    def await_pod(name: str, means: str, check: str) -> str:
        return f"""{library}
healthy() {{ {check}; }}
why=$(await {_SECONDS} healthy) || {{
  printf '%s on %s: not seen within %s s; the last try said: %s\\nthe last lines of the log of {name}:\\n' \\
    '{means}' "$(hostname)" {_SECONDS * timeout_factor} "$why" >&2
  {{ {Pod(name).log()}; }} >&2
  exit 1
}}
"""

    def kill_pod(name: str) -> str:
        # Asked again: one that the kubelet had just been starting comes after the first look. Without containerd's
        # answer it is not known that none runs.
        return f"""end=$((SECONDS + {30 * timeout_factor}))
while :; do
  tasks=$(ctr -n k8s.io tasks ls) && ids=$(ctr -n k8s.io containers ls -q {Pod(name).label()}) ||
    {{ echo "containerd does not tell whether {name} runs" >&2; exit 1; }}
  pids=$(awk 'NR == FNR {{ ids[$1]; next }} $3 == "RUNNING" && $1 in ids {{ print $2 }}' \\
    <(printf '%s\\n' "$ids") <(printf '%s\\n' "$tasks"))
  [ -n "$pids" ] || break
  kill -9 $pids 2>/dev/null || true
  [ $SECONDS -lt $end ] || {{ echo "{name} does not end" >&2; exit 1; }}
  sleep 0.2
done
"""

    return ControlPlane(
        facts=f"""
[ -e {MANIFESTS}/etcd.yaml ] && printf 'unit=yes\\ntoken={_DEFAULT_TOKEN}\\n'
[ -e {MANIFESTS}/kube-apiserver.yaml ] && echo control_plane=yes""",
        owner="root:root",
        etcd_unit="kubelet.service",
        stop="systemctl stop kubelet.service\n" + "".join(map(kill_pod, _PROGRAMS)),
        stop_etcd=kill_pod("etcd"),
        # With it all the others begin, and try until they find what they need.
        start_etcd=f"{library}\nsystemctl start kubelet.service\n" + await_pod("etcd", _MEMBER, "member_is_healthy"),
        start_api_server=await_pod("kube-apiserver", _READY_MEANS, _READY),
        start_leaders="".join(
            await_pod(
                name, f"{name} serves", f"curl -skf --max-time $((3 * TIMEOUT_FACTOR)) https://127.0.0.1:{port}/healthz"
            )
            for name, port in zip(LEADERS, (10257, 10259), strict=True)
        ),
    )
