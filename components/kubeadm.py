"""The bootstrap method kubeadm: it creates the control plane as static pods, and machines join it.

Made on each controller and worker: kubelet, kubeadm and kubectl with the kubelet's unit as kubeadm's packages have it,
once the ports that Kubernetes needs are seen to be free; then a Node, by `kubeadm init` on the first controller and
`kubeadm join` on all others at once. Made through the first controller: the join token, for as long as a machine of
the lab is no Node. On the way back `kubeadm reset`, and what that leaves (worker.sh).

Source: https://kubernetes.io/docs/setup/production-environment/tools/kubeadm/
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import pulumi

from components.component import Component, turn_before
from components.container_runtime import WORKER_VERBS
from components.control_plane import AUDIT_POLICY, audit_policy
from components.etcd import etcd_client, fetch_etcd, initial_members
from components.kubeadm_config import DISCOVERY, init_documents, join_configuration, machine_label, yaml_of
from components.kubeadm_external import KUBELET_KUBECONFIG, ExternalCertificates
from components.kubeadm_pki import CertificateAuthorities
from components.kubeconfigs import Credentials, KubeconfigError, credentials_of
from components.kubelet import KEPT_SYSCTLS, RESOLV_CONF, resolv_conf_command
from components.machine import Machine
from components.pki import KeyPair
from components.step import File, Step, StepArgs, fetch_kubernetes
from components.systemd import Flags, flag_value
from config import yaml_text
from config.artifacts import ArtifactSource
from config.machine_paths import AUDIT_LOGS, KUBECTL_CACHE, LEFT_ASIDE, LIBRARY, USE_ETCD
from config.machines import MachineSpec, Role
from config.ports import CLIENT_PORT, PORTS
from config.rotations import Rotation
from config.settings import Network, PkiSettings
from config.versions import AptRepository, pins, versioned

PROGRAMS = ("kubelet", "kubeadm", "kubectl")
_PKI = "/etc/kubernetes/pki"
_CA_KEYS = {f"{_PKI}/{name}.key" for name in ("ca", "etcd/ca", "front-proxy-ca")}
_READ_AT_START = {
    "etcd-ca": f"{_PKI}/etcd/ca.crt",
    "front-proxy-ca": f"{_PKI}/front-proxy-ca.crt",
    "service-accounts": f"{_PKI}/sa.pub",
}
"""Subject of a rotation -> what a controller's programs trust by it. The CA of the API is in kubeconfigs, too."""
_SETTINGS = "/etc/hardway/kubeadm.yaml"
"""Of the first controller; of the others it says how they join."""
_REJOIN = "/etc/hardway/kubeadm-join.yaml"
_CONTROL_PLANE = "/etc/hardway/kubeadm-control-plane.yaml"
_TOKEN = "/etc/hardway/join-token"
_ADMISSION_TOKEN = "/etc/hardway/admission-token"
_VERBS = str(Path(LIBRARY).with_name("kubeadm.sh"))
_USE = f". {_VERBS}"
_PACKAGES = str(Path(LIBRARY).with_name("kubeadm_packages.sh"))
UPGRADE_VERBS = str(Path(LIBRARY).with_name("kubeadm_upgrade.sh"))
"""On every controller and worker; a step sources it after the library, worker.sh and kubeadm.sh."""
USE_KUBEADM = _USE
"""The shell line that brings kubeadm.sh into a script."""
FINISHED = "$HARDWAY/steps/node/finished"
"""On a machine that kubeadm has made a Node."""
_USE_BOTH = f"{_USE}\n{USE_ETCD}"

_EVERYWHERE = ("kube-proxy", "coredns")
_STATIC_PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_OF_KUBERNETES = ("kube-proxy", *_STATIC_PODS[1:])


def kubeadm_images(machine: MachineSpec, version: str) -> tuple[str, ...]:
    """The images of a machine's pods besides pause, in a version of Kubernetes, by their names among all images."""
    default = pins().products["kubernetes"].default
    names = (*(_STATIC_PODS if Role.CONTROLLER in machine.roles else ()), *_EVERYWHERE)
    return tuple(versioned(name, version, default) if name in _OF_KUBERNETES else name for name in names)


