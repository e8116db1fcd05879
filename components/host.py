"""What every machine needs before it is anything in particular.

Made on each machine: the step library, its host name, kernel modules and sysctls that
persist, swap off for good, the packages its roles need. Checked: the clock.

Source: https://kubernetes.io/docs/setup/production-environment/container-runtimes/
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pulumi

from components.component import Component
from components.machine import Machine
from components.step import File, Step, StepArgs, Unit, without_comments
from components.systemd import oneshot_unit
from config.machine_paths import LIBRARY
from config.machines import MachineSpec, Role

_PACKAGES: Mapping[Role | None, Sequence[str]] = {
    None: ("ca-certificates", "curl", "openssl", "iproute2", "procps", "kmod"),
    Role.ETCD: (),
    Role.CONTROLLER: ("nginx",),
    # kube-proxy runs nft or iptables; dig shows that DNS answers; `./hardway trace packet` runs conntrack, as did
    # kube-proxy and kubeadm before Kubernetes 1.32. No socat: containerd connects to a forwarded port
    # by itself (docs/learn/questions.md).
    Role.WORKER: ("conntrack", "iptables", "nftables", "dnsutils"),
    # socat asks HAProxy what it knows, on its socket.
    Role.LOAD_BALANCER: ("haproxy", "socat"),
}
# What two load balancers share their address with.
_SHARING = "keepalived"
# With it a machine removes Felix' sets of addresses when Calico leaves it (calico/calico.sh).
CALICO_PACKAGES = ("ipset",)
_MODULES = ("overlay", "br_netfilter", "nf_conntrack")
_SYSCTLS = {
    # Pods' packets pass from one interface to another.
    "net.ipv4.ip_forward": 1,
    # Packets between two pods on one bridge pass kube-proxy's rules, too: a pod reaches itself through its Service.
    "net.bridge.bridge-nf-call-iptables": 1,
}
# A unit, because fstab brings swap back at every boot.
_NO_SWAP = oneshot_unit(description="No swap: the kubelet does not start with it", start=["/sbin/swapoff -a"])
# A container engine's own limit, podman's 2048, is soon used up by a worker's pods. With cgroup v1, root may raise it
# from inside, so that machines need not be replaced for it; at every boot, since the engine sets it again. With cgroup
# v2 the kernel refuses that (nsdelegate), and the engine is told when it makes the machine.
_NO_PROCESS_LIMIT = oneshot_unit(
    description="No limit of processes below the host's",
    start=["/bin/sh -c 'file=/sys/fs/cgroup/pids/pids.max; [ ! -e $$file ] || echo max >$$file'"],
)


@dataclass(frozen=True, kw_only=True)
class HostArgs:
    """Args:
    machine: the machine to prepare.
    lab: every machine of the lab: some packages depend on the others.
    not_before: when the lab's CAs begin to be valid (RFC 3339); no clock may be behind it. None where they are
        made later, on a machine.
    modules: kernel modules beyond those of every machine.
    packages: Debian packages beyond those of its roles.
    """

    machine: Machine
    lab: Sequence[MachineSpec]
    not_before: pulumi.Input[str] | None
    modules: Sequence[str] = ()
    packages: Sequence[str] = ()


class Host(Component):
    """A prepared machine."""

    def __init__(self, name: str, args: HostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Host", name, opts)
        machine = args.machine
        own_kernel = not machine.shares_kernel
        modules = (*_MODULES, *args.modules)
        Step(
            name,
            StepArgs(
                machine=machine,
                name="host",
                brings=step_library(),
                prepare="\n".join(
                    [
                        f"data {Path(LIBRARY).parent} $HARDWAY/artifacts",
                        f"packages {' '.join((*packages(machine.spec, args.lab), *args.packages))}",
                        *(["modules " + " ".join(modules), "no_swap"] if own_kernel else []),
                        f"sysctls {' '.join(f'{key}={value}' for key, value in _SYSCTLS.items())}",
                        f"host_name {machine.name}",
                    ]
                ),
                files=[
                    File(
                        path="/etc/sysctl.d/90-hardway.conf",
                        content="\n".join(f"{key} = {value}" for key, value in _SYSCTLS.items()),
                    ),
                    *(
                        [File(path="/etc/modules-load.d/hardway.conf", content="\n".join(modules))]
                        if own_kernel
                        else []
                    ),
                ],
                units=[
                    Unit(name="hardway-no-swap.service", content=_NO_SWAP)
                    if own_kernel
                    else Unit(name="hardway-processes.service", content=_NO_PROCESS_LIMIT)
                ],
                run=pulumi.Output.format("clock_after {0}", args.not_before) if args.not_before is not None else "",
            ),
            self.child(),
        )
        self.register_outputs({})


def packages(machine: MachineSpec, lab: Sequence[MachineSpec]) -> list[str]:
    """The Debian packages that a machine's roles need in a lab of these machines."""
    balancers = [other.name for other in lab if Role.LOAD_BALANCER in other.roles]
    # A controller with pods is kubeadm's: a Node like the workers, and its health is not asked over plain HTTP.
    node = Role.CONTROLLER in machine.roles and machine.pod_cidr is not None
    roles = {Role.WORKER} if node else machine.roles
    return [
        *_PACKAGES[None],
        *(name for role in Role if role in roles for name in _PACKAGES[role]),
        *([_SHARING] if len(balancers) > 1 and machine.name in balancers else []),
    ]


def step_library() -> str:
    """The functions that steps are written in, as every machine has them."""
    return without_comments("".join(Path(__file__).with_name(part).read_text() for part in ("replace.sh", "step.sh")))
