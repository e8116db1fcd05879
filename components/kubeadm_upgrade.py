"""Another version of Kubernetes in a running cluster of kubeadm's, one machine after the other.

Made: a step for the control plane of each controller, by `kubeadm upgrade apply` on the first and `kubeadm upgrade
node` on the others; then a step for the kubelet of each Node: controllers one at a time, then workers, as many at a
time as may be unavailable. No kubelet is newer than an API server. In a new lab these steps find nothing to do.

The order is that of the steps in the graph: one that fails stops those that come after it.

Source: https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/kubeadm-upgrade/
"""

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

import pulumi

from components.component import Component
from components.container_runtime import WORKER_VERBS
from components.kubeadm import UPGRADE_VERBS, USE_KUBEADM, Kubeadm, control_plane_file
from components.kubeadm_config import upgrade_configuration, yaml_of
from components.machine import Machine
from components.step import File, Step, StepArgs
from components.worker import dns_question
from config.artifacts import ArtifactSource
from config.machine_paths import USE_ETCD
from config.machines import Role
from config.settings import Network

_CONFIGURATION = "/etc/hardway/kubeadm-upgrade.yaml"


def _use(machine: Machine) -> str:
    """The lines that bring the functions into a script; those of etcd are on controllers only."""
    etcd = [USE_ETCD] if machine.has(Role.CONTROLLER) else []
    return "\n".join([*etcd, f". {WORKER_VERBS}", USE_KUBEADM, f". {UPGRADE_VERBS}"])


@dataclass(frozen=True, kw_only=True)
class KubeadmUpgradeArgs:
    """Args:
    controllers: the machines with the control plane; the first of them tells the cluster.
    workers: the other Nodes.
    cluster: which has been made.
    artifacts: where kubelets come from; their version is the one that is wanted.
    network: the cluster's DNS.
    max_unavailable: how many workers may be drained at the same time.
    """

    controllers: Sequence[Machine]
    workers: Sequence[Machine]
    cluster: Kubeadm
    artifacts: ArtifactSource
    network: Network
    max_unavailable: int


class KubeadmUpgrade(Component):
    """Every machine in the wanted version."""

    def __init__(self, name: str, args: KubeadmUpgradeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("KubeadmUpgrade", name, opts)
        wanted = args.artifacts.versions["kubernetes"]
        version = f"v{wanted}"
        # Flags that have changed are applied before, on all controllers: else two API servers could restart at once.
        before = [args.cluster.nodes[machine.name] for machine in args.controllers]
        # So are certificates of workers: else two kubelets could.
        before += args.cluster.renewals.values()
        for number, machine in enumerate(args.controllers):
            words = [version, control_plane_file(number == 0), _CONFIGURATION]
            words += ["first"] if number == 0 else []
            step = Step(
                f"{name}-{machine.name}",
                StepArgs(
                    machine=machine,
                    name="upgrade",
                    files=[
                        File(
                            path=_CONFIGURATION,
                            content=yaml_of([upgrade_configuration(machine, wanted)]),
                            mode="0600",
                        )
                    ],
                    run="\n".join([_use(machine), " ".join(["upgrade_control_plane", *words])]),
                ),
                self.child(*before),
            )
            before = [step]
        for machine in args.controllers:
            before = [self._kubelet(machine, args, before)]
        control_plane, turns = before, list[pulumi.Resource]()
        for number, machine in enumerate(args.workers):
            earlier = number - args.max_unavailable
            turns.append(self._kubelet(machine, args, [turns[earlier]] if earlier >= 0 else control_plane))
        self.register_outputs({})

    def _kubelet(self, machine: Machine, args: KubeadmUpgradeArgs, before: Sequence[pulumi.Resource]) -> Step:
        kubelet = args.artifacts.artifact("kubernetes", arch=machine.arch, artifact="kubelet")
        # Pods of a controller have tolerations, and go where another one is; a single worker's have nowhere to go.
        others = len(args.controllers if machine in args.controllers else args.workers) > 1
        words = [
            "upgrade_kubelet",
            machine.name,
            f"v{args.artifacts.versions['kubernetes']}",
            quote(kubelet.url),
            kubelet.sha256,
            "yes" if others else "no",
            *dns_question(args.network),
        ]
        return Step(
            f"kubeadm-upgrade-kubelet-{machine.name}",
            StepArgs(machine=machine, name="kubelet", run="\n".join([_use(machine), " ".join(words)])),
            self.child(args.cluster.nodes[machine.name], *before),
        )
