"""A worker's kubelet and kube-proxy (kubelet.py, kube_proxy.py): one step, after that of the container runtime
(container_runtime.py). Its Node in the API is in nodes.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi

from components.component import Component
from components.container_runtime import WORKER_VERBS
from components.kube_proxy import PROXY_CONFIG, proxy_files, proxy_unit
from components.kubelet import (
    KEPT_SYSCTLS,
    KUBELET,
    KUBELET_CA,
    OWN_NODE,
    RESOLV_CONF,
    kubelet_files,
    kubelet_unit,
    own_node,
)
from components.machine import Machine
from components.pki import Pki
from components.step import Step, StepArgs, fetch_kubernetes
from components.systemd import Flags
from config.artifacts import ArtifactSource
from config.settings import Network

_UNDO = f"[ ! -e {WORKER_VERBS} ] || {{ . {WORKER_VERBS}; end_pods; drop_rules {PROXY_CONFIG}; }}"


@dataclass(frozen=True, kw_only=True)
class WorkerArgs:
    """Args:
    machine: the worker.
    pki: the certificates.
    endpoint: https://address:6443 of the load balancer, all that a worker knows of the control plane.
    network: the address ranges.
    cluster: the name kubeconfigs give the cluster.
    artifacts: where the programs come from.
    extra_flags: program -> the user's flags for it.
    turns: the shell line by which workers restart their units in turns, see `turns_of`.
    """

    machine: Machine
    pki: Pki
    endpoint: pulumi.Input[str]
    network: Network
    cluster: str
    artifacts: ArtifactSource
    turns: str
    extra_flags: Mapping[str, Flags] = field(default_factory=dict)


class Worker(Component):
    """The kubelet and kube-proxy on one worker.

    Attributes:
        kubelet: the step after which the kubelet runs; its Node is Ready once there is a network.
    """

    def __init__(self, name: str, args: WorkerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Worker", name, opts)
        machine = args.machine
        kubelet, proxy = (
            files(machine, pki=args.pki, cluster=args.cluster, endpoint=args.endpoint, network=args.network)
            for files in (kubelet_files, proxy_files)
        )
        self.kubelet = Step(
            f"{name}-node",
            StepArgs(
                machine=machine,
                name="node",
                prepare="\n".join(
                    [
                        f"data {KUBELET} /var/log/pods /var/log/containers /usr/libexec/kubernetes",
                        # Written by the unit itself, whenever it starts.
                        f"parents {RESOLV_CONF}",
                        f"own file {RESOLV_CONF}",
                        f"install -d -m 0750 {KUBELET}",
                        *([] if machine.shares_kernel else [f"kept_sysctls {' '.join(KEPT_SYSCTLS)}"]),
                        f". {WORKER_VERBS}",
                        "note_tables",
                    ]
                ),
                fetches=fetch_kubernetes(args.artifacts, machine.arch, "kubelet", "kube-proxy"),
                files=[*kubelet, *proxy],
                before_start=pulumi.Output.format(
                    "{0}\nawait_api {1} {2}\nregister_again {3}",
                    args.turns,
                    args.endpoint,
                    KUBELET_CA,
                    own_node(machine),
                ),
                units=[
                    kubelet_unit(machine, kubelet, args.extra_flags.get("kubelet", {})),
                    proxy_unit(machine, proxy, args.extra_flags.get("kube-proxy", {})),
                ],
                run=f"end_turn {OWN_NODE}",
                undo=_UNDO,
            ),
            self.child(),
        )
        self.register_outputs({})


def turns_of(machine: Machine, *, max_unavailable: int, others: bool, network: Network) -> str:
    """The shell line of a worker's steps after which its units restart in turns (worker_turns.sh).

    Args:
        machine: the worker.
        max_unavailable: how many workers may be at it at the same time.
        others: whether the lab has other workers, which could take this one's pods.
        network: the cluster's DNS.
    """
    drains = "yes" if others else "no"
    return " ".join(["turns", machine.name, str(max_unavailable), drains, *dns_question(network)])


def dns_question(network: Network) -> tuple[str, str, str]:
    """A name that the cluster's DNS knows, the address of the DNS, and its answer."""
    return f"kubernetes.default.svc.{network.cluster_domain}", str(network.dns_service), str(network.api_service)
