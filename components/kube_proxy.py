"""kube-proxy of a worker: its flags, its configuration, its certificate.

Source: https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/
"""

from typing import Any

import pulumi

from components.kubeconfigs import kubeconfig
from components.machine import Machine
from components.pki import Pki
from components.step import File, Unit
from components.systemd import Flags, systemd_unit
from config import yaml_text
from config.settings import Network

PROXY_CONFIG = "/etc/kubernetes/config/kube-proxy.yaml"
_KUBECONFIG = "/etc/kubernetes/kube-proxy.kubeconfig"


def proxy_unit(machine: Machine, files: list[File], extra_flags: Flags) -> Unit:
    """kube-proxy as a service.

    Args:
        machine: the worker.
        files: what it is configured by, see `proxy_files`.
        extra_flags: the user's.
    """
    return Unit(
        name="kube-proxy.service",
        content=systemd_unit(
            description="Kubernetes: kube-proxy",
            documentation="https://kubernetes.io/docs/reference/command-line-tools-reference/kube-proxy/",
            program="/usr/local/bin/kube-proxy",
            flags={"config": PROXY_CONFIG, "hostname-override": machine.name, **extra_flags},
        ),
        restarts_on=[file.path for file in files],
        # Its own healthz says ok only once it has written the rules of all services.
        ready=f"curl -sf http://{machine.address}:10256/livez",
        ready_means=f"http://{machine.address}:10256/livez says ok",
        # It asks for the Node when it starts; where there is none yet, only a second later again.
        stage=2,
    )


def proxy_configuration(machine: Machine, network: Network) -> str:
    """KubeProxyConfiguration, YAML."""
    return yaml_text.dump(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": network.kube_proxy_mode,
            "clientConnection": {"kubeconfig": _KUBECONFIG},
            # The default of 1 s is for clusters with thousands of Services. A Service may wait so long for its pods.
            network.kube_proxy_mode: {"minSyncPeriod": "200ms"},
            "clusterCIDR": str(network.pods),
            "metricsBindAddress": "127.0.0.1:10249",
            # For load balancers in front of the node.
            "healthzBindAddress": f"{machine.address}:10256",
            **(SHARED_CONNTRACK if machine.shares_kernel else {}),
        },
    )


# Connection tracking has global limits, which are the host's where the kernel is.
SHARED_CONNTRACK: dict[str, Any] = {
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
}


def proxy_files(
    machine: Machine, *, pki: Pki, cluster: str, endpoint: pulumi.Input[str], network: Network
) -> list[File]:
    """What kube-proxy reads.

    Args: see `kubelet_files`.
    """
    return [
        File(
            path=_KUBECONFIG,
            content=kubeconfig(
                cluster=cluster,
                server=endpoint,
                ca_certificate=pki.kubernetes.certificate,
                user="system:kube-proxy",
                certificate=pki.kube_proxy,
            ),
            mode="0600",
            secret=True,
        ),
        File(path=PROXY_CONFIG, content=proxy_configuration(machine, network), mode="0600"),
    ]
