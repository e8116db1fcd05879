"""What listens on which TCP port of a machine, and for what (docs/architecture.md, "Addresses and ports").

Read by what refuses a machine where one is taken: the kubeadm step, and the preflight of hosts that exist already.
Source: https://kubernetes.io/docs/reference/networking/ports-and-protocols/
"""

from collections.abc import Mapping, Sequence

API_PORT = 6443
CLIENT_PORT = 2379
"""etcd's, for clients."""
PEER_PORT = 2380
"""etcd's, for its members."""

PORTS: Mapping[str, Mapping[int, str]] = {
    "load-balancer": {API_PORT: "Kubernetes API", 80: "HAProxy, health"},
    "controller": {
        API_PORT: "Kubernetes API server",
        80: "nginx, health",
        10257: "kube-controller-manager",
        10259: "kube-scheduler",
    },
    # By kubeadm; it is a worker, too, and carries etcd.
    "kubeadm-controller": {
        API_PORT: "Kubernetes API server",
        10257: "kube-controller-manager",
        10259: "kube-scheduler",
    },
    "etcd": {PEER_PORT: "etcd, peers", CLIENT_PORT: "etcd, clients", 2381: "etcd, health and metrics"},
    "worker": {
        10250: "kubelet",
        10248: "kubelet, health",
        10249: "kube-proxy, metrics",
        10256: "kube-proxy, health",
    },
}
"""What a machine is for -> port -> who listens there."""

BETWEEN_MACHINES: Mapping[str, Sequence[int]] = {
    "load-balancer": (API_PORT, 80),
    "controller": (API_PORT, 80),
    "kubeadm-controller": (API_PORT,),
    "etcd": (CLIENT_PORT, PEER_PORT),
    "worker": (10250, 10256),
}
"""What a machine is for -> its ports that other machines connect to; the others are asked on the machine itself."""

VXLAN = 4789
"""The UDP port of Calico's VXLAN, between all machines with pods."""

NODE_PORTS = range(30000, 32768)
"""Those of Services, on workers."""
