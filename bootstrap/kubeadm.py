"""The bootstrap method `kubeadm`: it makes the control plane on the same machines, and the others join."""

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
from components.container_runtime import ContainerRuntime, ContainerRuntimeArgs
from components.etcd import EtcdMembership
from components.etcd_snapshots import EtcdSnapshots
from components.kubeadm import FINISHED, Kubeadm, KubeadmArgs, KubeadmNode, KubeadmNodeArgs, kubeadm_images
from components.kubeadm_external import ExternalArgs
from components.kubeadm_pki import KubeadmPki, KubeadmPkiArgs
from components.kubeadm_upgrade import KubeadmUpgrade, KubeadmUpgradeArgs
from components.nodes import RemovedWorkers
from components.readiness import Readiness, ReadinessArgs
from components.rotations import RotationArgs, RotationSteps
from config.machines import Role
from config.ports import CLIENT_PORT
from config.versions import pins


def kubeadm(site: Site) -> Cluster:
    """Build a cluster: balancer, kubeadm on every machine, init, joins, proof."""
    lab, substrate = site.lab, site.substrate
    controllers, workers = site.having(Role.CONTROLLER), site.having(Role.WORKER)
    balancing, chosen = lab.settings.load_balancing, lab.settings.kubeadm
    domains = [balancing.domain] if balancing.domain else []

    pki = KubeadmPki(
        "pki",
        KubeadmPkiArgs(
            settings=lab.settings.pki,
            creates_cas=chosen.authorities != "kubeadm",
            external=ExternalArgs(
                controllers=[machine.spec for machine in controllers],
                workers=[machine.spec for machine in workers],
                endpoint=site.endpoint,
                domains=domains,
                network=lab.network,
            )
            if chosen.authorities == "external"
            else None,
            rotations=lab.rotations,
            terminated_domain=balancing.domain if balancing.mode == "terminate" else None,
            calico=lab.calico,
        ),
        after(*substrate.checks),
    )
    given = pki.cas
    hosts = prepare_hosts(site, not_before=given.kubernetes.not_before if given else None)
    entrance = create_entrance(
        site,
        hosts,
        ca_certificate=given.kubernetes.certificate if given else None,
        certificate=pki.load_balancer,
        health_proxies=False,
    )
    members = (*controllers, *workers)
    version = lab.artifacts.versions["kubernetes"]
    endpoints = [f"https://{controller.address}:{CLIENT_PORT}" for controller in controllers]
    calico = calico_args(site, pki.calico, controllers[0], members, endpoints)
    runtimes = {
        machine.name: ContainerRuntime(
            f"container-runtime-{machine.name}",
            ContainerRuntimeArgs(
                machine=machine,
                artifacts=lab.artifacts,
                images=(*kubeadm_images(machine.spec, version), *(CALICO_IMAGES if calico else ())),
                bridge=calico is None,
                at_once_until=FINISHED,
            ),
            after(hosts[machine.name]),
        )
        for machine in members
    }
    kubelet_flags = lab.settings.extra_flags.get("kubelet", {})
    # On all machines, before kubeadm does anything on one of them.
    nodes = [
        KubeadmNode(
            f"kubeadm-node-{machine.name}",
            KubeadmNodeArgs(
                machine=machine,
                artifacts=lab.artifacts,
                repository=pins().packages if chosen.packages == "apt" else None,
                controllers=controllers,
                kubelet_flags=kubelet_flags,
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
            cas=given,
            join_token=pki.join_token,
            endpoint=site.endpoint,
            domains=domains,
            network=lab.network,
            version=version,
            pki=lab.settings.pki,
            runtimes=runtimes,
            max_unavailable=lab.settings.max_unavailable,
            extra_flags=lab.settings.extra_flags,
        ),
        after(*nodes, *entrance),
    )
    EtcdSnapshots("etcd-snapshots", controllers, after(cluster))
    membership = EtcdMembership("etcd-membership", controllers, after(cluster))
    removed_nodes = RemovedWorkers("former-workers", controllers[0], members, after(cluster.made))
    host_tables = create_host_tables(site, hosts, removed_nodes)
    network: list[pulumi.Resource] = []
    if calico:
        network.append(Calico("calico", calico, after(cluster.made, removed_nodes)))
        for machine in members:
            runtime = runtimes[machine.name].runtime
            plugin = CalicoPlugin(f"calico-plugin-{machine.name}", calico, machine, after(runtime))
            made = after(plugin, cluster.nodes[machine.name], *network[:1])
            network.append(CalicoNetwork(f"calico-network-{machine.name}", calico, machine, made))
    rotation_steps: list[pulumi.Resource] = []
    if given and given.issued and lab.rotations:
        rotating = RotationArgs(
            rotations=lab.rotations,
            controller=controllers[0],
            nodes=[(machine, cluster.nodes[machine.name]) for machine in members],
            service_accounts=given.service_accounts.public,
            max_unavailable=lab.settings.max_unavailable,
        )
        # After all kubelets have restarted: else two could at once.
        rotation_steps = RotationSteps("rotations", rotating, after(cluster, *entrance, *network)).steps
    upgraded = KubeadmUpgrade(
        "kubeadm-upgrade",
        KubeadmUpgradeArgs(
            controllers=controllers,
            workers=workers,
            cluster=cluster,
            artifacts=lab.artifacts if chosen.packages != "apt" else None,
            network=lab.network,
            max_unavailable=lab.settings.max_unavailable,
            kubelet_flags=kubelet_flags,
        ),
        after(*runtimes.values(), *rotation_steps),
    )
    readiness = Readiness(
        "readiness",
        ReadinessArgs(
            controllers=controllers,
            workers=[*workers, *controllers],
            etcd_members=len(controllers),
            endpoint=site.endpoint,
            network=lab.network,
        ),
        after(cluster, membership, *host_tables, *network, upgraded, *rotation_steps),
    )
    return Cluster(
        ca_certificate=cluster.ca_certificate,
        kubeconfig=admin_kubeconfig(site, ca_certificate=cluster.ca_certificate, certificate=cluster.administrator),
        certificates=pki.certificates(),
        readiness=readiness,
    )
