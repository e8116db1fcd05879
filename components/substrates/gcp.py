"""The substrate `gcp`: every machine is an instance of Compute Engine, in a network of the lab's own.

Made: a VPC network with one subnet, its firewall, a service account that may do nothing, an external address and an
instance for each machine, a route to each worker's pods, and a load balancer with a static address before the API
servers. Everything bears the name hardway-<stack>.

Sources: https://cloud.google.com/vpc/docs/routes and https://cloud.google.com/vpc/docs/mtu
"""

import json
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

import pulumi
import pulumi_tls as tls
from pulumi_command import local, remote
from pulumi_gcp import compute, serviceaccount

from components.control_plane import API_PORT
from components.first_login import first_login
from components.machine import Machine
from components.quorum import quorum_guard
from components.substrates.gcp_balancer import GcpBalancer, GcpBalancerArgs
from config.gcp import GcpSettings, arch_of
from config.lab import Lab
from config.machines import MachineSpec, Role

_STARTUP = Path(__file__).with_name("gcp_startup.sh")
_DISK_GB = 20
# Pods' interfaces have the 1500 bytes of Ethernet; Google's default of 1460 would cut what they send.
_MTU = 1500
# The ranges that documents may use: nobody comes from there, so they are what a person has yet to replace.
_PLACEHOLDERS = tuple(IPv4Network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"))
# Says who the machine is, and opens nothing.
_SCOPE = "https://www.googleapis.com/auth/userinfo.email"
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
        self._labels = {"hardway-lab": lab.name}
        settings = lab.settings.gcp
        child = pulumi.ResourceOptions(parent=self)
        key = tls.PrivateKey(f"{name}-ssh", algorithm="ED25519", opts=child)
        self.checks: Sequence[pulumi.Resource] = [
            local.Command(f"{name}-preflight", create=preflight(settings.sources), opts=child),
            quorum_guard(
                f"{name}-quorum", {spec.name: definition(lab, spec) for spec in lab.etcd_members}, lab.choices, child
            ),
        ]
        network = compute.Network(
            f"{name}-network",
            name=self._prefix,
            auto_create_subnetworks=False,
            mtu=_MTU,
            opts=self._after(*self.checks),
        )
        subnet = compute.Subnetwork(
            f"{name}-subnet",
            name=self._prefix,
            network=network.id,
            region=settings.region,
            ip_cidr_range=str(lab.network.nodes),
            opts=self._after(),
        )
        account = serviceaccount.Account(
            f"{name}-account",
            account_id=self._prefix,
            display_name=f"Machines of the lab {lab.name}: without any role",
            opts=self._after(*self.checks),
        )
        firewall = [
            compute.Firewall(
                f"{name}-internal",
                name=f"{self._prefix}-internal",
                network=network.id,
                allows=[compute.FirewallAllowArgs(protocol=protocol) for protocol in ("tcp", "udp", "icmp")],
                source_ranges=[str(lab.network.nodes), str(lab.network.pods)],
                opts=self._after(),
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
                opts=self._after(),
            ),
        ]
        machines: list[Machine] = []
        controllers: list[tuple[MachineSpec, compute.Instance]] = []
        for spec in lab.machines:
            host_key = tls.PrivateKey(f"{name}-{spec.name}-host-key", algorithm="ED25519", opts=child)
            address = self._address(spec.name)
            instance = self._instance(spec, subnet, account, key, host_key, address)
            if Role.CONTROLLER in spec.roles:
                controllers.append((spec, instance))
            passable = [*firewall, *([self._pod_route(spec, network, instance)] if spec.pod_cidr else [])]
            machines.append(self._machine(spec, instance, key, host_key, address, passable))
        self.ssh_private_key = key.private_key_openssh
        self.machines: Sequence[Machine] = machines
        api = self._address("api")
        self.api_address: pulumi.Input[str] = api.address
        balancer = GcpBalancer(
            f"{name}-balancer",
            GcpBalancerArgs(
                lab=lab,
                prefix=self._prefix,
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
        """An external address that stays when what it belongs to is stopped or made anew."""
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
        key: tls.PrivateKey,
        host_key: tls.PrivateKey,
        address: compute.Address,
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
                    image=settings.image, size=_DISK_GB, type="pd-balanced", labels=self._labels
                )
            ),
            network_interfaces=[
                compute.InstanceNetworkInterfaceArgs(
                    subnetwork=subnet.id,
                    network_ip=str(spec.address),
                    access_configs=[compute.InstanceNetworkInterfaceAccessConfigArgs(nat_ip=address.address)],
                )
            ],
            # Packets of pods are neither from nor to an address of the machine.
            can_ip_forward=True,
            metadata={
                "ssh-keys": key.public_key_openssh.apply(lambda public: f"root:{public.strip()}"),
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
            scheduling=_SPOT if settings.spot else None,
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
            # The address, which the same worker made anew has again.
            next_hop_ip=str(spec.address),
            opts=self._after(instance),
        )

    def _machine(
        self,
        spec: MachineSpec,
        instance: compute.Instance,
        key: tls.PrivateKey,
        host_key: tls.PrivateKey,
        address: compute.Address,
        passable: Sequence[pulumi.Resource],
    ) -> Machine:
        connection = remote.ConnectionArgs(
            host=address.address,
            user="root",
            private_key=key.private_key_openssh,
            host_key=host_key.public_key_openssh.apply(str.strip),
        )
        login = first_login(
            f"{self._name}-{spec.name}-login",
            machine=f"{self._prefix}-{spec.name}",
            identity=instance.instance_id,
            connection=connection,
            hint="Is your own address in lab.gcp.sources? What the machine does while it boots, Google shows: "
            f"gcloud compute instances get-serial-port-output {self._prefix}-{spec.name}",
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(passable)),
        )
        return Machine(
            spec=spec,
            connection=connection,
            # The provider would mark it secret, as it does all that comes from secret inputs.
            identity=pulumi.Output.unsecret(login.stdout),
            resource=instance,
            arch=arch_of(machine_type(self._lab.settings.gcp, spec)),
            # What Google's images call the first one.
            interface="ens4",
            shares_kernel=False,
            # An instance is alone on its network (/32): the VPC's routes bring packets to pods.
            routes_pods=False,
        )


def machine_type(settings: GcpSettings, spec: MachineSpec) -> str:
    """The machine type of a machine."""
    return settings.worker_type if Role.WORKER in spec.roles else settings.controller_type


def definition(lab: Lab, spec: MachineSpec) -> str:
    """What a machine is made from: where this changes, Google makes it anew, and its disk with it."""
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
        },
        sort_keys=True,
    )


def preflight(sources: Sequence[IPv4Network]) -> str:
    """The shell lines that say what is in the way, before anything is made."""
    waiting = [str(source) for source in sources if any(source.subnet_of(example) for example in _PLACEHOLDERS)]
    problems = [
        f"problem 'lab.gcp.sources has {source}, an example where nobody comes from: put your own range there'"
        for source in waiting
    ]
    return "\n".join(
        [
            "# preflight on this host",
            "set -eu",
            "found=0",
            "problem() {",
            '  [ $found -gt 0 ] || echo "The lab cannot be made; nothing was touched." >&2',
            "  found=$((found + 1))",
            '  echo "  $found. $*" >&2',
            "}",
            "command -v ssh >/dev/null || problem 'ssh is not installed: run `make setup`, or install it'",
            *problems,
            "[ $found -eq 0 ]",
        ]
    )
