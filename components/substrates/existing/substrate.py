"""The substrate `machines`: hosts that exist already, which a machine database describes.

Made on each host: the lab's public key for the login user, sudo without a password for as long as the lab is
there, the programs that its roles need; all of it is taken back by `destroy`, as is every step. A jumpbox gets a key
that opens a way and nothing else. What the user has (a key, a password) is used until the lab's own key is in, and
never stands in the state.

Raises, at `up` and before anything is made: one report of every failed precondition (see preflight.py).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from shlex import quote

import pulumi
from pulumi_command import local, remote

from components.calico import CALICO_IMAGES
from components.kubeadm import PROGRAMS, kubeadm_images
from components.machine import Machine
from components.members import asked_by_ssh
from components.quorum import quorum_guard
from components.rotation_record import rotation_record
from components.ssh_keys import SshKeys
from components.substrates.existing.plan import Host, Login, Plan, rotated_keys
from components.version_guard import version_guard
from config import trust
from config.artifacts import Artifact
from config.lab import Lab
from config.machines import MachineSpec, Role
from config.own_machines import jumpbox_parts, mirror_directory

_HOSTS = ".venv/bin/python -m components.substrates.existing"
# Fails to parse, should anybody ever try it: the preflight refuses the `up` before.
_NOT_TRUSTED = "ssh-ed25519 not-trusted-yet"


class Machines(pulumi.ComponentResource):
    """All machines of a lab, as they are.

    Attributes:
        machines: one for each of `lab.machines`, in that order.
        ssh_private_key: the lab's own key (OpenSSH, secret), which opens all of them.
        checks, api_address, entrance: see `Substrate`.
    """

    def __init__(self, name: str, lab: Lab, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("hardway:index:Machines", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        self._name, self._lab = name, lab
        self._keys = SshKeys(f"{name}-ssh", lab.name, lab.rotations["ssh"], child)
        hosts = hosts_of(lab)
        preflight = self._command("preflight", "preflight", _plan(lab, *hosts), child)
        guard = quorum_guard(
            f"{name}-quorum",
            {spec.name: " ".join(_pins(lab, spec)) for spec in lab.etcd_members},
            lab.choices,
            # What a lab that was refused was to be made of is nothing to remember.
            pulumi.ResourceOptions(parent=self, depends_on=[preflight]),
            asked_by_ssh(lab.name, lab.settings.timeout_factor),
        )
        versions = version_guard(f"{name}-versions", lab, pulumi.ResourceOptions(parent=self, depends_on=[preflight]))
        checks = [preflight, guard, versions]
        self.checks: Sequence[pulumi.Resource] = [*checks, *rotation_record(lab.rotations, checks)]
        self.api_address: pulumi.Input[str] = str(lab.api_address)
        self.entrance: Sequence[pulumi.Resource] = []
        self.ssh_private_key = self._keys.active.private_key_openssh
        ways = self._ways(hosts)
        self.machines: Sequence[Machine] = [
            self._machine(spec, host, ways) for spec, host in zip(lab.machines, hosts, strict=True)
        ]
        self.register_outputs({})

    def _given_keys(self) -> pulumi.Output[str]:
        if not self._keys.has_rotated:
            return self._keys.first.private_key_openssh
        return pulumi.Output.all(self._keys.first.public_key_openssh, *self._keys.private).apply(
            lambda known: rotated_keys(known[0], known[1:])
        )

    def _ways(self, hosts: Sequence[Host]) -> Mapping[Login, pulumi.Resource]:
        """The lab's key on every jumpbox, which outlives it on the machines behind."""
        ways: dict[Login, pulumi.Resource] = {}
        for host in hosts:
            jumpbox = host.jumpbox
            if jumpbox is not None and jumpbox not in ways:
                at = _plan(self._lab, Host(name="jumpbox", roles=(), login=jumpbox, address=jumpbox.host))
                ways[jumpbox] = self._command(
                    f"jumpbox-{len(ways)}",
                    "open-way",
                    at,
                    pulumi.ResourceOptions(parent=self, depends_on=self.checks),
                    undo="close-way",
                )
        return ways

    def _machine(self, spec: MachineSpec, host: Host, ways: Mapping[Login, pulumi.Resource]) -> Machine:
        lab = self._lab
        plan = _plan(lab, host)
        before = [*self.checks, *([ways[host.jumpbox]] if host.jumpbox else [])]
        entered = self._command(
            spec.name,
            "enter",
            plan,
            # At another address is another host; the one before is left first.
            pulumi.ResourceOptions(parent=self, depends_on=before),
            undo="leave",
            triggers=[str(spec.address)],
        )
        ready = entered
        uploads = _uploads(lab, spec, host.arch) if lab.settings.machines.artifacts == "upload" else {}
        if uploads:
            ready = self._command(
                f"{spec.name}-artifacts",
                "upload",
                plan,
                pulumi.ResourceOptions(parent=self, depends_on=[entered]),
                str(mirror_directory()),
                str(lab.mirror),
                json.dumps(uploads, separators=(",", ":")),
                undo="withdraw",
            )
        # A machine that was recreated has another host key.
        identity = hashlib.sha256(" ".join(host.login.host_keys).encode()).hexdigest()
        key = self._keys.active.private_key_openssh
        return Machine(
            spec=spec,
            connection=remote.ConnectionArgs(
                host=host.login.host,
                port=host.login.port,
                user=host.login.user,
                private_key=key,
                host_key=_pin(host.login),
                proxy=remote.ProxyConnectionArgs(
                    host=host.jumpbox.host,
                    port=host.jumpbox.port,
                    user=host.jumpbox.user,
                    private_key=key,
                    host_key=_pin(host.jumpbox),
                )
                if host.jumpbox
                else None,
            ),
            # Known before; yet no step begins before its machine has been entered and has the programs.
            identity=pulumi.Output.unsecret(ready.id.apply(lambda _: identity)),
            resource=None,
            arch=host.arch,
            interface=lab.own_machines[spec.name].interface,
            shares_kernel=lab.settings.machines.shares_kernel,
            user=host.login.user,
            timeout_factor=lab.settings.timeout_factor,
        )

    def _command(
        self,
        name: str,
        does: str,
        plan: str,
        opts: pulumi.ResourceOptions,
        *words: str,
        undo: str | None = None,
        triggers: Sequence[str] | None = None,
    ) -> local.Command:
        def command(verb: str, *more: str) -> str:
            return " ".join([_HOSTS, verb, quote(plan), *map(quote, more)])

        return local.Command(
            f"{self._name}-{name}",
            create=f"# {does} of hardway-{self._lab.name}\n{command(does, *words)}",
            delete=command(undo, *words[:1]) if undo else None,
            # The lab's keys come on standard input: no command line and no log shows them.
            stdin=self._given_keys(),
            logging=local.Logging.NONE,
            add_previous_output_in_env=False,
            triggers=triggers,
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(delete_before_replace=undo is not None)),
        )


