"""The substrate `gcp`: every machine is an instance of Compute Engine, in a network of the lab's own.

Made: a VPC network with one subnet, its firewall, a service account that may do nothing, an external address and an
instance for each machine, a route to each worker's pods, and a load balancer with a static address before the API
servers. Everything has the name hardway-<stack>.

Raises, at `up` and before anything is made: one report of every failed precondition (see preflight.py).

Sources: https://cloud.google.com/vpc/docs/routes and https://cloud.google.com/vpc/docs/mtu
"""

import json
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import pulumi
import pulumi_tls as tls
from pulumi_command import local, remote
from pulumi_gcp import compute, serviceaccount

from components.authorized_keys import ROOTS_KEYS, authorize_keys
from components.first_login import first_login
from components.machine import Machine
from components.members import asked_by_ssh
from components.quorum import quorum_guard
from components.rotation_record import rotation_record
from components.ssh_keys import SshKeys
from components.substrates.gcp.balancer import GcpBalancer, GcpBalancerArgs, described
from components.substrates.gcp.identity import KEY_LABEL, LAB_LABEL, description, identity_of
from components.version_guard import version_guard
from config.gcp import GcpSettings, arch_of
from config.lab import Lab
from config.machines import MachineSpec, Role
from config.ports import API_PORT

_STARTUP = Path(__file__).with_name("startup.sh")
_DISK_GB = 20
# Pods' interfaces have the 1500 bytes of Ethernet; Google's default of 1460 would cut what they send.
_MTU = 1500
# Says who the machine is, and opens nothing.
_SCOPE = "https://www.googleapis.com/auth/userinfo.email"
_PREFLIGHT = Path(__file__).with_name("preflight.py").relative_to(Path(__file__).parents[3])
_SPOT = compute.InstanceSchedulingArgs(
    provisioning_model="SPOT", preemptible=True, automatic_restart=False, instance_termination_action="STOP"
)


