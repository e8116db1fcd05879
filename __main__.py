"""The whole lab on one page: read the configuration, make the machines, build the cluster on them, export the facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pulumi

from components import substrates
from components.calico import CALICO_IMAGES, Calico, CalicoArgs, CalicoNetwork, CalicoPlugin
from components.control_plane import API_PORT, ControlPlane, ControlPlaneArgs, KubeletAccess
from components.dns import Dns, DnsArgs
from components.encryption import Encryption
from components.etcd import CLIENT_PORT, Etcd, EtcdArgs, EtcdMembership
from components.etcd_snapshots import EtcdSnapshots
from components.host import Host, HostArgs
from components.kubeadm import Kubeadm, KubeadmArgs, KubeadmNode, KubeadmNodeArgs, kubeadm_images
from components.kubeadm_pki import KubeadmPki, KubeadmPkiArgs
from components.kubeconfigs import kubeconfig
from components.load_balancer import LoadBalancer, LoadBalancerArgs
from components.machine import Machine
from components.neighbours import Neighbours, NeighboursArgs
from components.pki import CalicoIdentities, Certificate, KeyPair, Pki, PkiArgs
from components.readiness import Readiness, ReadinessArgs
from components.ssh import ssh_config
from components.substrate import Substrate
from components.virtual_address import VirtualAddress, VirtualAddressArgs
from components.worker import ContainerRuntime, ContainerRuntimeArgs, FormerWorkers, Worker, WorkerArgs
from config import lab as config
from config.machines import Role
from config.problems import ConfigError
from config.versions import pins


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
    """A cluster that was built: who it is, and when it is ready."""

    authority: pulumi.Input[str]
    kubeconfig: pulumi.Output[str]
    certificates: pulumi.Output[list[dict[str, str]]]
    readiness: Readiness


def hard_way(site: Site) -> Cluster:
    """Every program a unit, every flag and every certificate written down."""
    lab, substrate, machines = site.lab, site.substrate, site.machines
    controllers, workers = site.having(Role.CONTROLLER), site.having(Role.WORKER)
    members = [machines[spec.name] for spec in lab.etcd_members]
    balancing = lab.settings.load_balancing

    pki = Pki(
        "pki",
        PkiArgs(
            settings=lab.settings.pki,
            controllers=lab.with_role(Role.CONTROLLER),
            workers=lab.with_role(Role.WORKER),
            etcd_members=lab.etcd_members,
            load_balancers=lab.with_role(Role.LOAD_BALANCER),
            api_address=substrate.api_address,
            domain=balancing.domain,
            terminates=balancing.mode == "terminate",
            calico=lab.calico,
            api_service=str(lab.network.api_service),
            cluster_domain=lab.network.cluster_domain,
        ),
        after(*substrate.checks),
    )
    encryption = Encryption("encryption", provider=lab.settings.encryption)
    hosts = prepared(site, not_before=pki.kubernetes.not_before)
    etcd = Etcd(
        "etcd",
        EtcdArgs(members=members, pki=pki, artifacts=lab.artifacts, cluster_token=site.cluster),
        after(*(hosts[machine.name] for machine in members)),
    )
    EtcdSnapshots("etcd-snapshots", members, after(etcd))
    control_plane = ControlPlane(
        "control-plane",
        ControlPlaneArgs(
            controllers=controllers,
            pki=pki,
            encryption=encryption.configuration,
            etcd=etcd,
            endpoint=site.endpoint,
            network=lab.network,
            cluster=site.cluster,
            artifacts=lab.artifacts,
        ),
        after(etcd, *(hosts[machine.name] for machine in controllers)),
    )
    membership = EtcdMembership("etcd-membership", members, after(control_plane))
    entrance = entrance_of(site, hosts, authority=pki.kubernetes.certificate, certificate=pki.load_balancer)
    former_workers = FormerWorkers("former-workers", controllers[0], workers, after(control_plane, *entrance))
    # Those that are there hear of a new machine while it is being made.
    neighbours = acquainted(site, hosts, former_workers)
    kubelet_access = KubeletAccess("kubelet-access", controllers[0], after(control_plane, *entrance))
    dns = Dns(
        "dns",
        DnsArgs(controller=controllers[0], network=lab.network, workers=len(workers)),
        after(control_plane, *entrance),
    )
    nodes: list[pulumi.Resource] = []
    calico = calico_of(site, pki.calico, controllers[0], workers, etcd.endpoints)
    in_cluster = [Calico("calico", calico, after(control_plane, *entrance, former_workers))] if calico else []
    for worker in workers:
        runtime = ContainerRuntime(
            f"container-runtime-{worker.name}",
            ContainerRuntimeArgs(
                machine=worker,
                artifacts=lab.artifacts,
                images=(*(CALICO_IMAGES if calico else ()), "coredns"),
                bridge=calico is None,
            ),
            after(hosts[worker.name]),
        )
        plugin = (
            [CalicoPlugin(f"calico-plugin-{worker.name}", calico, worker, after(runtime.runtime))] if calico else []
        )
        node = Worker(
            worker.name,
            WorkerArgs(
                machine=worker,
                controller=controllers[0],
                pki=pki,
                endpoint=site.endpoint,
                network=lab.network,
                cluster=site.cluster,
                artifacts=lab.artifacts,
            ),
            after(
                runtime.runtime,
                control_plane,
                *entrance,
                *plugin,
                *(in_cluster if lab.settings.calico.datastore == "etcd" else ()),
            ),
        )
        nodes += [runtime, node]
        if calico:
            nodes.append(
                CalicoNetwork(f"calico-network-{worker.name}", calico, worker, after(node.kubelet, *in_cluster))
            )
    readiness = Readiness(
        "readiness",
        ReadinessArgs(
            controllers=controllers,
            workers=workers,
            etcd_members=len(members),
            endpoint=site.endpoint,
            network=lab.network,
        ),
        after(*nodes, membership, *neighbours, kubelet_access, dns),
    )
    return Cluster(
        authority=pki.kubernetes.certificate,
        kubeconfig=administrator(site, authority=pki.kubernetes.certificate, certificate=pki.admin),
        certificates=pki.certificates(),
        readiness=readiness,
    )


def easy_way(site: Site) -> Cluster:
    """kubeadm on the same machines: it makes the control plane, and the others join."""
    lab, substrate = site.lab, site.substrate
    controllers, workers = site.having(Role.CONTROLLER), site.having(Role.WORKER)
    balancing, chosen = lab.settings.load_balancing, lab.settings.kubeadm

    pki = KubeadmPki(
        "pki",
        KubeadmPkiArgs(
            settings=lab.settings.pki,
            makes_authorities=chosen.authorities == "stack",
            terminated_domain=balancing.domain if balancing.mode == "terminate" else None,
            calico=lab.calico,
        ),
        after(*substrate.checks),
    )
    given = pki.authorities
    hosts = prepared(site, not_before=given.kubernetes.not_before if given else None)
    entrance = entrance_of(
        site,
        hosts,
        authority=given.kubernetes.certificate if given else None,
        certificate=pki.load_balancer,
        health_proxies=False,
    )
    members = (*controllers, *workers)
    endpoints = [f"https://{controller.address}:{CLIENT_PORT}" for controller in controllers]
    calico = calico_of(site, pki.calico, controllers[0], members, endpoints)
    runtimes = {
        machine.name: ContainerRuntime(
            f"container-runtime-{machine.name}",
            ContainerRuntimeArgs(
                machine=machine,
                artifacts=lab.artifacts,
                images=(*kubeadm_images(machine.spec), *(CALICO_IMAGES if calico else ())),
                bridge=calico is None,
                at_once=True,
            ),
            after(hosts[machine.name]),
        )
        for machine in members
    }
    # On all machines, before kubeadm does anything on one of them.
    nodes = [
        KubeadmNode(
            f"kubeadm-node-{machine.name}",
            KubeadmNodeArgs(
                machine=machine,
                artifacts=lab.artifacts,
                repository=pins().packages if chosen.packages == "apt" else None,
                controllers=controllers,
            ),
            after(hosts[machine.name]),
        )
        for machine in members
    ]
    cluster = Kubeadm(
        "kubeadm",
        KubeadmArgs(
            controllers=controllers,
            workers=workers,
            authorities=given,
            join_token=pki.join_token,
            endpoint=site.endpoint,
            domains=[balancing.domain] if balancing.domain else [],
            network=lab.network,
            pki=lab.settings.pki,
            runtimes=runtimes,
        ),
        after(*nodes, *entrance),
    )
    EtcdSnapshots("etcd-snapshots", controllers, after(cluster))
    membership = EtcdMembership("etcd-membership", controllers, after(cluster))
    former_nodes = FormerWorkers("former-workers", controllers[0], members, after(cluster.made))
    neighbours = acquainted(site, hosts, former_nodes)
    network: list[pulumi.Resource] = []
    if calico:
        network.append(Calico("calico", calico, after(cluster.made, former_nodes)))
        for machine in members:
            runtime = runtimes[machine.name].runtime
            plugin = CalicoPlugin(f"calico-plugin-{machine.name}", calico, machine, after(runtime))
            made = after(plugin, cluster.nodes[machine.name], *network[:1])
            network.append(CalicoNetwork(f"calico-network-{machine.name}", calico, machine, made))
    readiness = Readiness(
        "readiness",
        ReadinessArgs(
            controllers=controllers,
            workers=[*workers, *controllers],
            etcd_members=len(controllers),
            endpoint=site.endpoint,
            network=lab.network,
        ),
        after(cluster, membership, *neighbours, *network),
    )
    return Cluster(
        authority=cluster.authority,
        kubeconfig=administrator(site, authority=cluster.authority, certificate=given.admin)
        if given
        else cluster.kubeconfig,
        certificates=pki.certificates(),
        readiness=readiness,
    )


def prepared(site: Site, *, not_before: pulumi.Input[str] | None) -> Mapping[str, Host]:
    """Every machine with what it needs before it is anything in particular."""
    return {
        name: Host(
            f"host-{name}",
            HostArgs(
                machine=machine,
                lab=site.lab.machines,
                not_before=not_before,
                modules=site.lab.kernel_modules if machine.spec.pod_cidr else (),
            ),
        )
        for name, machine in site.machines.items()
    }


def entrance_of(
    site: Site,
    hosts: Mapping[str, Host],
    *,
    authority: pulumi.Input[str] | None,
    certificate: KeyPair | None,
    health_proxies: bool = True,
) -> Sequence[pulumi.Resource]:
    """What makes the API answer at the endpoint."""
    balancers = site.having(Role.LOAD_BALANCER)
    entrance: list[pulumi.Resource] = [
        *site.substrate.entrance,
        *(
            LoadBalancer(
                balancer.name,
                LoadBalancerArgs(
                    machine=balancer,
                    controllers=site.lab.with_role(Role.CONTROLLER),
                    authority=authority,
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


def acquainted(site: Site, hosts: Mapping[str, Host], former: FormerWorkers) -> Sequence[Neighbours]:
    """Every machine with the names of the others, and the ways to their pods."""
    lab, domain = site.lab, site.lab.settings.load_balancing.domain
    return [
        Neighbours(
            f"neighbours-{name}",
            NeighboursArgs(
                machine=machine,
                lab=lab.machines,
                network=lab.network,
                api=(site.substrate.api_address, domain) if domain else None,
                calico=lab.calico,
            ),
            after(hosts[name], former),
        )
        for name, machine in site.machines.items()
    ]


def calico_of(
    site: Site,
    identities: CalicoIdentities | None,
    controller: Machine,
    nodes: Sequence[Machine],
    etcd_endpoints: Sequence[str],
) -> CalicoArgs | None:
    """What Calico has to know, where it is the pod network."""
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


def administrator(site: Site, *, authority: pulumi.Input[str], certificate: Certificate) -> pulumi.Output[str]:
    """The kubeconfig for people."""
    return kubeconfig(
        cluster=site.cluster, server=site.endpoint, authority=authority, user="admin", certificate=certificate
    )


def build(lab: config.Lab) -> None:
    """One lab, from machines to proof."""
    substrate = substrates.create("machines", lab)
    site = Site(lab=lab, substrate=substrate)
    cluster = easy_way(site) if lab.settings.bootstrap == "kubeadm" else hard_way(site)

    pulumi.export("endpoint", site.endpoint)
    pulumi.export("ca_certificate", cluster.authority)
    pulumi.export("kubeconfig", cluster.kubeconfig)
    pulumi.export(
        "machines",
        [
            {
                "name": machine.name,
                "fqdn": machine.spec.fqdn,
                "roles": sorted(machine.spec.roles),
                "address": machine.address,
                "pod_cidr": str(machine.spec.pod_cidr) if machine.spec.pod_cidr else None,
                "user": machine.user,
            }
            for machine in substrate.machines
        ],
    )
    pulumi.export("ssh_private_key", substrate.ssh_private_key)
    pulumi.export("ssh_config", ssh_config(substrate.machines, lab.ssh_key))
    pulumi.export("versions", dict(lab.artifacts.versions))
    pulumi.export("certificates", cluster.certificates)
    pulumi.export("readiness", cluster.readiness.facts)


try:
    build(config.load())
except ConfigError as error:
    # The report as it is, without a traceback: the program is fine.
    raise pulumi.RunError(str(error)) from None
