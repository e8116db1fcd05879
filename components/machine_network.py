"""The host table and the pod routes of a machine.

One step writes the host table of the whole lab, as a block in /etc/hosts, and the routes of the pod network (see
pod_network.py), now and at every boot. It is one step, because only these two change on a machine when another machine
is added or removed. Its type token is `Neighbours`: state of running labs has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.component import Component
from components.machine import Machine
from components.pod_network import pod_routes
from components.step import File, Step, StepArgs, Unit
from components.systemd import oneshot_unit
from config.calico import CalicoSettings
from config.machine_paths import HOST_TABLE, HOSTS_UNIT, LIBRARY
from config.machines import MachineSpec
from config.settings import Network


@dataclass(frozen=True, kw_only=True)
class MachineNetworkArgs:
    """Args:
    machine: the machine: also controllers, because API servers connect to pods.
    lab: every machine of the lab.
    network: the address ranges.
    api: the API's address, and the name that it has beside those of the machines.
    calico: Calico's settings, if it is the pod network.
    """

    machine: Machine
    lab: Sequence[MachineSpec]
    network: Network
    api: tuple[pulumi.Input[str], str] | None
    calico: CalicoSettings | None


class MachineNetwork(Component):
    """The host table of the lab, and routes to all pod ranges, on one machine."""

    def __init__(self, name: str, args: MachineNetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Neighbours", name, opts)
        routed = args.lab if args.machine.routes_pods else ()
        files, routes = pod_routes(args.machine.spec, routed, args.network, args.calico)
        Step(
            name,
            StepArgs(
                machine=args.machine,
                name="neighbours",
                files=[File(path=HOST_TABLE, content=host_table(args.lab, args.api)), *files],
                units=[
                    # A unit, because container engines and cloud-init write /etc/hosts again at every start.
                    Unit(
                        name=HOSTS_UNIT,
                        content=oneshot_unit(
                            description="The host table of the lab, as a block in /etc/hosts",
                            start=[f"/bin/bash -c '. {LIBRARY} && put_block /etc/hosts hardway <{HOST_TABLE}'"],
                            stop=[f"/bin/bash -c '. {LIBRARY} && drop_block /etc/hosts hardway'"],
                            reloads=True,
                        ),
                        reloads_on=[HOST_TABLE],
                    ),
                    routes,
                ],
            ),
            self.child(),
        )
        self.register_outputs({})


def host_table(machines: Sequence[MachineSpec], api: tuple[pulumi.Input[str], str] | None) -> pulumi.Input[str]:
    """The lines of /etc/hosts that name every machine of the lab (address, FQDN, name), and the API by its domain."""
    table = "\n".join(f"{machine.address} {machine.fqdn} {machine.name}" for machine in machines)
    return pulumi.Output.format("{0}\n{1} {2}", table, *api) if api else table
