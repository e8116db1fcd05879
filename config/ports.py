"""What listens on which TCP port of a machine, and for what (docs/architecture.md, "Addresses and ports").

Read by what refuses a machine where one is taken: the kubeadm step, and the preflight of hosts that exist already.
Source: https://kubernetes.io/docs/reference/networking/ports-and-protocols/
"""

from collections.abc import Mapping, Sequence

PORTS: Mapping[str, Mapping[int, str]] = {
    "load-balancer": {6443: "Kubernetes API", 80: "HAProxy, health"},
    "controller": {
        6443: "Kubernetes API server",
        80: "nginx, health",
        10257: "kube-controller-manager",
        10259: "kube-scheduler",
    },
    # By kubeadm; it is a worker, too, and carries etcd.
    "kubeadm-controller": {
        6443: "Kubernetes API server",
        10257: "kube-controller-manager",
        10259: "kube-scheduler",
    },
    "etcd": {2380: "etcd, peers", 2379: "etcd, clients", 2381: "etcd, health and metrics"},
    "worker": {
        10250: "kubelet",
        10248: "kubelet, health",
        10249: "kube-proxy, metrics",
        10256: "kube-proxy, health",
    },
}
"""What a machine is for -> port -> who listens there."""

BETWEEN_MACHINES: Mapping[str, Sequence[int]] = {
    "load-balancer": (6443, 80),
    "controller": (6443, 80),
    "kubeadm-controller": (6443,),
    "etcd": (2379, 2380),
    "worker": (10250, 10256),
}
"""What a machine is for -> its ports that other machines connect to; the others are asked on the machine itself."""

VXLAN = 4789
"""The UDP port of Calico's VXLAN, between all machines with pods."""

NODE_PORTS = range(30000, 32768)
"""Those of Services, on workers."""
