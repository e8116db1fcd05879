"""A lab: read the configuration, make the machines, build a cluster on them, export the facts."""

from typing import Any

import pulumi

from bootstrap.hard_way import hard_way
from bootstrap.kubeadm import kubeadm
from bootstrap.shared import Site
from components import language_host
from components.ssh import ssh_config
from components.substrate import create_substrate
from components.unfinished_updates import UnfinishedUpdates
from config import chapters, told_outputs
from config import lab as config
from config.errors import UserError


def build(lab: config.Lab) -> None:
    """One lab, from machines to proof."""
    UnfinishedUpdates(lab.unfinished_updates).run_again()
    substrate = create_substrate("machines", lab)
    site = Site(lab=lab, substrate=substrate)
    cluster = kubeadm(site) if lab.settings.bootstrap == "kubeadm" else hard_way(site)

    outputs: dict[str, pulumi.Input[Any]] = {
        "endpoint": site.endpoint,
        "machines": [
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
        "ssh_private_key": substrate.ssh_private_key,
        "ssh_config": ssh_config(substrate.machines, lab.ssh_key),
        "versions": dict(lab.artifacts.versions),
        "certificates": cluster.certificates or [],
    }
    if lab.until != chapters.COMPLETE:
        outputs["until"] = lab.until
    if cluster.kubeconfig is not None:
        outputs |= {"ca_certificate": cluster.ca_certificate, "kubeconfig": cluster.kubeconfig}
    if cluster.readiness is not None:
        outputs["readiness"] = cluster.readiness.facts
    for name, value in outputs.items():
        pulumi.export(name, value)
    if not pulumi.runtime.is_dry_run():
        pulumi.Output.all(**outputs).apply(told_outputs.write)


language_host.collect_garbage_rarely()
language_host.end_quietly_when_cancelled()
language_host.send_no_debug_messages()
language_host.send_short_stack_traces()
language_host.wait_for_many()
try:
    build(config.load())
except UserError as error:
    # The report as it is, without a traceback: the program is fine.
    raise pulumi.RunError(str(error)) from None
