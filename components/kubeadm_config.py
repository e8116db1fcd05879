"""What kubeadm is told, from data: its configuration files for the first controller and for machines that join.

kubeadm's defaults hold but for what stands here, each with its reason.

Sources: https://kubernetes.io/docs/reference/config-api/kubeadm-config.v1beta4/,
https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/,
https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/
"""

from collections.abc import Mapping, Sequence
from typing import Any

from components.container_runtime import CONTAINERD_SOCKET
from components.control_plane import AUDIT_FLAGS, AUDIT_POLICY, LEASE_RETRY
from components.etcd import SNAPSHOT_COUNT
from components.kube_proxy import SHARED_CONNTRACK
from components.kubelet import NODE_STATUS, RESOLV_CONF, SHARED_KERNEL
from components.machine import Machine
from components.systemd import Flags, flag_value
from config import yaml_text
from config.machine_paths import AUDIT_LOGS
from config.machines import Role
from config.settings import Network, PkiSettings
from config.versions import pins

_API = "kubeadm.k8s.io/v1beta4"
DISCOVERY = "/etc/hardway/discovery.conf"
"""A kubeconfig with the join token: where the API is, by which CA, and who may join. Only while joining."""
MACHINE_LABEL = "hardway/machine"
"""On every Node: which machine its kubelet runs on. A recreated machine of the same name is another."""
NODE_LABEL = "hardway/worker"
"""What tells the Nodes of the lab from others that a user may have added; in nodes.sh, too."""

# Each with the reason why it is no error here.
_IGNORED: Mapping[str, str] = {
    "Swap": "a container's swap is its host's, and the kubelet must accept it",
    "SystemVerification": "a container has no kernel configuration to look at, and may have cgroup v1",
    "Mem": "a container sees its host's memory, or too little of it",
}


def ignored_errors(machine: Machine, version: str) -> list[str]:
    """The preflight errors of kubeadm, in a version of Kubernetes, that are none on a machine, by name."""
    # kubeadm of another version may name another image of pause than the lab's, which containerd takes.
    pause = [] if version == pins().products["kubernetes"].default else ["ImagePull"]
    return [*pause, *(sorted(_IGNORED) if machine.shares_kernel else [])]


def init_documents(
    machine: Machine,
    identity: str,
    *,
    endpoint: str,
    domains: Sequence[str],
    network: Network,
    pki: PkiSettings,
    version: str,
    several: bool,
    extra_flags: Mapping[str, Flags],
    has_kubeconfig: bool = False,
) -> list[dict[str, Any]]:
    """What the first controller is initialised with; the InitConfiguration comes last, without tokens.

    By the same documents a controller's static pods are made again where their flags have changed.

    Args:
        machine: a controller.
        identity: the machine's.
        endpoint: address:port of the load balancer, without a scheme.
        domains: names of the API's beside those that kubeadm gives it.
        network: the address ranges.
        pki: algorithm and validity.
        version: of Kubernetes.
        several: whether the lab has more than one controller.
        has_kubeconfig: whether the kubelet's kubeconfig is there already, see `node_registration`.
        extra_flags: program -> the user's flags for it.
    """
    return [
        cluster_configuration(
            endpoint=endpoint,
            domains=domains,
            network=network,
            pki=pki,
            version=version,
            several=several,
            extra_flags=extra_flags,
        ),
        kubelet_configuration(machine, network),
        proxy_configuration(machine, network),
        {
            "apiVersion": _API,
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": machine.address, "bindPort": 6443},
            "nodeRegistration": node_registration(machine, identity, version=version, has_kubeconfig=has_kubeconfig),
        },
    ]


def cluster_configuration(
    *,
    endpoint: str,
    domains: Sequence[str],
    network: Network,
    pki: PkiSettings,
    version: str,
    several: bool,
    extra_flags: Mapping[str, Flags],
) -> dict[str, Any]:
    """ClusterConfiguration."""
    dns, etcd = pins().images["coredns"], pins().images["etcd"]
    # As on the hard way: so that another leads within 20 s.
    retries = {"leader-elect-retry-period": LEASE_RETRY}
    # CIS Benchmark 1.2.15, 1.3.2, 1.4.1.
    no_profiling = {"profiling": "false"}
    return {
        "apiVersion": _API,
        "kind": "ClusterConfiguration",
        "kubernetesVersion": f"v{version}",
        "clusterName": "kubernetes",
        "controlPlaneEndpoint": endpoint,
        "networking": {
            "dnsDomain": network.cluster_domain,
            "podSubnet": str(network.pods),
            "serviceSubnet": str(network.services),
        },
        "apiServer": {
            # The names that balancers and people call; kubeadm adds each controller's own.
            "certSANs": ["localhost", "127.0.0.1", endpoint.rpartition(":")[0], *domains],
            # As on the hard way, and as the CIS Benchmark has it: 1.2.15 to 1.2.19, and 1.2.30.
            "extraArgs": _arguments(
                {
                    **no_profiling,
                    **AUDIT_FLAGS,
                    "service-account-extend-token-expiration": "false",
                    # As on the hard way: until the load balancer sends no more requests here.
                    **({"shutdown-delay-duration": "3s"} if several else {}),
                    # As on the hard way: else a stop waits for watches, until the kubelet kills it after 30 s.
                    "shutdown-watch-termination-grace-period": "2s",
                    **extra_flags.get("kube-apiserver", {}),
                }
            ),
            "extraVolumes": [
                _volume("audit-policy", AUDIT_POLICY, "File", read_only=True),
                _volume("audit-logs", AUDIT_LOGS, "DirectoryOrCreate", read_only=False),
            ],
        },
        "controllerManager": {
            "extraArgs": _arguments(
                {
                    # Each machine's pod range is the lab's decision: its routes and CNI configuration have it, too.
                    "allocate-node-cidrs": "false",
                    # At the default of 20 requests a second its controllers take 4.5 s longer to start.
                    "kube-api-qps": "200",
                    "kube-api-burst": "400",
                    **retries,
                    **no_profiling,
                    **extra_flags.get("kube-controller-manager", {}),
                }
            )
        },
        "scheduler": {"extraArgs": _arguments({**retries, **no_profiling, **extra_flags.get("kube-scheduler", {})})},
        # The versions that the lab pins, which the mirror has the images of.
        "dns": {"imageRepository": f"{dns.registry}/{dns.repository.rpartition('/')[0]}", "imageTag": dns.tag},
        "etcd": {
            "local": {
                "dataDir": "/var/lib/etcd",
                "imageTag": etcd.tag,
                "extraArgs": _arguments({"snapshot-count": SNAPSHOT_COUNT}),
            }
        },
        "encryptionAlgorithm": pki.algorithm,
        "certificateValidityPeriod": f"{pki.validity_hours}h0m0s",
        "caCertificateValidityPeriod": f"{pki.ca_validity_hours}h0m0s",
    }


