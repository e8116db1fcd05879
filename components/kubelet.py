"""The kubelet of a worker: its flags, its configuration, its certificate; and the resolv.conf that pods inherit.

Source: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/
"""

from typing import Any

import pulumi

from components.container_runtime import CONTAINERD_SOCKET
from components.kubeconfigs import kubeconfig
from components.machine import Machine
from components.pki import Pki
from components.step import File, Unit
from components.systemd import Flags, systemd_unit
from components.tls_settings import CIPHER_SUITES, MIN_VERSION
from config import yaml_text
from config.settings import Network

KUBELET = "/var/lib/kubelet"
KUBELET_CA = f"{KUBELET}/pki/ca.crt"
"""The certificate of the CA that issues for the API servers, on a worker."""
_CONFIG = "/etc/kubernetes/config/kubelet.yaml"
_KUBECONFIG = "/etc/kubernetes/kubelet.kubeconfig"
RESOLV_CONF = "/etc/kubernetes/config/resolv.conf"
OWN_NODE = '"$step/own-node.json"'
"""In the directory of the kubelet's step: the worker's Node, as the API had it when the kubelet was last waited for."""
HOST_RESOLV_CONF = "/etc/hardway/host-resolv.conf"
"""The /etc/resolv.conf of the host of a machine that is a container, where the engine's own is of no use to pods."""
HOST_RESOLVED = "/etc/hardway/host-resolved/resolv.conf"
"""Likewise, what systemd-resolved knows."""
# Documentation's own address (RFC 5737): no server answers there, so CoreDNS says SERVFAIL for outside names.
_NO_NAME_SERVER = "192.0.2.53"

KUBELET_SYSCTLS = (
    "kernel.keys.root_maxbytes",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "kernel.panic_on_oops",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
)
"""What a kubelet sets for the whole kernel."""
# That, and what kube-proxy sets; a kernel that is shared is its host's to look after.
KEPT_SYSCTLS = (
    *KUBELET_SYSCTLS,
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
)


def kubelet_unit(machine: Machine, files: list[File], extra_flags: Flags) -> Unit:
    """The kubelet as a service.

    Args:
        machine: the worker.
        files: what it is configured by, see `kubelet_files`.
        extra_flags: the user's.
    """
    return Unit(
        name="kubelet.service",
        content=systemd_unit(
            description="Kubernetes: kubelet",
            documentation="https://kubernetes.io/docs/reference/command-line-tools-reference/kubelet/",
            program="/usr/local/bin/kubelet",
            flags={
                "config": _CONFIG,
                "kubeconfig": _KUBECONFIG,
                "hostname-override": machine.name,
                "node-ip": machine.address,
                **extra_flags,
            },
            after=("containerd.service", "network-online.target"),
            service={"ExecStartPre": resolv_conf_command()},
        ),
        restarts_on=[file.path for file in files],
        ready=f"curl -sf http://127.0.0.1:10248/healthz && {own_node(machine, file=OWN_NODE)}",
        ready_means="http://127.0.0.1:10248/healthz says ok, and its Node in the API",
    )


def kubelet_configuration(machine: Machine, network: Network) -> str:
    """KubeletConfiguration, YAML."""
    return yaml_text.dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": KUBELET_CA},
            },
            "authorization": {"mode": "Webhook"},
            "readOnlyPort": 0,
            "tlsCertFile": f"{KUBELET}/pki/kubelet.crt",
            "tlsPrivateKeyFile": f"{KUBELET}/pki/kubelet.key",
            "tlsMinVersion": MIN_VERSION,
            "tlsCipherSuites": list(CIPHER_SUITES),
            "clusterDomain": network.cluster_domain,
            "clusterDNS": [str(network.dns_service)],
            "resolvConf": RESOLV_CONF,
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "maxPods": network.max_pods,
            "podPidsLimit": 4096,
            "seccompDefault": True,
            "eventRecordQPS": 50,
            **NODE_STATUS,
            **(SHARED_KERNEL if machine.shares_kernel else {}),
        },
    )


