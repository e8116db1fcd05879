"""etcd: the cluster's memory, one member on each controller.

Made on each member's machine: etcd, etcdctl and etcdutl, the member's certificate, the unit etcd.service under a user
of its own. Clients and peers need certificates of the etcd authority.

Source: https://etcd.io/docs/v3.6/op-guide/configuration/
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.machine import Machine
from components.pki import Pki
from components.step import Fetch, File, Step, StepArgs, Unit
from components.systemd import Flags, systemd_unit
from components.tls_settings import CIPHER_SUITES
from config.artifacts import ArtifactSource

_PKI = "/etc/etcd/pki"
_DATA = "/var/lib/etcd"
CLIENT_PORT = 2379
PEER_PORT = 2380


@dataclass(frozen=True, kw_only=True)
class EtcdArgs:
    """Args:
    members: the machines that carry a member each.
    pki: the certificates.
    artifacts: where etcd comes from.
    cluster_token: keeps two labs' members from ever becoming one cluster.
    """

    members: Sequence[Machine]
    pki: Pki
    artifacts: ArtifactSource
    cluster_token: str


class Etcd(pulumi.ComponentResource):
    """An etcd cluster of as many members as machines are given.

    Attributes:
        endpoints: https://address:2379 of every member.
    """

    def __init__(self, name: str, args: EtcdArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("hardway:index:Etcd", name, None, opts)
        self.endpoints = [f"https://{member.address}:{CLIENT_PORT}" for member in args.members]
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
            Step(
                f"{name}-{member.name}",
                StepArgs(
                    machine=member,
                    name="etcd",
                    prepare=f"user etcd {_DATA}\ndata {_DATA}\ninstall -d -m 0700 -o etcd -g etcd {_DATA}",
                    fetches=[_fetch(args.artifacts, member.arch)],
                    files=[*files, File(path="/etc/etcd/etcdctl.env", content=_etcdctl(self.endpoints), mode="0600")],
                    units=[
                        Unit(
                            name="etcd.service",
                            content=systemd_unit(
                                description="etcd",
                                documentation="https://etcd.io/docs/v3.6/op-guide/configuration/",
                                program="/usr/local/bin/etcd",
                                flags=member_flags(member, args),
                                # etcd says that it is ready once its member is part of a cluster with a leader.
                                service={"Type": "notify", "User": "etcd", "LimitNOFILE": 16384},
                            ),
                            restarts_on=[file.path for file in files],
                            ready=f"curl -sf --cacert {_PKI}/ca.crt --cert {_PKI}/member.crt --key {_PKI}/member.key "
                            f'https://127.0.0.1:{CLIENT_PORT}/health | grep -q \'"health":"true"\'',
                            ready_means="a healthy member of a cluster with a leader",
                        )
                    ],
                ),
                pulumi.ResourceOptions(parent=self),
            )
        self.register_outputs({})


def member_flags(member: Machine, args: EtcdArgs) -> Flags:
    """The flags of one member."""
    client = f"https://{member.address}:{CLIENT_PORT}"
    peer = f"https://{member.address}:{PEER_PORT}"
    return {
        "name": member.name,
        "data-dir": _DATA,
        "listen-client-urls": f"{client},https://127.0.0.1:{CLIENT_PORT}",
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": ",".join(f"{each.name}=https://{each.address}:{PEER_PORT}" for each in args.members),
        "initial-cluster-token": args.cluster_token,
        "initial-cluster-state": "new",
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
        # Watchers hear of the current revision even when nothing changes, so that the API server's cache is fresh.
        "watch-progress-notify-interval": "5s",
    }


def _fetch(artifacts: ArtifactSource, arch: str) -> Fetch:
    folder = f"etcd-v{artifacts.versions['etcd']}-linux-{arch}"
    return Fetch(
        artifact=artifacts.artifact("etcd", arch=arch),
        destination="/usr/local/bin",
        members=[f"{folder}/{program}" for program in ("etcd", "etcdctl", "etcdutl")],
    )


def _etcdctl(endpoints: Sequence[str]) -> str:
    # For people: `. /etc/etcd/etcdctl.env; etcdctl member list`.
    return "\n".join(
        [
            f"export ETCDCTL_ENDPOINTS={','.join(endpoints)}",
            f"export ETCDCTL_CACERT={_PKI}/ca.crt",
            f"export ETCDCTL_CERT={_PKI}/member.crt",
            f"export ETCDCTL_KEY={_PKI}/member.key",
        ]
    )
