"""Another version of Kubernetes, and other flags of kubelets, in a running cluster of kubeadm's.

Made: a step for the control plane of each controller, by `kubeadm upgrade apply` on the first and `kubeadm upgrade
node` on the others, one after the other; then a step for the kubelet of each Node: controllers one at a time, then
workers, as many at a time as may be unavailable. No kubelet is newer than an API server. A kubelet that gets another
version and other flags restarts once. In a new lab these steps find nothing to do.

Packages of apt have one version for all machines at once: there is no upgrade in turns, and the steps of the kubelets
only have their flags.

The order is that of the steps in the graph: one that fails stops those that come after it.

Source: https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/kubeadm-upgrade/
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from shlex import quote

import pulumi

from components.component import Component, turn_before
from components.container_runtime import WORKER_VERBS
from components.kubeadm import UPGRADE_VERBS, USE_KUBEADM, Kubeadm, control_plane_file, flag_words
from components.kubeadm_config import upgrade_configuration, yaml_of
from components.machine import Machine
from components.step import File, Step, StepArgs
from components.systemd import Flags
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
    artifacts: where kubelets come from; their version is the one that is wanted. None where packages are apt's.
    network: the cluster's DNS.
    max_unavailable: how many workers may be drained, or restart their kubelets, at the same time.
    kubelet_flags: the user's flags for the kubelet.
    """

    controllers: Sequence[Machine]
    workers: Sequence[Machine]
    cluster: Kubeadm
    artifacts: ArtifactSource | None
    network: Network
    max_unavailable: int
    kubelet_flags: Flags = field(default_factory=dict)


class KubeadmUpgrade(Component):
    """Every machine in the wanted version, and every kubelet with its flags."""

    def __init__(self, name: str, args: KubeadmUpgradeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("KubeadmUpgrade", name, opts)
        # Flags that have changed are applied before, on all controllers: else two API servers could restart at once.
        before = [args.cluster.nodes[machine.name] for machine in args.controllers]
        # So are certificates of workers: else two kubelets could.
        before += args.cluster.renewals.values()
        if args.artifacts:
            for number, machine in enumerate(args.controllers):
                wanted = args.artifacts.versions["kubernetes"]
                step = _control_plane_step(machine, wanted, is_first=number == 0)
                before = [Step(f"{name}-{machine.name}", step, self.child(*before))]
        for machine in args.controllers:
            before = [self._kubelet(machine, args, before)]
        control_plane, turns = before, list[pulumi.Resource]()
        for machine in args.workers:
            turns.append(self._kubelet(machine, args, turn_before(turns, args.max_unavailable) or control_plane))
        self.register_outputs({})

    def _kubelet(self, machine: Machine, args: KubeadmUpgradeArgs, before: Sequence[pulumi.Resource]) -> Step:
        if args.artifacts:
            kubelet = args.artifacts.artifact("kubernetes", arch=machine.arch, artifact="kubelet")
            # Pods of a controller have tolerations, and go where another one is; a single worker's have nowhere to go.
            others = len(args.controllers if machine in args.controllers else args.workers) > 1
            version = f"v{args.artifacts.versions['kubernetes']}"
            drains = "yes" if others else "no"
            words = ["upgrade_kubelet", machine.name, version, quote(kubelet.url), kubelet.sha256, drains]
        else:
            words = ["restart_for_flags", machine.name]
        run = [
            _use(machine),
            # They are in a file of another step. This one runs where they have changed.
            *([f": the kubelet has the flags {quote(flag_words(args.kubelet_flags))}"] if args.kubelet_flags else []),
            " ".join([*words, *dns_question(args.network)]),
        ]
        return Step(
            f"kubeadm-upgrade-kubelet-{machine.name}",
            StepArgs(machine=machine, name="kubelet", run="\n".join(run)),
            self.child(args.cluster.nodes[machine.name], *before),
        )


def _control_plane_step(machine: Machine, version: str, *, is_first: bool) -> StepArgs:
    words = ["upgrade_control_plane", f"v{version}", control_plane_file(is_first), _CONFIGURATION]
    words += ["first"] if is_first else []
    configuration = yaml_of([upgrade_configuration(machine, version)])
    return StepArgs(
        machine=machine,
        name="upgrade",
        files=[File(path=_CONFIGURATION, content=configuration, mode="0600")],
        run="\n".join([_use(machine), " ".join(words)]),
    )