# A kubelet that starts may report its Node as not Ready, because not all of it has started ("CSINode is not yet
# initialized"). With the default it would stay so for 10 s. The second line is the default of reports without a change.
NODE_STATUS = {
    "nodeStatusUpdateFrequency": "1s",
    "nodeStatusReportFrequency": "5m",
}


# What a kubelet cannot have when kernel, swap and disk are the host's.
SHARED_KERNEL: dict[str, Any] = {
    "failSwapOn": False,
    # The default since 1.35 is true; such hosts are still there.
    "failCgroupV1": False,
    # Its file system is the host's, so neither its size nor its fullness says anything about the machine.
    "localStorageCapacityIsolation": False,
    "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
}


def kubelet_files(
    machine: Machine, *, pki: Pki, cluster: str, endpoint: pulumi.Input[str], network: Network
) -> list[File]:
    """What the kubelet reads.

    Args:
        machine: the worker.
        pki: the certificates.
        cluster: the name kubeconfigs give the cluster.
        endpoint: https://address:6443 of the API.
        network: the address ranges.
    """
    certificate = pki.kubelets[machine.name]
    return [
        File(path=KUBELET_CA, content=pki.kubernetes.certificate),
        File(path=f"{KUBELET}/pki/kubelet.crt", content=certificate.public),
        File(path=f"{KUBELET}/pki/kubelet.key", content=certificate.private_key, mode="0600", secret=True),
        File(
            path=_KUBECONFIG,
            content=kubeconfig(
                cluster=cluster,
                server=endpoint,
                ca_certificate=pki.kubernetes.certificate,
                user=f"system:node:{machine.name}",
                certificate=certificate,
            ),
            mode="0600",
            secret=True,
        ),
        File(path=_CONFIG, content=kubelet_configuration(machine, network), mode="0600"),
    ]


def own_node(machine: Machine, *, file: str = "/dev/null") -> str:
    """The shell command that succeeds if the API has a worker's Node; run on the worker, as its kubelet.

    Args:
        machine: the worker.
        file: what gets the Node, as indented JSON.
    """
    identity = f"--cacert {KUBELET_CA} --cert {KUBELET}/pki/kubelet.crt --key {KUBELET}/pki/kubelet.key"
    server = f"$(sed -n 's/^ *server: //p' {_KUBECONFIG})"
    url = f"{server}/api/v1/nodes/{machine.name}" + ("?pretty=true" if file != "/dev/null" else "")
    return f'curl -sf -m {5 * machine.timeout_factor} -o {file} {identity} "{url}"'


def resolv_conf_command() -> str:
    """Writes the resolv.conf that pods inherit: the machine's name servers without its search domains.

    A search domain of the machine would be tried on every name that a pod looks up, and would break fully spelled
    service names where it is refused. A pod cannot reach the machine's loopback, nor what is link-local to one of its
    interfaces in IPv6 (an IPv4 one it can: clouds have resolvers there). The first file counts that leaves any.
    """
    files = " ".join(("/run/systemd/resolve/resolv.conf", HOST_RESOLV_CONF, HOST_RESOLVED, "/etc/resolv.conf"))
    return (
        # systemd reads the line first: $$ and %% are one character each.
        f"/bin/sh -c 'for file in {files}; do [ -r $$file ] || continue; "
        'while read -r key server rest || [ -n "$$key" ]; do '
        '[ "$$key" = nameserver ] || continue; '
        'case "$$server" in ""|127.*|0.0.0.0|::|::1|0:0:0:0:0:0:0:1|::[Ff][Ff][Ff][Ff]:127.*|*%%*|'
        "[Ff][Ee][89AaBb][0-9A-Fa-f]:*) ;; "
        '*) echo "nameserver $$server" ;; esac; '
        f"done <$$file >{RESOLV_CONF} ; "
        f"if [ -s {RESOLV_CONF} ]; then exit 0; fi; done; "
        f"echo nameserver {_NO_NAME_SERVER} >{RESOLV_CONF}; "
        'echo "No name server that pods can reach: all are loopback or link-local, or none is named. '
        "Names outside the cluster will not resolve.\" >&2'"
    )
