"""The substrate `libvirt`: every machine is a virtual one on the Pulumi host, on a network of the lab's own.

Made with libvirt: a network with NAT, a pool of disks, the image that all disks begin with, and for each machine a
disk, a CD for cloud-init (name, address, keys) and the machine. Made on the Pulumi host: an HTTP server with the
artifact mirror at the network's gateway, and the routes to the workers' pod ranges. Everything has the name
hardway-<stack>.

Raises, at `up` and before anything is made: one report of every failed precondition (see preflight.py).
"""

from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from shlex import quote

import pulumi
import pulumi_libvirt as libvirt
import pulumi_tls as tls
import yaml
from pulumi_command import local, remote

from components.authorized_keys import authorize_keys
from components.machine import Machine
from components.members import asked_by_ssh
from components.quorum import quorum_guard
from components.rotation_record import rotation_record
from components.ssh_keys import SshKeys
from components.substrates.libvirt.owner import forget
from components.substrates.pulumi_host import host_routes, script
from components.systemd import systemd_unit
from components.version_guard import version_guard
from config.lab import Lab
from config.libvirt import MIRROR_PORT, LibvirtSettings
from config.machine_images import VmImage, cloud_image, vm_image
from config.machines import MachineSpec
from config.settings import LabSettings

_CHECKOUT = Path(__file__).parents[3]
_PREFLIGHT = Path(__file__).with_name("preflight.py").relative_to(_CHECKOUT)
_KEYS = Path(__file__).with_name("keys.py").relative_to(_CHECKOUT)
_OWNER = Path(__file__).with_name("owner.py").relative_to(_CHECKOUT)

_GIB = 1 << 30
# From power on to sshd: seconds with KVM, minutes where the processor is emulated.
_BOOT_SECONDS = {"kvm": 180, "qemu": 900}
# An emulated processor is many times slower.
_TYPE_FACTOR = {"kvm": 1, "qemu": 8}
_SERVING_SECONDS = 20
# The processor with all that KVM, or the emulation, has.
_CPU_MODE = {"kvm": "host-passthrough", "qemu": "maximum"}
_INTERFACE = "eth0"

# Every remote command of the lab is a connection and a session of its own, many at once, and the command provider
# closes none before it ends.
_SSHD = """\
PasswordAuthentication no
PermitRootLogin prohibit-password
UseDNS no
MaxStartups 500:30:1000
MaxSessions 500
"""


