"""etcd: the cluster's memory, one member on each of its machines: the controllers, or machines of its own.

Made on each member's machine: etcd, etcdctl and etcdutl, the member's certificate, the unit etcd.service under a user
of its own. Clients and peers need certificates of the etcd CA. How a member joins is decided on its machine, by
asking the others (etcd.sh); only the machines of the first `up` may found the cluster.

Sources: https://etcd.io/docs/v3.6/op-guide/configuration/ and
https://etcd.io/docs/v3.6/op-guide/runtime-configuration/
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shlex import quote

import pulumi
from pulumi_command import local

from components.component import Component
from components.machine import Machine
from components.pki import Pki
from components.step import Fetch, File, Step, StepArgs, Unit, without_comments
from components.systemd import Flags, systemd_unit
from components.tls_settings import CIPHER_SUITES
from config.artifacts import ArtifactSource
from config.machine_paths import LEFT_ASIDE, LIBRARY, USE_ETCD
from config.machines import Role
from config.ports import CLIENT_PORT, PEER_PORT

_PKI = "/etc/etcd/pki"
_DATA = "/var/lib/etcd"
_VERBS = str(Path(LIBRARY).with_name("etcd.sh"))
_SERVES = "a healthy voting member of a cluster with a leader"

SNAPSHOT_COUNT = 500
"""Entries of the Raft log after which a member saves its members and Raft's voters; etcd's default is 10,000.

A member that starts without such a snapshot reads its log from the beginning. There etcd 3.6.14 takes the first cluster
version, 3.0, for a downgrade, and saves in the middle of the log: the members of now, beside the voters of then. Where
machines were added, replaced or removed since, the start after that has the wrong voters: reads from this member
have no answer while another that it does not know leads.
"""


@dataclass(frozen=True, kw_only=True)
class EtcdArgs:
    """Args:
    members: the machines that carry a member each.
    pki: the certificates.
    artifacts: where etcd comes from.
    cluster_token: keeps two labs' members from ever becoming one cluster.
    extra_flags: the user's flags for etcd.
    """

    members: Sequence[Machine]
    pki: Pki
    artifacts: ArtifactSource
    cluster_token: str
    extra_flags: Flags = field(default_factory=dict)


class Etcd(Component):
    """An etcd cluster of as many members as machines are given.

    Attributes:
        endpoints: https://address:2379 of every member.
        started: the steps after which the founders of a new cluster have been started, and all other members serve.
    """

    def __init__(self, name: str, args: EtcdArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Etcd", name, opts)
        self._args = args
        self.endpoints = [f"https://{member.address}:{CLIENT_PORT}" for member in args.members]
        initial = initial_members(f"{name}-founders", args.members, self.child())
        self.started: list[pulumi.Resource] = []
        for member in args.members:
            certificate = args.pki.etcd_members[member.name]
            files = [
                File(path=f"{_PKI}/ca.crt", content=args.pki.etcd.certificate, owner="etcd"),
                File(path=f"{_PKI}/member.crt", content=certificate.public, owner="etcd"),
                File(
                    path=f"{_PKI}/member.key",
                    content=certificate.private_key,
                    mode="0600",
                    owner="etcd",
                    secret=True,
                ),
            ]
            start = Step(
                f"{name}-{member.name}",
                StepArgs(
                    machine=member,
                    name="etcd",
                    prepare="\n".join(
                        [
                            f"user etcd {_DATA}",
                            f"data {_DATA} {_DATA}.removed {LEFT_ASIDE}",
                            f"install -d -m 0700 -o etcd -g etcd {_DATA}",
                        ]
                    ),
                    fetches=[fetch_etcd(args.artifacts, member.arch, "etcd", "etcdctl", "etcdutl")],
                    files=[
                        *files,
                        *etcd_client(
                            self.endpoints,
                            f"{_PKI}/ca.crt",
                            f"{_PKI}/member.crt",
                            f"{_PKI}/member.key",
                            timeout_factor=member.timeout_factor,
                        ),
                    ],
                    before_start=pulumi.Output.concat(
                        initial.apply(partial(join, member, args.members)), self._put_off(member)
                    ),
                    units=[
                        Unit(
                            name="etcd.service",
                            content=systemd_unit(
                                description="etcd",
                                documentation="https://etcd.io/docs/v3.6/op-guide/configuration/",
                                program="/usr/local/bin/etcd",
                                flags={**member_flags(member, args), **args.extra_flags},
                                # etcd says that it is ready once its member is part of a cluster with a leader.
                                service={
                                    "Type": "notify",
                                    "User": "etcd",
                                    "LimitNOFILE": 16384,
                                    # How it joined: read at its first start, and never again once it has data.
                                    "EnvironmentFile": "-/etc/etcd/join.env",
                                },
                            ),
                            restarts_on=[file.path for file in files],
                            ready=f"member_serves {peer_url(member)}",
                            ready_means=_SERVES,
                        )
                    ],
                    undo=keep_data(member) if member.resource else "",
                ),
                self.child(),
            )
            self.started.append(start)
        # Steps of their own: a member serves once others have started, and that is later where Pulumi does one thing at
        # a time (`pulumi up --parallel 1`). The control plane is prepared meanwhile.
        for member in args.members:
            Step(
                f"{name}-{member.name}-serving",
                StepArgs(machine=member, name="etcd-serving", run=f"{USE_ETCD}\n{joined(member)}"),
                self.child(*self.started),
            )
        self.register_outputs({})

    def _put_off(self, member: Machine) -> str:
        """The shell line after which the member's restart may be left to the step of the control plane."""
        return f"\nmay_put_off {quote(self._args.pki.etcd_keys)}" if member.has(Role.CONTROLLER) else ""

    def restart_of(self, machine: Machine) -> tuple[str, str]:
        """The shell lines of the control plane's step before its units start, and after they serve.

        Where both get new keys, the member here restarts in the turn of the API server: once, and that once, too.
        """
        if machine.name not in {member.name for member in self._args.members}:
            return "", ""
        return f"restart_member '{_SERVES}'", f"end_member_turn {quote(self._args.pki.etcd_keys)}"

    def endpoints_for(self, machine: Machine) -> list[str]:
        """The members that a client on a machine is to ask: the machine's own, else all.

        A client that knows all of them spreads its requests, and those to a member whose machine is gone hang until
        TCP gives up, 10 s and more. With its own member a client lives and dies, and the balancer sees that.
        """
        if machine.name in {member.name for member in self._args.members}:
            return [f"https://127.0.0.1:{CLIENT_PORT}"]
        return self.endpoints

    def client_of(
        self, machine: Machine, *, ca_certificate: str, certificate: str, key: str
    ) -> tuple[list[Fetch], list[File]]:
        """What a machine needs besides to speak to etcd and to take turns: nothing where it carries a member.

        Args:
            machine: where.
            ca_certificate, certificate, key: paths of the files that its etcdctl is to use.
        """
        if machine.name in {member.name for member in self._args.members}:
            return [], []
        return (
            [fetch_etcd(self._args.artifacts, machine.arch, "etcdctl")],
            etcd_client(self.endpoints, ca_certificate, certificate, key, timeout_factor=machine.timeout_factor),
        )