@dataclass(frozen=True, kw_only=True)
class KubeadmNodeArgs:
    """Args:
    machine: a controller or a worker.
    artifacts: where the programs come from.
    repository: upstream's Debian packages instead, where they are to be taken.
    controllers: all of them, whose etcd members a controller's etcdctl asks.
    kubelet_flags: the user's flags for the kubelet.
    """

    machine: Machine
    artifacts: ArtifactSource
    repository: AptRepository | None
    controllers: Sequence[Machine]
    kubelet_flags: Flags = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class KubeadmArgs:
    """Args:
    controllers: the machines with the control plane; the first of them makes the cluster.
    workers: the others that join.
    cas: what kubeadm is to take; None where it makes its own. In its external CA mode the machines have all
        certificates (`cas.issued`). New ones restart controllers one after the other, then workers.
    join_token: id and secret, see `KubeadmPki`.
    endpoint: https://address:6443 of the load balancer.
    domains: names of the API's beside those that kubeadm gives it.
    network: the address ranges.
    version: of Kubernetes.
    pki: algorithm and validity of what kubeadm issues.
    runtimes: machine name -> its container runtime with its images, which it waits for.
    max_unavailable: how many workers' kubelets may restart at the same time.
    extra_flags: program -> the user's flags for it.
    """

    controllers: Sequence[Machine]
    workers: Sequence[Machine]
    cas: CertificateAuthorities | None
    join_token: pulumi.Output[str]
    endpoint: pulumi.Input[str]
    domains: Sequence[str]
    network: Network
    version: str
    pki: PkiSettings
    runtimes: Mapping[str, pulumi.Resource]
    max_unavailable: int
    extra_flags: Mapping[str, Flags] = field(default_factory=dict)

    @property
    def external(self) -> ExternalCertificates | None:
        """The certificates of the external CA mode."""
        return self.cas.issued if self.cas else None


