"""What both bootstrap methods begin and end with: the site that it is built on, its entrance, who may enter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pulumi

from components.calico import CalicoArgs
from components.host import CALICO_PACKAGES, Host, HostArgs
from components.kubeconfigs import kubeconfig
from components.load_balancer import LoadBalancer, LoadBalancerArgs
from components.machine import Machine
from components.machine_network import MachineNetwork, MachineNetworkArgs
from components.nodes import RemovedWorkers
from components.pki import CalicoIdentities, KeyPair
from components.readiness import Readiness
from components.substrate import Substrate
from components.virtual_address import VirtualAddress, VirtualAddressArgs
from config import lab as config
from config.machines import Role
from config.ports import API_PORT


def after(*resources: pulumi.Resource) -> pulumi.ResourceOptions:
    """An ordering: a resource is made when these are there."""
    return pulumi.ResourceOptions(depends_on=list(resources))


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a cluster is built: the lab's machines, and the address that its API gets."""

    lab: config.Lab
    substrate: Substrate

    @property
    def cluster(self) -> str:
        """The name kubeconfigs give the cluster."""
        return f"hardway-{self.lab.name}"

    @cached_property
    def endpoint(self) -> pulumi.Output[str]:
        """https://address:6443"""
        return pulumi.Output.format("https://{0}:{1}", self.substrate.api_address, API_PORT)

    @cached_property
    def machines(self) -> Mapping[str, Machine]:
        """By name, in the configuration's order."""
        return {machine.name: machine for machine in self.substrate.machines}

    def having(self, role: Role) -> list[Machine]:
        """The machines of one role."""
        return [machine for machine in self.machines.values() if machine.has(role)]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The outputs of a cluster: identity, and the resources that make it ready. None in a lab without their chapter."""

    ca_certificate: pulumi.Input[str] | None = None
    kubeconfig: pulumi.Output[str] | None = None
    certificates: pulumi.Output[list[dict[str, str]]] | None = None
    readiness: Readiness | None = None


def prepare_hosts(site: Site, *, not_before: pulumi.Input[str] | None) -> Mapping[str, Host]:
    """Prepare every machine: what all roles need."""
    return {
        name: Host(
            f"host-{name}",
            HostArgs(
                machine=machine,
                lab=site.lab.machines,
                not_before=not_before,
                modules=site.lab.kernel_modules if machine.spec.pod_cidr else (),
                packages=CALICO_PACKAGES if site.lab.calico and machine.spec.pod_cidr else (),
            ),
        )
        for name, machine in site.machines.items()
    }


def create_entrance(
    site: Site,
    hosts: Mapping[str, Host],
    *,
    ca_certificate: pulumi.Input[str] | None,
    certificate: KeyPair | None,
    health_proxies: bool = True,
) -> Sequence[pulumi.Resource]:
    """Create what makes the API answer at the endpoint: load balancers, and their shared address."""
    balancers = site.having(Role.LOAD_BALANCER)
    entrance: list[pulumi.Resource] = [
        *site.substrate.entrance,
        *(
            LoadBalancer(
                balancer.name,
                LoadBalancerArgs(
                    machine=balancer,
                    controllers=site.lab.with_role(Role.CONTROLLER),
                    ca_certificate=ca_certificate,
                    certificate=certificate,
                    health_proxies=health_proxies,
                ),
                after(hosts[balancer.name]),
            )
            for balancer in balancers
        ),
    ]
    if len(balancers) > 1:
        sharing = VirtualAddressArgs(balancers=balancers, address=site.lab.api_address)
        entrance.append(VirtualAddress("virtual-address", sharing, after(*entrance)))
    return entrance


def create_host_tables(site: Site, hosts: Mapping[str, Host], removed: RemovedWorkers) -> Sequence[MachineNetwork]:
    """Create the host table and the pod routes on every machine."""
    lab, domain = site.lab, site.lab.settings.load_balancing.domain
    return [
        MachineNetwork(
            f"neighbours-{name}",
            MachineNetworkArgs(
                machine=machine,
                lab=lab.machines,
                network=lab.network,
                api=(site.substrate.api_address, domain) if domain else None,
                calico=lab.calico,
            ),
            after(hosts[name], removed),
        )
        for name, machine in site.machines.items()
    ]


def calico_args(
    site: Site,
    identities: CalicoIdentities | None,
    controller: Machine,
    nodes: Sequence[Machine],
    etcd_endpoints: Sequence[str],
) -> CalicoArgs | None:
    """The arguments of Calico, if it is the pod network."""
    if site.lab.calico is None or identities is None:
        return None
    return CalicoArgs(
        settings=site.lab.calico,
        controller=controller,
        workers=nodes,
        etcd_endpoints=etcd_endpoints,
        identities=identities,
        endpoint=site.endpoint,
        cluster=site.cluster,
        artifacts=site.lab.artifacts,
    )


def admin_kubeconfig(site: Site, *, ca_certificate: pulumi.Input[str], certificate: KeyPair) -> pulumi.Output[str]:
    """The kubeconfig for people."""
    return kubeconfig(
        cluster=site.cluster, server=site.endpoint, ca_certificate=ca_certificate, user="admin", certificate=certificate
    )
