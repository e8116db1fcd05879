"""The hardening that the machines show: flags of what runs, who listens where, modes and owners of files.

Sources: CIS Kubernetes Benchmark 1.12 and /etc of a running lab; the list stands in docs/architecture.md.
"""

import re
from collections.abc import Mapping

import pytest
import yaml

from lab.cluster import Cluster

_SUITES = re.compile(r"TLS_ECDHE_(ECDSA|RSA)_WITH_(AES_\d+_GCM_SHA\d+|CHACHA20_POLY1305_SHA256)")
# Files that pods' resolv.conf is made of are nobody's secret.
_OPEN = ("/etc/kubernetes/config/resolv.conf",)


def flags(cluster: Cluster, unit: str, machine: str) -> Mapping[str, str]:
    """The flags of a unit's process that runs now."""
    main = f"systemctl show --property MainPID --value {unit}.service"
    line = cluster.ssh(machine, f"cat /proc/$({main})/cmdline")
    words = [word.removeprefix("--").partition("=") for word in line.split("\0")[1:] if word]
    return {name: value for name, _, value in words}


@pytest.mark.parametrize(
    ("unit", "wanted"),
    [
        (
            "kube-apiserver",
            {
                "authorization-mode": "Node,RBAC",
                "enable-admission-plugins": "NodeRestriction",
                "profiling": "false",
                "audit-log-maxage": "30",
                "audit-log-maxbackup": "10",
                "audit-log-maxsize": "100",
                "service-account-extend-token-expiration": "false",
                "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
                "service-cluster-ip-range": "10.42.0.0/24",
                "tls-min-version": "VersionTLS12",
            },
        ),
        (
            "kube-controller-manager",
            {
                "profiling": "false",
                "bind-address": "127.0.0.1",
                "use-service-account-credentials": "true",
                "tls-min-version": "VersionTLS12",
            },
        ),
        (
            "kube-scheduler",
            {"profiling": "false", "bind-address": "127.0.0.1", "tls-min-version": "VersionTLS12"},
        ),
        (
            "etcd",
            {
                "client-cert-auth": "true",
                "peer-client-cert-auth": "true",
                "listen-metrics-urls": "http://127.0.0.1:2381",
                "watch-progress-notify-interval": "5s",
                "feature-gates": "InitialCorruptCheck=true",
            },
        ),
    ],
)
def test_a_program_runs_with_its_hardened_flags(cluster: Cluster, unit: str, wanted: Mapping[str, str]) -> None:
    """A flag that is in no unit, or in a unit that was never restarted."""
    running = flags(cluster, unit, cluster.controller.name)
    assert {name: running.get(name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("unit", "wanted"),
    [
        (
            "kube-apiserver",
            "audit-policy-file audit-log-path encryption-provider-config authentication-config client-ca-file "
            "admission-control-config-file kubelet-certificate-authority kubelet-client-certificate etcd-cafile "
            "etcd-certfile requestheader-client-ca-file requestheader-allowed-names proxy-client-cert-file "
            "proxy-client-key-file",
        ),
        ("kube-controller-manager", "terminated-pod-gc-threshold root-ca-file service-account-private-key-file"),
        ("etcd", "trusted-ca-file peer-trusted-ca-file cert-file peer-cert-file"),
    ],
)
def test_a_program_is_given_what_it_needs_to_be_safe(cluster: Cluster, unit: str, wanted: str) -> None:
    """Aggregation, audit, encryption or verification that is off because its flag is missing."""
    running = flags(cluster, unit, cluster.controller.name)
    assert [name for name in wanted.split() if not running.get(name)] == []


@pytest.mark.parametrize("forbidden", ["runtime-config", "insecure-port", "anonymous-auth", "token-auth-file"])
def test_the_api_server_has_no_flag_that_opens_it(cluster: Cluster, forbidden: str) -> None:
    """`--runtime-config=api/all` and other flags of the guides."""
    assert forbidden not in flags(cluster, "kube-apiserver", cluster.controller.name)


@pytest.mark.parametrize("unit", ["kube-apiserver", "kube-controller-manager", "kube-scheduler"])
def test_only_ciphers_with_forward_secrecy_and_authentication(cluster: Cluster, unit: str) -> None:
    """A suite without ECDHE, or with CBC."""
    suites = flags(cluster, unit, cluster.controller.name)["tls-cipher-suites"].split(",")
    assert [suite for suite in suites if not _SUITES.fullmatch(suite)] == []


def test_encryption_writes_with_secretbox_and_reads_the_plain_last(cluster: Cluster) -> None:
    """An EncryptionConfiguration with identity first: nothing is encrypted, and nobody notices."""
    shown = cluster.ssh(
        cluster.controller.name, "sed 's/secret: .*/secret: hidden/' /etc/kubernetes/config/encryption.yaml"
    )
    providers = [next(iter(provider)) for provider in yaml.safe_load(shown)["resources"][0]["providers"]]
    # What stands between can only read what was written by another choice.
    assert (providers[0], providers[-1]) == ("secretbox", "identity")


def test_kubelets_are_hardened(cluster: Cluster) -> None:
    """A kubelet that accepts anonymous clients, authorizes nothing, or opens the read-only port."""
    for worker in cluster.workers:
        kubelet = yaml.safe_load(cluster.raw(f"/api/v1/nodes/{worker.name}/proxy/configz"))["kubeletconfig"]
        assert kubelet["authentication"]["anonymous"]["enabled"] is False
        assert kubelet["authentication"]["webhook"]["enabled"] is True
        assert kubelet["authentication"]["x509"]["clientCAFile"]
        assert kubelet["authorization"]["mode"] == "Webhook"
        assert kubelet.get("readOnlyPort", 0) == 0
        assert kubelet["seccompDefault"] is True
        assert kubelet["podPidsLimit"] > 0
        assert kubelet["tlsMinVersion"] == "VersionTLS12"
        assert [suite for suite in kubelet["tlsCipherSuites"] if not _SUITES.fullmatch(suite)] == []


def test_who_listens_to_others(cluster: Cluster) -> None:
    """Controller manager, scheduler, metrics or a debug port open to the network."""
    wanted = {
        cluster.controller.name: {
            "22": "sshd",
            "80": "nginx",
            "2379": "etcd",
            "2380": "etcd",
            "6443": "kube-apiserver",
        },
        # 443 where TLS ends at it.
        cluster.balancer.name: {"22": "sshd", "80": "haproxy", "443": "haproxy", "6443": "haproxy"},
        cluster.workers[0].name: {"22": "sshd", "10250": "kubelet", "10256": "kube-proxy"},
    }
    for machine, servers in wanted.items():
        # LISTEN 0 4096 10.250.0.10:2379 0.0.0.0:* users:(("etcd",pid=388,fd=8))
        lines = [line.split() for line in cluster.ssh(machine, "ss -Hltnp").splitlines()]
        found = {
            fields[3].rpartition(":")[2]: fields[5].split('"')[1]
            for fields in lines
            if not fields[3].startswith(("127.", "[::1]"))
        }
        assert found == servers, machine


def test_etcd_is_its_own_users(cluster: Cluster) -> None:
    """etcd as root, or data that others read."""
    main = "systemctl show --property MainPID --value etcd.service"
    assert cluster.ssh(cluster.controller.name, f"stat -c %U /proc/$({main})") == "etcd\n"
    assert cluster.ssh(cluster.controller.name, "stat -c '%a %U:%G' /var/lib/etcd") == "700 etcd:etcd\n"


def test_files_are_closed_to_others(cluster: Cluster) -> None:
    """Keys, kubeconfigs, configurations or units that others than their owner read; certificates that others write."""
    places = "/etc/kubernetes /etc/etcd /etc/cni /etc/containerd /var/lib/kubelet/pki /etc/systemd/system"
    seen, wrong = set(), []
    for machine in (cluster.controller.name, *(worker.name for worker in cluster.workers)):
        listing = cluster.try_ssh(machine, f"find {places} -type f ! -path '*.service.d/*' -printf '%m %U %u %p\\n'")
        for line in listing.stdout.splitlines():
            mode, _, owner, path = line.split(" ", 3)
            if path in _OPEN or not _is_the_labs(path):
                continue
            seen.add(path)
            allowed = 0o644 if path.endswith((".crt", ".pub")) else 0o600
            user = "etcd" if path.startswith("/etc/etcd/pki/") else "root"
            if int(mode, 8) & ~allowed or owner != user:
                wrong.append(f"{machine}: {path} {mode} {owner}, allowed {allowed:o} {user}")
    assert wrong == []
    assert seen >= {
        "/etc/kubernetes/admin.conf",
        "/etc/kubernetes/kubelet.kubeconfig",
        "/etc/kubernetes/config/encryption.yaml",
        "/etc/kubernetes/pki/ca.key",
        "/etc/kubernetes/pki/service-accounts.key",
        "/etc/etcd/pki/member.key",
        "/etc/cni/net.d/10-bridge.conflist",
        "/etc/systemd/system/kube-apiserver.service",
        "/etc/systemd/system/kubelet.service",
        "/etc/systemd/system/etcd.service",
        "/var/lib/kubelet/pki/kubelet.key",
    }


def _is_the_labs(path: str) -> bool:
    """Whether it is the lab's own: the node image has units, too."""
    return (
        not path.startswith("/etc/systemd/") or re.search(r"/(kube|etcd|containerd)[a-z-]*\.service$", path) is not None
    )
