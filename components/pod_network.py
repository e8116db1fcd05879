"""The pod network by routes: no overlay, every pod range has its worker as next hop.

For every machine a unit that sets the routes now and at every boot; for workers also an nftables table that
masquerades what pods send out of the lab, and keeps them from what is the machine's own. Pods of the lab see each
other's own addresses.

Source: https://kubernetes.io/docs/concepts/cluster-administration/networking/
"""

from collections.abc import Sequence

from components.step import File, Unit
from components.systemd import oneshot_unit
from config.calico import CalicoSettings
from config.machine_paths import MASQUERADE, POD_NETWORK_UNIT, POD_ROUTES
from config.machines import MachineSpec
from config.settings import Network

# systemd-networkd removes routes that are not its own when it starts again.
_NETWORKD = "/etc/systemd/networkd.conf.d/hardway.conf"
# Who set a route, as ip-route(8) has it: a number that no routing daemon uses.
_MARK = 240
_LINK_LOCAL = "169.254.0.0/16"


def pod_routes(
    machine: MachineSpec, lab: Sequence[MachineSpec], network: Network, calico: CalicoSettings | None = None
) -> tuple[list[File], Unit]:
    """What sets one machine's routes to all pods: the files that its unit reads, and the unit.

    `lab` are the machines that it routes to: none where the network does it. Where Calico is the pod network it
    masquerades by itself, and brings packets from worker to worker if it encapsulates them.
    """
    overlaid = calico is not None and calico.encapsulation == "vxlan" and machine.pod_cidr is not None
    # In a file, so that another worker changes what the unit reads and not the unit.
    routes = [
        f"route replace {pods} via {hop} proto {_MARK}" for pods, hop in ([] if overlaid else routes_of(machine, lab))
    ]
    files = [File(path=POD_ROUTES, content="\n".join(routes))]
    if routes:
        files.append(File(path=_NETWORKD, content="[Network]\nManageForeignRoutes=no"))
    if machine.pod_cidr is not None:
        files.append(File(path=MASQUERADE, content=pod_table(str(machine.pod_cidr), network, lab, calico)))
    nft = [f"/usr/sbin/nft -f {MASQUERADE}"] if machine.pod_cidr is not None else []
    unit = Unit(
        name=POD_NETWORK_UNIT,
        content=oneshot_unit(
            description="Routes to the pods of the lab",
            start=[
                # By their mark: the route of a worker that is no more goes, too.
                f"-/sbin/ip route flush proto {_MARK}",
                f"/sbin/ip -batch {POD_ROUTES}",
                *nft,
            ],
            stop=[
                f"-/sbin/ip route flush proto {_MARK}",
                *("-/usr/sbin/nft delete table ip hardway" for _ in nft),
            ],
            reloads=True,
        ),
        reloads_on=[file.path for file in files],
    )
    return files, unit


def routes_of(machine: MachineSpec, lab: Sequence[MachineSpec]) -> list[tuple[str, str]]:
    """Pod range and next hop, for every worker but the machine itself."""
    return [
        (str(worker.pod_cidr), str(worker.address))
        for worker in lab
        if worker.pod_cidr is not None and worker.name != machine.name
    ]


def pod_table(pod_cidr: str, network: Network, lab: Sequence[MachineSpec], calico: CalicoSettings | None = None) -> str:
    """The nftables table of one worker: who knows the way back to a pod sees its own address.

    Source: https://wiki.nftables.org/wiki-nftables/index.php/Performing_Network_Address_Translation_(NAT)
    """
    # If the network itself routes to pods, every address in its range can answer a pod.
    direct = [f"{machine.address}/32" for machine in lab] or [str(network.nodes)]
    known = ", ".join([str(network.pods), *direct])
    masquerade = [
        "  chain postrouting {",
        "    type nat hook postrouting priority srcnat;",
        f"    ip saddr {pod_cidr} ip daddr != {{ {known} }} masquerade",
        "  }",
    ]
    return "\n".join(
        [
            "# Replaces everything that was there before.",
            "table ip hardway",
            "delete table ip hardway",
            "table ip hardway {",
            *(masquerade if calico is None else []),
            "  chain forward {",
            "    type filter hook forward priority filter;",
            # RFC 3927: not forwarded by routers. A cloud's metadata stand there, a machine's keys among them; on Google
            # Cloud the resolver does, too.
            f"    ip saddr {pod_cidr} ip daddr {_LINK_LOCAL} meta l4proto {{ tcp, udp }} th dport 53 accept",
            f"    ip saddr {pod_cidr} ip daddr {_LINK_LOCAL} drop",
            "  }",
            "}",
        ]
    )