class KubeadmNode(Component):
    """What a machine needs before kubeadm can make a Node of it; it does nothing where a port is taken."""

    def __init__(self, name: str, args: KubeadmNodeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("KubeadmNode", name, opts)
        machine, repository = args.machine, args.repository
        own_kubelet, is_controller = repository is None, machine.has(Role.CONTROLLER)
        units = "/etc/systemd/system/kubelet.service"
        files = [_verbs(path) for path in (_VERBS, UPGRADE_VERBS, *([] if own_kubelet else [_PACKAGES]))]
        if own_kubelet:
            files += [
                File(path=units, content=_KUBELET, mode="0600"),
                File(path=f"{units}.d/10-kubeadm.conf", content=_KUBEADM_DROP_IN, mode="0600"),
            ]
        drop_in = f"{units}.d/20-hardway.conf"
        files.append(File(path=drop_in, content="\n".join(_kubelet_drop_in(args.kubelet_flags))))
        if is_controller:
            files += _etcdctl(args.controllers)
            # For the API server's pod.
            files.append(File(path=AUDIT_POLICY, content=audit_policy(), mode="0600"))
        Step(
            name,
            StepArgs(
                machine=machine,
                name="kubeadm",
                prepare="\n".join(
                    [
                        f"data /etc/kubernetes /var/lib/kubelet /var/lib/etcd {LEFT_ASIDE} /var/log/pods "
                        "/var/log/containers /usr/libexec/kubernetes /var/log/kubeadm.log",
                        # kube-proxy's pod mounts it, and containerd makes what is missing.
                        "parents /lib/modules/x",
                        # Written by the kubelet's unit, whenever it starts.
                        f"parents {RESOLV_CONF}",
                        f"own file {RESOLV_CONF}",
                        *([f"data {AUDIT_LOGS}", f"install -d -m 0700 {AUDIT_LOGS}"] if is_controller else []),
                        # A Node gets another kubelet when it is its turn (kubeadm_upgrade.py).
                        *([f"[ ! -e {FINISHED} ] || hold /usr/local/bin/kubelet"] if own_kubelet else []),
                    ]
                ),
                fetches=[
                    *fetch_kubernetes(args.artifacts, machine.arch, *(PROGRAMS if own_kubelet else ())),
                    *([fetch_etcd(args.artifacts, machine.arch, "etcdctl", "etcdutl")] if is_controller else []),
                ],
                files=files,
                before_start="\n".join(
                    [
                        _USE,
                        f"ports <<'END'\n{port_table(machine)}\nEND",
                        *([_packages(repository, args.artifacts)] if repository else []),
                        # kubeadm starts it; the unit is this step's to end.
                        "own unit kubelet.service",
                        "systemctl -q enable --no-reload kubelet.service",
                        # In a lab that runs.
                        "close_kubelet_config",
                        # A Node's kubelet restarts when it is its turn, too.
                        f"[ -e {FINISHED} ] || kubelet_flags",
                    ]
                ),
                undo=_RELEASE if repository else "",
            ),
            self.child(),
        )
        self.register_outputs({})


class Kubeadm(Component):
    """The cluster.

    Attributes:
        made: the step after which the API answers; other machines may still be on their way.
        nodes: machine name -> the step after which its kubelet runs.
        renewals: worker name -> the step after which its kubelet uses its renewed certificate (external CA mode).
        ca_certificate: the certificate (PEM) of the API's CA.
        administrator: the administrator's key and certificate: the stack's, or where kubeadm made the CAs its.
    """

    def __init__(self, name: str, args: KubeadmArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Kubeadm", name, opts)
        first, *others = args.controllers

        def after(machine: Machine, *steps: pulumi.Resource) -> pulumi.ResourceOptions:
            return self.child(args.runtimes[machine.name], *steps)

        initial = initial_members(f"{name}-founders", [first], self.child())
        made = self.made = Step(f"{name}-{first.name}", _init_step(first, args, initial), after(first))
        self.nodes: dict[str, pulumi.Resource] = {first.name: made}
        if args.cas is None:
            printed = made.stdout.apply(lambda text: printed_credentials(first.name, text))
            self.administrator = KeyPair(
                private_key=printed.apply(lambda read: read.key), public=printed.apply(lambda read: read.certificate)
            )
            self.ca_certificate = pulumi.Output.unsecret(printed.apply(lambda read: read.ca_certificate))
        else:
            self.administrator = args.cas.admin
            self.ca_certificate = args.cas.kubernetes.certificate
        # Beside those that join, which wait for the token that it gives them where `init` was long ago.
        Step(f"{name}-admission", _admission_step([first, *others, *args.workers], args), after(first, made))
        in_order: list[pulumi.Resource] = [made]
        for machine in (*others, *args.workers):
            is_in_order = args.external is not None and machine.has(Role.CONTROLLER)
            joined = Step(
                f"{name}-{machine.name}",
                _join_step(machine, args, self.ca_certificate),
                after(machine, *(in_order if is_in_order else [made])),
            )
            self.nodes[machine.name] = joined
            in_order += [joined] if is_in_order else []
        self.renewals: dict[str, pulumi.Resource] = {}
        if args.cas and args.external:
            for machine in args.workers:
                turn = turn_before([*self.renewals.values()], args.max_unavailable) or in_order[-1:]
                self.renewals[machine.name] = Step(
                    f"{name}-certificate-{machine.name}",
                    _renewal_step(machine, args.external, args.cas.rotations["ca"]),
                    after(machine, self.nodes[machine.name], *turn),
                )
        self.register_outputs({})


def control_plane_file(is_first: bool) -> str:
    """Where a controller has what its static pods are made from."""
    return _SETTINGS if is_first else _CONTROL_PLANE


def flag_words(flags: Flags) -> str:
    """Flags as on a command line: --v=3 --max-pods=50."""
    return " ".join(f"--{name}={flag_value(value)}" for name, value in flags.items())


def _kubelet_drop_in(flags: Flags) -> list[str]:
    extra = [f'Environment="KUBELET_EXTRA_ARGS={flag_words(flags)}"'] if flags else []
    return ["[Service]", f"ExecStartPre={resolv_conf_command()}", *extra]


def _control_plane_settings(machine: Machine, args: KubeadmArgs) -> pulumi.Output[str]:
    """What kubeadm makes a controller's static pods from."""
    return pulumi.Output.all(args.endpoint, machine.identity).apply(
        lambda known: yaml_of(
            init_documents(
                machine,
                known[1],
                endpoint=known[0].removeprefix("https://"),
                domains=args.domains,
                network=args.network,
                pki=args.pki,
                version=args.version,
                several=len(args.controllers) > 1,
                has_kubeconfig=args.external is not None,
                extra_flags=args.extra_flags,
            )
        )
    )


def _init_step(machine: Machine, args: KubeadmArgs, initial: pulumi.Output[list[str]]) -> StepArgs:
    def script(known: Sequence[Any]) -> str:
        endpoint, may_found = known
        verb = "init_cluster" if machine.name in may_found else "rejoin_cluster"
        changed = f"\ncontrol_plane_flags {_SETTINGS} upload"
        return f"{_USE_BOTH}\n{verb} {endpoint} {machine.name}{_use_issued(machine, args)}{changed}{shows}"

    given = args.cas
    shows = "" if given else "\ncat /etc/kubernetes/admin.conf"
    return StepArgs(
        machine=machine,
        name="node",
        prepare=_prepare(machine),
        files=[
            File(path=_SETTINGS, content=_control_plane_settings(machine, args), mode="0600"),
            File(path=_TOKEN, content=args.join_token, mode="0600", secret=True),
            # Of use where this machine is recreated, and the others still have the cluster.
            *(_joining_files(machine, args, given.kubernetes.certificate, _REJOIN) if given else ()),
            *_ca_files(given),
            *_issued(machine, args),
        ],
        run=pulumi.Output.all(args.endpoint, initial).apply(script),
        undo=_UNDO,
        prints_secrets=given is None,
    )


def _join_step(machine: Machine, args: KubeadmArgs, ca_certificate: pulumi.Output[str]) -> StepArgs:
    files, run = list(_joining_files(machine, args, ca_certificate, _SETTINGS)), f"{_USE}\njoin_cluster"
    changed = ""
    if machine.has(Role.CONTROLLER):
        files.append(File(path=_CONTROL_PLANE, content=_control_plane_settings(machine, args), mode="0600"))
        files += _ca_files(args.cas)
        run = f"{_USE_BOTH}\njoin_cluster {_CONTROL_PLANE}"
        changed = f"{_use_issued(machine, args)}\ncontrol_plane_flags {_CONTROL_PLANE}"
    return StepArgs(
        machine=machine,
        name="node",
        prepare=_prepare(machine),
        files=[*files, *_issued(machine, args)],
        run=f"{run}{changed}",
        undo=_UNDO,
    )


def _joining_files(
    machine: Machine, args: KubeadmArgs, ca_certificate: pulumi.Input[str], settings: str
) -> tuple[File, File]:
    """By what a machine joins: how, in a file `settings`; and which cluster, with the token."""
    configuration = pulumi.Output.from_input(machine.identity).apply(
        lambda identity: yaml_of(
            [join_configuration(machine, identity, version=args.version, has_kubeconfig=args.external is not None)]
        )
    )
    discovery = pulumi.Output.all(args.endpoint, ca_certificate, args.join_token).apply(
        lambda known: discovery_file(server=known[0], ca_certificate=known[1], token=known[2])
    )
    return (
        File(path=settings, content=configuration, mode="0600"),
        File(path=DISCOVERY, content=discovery, mode="0600", secret=True),
    )


def _admission_step(machines: Sequence[Machine], args: KubeadmArgs) -> StepArgs:
    identities = pulumi.Output.all(*(machine.identity for machine in machines))

    def script(known: Sequence[str]) -> str:
        lines = [
            f"{machine.name} {machine_label(identity)} {machine.spec.pod_cidr}"
            for machine, identity in zip(machines, known, strict=True)
        ]
        # Where controllers join one after the other, the last one waits for all others.
        in_turn = f" {len(args.controllers)}" if args.external else ""
        return "\n".join([_USE_BOTH, f"admit{in_turn} <<'END'", *lines, "END"])

    return StepArgs(
        machine=machines[0],
        name="admission",
        prepare=f"data {KUBECTL_CACHE}",
        files=[File(path=_ADMISSION_TOKEN, content=args.join_token, mode="0600", secret=True)],
        run=identities.apply(script),
    )


def _prepare(machine: Machine) -> str:
    return "\n".join(
        [
            *([] if machine.shares_kernel else [f"kept_sysctls {' '.join(KEPT_SYSCTLS)}"]),
            f". {WORKER_VERBS}",
            "note_tables",
            _USE,
            "clean_start",
        ]
    )


# In kubeadm's order, then what it leaves: it says so itself of the CNI's and kube-proxy's rules.
_TAKEN_BACK = "reset_node; end_pods; drop_rules /dev/null; drop_proxy_tables"
_UNDO = f"[ ! -e {_VERBS} ] || {{ . {WORKER_VERBS}; {_USE}; {_TAKEN_BACK}; }}"
_RELEASE = f"[ ! -e {_PACKAGES} ] || {{ . {_PACKAGES}; release_packages; }}"


def port_table(machine: Machine) -> str:
    """A line for each port that a machine's roles need: its number, and for what."""
    parts = ("kubeadm-controller", "etcd", "worker") if machine.has(Role.CONTROLLER) else ("worker",)
    return "\n".join(f"{port} {what}" for part in parts for port, what in sorted(PORTS[part].items()))


def discovery_file(*, server: str, ca_certificate: str, token: str) -> str:
    """The kubeconfig by which a machine finds the cluster and may join it, YAML."""
    return yaml_text.dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "kubernetes",
                    "cluster": {
                        "server": server,
                        "certificate-authority-data": base64.b64encode(ca_certificate.encode()).decode(),
                    },
                }
            ],
            "users": [{"name": "joining", "user": {"token": token}}],
            "contexts": [{"name": "joining", "context": {"cluster": "kubernetes", "user": "joining"}}],
            "current-context": "joining",
        },
    )