class Gcp(pulumi.ComponentResource):
    """All machines of a lab, as instances of Compute Engine.

    Attributes: see `Substrate`.
    """

    def __init__(self, name: str, lab: Lab, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("hardway:index:Gcp", name, None, opts)
        self._name, self._lab, self._prefix = name, lab, f"hardway-{lab.name}"
        settings = lab.settings.gcp
        child = pulumi.ResourceOptions(parent=self)
        keys = SshKeys(f"{name}-ssh", lab.name, lab.rotations["ssh"], child)
        identity = keys.first.public_key_fingerprint_sha256.apply(identity_of)
        # A disk's labels cannot be changed without another disk: it has only the one that never changes.
        self._own_label = {LAB_LABEL: lab.name}
        self._labels: dict[str, pulumi.Input[str]] = {**settings.labels, **self._own_label, KEY_LABEL: identity}
        # Of what has no labels.
        self._description: pulumi.Input[str] = identity.apply(lambda known: description(lab.name, known))
        project = pulumi.Config("gcp").require("project")
        checks = [
            local.Command(
                f"{name}-preflight",
                # Only before the first `up` what has the lab's names cannot be the lab's own.
                create=identity.apply(lambda known: preflight(lab, project, known, new=True)),
                update=identity.apply(lambda known: preflight(lab, project, known, new=False)),
                opts=child,
            ),
            quorum_guard(
                f"{name}-quorum",
                {spec.name: definition(lab, spec) for spec in lab.etcd_members},
                lab.choices,
                child,
                asked_by_ssh(lab.name, lab.settings.timeout_factor),
            ),
            version_guard(f"{name}-versions", lab, child),
        ]
        self.checks: Sequence[pulumi.Resource] = [*checks, *rotation_record(lab.rotations, checks)]
        network = compute.Network(
            f"{name}-network",
            name=self._prefix,
            auto_create_subnetworks=False,
            mtu=_MTU,
            description=self._description,
            opts=described(self._after(*self.checks)),
        )
        subnet = compute.Subnetwork(
            f"{name}-subnet",
            name=self._prefix,
            network=network.id,
            region=settings.region,
            ip_cidr_range=str(lab.network.nodes),
            description=self._description,
            opts=described(self._after()),
        )
        account = serviceaccount.Account(
            f"{name}-account",
            account_id=self._prefix,
            display_name=f"Machines of the lab {lab.name}: without any role",
            description=self._description,
            opts=described(self._after(*self.checks)),
        )
        firewall = [
            compute.Firewall(
                f"{name}-internal",
                name=f"{self._prefix}-internal",
                network=network.id,
                allows=[compute.FirewallAllowArgs(protocol=protocol) for protocol in ("tcp", "udp", "icmp")],
                source_ranges=[str(lab.network.nodes), str(lab.network.pods)],
                description=self._description,
                opts=described(self._after()),
            ),
            compute.Firewall(
                f"{name}-external",
                name=f"{self._prefix}-external",
                network=network.id,
                allows=[
                    compute.FirewallAllowArgs(protocol="tcp", ports=["22", str(API_PORT)]),
                    compute.FirewallAllowArgs(protocol="icmp"),
                ],
                source_ranges=[str(source) for source in settings.sources],
                description=self._description,
                opts=described(self._after()),
            ),
        ]
        machines: list[Machine] = []
        controllers: list[tuple[MachineSpec, compute.Instance]] = []
        for spec in lab.machines:
            host_key = tls.PrivateKey(f"{name}-{spec.name}-host-key", algorithm="ED25519", opts=child)
            address = self._address(spec.name) if settings.addresses == "static" else None
            instance = self._instance(spec, subnet, account, keys, host_key, address)
            if Role.CONTROLLER in spec.roles:
                controllers.append((spec, instance))
            passable = [*firewall, *([self._pod_route(spec, network, instance)] if spec.pod_cidr else [])]
            machines.append(self._machine(spec, instance, keys, host_key, address, passable))
        self.ssh_private_key = keys.active.private_key_openssh
        self.machines: Sequence[Machine] = machines
        api = self._address("api")
        self.api_address: pulumi.Input[str] = api.address
        balancer = GcpBalancer(
            f"{name}-balancer",
            GcpBalancerArgs(
                lab=lab,
                prefix=self._prefix,
                labels=self._labels,
                description=self._description,
                network=network,
                address=api,
                controllers=controllers,
                # What a machine says to the API's address leaves by its external one.
                callers=[machine.connection.host for machine in machines],
            ),
            child,
        )
        self.entrance: Sequence[pulumi.Resource] = [balancer]
        self.register_outputs({})

    def _after(self, *resources: pulumi.Resource) -> pulumi.ResourceOptions:
        # Names and addresses are fixed: the old one has them until it is gone.
        return pulumi.ResourceOptions(parent=self, depends_on=list(resources), delete_before_replace=True)

    def _address(self, what: str) -> compute.Address:
        """An external address that stays when what it belongs to is stopped or recreated."""
        return compute.Address(
            f"{self._name}-{what}-address",
            name=f"{self._prefix}-{what}",
            region=self._lab.settings.gcp.region,
            address_type="EXTERNAL",
            labels=self._labels,
            opts=self._after(*self.checks),
        )

    def _instance(
        self,
        spec: MachineSpec,
        subnet: compute.Subnetwork,
        account: serviceaccount.Account,
        keys: SshKeys,
        host_key: tls.PrivateKey,
        address: compute.Address | None,
    ) -> compute.Instance:
        settings = self._lab.settings.gcp
        return compute.Instance(
            f"{self._name}-{spec.name}",
            name=f"{self._prefix}-{spec.name}",
            hostname=spec.fqdn,
            zone=settings.zone_of(spec.address),
            machine_type=machine_type(settings, spec),
            boot_disk=compute.InstanceBootDiskArgs(
                initialize_params=compute.InstanceBootDiskInitializeParamsArgs(
                    image=settings.image, size=_DISK_GB, type="pd-balanced", labels=self._own_label
                )
            ),
            network_interfaces=[
                compute.InstanceNetworkInterfaceArgs(
                    subnetwork=subnet.id,
                    network_ip=str(spec.address),
                    # Without an address Google gives one, until the machine is stopped.
                    access_configs=[
                        compute.InstanceNetworkInterfaceAccessConfigArgs(nat_ip=address.address if address else None)
                    ],
                )
            ],
            # Packets of pods are neither from nor to an address of the machine.
            can_ip_forward=True,
            metadata={
                # Google changes them in place; the startup script reads them at each boot.
                "ssh-keys": keys.lines.apply(_for_root)
                if keys.has_rotated
                else keys.first.public_key_openssh.apply(_for_root),
                "startup-script": _STARTUP.read_text(),
                # What the startup script gives to sshd; docs/gcp.md says who can read it.
                "hardway-host-key": host_key.private_key_openssh,
                # No other key opens the machine: neither one of the project's nor, by OS Login, one of its people's.
                "block-project-ssh-keys": "TRUE",
                "enable-oslogin": "FALSE",
                **({"pod-cidr": str(spec.pod_cidr)} if spec.pod_cidr else {}),
            },
            tags=sorted(spec.roles),
            labels=self._labels,
            service_account=compute.InstanceServiceAccountArgs(email=account.email, scopes=[_SCOPE]),
            scheduling=_scheduling(settings),
            shielded_instance_config=compute.InstanceShieldedInstanceConfigArgs(
                enable_secure_boot=True, enable_vtpm=True, enable_integrity_monitoring=True
            ),
            # Another type is the same machine, after a stop.
            allow_stopping_for_update=True,
            desired_status="RUNNING",
            opts=pulumi.ResourceOptions.merge(
                self._after(*self.checks), pulumi.ResourceOptions(additional_secret_outputs=["metadata"])
            ),
        )

    def _pod_route(self, spec: MachineSpec, network: compute.Network, instance: compute.Instance) -> compute.Route:
        return compute.Route(
            f"{self._name}-{spec.name}-pods",
            name=f"{self._prefix}-{spec.name}",
            network=network.id,
            dest_range=str(spec.pod_cidr),
            # The address, which the same worker recreated has again.
            next_hop_ip=str(spec.address),
            description=self._description,
            opts=described(self._after(instance)),
        )

    def _machine(
        self,
        spec: MachineSpec,
        instance: compute.Instance,
        keys: SshKeys,
        host_key: tls.PrivateKey,
        address: compute.Address | None,
        passable: Sequence[pulumi.Resource],
    ) -> Machine:
        connection = remote.ConnectionArgs(
            host=address.address if address else _given_address(instance),
            user="root",
            private_key=keys.active.private_key_openssh,
            host_key=host_key.public_key_openssh.apply(str.strip),
        )
        login = first_login(
            f"{self._name}-{spec.name}-login",
            machine=f"{self._prefix}-{spec.name}",
            identity=instance.instance_id,
            connection=connection,
            hint="Is your own address in lab.gcp.sources? What the machine does while it boots, Google shows: "
            f"gcloud compute instances get-serial-port-output {self._prefix}-{spec.name}",
            timeout_factor=self._lab.settings.timeout_factor,
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(passable)),
        )
        return Machine(
            spec=spec,
            connection=connection,
            identity=authorize_keys(
                f"{self._name}-{spec.name}-ssh-keys",
                keys,
                machine=spec.name,
                # The provider would mark it secret, as it does all that comes from secret inputs.
                identity=pulumi.Output.unsecret(login.stdout),
                connection=connection,
                timeout_factor=self._lab.settings.timeout_factor,
                opts=pulumi.ResourceOptions(parent=self, deleted_with=instance),
                # The first is what the startup script has written; the second belongs to Google's agent.
                files=("/etc/ssh/hardway_authorized_keys", ROOTS_KEYS),
            ),
            resource=instance,
            arch=arch_of(machine_type(self._lab.settings.gcp, spec)),
            # What Google's images call the first one.
            interface="ens4",
            shares_kernel=False,
            # An instance is alone on its network (/32): the VPC's routes bring packets to pods.
            routes_pods=False,
            timeout_factor=self._lab.settings.timeout_factor,
        )