def _plan(lab: Lab, *hosts: Host) -> str:
    settings = lab.settings
    return Plan(
        stack=lab.name,
        hosts=hosts,
        key=settings.machines.key,
        shares_kernel=settings.machines.shares_kernel,
        pods=str(settings.network.pods),
        services=str(settings.network.services),
        modules=lab.kernel_modules,
        timeout_factor=settings.timeout_factor,
    ).to_json()


def hosts_of(lab: Lab) -> list[Host]:
    """All machines as `python -m components.substrates.existing` takes them, in the order of `lab.machines`."""
    return [_host(lab, spec) for spec in lab.machines]


def _host(lab: Lab, spec: MachineSpec) -> Host:
    own = lab.own_machines[spec.name]
    several = len(lab.with_role(Role.LOAD_BALANCER)) > 1
    return Host(
        name=spec.name,
        roles=_roles(lab, spec),
        login=_login(lab, str(own.address), own.port, own.user),
        jumpbox=_jumpbox(lab, own.jumpbox) if own.jumpbox else None,
        address=str(spec.address),
        arch=own.arch,
        interface=own.interface if several and Role.LOAD_BALANCER in spec.roles else None,
    )


def _roles(lab: Lab, spec: MachineSpec) -> tuple[str, ...]:
    if lab.settings.bootstrap == "kubeadm" and Role.CONTROLLER in spec.roles:
        return ("kubeadm-controller", Role.WORKER)
    return tuple(sorted(spec.roles))