def printed_credentials(machine: str, kubeconfig: str) -> Credentials:
    """The administrator's credentials in what a controller has printed.

    Raises:
        pulumi.RunError: they are not there.
    """
    try:
        return credentials_of(kubeconfig)
    except KubeconfigError as error:
        raise pulumi.RunError(
            f"{machine} has printed an administrator's kubeconfig that cannot be used: {error}. "
            "kubeadm writes it to /etc/kubernetes/admin.conf there."
        ) from None


def _ca_files(cas: CertificateAuthorities | None) -> list[File]:
    if cas is None:
        return []
    pairs = [
        ("ca.crt", cas.kubernetes.certificate, "ca.key", cas.kubernetes.key),
        ("etcd/ca.crt", cas.etcd.certificate, "etcd/ca.key", cas.etcd.key),
        ("front-proxy-ca.crt", cas.front_proxy.certificate, "front-proxy-ca.key", cas.front_proxy.key),
        ("sa.pub", cas.service_accounts.public, "sa.key", cas.service_accounts.private_key),
    ]
    return [
        file
        for public, certificate, private, key in pairs
        for file in (
            File(path=f"{_PKI}/{public}", content=certificate),
            File(path=f"{_PKI}/{private}", content=key, mode="0600", secret=True),
        )
        if file.path not in _CA_KEYS or cas.issued is None
    ]