class EtcdMembership(Component):
    """The list of members, without those that the lab no longer has.

    After everything that knows the members by their addresses, and before the machines of those that leave go.
    """

    def __init__(self, name: str, members: Sequence[Machine], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("EtcdMembership", name, opts)
        Step(
            name,
            StepArgs(
                machine=members[0],
                name="etcd-membership",
                run=f"{USE_ETCD}\nonly_members {' '.join(map(peer_url, members))}",
            ),
            self.child(),
        )
        self.register_outputs({})


def initial_members(name: str, members: Sequence[Machine], opts: pulumi.ResourceOptions) -> pulumi.Output[list[str]]:
    """The names of the machines that may found the cluster: those of the first `up`, for as long as they are the same.

    A recreated machine must find the cluster, and fails if it cannot: never a second cluster. Whether
    there was one is known to Pulumi's state alone, since the machines that knew may all be gone.
    """
    identities = pulumi.Output.all(**{member.name: member.identity for member in members}).apply(
        lambda known: "\n".join(f"{machine} {identity}" for machine, identity in sorted(known.items()))
    )
    command = local.Command(
        name,
        create=identities.apply(lambda known: f"# Who founded etcd\nprintf '%s\\n' '{known}'"),
        update=identities.apply(
            lambda known: (
                "# Who founded etcd, without those that are gone\n"
                f"printf '%s\\n' \"$PULUMI_COMMAND_STDOUT\" | grep -xF '{known}' || true"
            )
        ),
        opts=opts,
    )
    return command.stdout.apply(lambda lines: [line.split()[0] for line in lines.splitlines() if line])


def join(member: Machine, members: Sequence[Machine], initial: Sequence[str]) -> str:
    """The shell lines that let a member join its cluster, or bootstrap it together with the other initial members."""
    words = ["join", member.name, peer_url(member)]
    if member.name in initial:
        words.append(",".join(f"{each.name}={peer_url(each)}" for each in members if each.name in initial))
    return f"{USE_ETCD}\n{' '.join(words)}"


def keep_data(member: Machine) -> str:
    """The shell lines that end the step's deletion where a machine has etcd's data and stays.

    A machine's steps are not deleted with it (`deleted_with`): only `pulumi destroy --target` asks for this, and takes
    with one machine the etcd steps of all others, since they depend on it.
    """
    return " ".join(
        [
            f"[ ! -e {_DATA}/member ] ||",
            f"die 'Refused: this would remove the data of etcd from {member.name}, which stays.'",
            "'To remove a machine, remove it from the configuration, then ./hardway up. To remove all: pulumi destroy"
            " without --target'",
        ]
    )


def joined(member: Machine) -> str:
    """The shell line that waits until a member serves."""
    return f"joined {peer_url(member)} '{_SERVES}'"


def peer_url(member: Machine) -> str:
    """https://address:2380 of a member."""
    return f"https://{member.address}:{PEER_PORT}"


def member_flags(member: Machine, args: EtcdArgs) -> Flags:
    """The flags of one member."""
    client = f"https://{member.address}:{CLIENT_PORT}"
    return {
        "name": member.name,
        "data-dir": _DATA,
        "listen-client-urls": f"{client},https://127.0.0.1:{CLIENT_PORT}",
        "advertise-client-urls": client,
        "listen-peer-urls": peer_url(member),
        "initial-advertise-peer-urls": peer_url(member),
        "initial-cluster-token": args.cluster_token,
        "client-cert-auth": True,
        "trusted-ca-file": f"{_PKI}/ca.crt",
        "cert-file": f"{_PKI}/member.crt",
        "key-file": f"{_PKI}/member.key",
        "peer-client-cert-auth": True,
        "peer-trusted-ca-file": f"{_PKI}/ca.crt",
        "peer-cert-file": f"{_PKI}/member.crt",
        "peer-key-file": f"{_PKI}/member.key",
        "tls-min-version": "TLS1.2",
        "cipher-suites": ",".join(CIPHER_SUITES),
        # Metrics need no certificate, so they are for this machine alone.
        "listen-metrics-urls": "http://127.0.0.1:2381",
        # A member whose data differ from the others' does not serve.
        "feature-gates": "InitialCorruptCheck=true",
        # Watchers get the current revision even when nothing changes, so that the API server's cache is fresh.
        "watch-progress-notify-interval": "5s",
        "snapshot-count": SNAPSHOT_COUNT,
    }


def fetch_etcd(artifacts: ArtifactSource, arch: str, *programs: str) -> Fetch:
    """Programs of etcd's release, where a machine's programs are."""
    folder = f"etcd-v{artifacts.versions['etcd']}-linux-{arch}"
    archive = artifacts.artifact("etcd", arch=arch)
    return Fetch(
        artifact=archive,
        destination="/usr/local/bin",
        members=[f"{folder}/{program}" for program in programs],
        sums=artifacts.member_sums(archive),
    )


def etcd_verbs() -> str:
    """The text of etcd.sh on a machine, with its definition of health."""
    return without_comments(
        "".join(Path(__file__).with_name(name).read_text() for name in ("etcd_health.sh", "etcd.sh"))
    )


def etcd_client(
    endpoints: Sequence[str], ca_certificate: str, certificate: str, key: str, *, timeout_factor: int
) -> list[File]:
    """What etcdctl on a machine knows the members by, and the verbs for it."""
    # etcdctl's own deadlines are 2 s and 5 s. Most of its commands do not read the variable for the second.
    slow = [
        f"etcdctl() {{ command etcdctl --dial-timeout={2 * timeout_factor}s "
        f'--command-timeout={5 * timeout_factor}s "$@"; }}'
    ]
    return [
        File(path=_VERBS, content=etcd_verbs()),
        # For people, too: `. /etc/etcd/etcdctl.env; etcdctl member list`.
        File(
            path="/etc/etcd/etcdctl.env",
            content="\n".join(
                [
                    f"export ETCDCTL_ENDPOINTS={','.join(endpoints)}",
                    f"export ETCDCTL_CACERT={ca_certificate}",
                    f"export ETCDCTL_CERT={certificate}",
                    f"export ETCDCTL_KEY={key}",
                    *(slow if timeout_factor > 1 else []),
                ]
            ),
            mode="0600",
        ),
    ]
