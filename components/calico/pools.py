"""The addresses of pods: a pool for each worker, which is the worker's own pod range.

So that machines that are no Calico nodes find pods by the same routes as in every lab: the API server, which dials pods
from controllers, and the host. One block of addresses fills a range where Calico can have blocks that large.

Source: https://docs.tigera.io/calico/latest/reference/resources/ippool
"""

from collections.abc import Iterable, Sequence
from typing import Any

from config import yaml_text
from config.calico import CalicoSettings
from config.machines import MachineSpec

HOST_NAME = "kubernetes.io/hostname"
"""The label that every Node has."""
# A block is one object that is written again with every address: 256 of them, at the most.
_LARGEST_BLOCK = 24
_OURS = "hardway-"


def pools(workers: Iterable[MachineSpec], settings: CalicoSettings) -> str:
    """All pools, YAML, as calicoctl applies them."""
    return yaml_text.dump_all(_pool(worker, settings) for worker in workers)


def nodes(workers: Iterable[MachineSpec]) -> str:
    """Calico's own idea of the workers, YAML, with the label that their pools select them by.

    Only for etcd: there a node has labels only some time after it has started, too late for its tunnel's address.
    """
    documents = [
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "Node",
            "metadata": {"name": worker.name, "labels": {HOST_NAME: worker.name}},
        }
        for worker in workers
    ]
    return yaml_text.dump_all(documents)


def drop_others(workers: Sequence[MachineSpec]) -> str:
    """The shell lines that delete the pools of workers that the lab no longer has."""
    wanted = "|".join(_name(worker) for worker in workers)
    names = '{{range .}}{{range .Items}}{{.ObjectMeta.Name}}{{"\\n"}}{{end}}{{end}}'
    return "\n".join(
        [
            f"pools=$(calicoctl get ippools -o go-template='{names}')",
            f"for pool in $(grep '^{_OURS}' <<<\"$pools\" || true); do",
            f'  grep -qxE \'{wanted}\' <<<"$pool" || calicoctl delete ippool "$pool" >/dev/null',
            "done",
        ]
    )


def _pool(worker: MachineSpec, settings: CalicoSettings) -> dict[str, Any]:
    if worker.pod_cidr is None:
        raise ValueError(f"{worker.name} has no pod range")
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": _name(worker)},
        "spec": {
            "cidr": str(worker.pod_cidr),
            "blockSize": max(worker.pod_cidr.prefixlen, _LARGEST_BLOCK),
            "ipipMode": "Never",
            "vxlanMode": "Always" if settings.encapsulation == "vxlan" else "Never",
            # What pods send out of the lab leaves by their worker's address.
            "natOutgoing": True,
            "nodeSelector": f"{HOST_NAME} == '{worker.name}'",
        },
    }


def _name(worker: MachineSpec) -> str:
    return f"{_OURS}{worker.name}"
