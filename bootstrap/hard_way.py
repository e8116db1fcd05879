"""The bootstrap method `hard-way`: every program a unit, every flag and every certificate written down."""

from dataclasses import replace

import pulumi

from bootstrap.shared import (
    Cluster,
    Site,
    admin_kubeconfig,
    after,
    calico_args,
    create_entrance,
    create_host_tables,
    prepare_hosts,
)
from components.calico import CALICO_IMAGES, Calico, CalicoNetwork, CalicoPlugin
from components.component import turn_before
from components.container_runtime import ContainerRuntime, ContainerRuntimeArgs
from components.control_plane import ControlPlane, ControlPlaneArgs, KubeletAccess
from components.dns import Dns, DnsArgs
from components.encryption import Encryption
from components.etcd import Etcd, EtcdArgs, EtcdMembership
from components.etcd_snapshots import EtcdSnapshots
from components.machine import Machine
from components.nodes import NodeRegistration, RemovedWorkers
from components.pki import Pki, PkiArgs
from components.readiness import Readiness, ReadinessArgs
from components.rotations import RotationArgs, RotationSteps
from components.worker import Worker, WorkerArgs, turns_of
from config.machines import Role
from config.ports import API_PORT


def hard_way(site: Site) -> Cluster:
    """Build a cluster, by the chapters of the hard way (config/chapters.py); it ends with the lab's last one."""
    lab, substrate, machines = site.lab, site.substrate, site.machines
    controllers, workers = site.having(Role.CONTROLLER), site.having(Role.WORKER)
    members = [machines[spec.name] for spec in lab.etcd_members]
    balancing, extra = lab.settings.load_balancing, lab.settings.extra_flags

    if lab.until == "machines":
        # The clock of the machines is compared with the CAs in the next chapter.
        prepare_hosts(site, not_before=None)
        return Cluster()

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
            rotations=lab.rotations,
        ),
        after(*substrate.checks),
    )
    hosts = prepare_hosts(site, not_before=pki.kubernetes.not_before)
    cluster = Cluster(
        ca_certificate=pki.kubernetes.certificate,
        kubeconfig=admin_kubeconfig(site, ca_certificate=pki.kubernetes.certificate, certificate=pki.admin),
        certificates=pki.certificates(),
    )
    # Kubeconfigs are files: the steps of the programs that read them write them.
    if lab.until in ("certificates", "kubeconfigs"):
        return cluster

    encryption = Encryption(
        "encryption",
        provider=lab.settings.encryption,
        after=[hosts[machine.name] for machine in controllers],
        rotation=lab.rotations["encryption-key"],
    )
    if lab.until == "encryption":
        return cluster

    etcd = Etcd(
        "etcd",
        EtcdArgs(
            members=members,
            pki=pki,
            artifacts=lab.artifacts,
            cluster_token=site.cluster,
            extra_flags=extra.get("etcd", {}),
        ),
        after(*(hosts[machine.name] for machine in members)),
    )
    EtcdSnapshots("etcd-snapshots", members, after(etcd))
    if lab.until == "etcd":
        return cluster

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
            extra_flags=extra,
        ),
        after(*etcd.started, *(hosts[machine.name] for machine in controllers)),
    )
    membership = EtcdMembership("etcd-membership", members, after(control_plane))
    if lab.until == "control-plane":
        return cluster

    entrance = create_entrance(site, hosts, ca_certificate=pki.kubernetes.certificate, certificate=pki.load_balancer)
    kubelet_access = KubeletAccess("kubelet-access", controllers[0], after(*control_plane.started, *entrance))
    if lab.until == "load-balancer":
        return cluster

    removed_workers = RemovedWorkers(
        "former-workers", controllers[0], workers, after(*control_plane.started, *entrance)
    )
    nodes: list[pulumi.Resource] = []
    kubelets: list[tuple[Machine, pulumi.Resource]] = []
    calico = calico_args(site, pki.calico, controllers[0], workers, etcd.endpoints)
    api_server = f"{controllers[0].spec.address}:{API_PORT}" if len(controllers) == 1 else ""
    in_cluster = [Calico("calico", calico, after(control_plane, *entrance, removed_workers))] if calico else []

    for worker in workers:
        turns = turns_of(
            worker, max_unavailable=lab.settings.max_unavailable, others=len(workers) > 1, network=lab.network
        )
        runtime = ContainerRuntime(
            f"container-runtime-{worker.name}",
            ContainerRuntimeArgs(
                machine=worker,
                artifacts=lab.artifacts,
                images=(*(CALICO_IMAGES if calico else ()), "coredns"),
                bridge=calico is None,
                turns=turns,
                # Importing that of DNS takes the processors from the API server's start, which everything else waits
                # for. Where there are several, it fits in while the members of etcd wait for each other, and later it
                # makes the lab slower. Calico's images are needed before a Node is Ready.
                images_after=api_server if lab.settings.traits.on_engine and not calico else "",
            ),
            after(hosts[worker.name], *turn_before([kubelet for _, kubelet in kubelets], lab.workers_at_once)),
        )
        plugin = (
            [CalicoPlugin(f"calico-plugin-{worker.name}", calico, worker, after(runtime.runtime))] if calico else []
        )
        node = Worker(
            worker.name,
            WorkerArgs(
                machine=worker,
                pki=pki,
                endpoint=site.endpoint,
                network=lab.network,
                cluster=site.cluster,
                artifacts=lab.artifacts,
                turns=turns,
                extra_flags=extra,
            ),
            after(
                runtime.runtime,
                *control_plane.started,
                *entrance,
                *plugin,
                *(in_cluster if lab.settings.calico.datastore == "etcd" else ()),
            ),
        )
        network = (
            [CalicoNetwork(f"calico-network-{worker.name}", calico, worker, after(node.kubelet, *in_cluster))]
            if calico
            else []
        )
        registration = NodeRegistration(
            f"{worker.name}-registration", worker, controllers[0], after(node.kubelet, *network), was_child_of=node
        )
        nodes += [runtime, registration]
        kubelets.append((worker, node.kubelet))
    if lab.until == "workers":
        return cluster

    # Existing machines get the entries of a new one while it is created.
    host_tables = create_host_tables(site, hosts, removed_workers)
    if lab.until == "pod-network":
        return cluster

    dns = Dns(
        "dns",
        DnsArgs(controller=controllers[0], network=lab.network, workers=len(workers)),
        after(*control_plane.started, *entrance),
    )
    rotation_steps: list[pulumi.Resource] = []
    if lab.rotations:
        args = RotationArgs(
            rotations=lab.rotations,
            controller=controllers[0],
            nodes=kubelets,
            service_accounts=pki.service_accounts.public,
            provider=lab.settings.encryption,
        )
        rotation_steps = RotationSteps("rotations", args, after(control_plane, *entrance, dns)).steps
    readiness = Readiness(
        "readiness",
        ReadinessArgs(
            controllers=controllers,
            workers=workers,
            etcd_members=len(members),
            endpoint=site.endpoint,
            network=lab.network,
        ),
        after(*nodes, membership, *host_tables, kubelet_access, dns, *rotation_steps),
    )
    return replace(cluster, readiness=readiness)
