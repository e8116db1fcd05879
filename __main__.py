"""The whole lab on one page: read the configuration, make the machines, build the cluster on them, export the facts."""

import pulumi

from components import substrates
from components.calico import CALICO_IMAGES, Calico, CalicoArgs, CalicoNetwork, CalicoPlugin
from components.control_plane import API_PORT, ControlPlane, ControlPlaneArgs, KubeletAccess
from components.dns import Dns, DnsArgs
from components.encryption import Encryption
from components.etcd import Etcd, EtcdArgs, EtcdMembership
from components.etcd_snapshots import EtcdSnapshots
from components.host import Host, HostArgs
from components.kubeconfigs import kubeconfig
from components.load_balancer import LoadBalancer, LoadBalancerArgs
from components.machine import Machine
from components.neighbours import Neighbours, NeighboursArgs
from components.pki import Pki, PkiArgs
from components.readiness import Readiness, ReadinessArgs
from components.ssh import ssh_config
from components.virtual_address import VirtualAddress, VirtualAddressArgs
from components.worker import ContainerRuntime, ContainerRuntimeArgs, FormerWorkers, Worker, WorkerArgs
from config import lab as config
from config.machines import Role
from config.problems import ConfigError


def after(*resources: pulumi.Resource) -> pulumi.ResourceOptions:
    """An ordering: a resource is made when these are there."""
    return pulumi.ResourceOptions(depends_on=list(resources))


def build(lab: config.Lab) -> None:
    """One lab, from machines to proof."""
    cluster = f"hardway-{lab.name}"

    substrate = substrates.create("machines", lab)
    endpoint = pulumi.Output.format("https://{0}:{1}", substrate.api_address, API_PORT)
    balancing = lab.settings.load_balancing
    machines = {machine.name: machine for machine in substrate.machines}

    def having(role: Role) -> list[Machine]:
        return [machine for machine in machines.values() if machine.has(role)]

    controllers, workers = having(Role.CONTROLLER), having(Role.WORKER)
    members = [machines[spec.name] for spec in lab.etcd_members]

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
    hosts = {
        name: Host(
            f"host-{name}",
            HostArgs(
                machine=machine,
                lab=lab.machines,
                not_before=pki.kubernetes.not_before,
                modules=lab.kernel_modules if machine.has(Role.WORKER) else (),
            ),
        )
        for name, machine in machines.items()
    }
    etcd = Etcd(
        "etcd",
        EtcdArgs(members=members, pki=pki, artifacts=lab.artifacts, cluster_token=cluster),
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
            endpoint=endpoint,
            network=lab.network,
            cluster=cluster,
            artifacts=lab.artifacts,
        ),
        after(etcd, *(hosts[machine.name] for machine in controllers)),
    )
    membership = EtcdMembership("etcd-membership", members, after(control_plane))
    balancers = having(Role.LOAD_BALANCER)
    # What makes the API answer at the endpoint.
    entrance: list[pulumi.Resource] = [
        *substrate.entrance,
        *(
            LoadBalancer(
                balancer.name,
                LoadBalancerArgs(
                    machine=balancer,
                    controllers=lab.with_role(Role.CONTROLLER),
                    authority=pki.kubernetes.certificate,
                    certificate=pki.load_balancer,
                ),
                after(hosts[balancer.name]),
            )
            for balancer in balancers
        ),
    ]
    if len(balancers) > 1:
        sharing = VirtualAddressArgs(balancers=balancers, address=lab.api_address)
        entrance.append(VirtualAddress("virtual-address", sharing, after(*entrance)))
    former_workers = FormerWorkers("former-workers", controllers[0], workers, after(control_plane, *entrance))
    # Those that are there hear of a new machine while it is being made.
    neighbours = [
        Neighbours(
            f"neighbours-{name}",
            NeighboursArgs(
                machine=machine,
                lab=lab.machines,
                network=lab.network,
                api=(substrate.api_address, balancing.domain) if balancing.domain else None,
                calico=lab.calico,
            ),
            after(hosts[name], former_workers),
        )
        for name, machine in machines.items()
    ]
    kubelet_access = KubeletAccess("kubelet-access", controllers[0], after(control_plane, *entrance))
    dns = Dns(
        "dns",
        DnsArgs(controller=controllers[0], network=lab.network, workers=len(workers)),
        after(control_plane, *entrance),
    )
    nodes: list[pulumi.Resource] = []
    calico = (
        CalicoArgs(
            settings=lab.calico,
            controller=controllers[0],
            workers=workers,
            etcd_endpoints=etcd.endpoints,
            pki=pki,
            endpoint=endpoint,
            cluster=cluster,
            artifacts=lab.artifacts,
        )
        if lab.calico
        else None
    )
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
                endpoint=endpoint,
                network=lab.network,
                cluster=cluster,
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
            endpoint=endpoint,
            network=lab.network,
        ),
        after(*nodes, membership, *neighbours, kubelet_access, dns),
    )

    pulumi.export("endpoint", endpoint)
    pulumi.export("ca_certificate", pki.kubernetes.certificate)
    pulumi.export(
        "kubeconfig",
        kubeconfig(
            cluster=cluster,
            server=endpoint,
            authority=pki.kubernetes.certificate,
            user="admin",
            certificate=pki.admin,
        ),
    )
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
    pulumi.export("certificates", pki.certificates())
    pulumi.export("readiness", readiness.facts)


try:
    build(config.load())
except ConfigError as error:
    # The report as it is, without a traceback: the program is fine.
    raise pulumi.RunError(str(error)) from None
