"""A lab: read the configuration, make the machines, build a cluster on them, export the facts."""

import pulumi

from bootstrap.hard_way import hard_way
from bootstrap.kubeadm import kubeadm
from bootstrap.shared import Site
from components import language_host
from components.ssh import ssh_config
from components.substrate import create_substrate
from components.unfinished_updates import UnfinishedUpdates
from config import chapters
from config import lab as config
from config.errors import UserError


def build(lab: config.Lab) -> None:
    """One lab, from machines to proof."""
    UnfinishedUpdates(lab.unfinished_updates).run_again()
    substrate = create_substrate("machines", lab)
    site = Site(lab=lab, substrate=substrate)
    cluster = kubeadm(site) if lab.settings.bootstrap == "kubeadm" else hard_way(site)

    if lab.until != chapters.COMPLETE:
        pulumi.export("until", lab.until)
    pulumi.export("endpoint", site.endpoint)
    if cluster.kubeconfig is not None:
        pulumi.export("ca_certificate", cluster.ca_certificate)
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
    pulumi.export("certificates", cluster.certificates or [])
    if cluster.readiness is not None:
        pulumi.export("readiness", cluster.readiness.facts)


language_host.end_quietly_when_cancelled()
language_host.send_no_debug_messages()
language_host.send_short_stack_traces()
language_host.wait_for_many()
try:
    build(config.load())
except UserError as error:
    # The report as it is, without a traceback: the program is fine.
    raise pulumi.RunError(str(error)) from None