def _for_root(lines: str) -> str:
    """Public keys, one a line, as Google's metadata has them."""
    return "\n".join(f"root:{line}" for line in lines.strip().splitlines())


def machine_type(settings: GcpSettings, spec: MachineSpec) -> str:
    """The machine type of a machine."""
    return settings.worker_type if Role.WORKER in spec.roles else settings.controller_type


def _given_address(instance: compute.Instance) -> pulumi.Output[str]:
    """The external address that Google has given to an instance."""
    return instance.network_interfaces.apply(lambda interfaces: str((interfaces[0].access_configs or [])[0].nat_ip))


def _scheduling(settings: GcpSettings) -> compute.InstanceSchedulingArgs | None:
    if settings.spot:
        return _SPOT
    if settings.max_run_hours is None:
        return None
    return compute.InstanceSchedulingArgs(
        provisioning_model="STANDARD",
        automatic_restart=False,
        max_run_duration=compute.InstanceSchedulingMaxRunDurationArgs(seconds=settings.max_run_hours * 3600),
        instance_termination_action="DELETE",
    )


def definition(lab: Lab, spec: MachineSpec) -> str:
    """What a machine is made from: where this changes, Google replaces it, with its disk."""
    settings = lab.settings.gcp
    return json.dumps(
        {
            "name": f"hardway-{lab.name}-{spec.name}",
            "hostname": spec.fqdn,
            "zone": settings.zone_of(spec.address),
            "image": settings.image,
            "address": str(spec.address),
            "subnet": str(lab.network.nodes),
            "spot": settings.spot,
            # Only where it is set: labs that are older than the key keep their definition.
            **({"max_run_hours": settings.max_run_hours} if settings.max_run_hours else {}),
        },
        sort_keys=True,
    )