def _issued(machine: Machine, args: KubeadmArgs) -> Sequence[File]:
    """What the stack has issued for a machine, in the external CA mode."""
    return args.external.files[machine.name] if args.external else ()


def _use_issued(machine: Machine, args: KubeadmArgs) -> str:
    """The line after which a controller's programs use it."""
    files = sorted(file.path for file in _issued(machine, args))
    # Where none was ever rotated they are as when the programs started: a longer list would restart them.
    if args.cas and any(args.cas.rotations[subject].count for subject in _READ_AT_START):
        files += _READ_AT_START.values()
    return f"\nuse_certificates {machine.name} {' '.join(files)}" if files else ""


def _renewal_step(machine: Machine, issued: ExternalCertificates, ca: Rotation) -> StepArgs:
    """A worker's kubelet reads its kubeconfig when it starts. The step that joins the worker writes the file."""
    return StepArgs(
        machine=machine,
        name="certificate",
        # The file is secret. What is shown says that it is another one.
        run=issued.kubelets[machine.name].public.apply(
            lambda pem: "\n".join(
                [
                    f". {WORKER_VERBS}",
                    _USE,
                    f"# The certificate with the SHA-256 {hashlib.sha256(pem.encode()).hexdigest()}",
                    # The kubeconfig has the CAs, too.
                    *([f"# CA {ca}"] if ca.count else []),
                    f"use_certificates {machine.name} {KUBELET_KUBECONFIG}",
                ]
            )
        ),
    )


def _etcdctl(controllers: Sequence[Machine]) -> list[File]:
    # Not kubeadm's, where people look into the pod: status and readiness ask every lab's etcd in the same way.
    return etcd_client(
        [f"https://{controller.address}:{CLIENT_PORT}" for controller in controllers],
        f"{_PKI}/etcd/ca.crt",
        f"{_PKI}/etcd/healthcheck-client.crt",
        f"{_PKI}/etcd/healthcheck-client.key",
        timeout_factor=controllers[0].timeout_factor,
    )


def _verbs(path: str) -> File:
    return File(path=path, content=Path(__file__).with_name(Path(path).name).read_text())


def _packages(repository: AptRepository, artifacts: ArtifactSource) -> str:
    version, plugins = artifacts.versions["kubernetes"], artifacts.versions["cni-plugins"]
    words = (quote(repository.url(version)), repository.fingerprint, version, plugins, *PROGRAMS)
    return f". {_PACKAGES}\nupstream_packages {' '.join(words)}"


# As upstream's package has them (https://github.com/kubernetes/release, cmd/krel/templates/latest), but for the path.
_KUBELET = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/local/bin/kubelet
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
_KUBEADM_DROP_IN = """\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \\
  --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
# What kubeadm init and kubeadm join find out.
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
# For people; the configuration file is the better place.
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/local/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS \\
  $KUBELET_EXTRA_ARGS
"""