class Libvirt(pulumi.ComponentResource):
    """All machines of a lab, as virtual machines.

    Attributes:
        machines, ssh_private_key, checks, api_address, entrance: see `Substrate`.
    """

    def __init__(self, name: str, lab: Lab, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("hardway:index:Libvirt", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        settings = lab.settings.libvirt
        prefix = f"hardway-{lab.name}"
        image = image_of(settings)
        keys = SshKeys(f"{name}-ssh", lab.name, lab.rotations["ssh"], child)
        identity = keys.first.public_key_fingerprint_sha256
        preflight = local.Command(
            f"{name}-preflight",
            # Only before the first `up` what has the lab's name cannot be the lab's own.
            create=identity.apply(lambda known: preflight_command(lab, prefix, image, known, new=True)),
            update=identity.apply(lambda known: preflight_command(lab, prefix, image, known, new=False)),
            delete=identity.apply(lambda known: script(f"record of {prefix}, removed", forget(lab.name, known))),
            opts=child,
        )
        guard = quorum_guard(
            f"{name}-quorum",
            {spec.name: definition(lab, spec, image) for spec in lab.etcd_members},
            lab.choices,
            child,
            asked_by_ssh(lab.name, lab.settings.timeout_factor),
        )
        checks = [preflight, guard, version_guard(f"{name}-versions", lab, child)]
        self.checks: Sequence[pulumi.Resource] = [*checks, *rotation_record(lab.rotations, checks)]
        # What the preflight prints: the provider connects as soon as it knows where to. It would fail before the report
        # is out, and in a first preview on a host without libvirt.
        self._provider = libvirt.Provider(f"{name}-libvirt", uri=preflight.stdout.apply(str.strip), opts=child)
        network = libvirt.Network(
            f"{name}-network",
            name=prefix,
            mode="nat",
            addresses=[str(lab.network.nodes)],
            # Machines have fixed addresses. Its DNS stays: they ask it, and it asks those that the Pulumi host asks.
            dhcp=libvirt.NetworkDhcpArgs(enabled=False),
            autostart=True,
            opts=self._options(*self.checks),
        )
        pool = libvirt.Pool(
            f"{name}-pool",
            name=prefix,
            type="dir",
            target=libvirt.PoolTargetArgs(path=f"{settings.pool}/{lab.name}"),
            opts=self._options(*self.checks),
        )

        # Before anything is in it.
        self._closed = local.Command(
            f"{name}-pool-closed",
            create=pulumi.Output.format(
                "{0}\n# the pool {1}", close_to_others(prefix, settings, f"{settings.pool}/{lab.name}"), pool.id
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[pool]),
        )

        def uploaded(what: str, file: Path) -> libvirt.Volume:
            return libvirt.Volume(
                f"{name}-{what}",
                name=f"{prefix}-{what}",
                pool=pool.name,
                source=str(file),
                opts=self._options(self._closed),
            )

        self._base = uploaded("image", image.disk)
        self._kernel = uploaded("kernel", image.kernel) if image.kernel else None
        self._initrd = uploaded("initrd", image.initrd) if image.initrd else None
        self._network, self._pool, self._keys = network, pool, keys
        host = local.Command(
            f"{name}-host",
            create=pulumi.Output.format("{0}\n# on network {1}", serve(prefix, lab), network.id),
            delete=stop_serving(prefix, lab),
            interpreter=["/bin/bash", "-c"],
            opts=pulumi.ResourceOptions(parent=self, delete_before_replace=True),
        )
        self.api_address: pulumi.Input[str] = str(lab.api_address)
        self.entrance: Sequence[pulumi.Resource] = []
        self.ssh_private_key = keys.active.private_key_openssh
        self.machines: Sequence[Machine] = [self._machine(name, lab, prefix, spec, host) for spec in lab.machines]
        self.register_outputs({})

    def _options(
        self, *after: pulumi.Resource, with_: Sequence[pulumi.Resource] = (), on: Sequence[str] = ()
    ) -> pulumi.ResourceOptions:
        """Of a resource of libvirt's: recreated with some others, and where some of its inputs change."""
        return pulumi.ResourceOptions(
            parent=self,
            provider=self._provider,
            depends_on=list(after),
            replace_with=list(with_),
            replace_on_changes=list(on),
            # Both would have one name.
            delete_before_replace=True,
        )

    def _machine(self, name: str, lab: Lab, prefix: str, spec: MachineSpec, host: local.Command) -> Machine:
        settings = lab.settings.libvirt
        size = settings.size(spec.roles)
        domain_name = f"{prefix}-{spec.name}"
        host_key = tls.PrivateKey(
            f"{name}-{spec.name}-host-key", algorithm="ED25519", opts=pulumi.ResourceOptions(parent=self)
        )
        cloud_init = libvirt.CloudInitDisk(
            f"{name}-{spec.name}-cloud-init",
            name=f"{domain_name}-cloud-init.iso",
            pool=self._pool.name,
            # Secret, since the private key is. Part of the machine's definition: it keeps the lab's first key.
            user_data=pulumi.Output.all(
                self._keys.first.public_key_openssh, host_key.private_key_openssh, host_key.public_key_openssh
            ).apply(lambda keys: user_data(spec, *keys)),
            meta_data=yaml.safe_dump({"instance-id": domain_name, "local-hostname": spec.name}),
            network_config=network_config(lab, spec),
            opts=self._options(self._closed),
        )
        cloud_init_file = f"{settings.pool}/{lab.name}/{domain_name}-cloud-init.iso"
        cloud_init_closed = local.Command(
            f"{name}-{spec.name}-cloud-init-closed",
            create=pulumi.Output.format(
                "{0}\n# the disk {1}", close_to_others(prefix, settings, cloud_init_file), cloud_init.id
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[cloud_init]),
        )
        disk = libvirt.Volume(
            f"{name}-{spec.name}-disk",
            name=f"{domain_name}.qcow2",
            pool=self._pool.name,
            base_volume_id=self._base.id,
            size=size.disk_gib * _GIB,
            # cloud-init does its work once on a disk.
            opts=self._options(self._closed, with_=[cloud_init]),
        )
        boot = self._kernel and self._initrd and {"console": "ttyS0", "root": "/dev/vda"}
        domain = libvirt.Domain(
            f"{name}-{spec.name}",
            name=domain_name,
            # Whose it is: names of labs may begin alike.
            description=prefix,
            type=settings.type,
            vcpu=size.vcpus,
            memory=size.memory_mib,
            cpu=libvirt.DomainCpuArgs(mode=_CPU_MODE[settings.type]),
            kernel=self._kernel.id if self._kernel else None,
            initrd=self._initrd.id if self._initrd else None,
            cmdlines=[boot] if boot else None,
            cloudinit=cloud_init.id,
            disks=[libvirt.DomainDiskArgs(volume_id=disk.id)],
            network_interfaces=[
                libvirt.DomainNetworkInterfaceArgs(network_id=self._network.id, mac=mac_address(spec.address))
            ],
            consoles=[libvirt.DomainConsoleArgs(type="pty", target_port="0", target_type="serial")],
            # Else the provider asks for SPICE, which not every qemu has, and for a port of the Pulumi host.
            graphics=libvirt.DomainGraphicsArgs(type="vnc", listen_type="socket"),
            autostart=True,
            opts=self._options(
                host,
                cloud_init_closed,
                with_=[cloud_init, disk],
                # Which the provider would change under the running machine, to no effect, or not at all.
                on=["cloudinit", "networkInterfaces", "kernel", "initrd"],
            ),
        )
        answers = local.Command(
            f"{name}-{spec.name}-ssh",
            create=pulumi.Output.all(domain.id, host_key.public_key_openssh).apply(
                lambda known: wait_for_ssh(
                    lab.settings, domain_name, spec.address, identity=known[0], host_key=known[1]
                )
            ),
            interpreter=["/bin/bash", "-c"],
            opts=pulumi.ResourceOptions(parent=self, deleted_with=domain),
        )
        timeout_factor = _TYPE_FACTOR[settings.type] * lab.settings.timeout_factor
        connection = remote.ConnectionArgs(
            host=str(spec.address),
            user="root",
            private_key=self._keys.active.private_key_openssh,
            host_key=host_key.public_key_openssh.apply(str.strip),
        )
        return Machine(
            spec=spec,
            connection=connection,
            identity=authorize_keys(
                f"{name}-{spec.name}-ssh-keys",
                self._keys,
                machine=spec.name,
                # The machine's UUID, once it answers.
                identity=answers.stdout,
                connection=connection,
                timeout_factor=timeout_factor,
                opts=pulumi.ResourceOptions(parent=self, deleted_with=domain),
            ),
            resource=domain,
            arch=lab.arch,
            interface=_INTERFACE,
            shares_kernel=False,
            timeout_factor=timeout_factor,
        )


def image_of(settings: LibvirtSettings) -> VmImage:
    """The files that the machines start from: the lab's own choice, or what the tool chain makes."""
    if settings.image is None:
        return vm_image()
    if settings.image.startswith("/"):
        return VmImage(disk=Path(settings.image))
    return cloud_image(settings.image, settings.image_sha256 or "")


def definition(lab: Lab, spec: MachineSpec, image: VmImage) -> str:
    """What a machine is made from: with another of these it is recreated."""
    settings = lab.settings.libvirt
    size = settings.size(spec.roles)
    given = (size.vcpus, size.memory_mib, size.disk_gib, settings.type, settings.uri, settings.pool, image.disk)
    return " ".join(str(each) for each in (spec.name, spec.address, lab.network.nodes, *given))


def user_data(spec: MachineSpec, user_key: str, host_key: str, host_key_public: str) -> str:
    """cloud-init's user data: who the machine is, its own SSH key, and whose key opens it.

    Source: https://docs.cloud-init.io/en/22.4/topics/examples.html
    """
    document = {
        "hostname": spec.name,
        "fqdn": spec.fqdn,
        # The lab has a block of its own in /etc/hosts.
        "manage_etc_hosts": False,
        "disable_root": False,
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": host_key, "ed25519_public": host_key_public.strip()},
        "users": [{"name": "root", "lock_passwd": False, "ssh_authorized_keys": [user_key.strip()]}],
        "write_files": [{"path": "/etc/ssh/sshd_config.d/hardway.conf", "content": _SSHD}],
        "package_update": False,
    }
    return "#cloud-config\n" + yaml.safe_dump(document, sort_keys=False)


def network_config(lab: Lab, spec: MachineSpec) -> str:
    """cloud-init's network configuration, version 2: one interface with a fixed address.

    Source: https://docs.cloud-init.io/en/22.4/topics/network-config-format-v2.html
    """
    interface = {
        "match": {"macaddress": mac_address(spec.address).lower()},
        "set-name": _INTERFACE,
        "addresses": [f"{spec.address}/{lab.network.nodes.prefixlen}"],
        "routes": [{"to": "0.0.0.0/0", "via": str(lab.network.gateway)}],
        # Without search domains: they would reach every pod.
        "nameservers": {"addresses": [str(lab.network.gateway)]},
    }
    return yaml.safe_dump({"version": 2, "ethernets": {_INTERFACE: interface}}, sort_keys=False)


def mac_address(address: IPv4Address) -> str:
    """A MAC address made of the IPv4 address: locally administered, in capitals, as the provider notes it."""
    return ":".join(f"{byte:02X}" for byte in (0x52, 0x54, *address.packed))


def wait_for_ssh(lab: LabSettings, domain: str, address: IPv4Address, *, identity: str, host_key: str) -> str:
    """The shell lines that wait until a machine answers with its own host key, and print its identity.

    While they wait they listen to its console: what it said last is in the report of a machine that does not answer.
    """
    settings = lab.libvirt
    seconds = _BOOT_SECONDS[settings.type] * lab.timeout_factor
    return script(
        f"machine {domain} ({identity}) answers",
        f"console=$(as_root virsh -q -c '{settings.uri}' ttyconsole {domain})",
        "said=$(mktemp)",
        # In the listener's own place, so that ending it ends it.
        '( [ "$(id -u)" = 0 ] || exec sudo -n cat "$console"; exec cat "$console" ) >"$said" 2>/dev/null &',
        "listener=$!",
        "trap 'kill $listener 2>/dev/null || true; rm -f \"$said\"' EXIT",
        f"deadline=$((SECONDS + {seconds}))",
        f"until ssh-keyscan -T 2 -t ed25519 {address} 2>/dev/null | grep -qF '{host_key.strip()}'; do",
        "  if [ $SECONDS -ge $deadline ]; then",
        f'    echo "{domain}: no answer from sshd with the machine\'s own key after {seconds} s. The machine is" '
        f'"$(as_root virsh -q -c \'{settings.uri}\' domstate {domain});" "the last lines of its console:" >&2',
        '    tail -n 20 "$said" | tr -d "\\r" >&2',
        "    exit 1",
        "  fi",
        "  sleep 0.5",
        "done",
        f"echo {identity}",
    )


def close_to_others(prefix: str, settings: LibvirtSettings, path: str) -> str:
    """The shell lines that keep a directory or file in the lab's pool from other users than root and qemu's."""
    return script(
        f"Of {prefix}, for root and qemu alone: {path}",
        f"as_root python3 {_KEYS} --uri '{settings.uri}' {quote(path)}",
    )


def mirror_unit(prefix: str, lab: Lab) -> str:
    """The unit of the host that serves the mirror to the lab's machines alone and sets the routes to its pods.

    It is started again until libvirt has brought the network's address.
    """
    return systemd_unit(
        description=f"Kubernetes The Hard Way: the artifact mirror and the routes of the lab {prefix}",
        documentation="https://docs.python.org/3/library/http.server.html",
        program=_server(lab),
        after=("network-online.target", "libvirtd.service"),
        service={
            "ExecStartPost": f"/bin/sh -c '{' && '.join(_routes(lab))}'",
            "IPAddressDeny": "any",
            "IPAddressAllow": f"{lab.network.nodes}",
            "NoNewPrivileges": "yes",
            "ProtectSystem": "strict",
            "PrivateTmp": "yes",
        },
    )


def serve(prefix: str, lab: Lab) -> str:
    """The shell lines that serve the mirror and set the routes, now and after every boot, whatever they did before.

    By systemd where it runs the Pulumi host, else by a process of its own.
    """
    unit, pid, url = f"{prefix}.service", f"/run/{prefix}.pid", f"http://{lab.network.gateway}:{MIRROR_PORT}/SHA256SUMS"
    fetched = f"urllib.request.build_opener(urllib.request.ProxyHandler({{}})).open('{url}', timeout=2).read()"
    sums = quote(str(lab.mirror / "SHA256SUMS"))
    seconds = _SERVING_SECONDS * lab.settings.timeout_factor
    return script(
        f"artifact mirror and routes of {prefix}",
        f"as_root ip -4 route flush root {lab.network.pods}",
        "if [ -d /run/systemd/system ]; then",
        f"as_root tee /etc/systemd/system/{unit} >/dev/null <<'END-OF-FILE'",
        mirror_unit(prefix, lab),
        "END-OF-FILE",
        "as_root systemctl daemon-reload",
        f"as_root systemctl -q enable {unit}",
        f"as_root systemctl restart {unit}",
        "else",
        *_end_process(pid, lab),
        *(f"as_root {route}" for route in _routes(lab)),
        f"as_root sh -c {quote(f'setsid {_server(lab)} </dev/null >/dev/null 2>&1 & echo $! >{pid}')}",
        "fi",
        f"deadline=$((SECONDS + {seconds}))",
        # What answers must be the mirror: something else may have had the port.
        f'until python3 -c "import urllib.request, sys; sys.stdout.buffer.write({fetched})" 2>/dev/null |',
        f"  as_root cmp -s - {sums}; do",
        "  if [ $SECONDS -ge $deadline ]; then",
        f'    echo "{url} does not answer with the mirror after {seconds} s" >&2',
        f"    as_root journalctl -q -u {unit} -n 20 --no-pager -o cat >&2 || true",
        "    exit 1",
        "  fi",
        "  sleep 0.2",
        "done",
    )


def stop_serving(prefix: str, lab: Lab) -> str:
    """The reverse of `serve`; the machines are gone by then, so it takes their logs with it."""
    unit, pid = f"{prefix}.service", f"/run/{prefix}.pid"
    return script(
        f"artifact mirror and routes of {prefix}, removed",
        f"if [ -e /etc/systemd/system/{unit} ]; then",
        f"  as_root systemctl -q disable --now {unit}",
        f"  as_root rm -f /etc/systemd/system/{unit}",
        "  as_root systemctl daemon-reload",
        "fi",
        *_end_process(pid, lab),
        f"as_root ip -4 route flush root {lab.network.pods}",
        f"as_root find /var/log/libvirt/qemu -maxdepth 1 -name '{prefix}-*.log*' -delete 2>/dev/null || true",
    )


def _server(lab: Lab) -> str:
    # Bound to an address that only the lab's machines and the Pulumi host reach.
    return (
        f"/usr/bin/env python3 -m http.server --bind {lab.network.gateway} "
        f"--directory {quote(str(lab.mirror))} {MIRROR_PORT}"
    )


def _routes(lab: Lab) -> list[str]:
    return [f"ip route replace {pods} via {worker}" for pods, worker in host_routes(lab.machines)]


def _end_process(pid: str, lab: Lab) -> list[str]:
    # The number may be another's by now.
    return [
        f'if [ -e {pid} ] && tr "\\0" " " <"/proc/$(cat {pid})/cmdline" 2>/dev/null |',
        f'  grep -qF -e "--bind {lab.network.gateway} "; then as_root kill "$(cat {pid})"; fi',
        f"as_root rm -f {pid}",
    ]


def preflight_command(lab: Lab, prefix: str, image: VmImage, identity: str, *, new: bool) -> str:
    """The shell lines that look at the Pulumi host.

    Args:
        lab: what is to be made.
        prefix: what its names begin with.
        image: what its disks begin with.
        identity: the fingerprint of the lab's key.
        new: whether nothing may have the lab's name yet; the name is taken then.
    """
    settings = lab.settings.libvirt
    sizes = [settings.size(spec.roles) for spec in lab.machines]
    owner = f"as_root python3 {_OWNER} --uri '{settings.uri}' --lab {lab.name} --key '{identity}'"
    return script(
        f"preflight of {prefix}",
        # Where libvirt does not answer, the report says so.
        f"! as_root virsh -q -c '{settings.uri}' net-list >/dev/null 2>&1 || {owner} check",
        " ".join(
            [
                f"as_root python3 {_PREFLIGHT}",
                f"--uri '{settings.uri}'",
                f"--type {settings.type}",
                f"--lab {prefix}",
                *(["--new"] if new else []),
                f"--image {quote(str(image.disk))}",
                *([f"--sha256 {settings.image_sha256}"] if settings.image_sha256 else []),
                f"--mirror {quote(str(lab.mirror))}",
                f"--pool {settings.pool}/{lab.name}",
                f"--memory {sum(size.memory_mib for size in sizes)}",
                f"--disk {sum(size.disk_gib for size in sizes)}",
                f"--machines {len(sizes)}",
                f"--ranges {lab.network.nodes} {lab.network.pods}",
                f"--port {MIRROR_PORT}",
            ]
        ),
        *([f"{owner} take"] if new else []),
    )