def kubelet_configuration(machine: Machine, network: Network) -> dict[str, Any]:
    """KubeletConfiguration of all machines; kubeadm adds the DNS address, the CA and the rest."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "clusterDomain": network.cluster_domain,
        "maxPods": network.max_pods,
        # Without the machine's search domains, see components/kubelet.py.
        "resolvConf": RESOLV_CONF,
        **NODE_STATUS,
        **(SHARED_KERNEL if machine.shares_kernel else {}),
    }


def proxy_configuration(machine: Machine, network: Network) -> dict[str, Any]:
    """KubeProxyConfiguration of all machines."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": network.kube_proxy_mode,
        "clusterCIDR": str(network.pods),
        **(SHARED_CONNTRACK if machine.shares_kernel else {}),
    }


def join_configuration(
    machine: Machine, identity: str, *, version: str, has_kubeconfig: bool = False
) -> dict[str, Any]:
    """JoinConfiguration of one machine; the token stands in the discovery file."""
    control_plane = {"controlPlane": {"localAPIEndpoint": {"advertiseAddress": machine.address, "bindPort": 6443}}}
    return {
        "apiVersion": _API,
        "kind": "JoinConfiguration",
        "discovery": {"file": {"kubeConfigPath": DISCOVERY}},
        "nodeRegistration": node_registration(machine, identity, version=version, has_kubeconfig=has_kubeconfig),
        **(control_plane if machine.has(Role.CONTROLLER) else {}),
    }


def node_registration(machine: Machine, identity: str, *, version: str, has_kubeconfig: bool = False) -> dict[str, Any]:
    """How a machine's kubelet registers: its name and address, and which machine it is.

    Args:
        machine: where.
        identity: the machine's.
        version: of Kubernetes.
        has_kubeconfig: whether the stack has issued its certificate. Then it requests none: no program of the cluster
            could sign that, and kubeadm always turns this on in the configuration file. A worker has the CA, too.
    """
    given = ["FileAvailable--etc-kubernetes-kubelet.conf"] if has_kubeconfig else []
    if given and not machine.has(Role.CONTROLLER):
        given.append("FileAvailable--etc-kubernetes-pki-ca.crt")
    return {
        "name": machine.name,
        "criSocket": f"unix://{CONTAINERD_SOCKET}",
        "kubeletExtraArgs": _arguments(
            {
                "node-ip": machine.address,
                "node-labels": f"{NODE_LABEL}=,{MACHINE_LABEL}={machine_label(identity)}",
                **({"rotate-certificates": "false"} if has_kubeconfig else {}),
            }
        ),
        "ignorePreflightErrors": [*given, *ignored_errors(machine, version)],
    }


def upgrade_configuration(machine: Machine, version: str) -> dict[str, Any]:
    """UpgradeConfiguration of a controller that gets a version of Kubernetes."""

    def ignored() -> dict[str, Any]:
        # CoreDNS is newer than kubeadm's own, which refuses to change it.
        dns = ["CoreDNSMigration", "CoreDNSUnsupportedPlugins"]
        return {"ignorePreflightErrors": [*dns, *ignored_errors(machine, version)]}

    def control_plane() -> dict[str, Any]:
        return {
            # The stack renews them in kubeadm's external CA mode, else `kubeadm certs renew`.
            "certificateRenewal": False,
            # All labs have the same version of etcd. kubeadm would restart the members of all but the first controller:
            # it writes other initial members to their manifests than `kubeadm join` did.
            "etcdUpgrade": False,
            # The kubelet's configuration comes with the kubelet.
            "skipPhases": ["kubelet-config", "addon/coredns"],
            **ignored(),
        }

    return {
        "apiVersion": _API,
        "kind": "UpgradeConfiguration",
        "apply": control_plane(),
        "node": control_plane(),
        "plan": ignored(),
        # With one controller the API does not answer until kubeadm gives up: five minutes by default.
        "timeouts": {"upgradeManifests": f"{180 * machine.timeout_factor}s"},
    }


def machine_label(identity: str) -> str:
    """A machine's identity, short enough for a label."""
    return identity[:12]


def yaml_of(documents: Sequence[Mapping[str, Any]]) -> str:
    """The documents as one file."""
    return yaml_text.dump_all(documents)


def _volume(name: str, path: str, kind: str, *, read_only: bool) -> dict[str, Any]:
    return {"name": name, "hostPath": path, "mountPath": path, "readOnly": read_only, "pathType": kind}


def _arguments(flags: Flags) -> list[dict[str, str]]:
    return [{"name": name, "value": flag_value(value)} for name, value in flags.items()]
