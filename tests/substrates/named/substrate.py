"""A substrate of the tests: containers with systemd that run already, found by their names."""

from collections.abc import Sequence

import pulumi
import pulumi_tls as tls
from pulumi_command import local, remote

from components.machine import Machine
from components.members import asked_by_ssh
from components.quorum import quorum_guard
from components.rotation_record import rotation_record
from components.version_guard import version_guard
from config.lab import Lab
from config.machines import MachineSpec


class Named(pulumi.ComponentResource):
    """All machines of a lab: the containers `<stack>-<machine>`, which come before the lab and stay after it."""

    def __init__(self, name: str, lab: Lab, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("hardway:index:Named", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        key = tls.PrivateKey(f"{name}-ssh", algorithm="ED25519", opts=child)
        guard = quorum_guard(
            f"{name}-quorum",
            {spec.name: str(spec.address) for spec in lab.etcd_members},
            lab.choices,
            child,
            asked_by_ssh(lab.name, lab.settings.timeout_factor),
        )
        checks = [guard, version_guard(f"{name}-versions", lab, child)]
        self.checks: Sequence[pulumi.Resource] = [*checks, *rotation_record(lab.rotations, checks)]
        self.ssh_private_key = key.private_key_openssh
        self.api_address: pulumi.Input[str] = str(lab.api_address)
        self.entrance: Sequence[pulumi.Resource] = []
        self.machines: Sequence[Machine] = [self._machine(name, lab, spec, key) for spec in lab.machines]
        self.register_outputs({})

    def _machine(self, name: str, lab: Lab, spec: MachineSpec, key: tls.PrivateKey) -> Machine:
        container, keys = f"{lab.name}-{spec.name}", "/root/.ssh/authorized_keys"
        entered = local.Command(
            f"{name}-{spec.name}",
            # Prints the host key.
            create=f"podman exec -i {container} sh -c 'mkdir -p -m 0700 /root/.ssh && cat >{keys}' && "
            f"podman exec {container} cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub",
            delete=f"podman exec {container} rm -f {keys}",
            stdin=key.public_key_openssh,
            opts=pulumi.ResourceOptions(parent=self, depends_on=self.checks),
        )
        return Machine(
            spec=spec,
            connection=remote.ConnectionArgs(
                host=str(spec.address), user="root", private_key=key.private_key_openssh, host_key=entered.stdout
            ),
            identity=entered.stdout,
            resource=None,
            arch=lab.arch,
            interface="eth0",
            shares_kernel=True,
            timeout_factor=lab.settings.timeout_factor,
        )