def _jumpbox(lab: Lab, jumpbox: str) -> Login:
    user, host, port = jumpbox_parts(jumpbox)
    return _login(lab, host, port, user)


def _login(lab: Lab, host: str, port: int, user: str) -> Login:
    keys = lab.trusted.get(trust.name_of(host, port), ())
    return Login(host=host, port=port, user=user, host_keys=tuple(keys))


def _pins(lab: Lab, spec: MachineSpec) -> Sequence[str]:
    return _host(lab, spec).login.host_keys


def _pin(login: Login) -> str:
    return next(iter(login.host_keys), _NOT_TRUSTED)


def needed_artifacts(lab: Lab, spec: MachineSpec, arch: str) -> list[Artifact]:
    """What the steps of a machine's roles fetch."""
    source = lab.artifacts
    if lab.settings.bootstrap == "kubeadm":
        return _kubeadm_artifacts(lab, spec, arch)
    kubernetes = {
        Role.CONTROLLER: ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
        Role.WORKER: ("kubelet", "kube-proxy"),
    }
    artifacts = [
        source.artifact("kubernetes", arch=arch, artifact=program)
        for role in sorted(spec.roles)
        for program in kubernetes.get(role, ())
    ]
    # Members run it; controllers without one ask it.
    if spec.roles & {Role.ETCD, Role.CONTROLLER}:
        artifacts.append(source.artifact("etcd", arch=arch))
    if Role.WORKER in spec.roles:
        artifacts += [source.artifact(product, arch=arch) for product in ("containerd", "runc", "cni-plugins")]
        images = ("pause", *_calico_images(lab), "coredns")
        artifacts += [source.image(image, arch=arch) for image in images]
    return [*artifacts, *_calico_artifacts(lab, spec, arch)]


def _calico_images(lab: Lab) -> tuple[str, ...]:
    return ("calico-cni", *CALICO_IMAGES) if lab.calico else ()


def _calico_artifacts(lab: Lab, spec: MachineSpec, arch: str) -> list[Artifact]:
    # The first controller uses them.
    products = ("calicoctl", "calico-crds") if lab.calico and Role.CONTROLLER in spec.roles else ()
    return [lab.artifacts.artifact(product, arch=arch) for product in products]


def _kubeadm_artifacts(lab: Lab, spec: MachineSpec, arch: str) -> list[Artifact]:
    source = lab.artifacts
    if not spec.roles & {Role.CONTROLLER, Role.WORKER}:
        return []
    programs = () if lab.settings.kubeadm.packages == "apt" else PROGRAMS
    products = ["containerd", "runc", "cni-plugins", *(["etcd"] if Role.CONTROLLER in spec.roles else [])]
    images = ("pause", *kubeadm_images(spec, source.versions["kubernetes"]), *_calico_images(lab))
    return [
        *(source.artifact("kubernetes", arch=arch, artifact=program) for program in programs),
        *(source.artifact(product, arch=arch) for product in products),
        *(source.image(image, arch=arch) for image in images),
        *_calico_artifacts(lab, spec, arch),
    ]


def _uploads(lab: Lab, spec: MachineSpec, arch: str) -> dict[str, str]:
    """Path below the mirror -> sha256."""
    top = PurePosixPath(mirror_directory())
    return {
        str(PurePosixPath(artifact.url.removeprefix("file://")).relative_to(top)): artifact.sha256
        for artifact in needed_artifacts(lab, spec, arch)
    }