def names(lab: Lab) -> list[str]:
    """What the lab's resources are called."""
    settings, prefix = lab.settings.gcp, f"hardway-{lab.name}"
    zones = {settings.zone_of(spec.address) for spec in lab.machines if Role.CONTROLLER in spec.roles}
    what = ["internal", "external", "health", "api", *sorted(zones), *(spec.name for spec in lab.machines)]
    return [prefix, *(f"{prefix}-{each}" for each in what)]


def preflight(lab: Lab, project: str, identity: str, *, new: bool) -> str:
    """The shell lines that check the preconditions, before anything is created.

    Args:
        lab: what is to be made.
        project: where.
        identity: of the lab's key.
        new: whether nothing may have the lab's names yet.
    """
    settings, prefix = lab.settings.gcp, f"hardway-{lab.name}"
    machines = [f"{prefix}-{spec.name}={machine_type(settings, spec)}" for spec in lab.machines]
    static = ["api", *(spec.name for spec in lab.machines if settings.addresses == "static")]
    return "\n".join(
        [
            "# preflight on this host",
            " ".join(
                [
                    f"exec .venv/bin/python {_PREFLIGHT}",
                    f"--project {quote(project)}",
                    f"--lab {lab.name}",
                    f"--region {settings.region}",
                    *(["--spot"] if settings.spot else []),
                    f"--sources {' '.join(str(source) for source in settings.sources)}",
                    f"--machines {' '.join(machines)}",
                    f"--static {' '.join(f'{prefix}-{name}' for name in static)}",
                    *([f"--key {identity}", f"--names {' '.join(names(lab))}"] if new else []),
                ]
            ),
        ]
    )
