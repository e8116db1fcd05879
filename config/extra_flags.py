"""The setting `extra_flags`: flags for the programs of the cluster, beside those that the lab sets.

A flag that would break the lab, or have no effect, is refused with the reason. So is a flag that the program does not
have.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from config import yaml_text
from config.problems import Problem

# What systemd takes as it is: no quotes, no spaces, and nothing that it would expand.
_TEXT = re.compile(r"[A-Za-z0-9_.,:/=@+*-]{0,1000}")


def _value(value: Any) -> str | int | bool:
    if not isinstance(value, str | int) or (isinstance(value, str) and not _TEXT.fullmatch(value)):
        raise PydanticCustomError("flag_value", "no value of a flag")
    return value


Value = Annotated[str | int | bool, PlainValidator(_value)]
ExtraFlags = dict[str, dict[str, Value]]
"""Program -> flag, without dashes -> value."""

_ADDRESS = "the machines, certificates and health checks of the lab use this address and port"
_CERTIFICATE = "the lab makes this file, and the other programs trust it"
_RANGE = "it must be the same everywhere: set lab.network"
_FILE = "the lab writes this file"
_LEADER = "the lab's other controllers use the same"
_CONFIGURED = "the program ignores it beside its configuration file"

REFUSED: Mapping[str, Mapping[str, str]] = {
    "kube-apiserver": {
        **dict.fromkeys(("advertise-address", "bind-address", "secure-port"), _ADDRESS),
        **dict.fromkeys(
            (
                "cert-dir",
                "client-ca-file",
                "etcd-cafile",
                "etcd-certfile",
                "etcd-keyfile",
                "kubelet-certificate-authority",
                "kubelet-client-certificate",
                "kubelet-client-key",
                "proxy-client-cert-file",
                "proxy-client-key-file",
                "requestheader-client-ca-file",
                "service-account-key-file",
                "service-account-signing-key-file",
                "tls-cert-file",
                "tls-private-key-file",
            ),
            _CERTIFICATE,
        ),
        **dict.fromkeys(
            (
                "admission-control-config-file",
                "audit-policy-file",
                "authentication-config",
                "encryption-provider-config",
            ),
            _FILE,
        ),
        "audit-log-path": "the lab makes the directory, and keeps its logs there",
        "anonymous-auth": "the lab's authentication configuration says it, and the API server takes only one of both",
        "authorization-config": "the lab sets --authorization-mode, and the API server takes only one of both",
        "authorization-mode": "kubelets and the lab's administrator need Node and RBAC",
        "enable-aggregator-routing": "kube-proxy does not run on controllers",
        "etcd-servers": "the lab makes its etcd members",
        "requestheader-allowed-names": "it is the name in the lab's front-proxy certificate",
        **dict.fromkeys(
            ("service-account-issuer", "service-account-jwks-uri"), "running pods have tokens of this issuer"
        ),
        "service-cluster-ip-range": _RANGE,
    },
    "kube-controller-manager": {
        **dict.fromkeys(("bind-address", "secure-port"), _ADDRESS),
        **dict.fromkeys(
            (
                "cert-dir",
                "client-ca-file",
                "cluster-signing-cert-file",
                "cluster-signing-key-file",
                "requestheader-client-ca-file",
                "root-ca-file",
                "service-account-private-key-file",
                "tls-cert-file",
                "tls-private-key-file",
            ),
            _CERTIFICATE,
        ),
        **dict.fromkeys(("authentication-kubeconfig", "authorization-kubeconfig", "kubeconfig"), _FILE),
        "allocate-node-cidrs": "the lab gives each worker its pod range, for which it has routes",
        **dict.fromkeys(("cluster-cidr", "service-cluster-ip-range"), _RANGE),
        "leader-elect": _LEADER,
        "requestheader-allowed-names": "it is the name in the lab's front-proxy certificate",
        "use-service-account-credentials": "the lab's rights are for the controllers' own service accounts",
    },
    "kube-scheduler": {
        **dict.fromkeys(("bind-address", "secure-port"), _ADDRESS),
        **dict.fromkeys(
            ("cert-dir", "client-ca-file", "requestheader-client-ca-file", "tls-cert-file", "tls-private-key-file"),
            _CERTIFICATE,
        ),
        **dict.fromkeys(("authentication-kubeconfig", "authorization-kubeconfig", "config"), _FILE),
        **dict.fromkeys(
            (
                "contention-profiling",
                "kube-api-burst",
                "kube-api-content-type",
                "kube-api-qps",
                "kubeconfig",
                "profiling",
            ),
            _CONFIGURED,
        ),
        "leader-elect": _LEADER,
        "requestheader-allowed-names": "it is the name in the lab's front-proxy certificate",
        "write-config-to": "the program writes the file and ends",
    },
    "kubelet": {
        **dict.fromkeys(("address", "healthz-bind-address", "healthz-port", "port"), _ADDRESS),
        **dict.fromkeys(("cert-dir", "client-ca-file", "tls-cert-file", "tls-private-key-file"), _CERTIFICATE),
        **dict.fromkeys(("config", "kubeconfig"), _FILE),
        "cluster-dns": _RANGE,
        "cluster-domain": "certificates and CoreDNS have it: set lab.network.cluster_domain",
        "container-runtime-endpoint": "containerd listens there",
        **dict.fromkeys(("hostname-override", "node-ip"), "the machine's Node and certificate have it"),
        "register-node": "the lab waits for the Node",
    },
    "kube-proxy": {
        "cleanup": "the program removes its rules and ends",
        "config": _FILE,
        "hostname-override": "the machine's Node has this name",
        "write-config-to": "the program writes the file and ends",
    },
    "etcd": {
        **dict.fromkeys(
            (
                "advertise-client-urls",
                "initial-advertise-peer-urls",
                "listen-client-urls",
                "listen-client-http-urls",
                "listen-metrics-urls",
                "listen-peer-urls",
            ),
            _ADDRESS,
        ),
        **dict.fromkeys(
            (
                "cert-file",
                "client-cert-auth",
                "key-file",
                "peer-cert-file",
                "peer-client-cert-auth",
                "peer-key-file",
                "peer-trusted-ca-file",
                "trusted-ca-file",
            ),
            _CERTIFICATE,
        ),
        **dict.fromkeys(("auto-tls", "peer-auto-tls"), "the lab has a CA for etcd"),
        **dict.fromkeys(("data-dir", "wal-dir"), "snapshots, restores and the removal of a member know this directory"),
        "feature-gates": "the lab needs InitialCorruptCheck: a member whose data differ must not serve",
        "force-new-cluster": "it makes a cluster of one member, and forgets the others",
        "snapshot-count": "with more, members that start again after another was replaced may have the old voters",
        **dict.fromkeys(
            (
                "discovery",
                "discovery-endpoints",
                "discovery-srv",
                "discovery-token",
                "initial-cluster",
                "initial-cluster-state",
                "initial-cluster-token",
                "name",
            ),
            "the lab says which members the cluster has",
        ),
        "unsafe-no-fsync": "acknowledged writes are lost where a machine loses its power",
    },
}
"""Program -> flag that a user cannot set -> the reason."""
PROGRAMS = tuple(REFUSED)
_NOT_BY_KUBEADM: Mapping[str, str] = {
    "etcd": "kubeadm changes the flags of a member only with its version",
    "kube-proxy": "kubeadm's DaemonSet has no place for flags",
}
"""Programs without extra flags in labs by kubeadm -> the reason."""

# kube-proxy reads its configuration file instead of all others.
_OF_KUBE_PROXY = frozenset({"v", "vmodule", "log-flush-frequency"})


def problems(flags: ExtraFlags, *, bootstrap: str, versions: Mapping[str, str]) -> Iterator[Problem]:
    """What is wrong with the flags of a lab.

    Args:
        flags: as the user wrote them.
        bootstrap: the bootstrap method.
        versions: product -> version of the lab.
    """
    by_kubeadm = bootstrap == "kubeadm"
    for program, own in flags.items():
        if program not in PROGRAMS:
            yield Problem((f"lab.extra_flags.{program}",), "no such program", f"one of {', '.join(PROGRAMS)}")
            continue
        if by_kubeadm and (why := _NOT_BY_KUBEADM.get(program)):
            yield Problem((f"lab.extra_flags.{program}",), why, "remove this key, or set lab.bootstrap to hard-way")
            continue
        version = versions["etcd" if program == "etcd" else "kubernetes"]
        minor = version.rpartition(".")[0]
        if minor not in lists()[program]:
            yield Problem(
                (f"lab.extra_flags.{program}",),
                f"config/flags.yaml has no list of the flags of {program} {minor}",
                f"add what `{program} --help` lists",
            )
            continue
        flags_of_program = lists()[program][minor]
        for name in own:
            key = (f"lab.extra_flags.{program}.{name}",)
            if reason := _refused(program, name, by_kubeadm=by_kubeadm):
                yield Problem(key, f"this flag cannot be set: {reason}", "remove this line")
            elif name.startswith("-"):
                yield Problem(key, "no name of a flag", f"write {name.lstrip('-')}, without the dashes")
            elif name not in flags_of_program:
                near = difflib.get_close_matches(name, flags_of_program, n=1)
                yield Problem(
                    key,
                    f"{program} {version} has no such flag",
                    f"did you mean {near[0]}?" if near else f"see the list in config/flags.yaml, or `{program} --help`",
                )


def _refused(program: str, name: str, *, by_kubeadm: bool) -> str | None:
    if program == "kube-proxy" and name not in REFUSED[program] and name not in _OF_KUBE_PROXY:
        return _CONFIGURED if any(name in names for names in lists()[program].values()) else None
    reason = REFUSED[program].get(name)
    # kubeadm's scheduler has no configuration file.
    return None if by_kubeadm and reason == _CONFIGURED else reason


@cache
def lists() -> Mapping[str, Mapping[str, frozenset[str]]]:
    """config/flags.yaml: program -> minor version -> flags."""
    document = yaml_text.load(Path(__file__).with_name("flags.yaml").read_text())
    return {
        program: {minor: frozenset(names.split()) for minor, names in minors.items()}
        for program, minors in document.items()
    }
