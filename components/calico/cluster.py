"""Calico in the cluster: CRDs, address pools, RBAC objects, pods; and calicoctl."""

from collections.abc import Sequence

import pulumi

from components.calico import datastore, pools
from components.calico.arguments import CalicoArgs
from components.calico.controllers import deployment
from components.calico.node import daemon_set
from components.calico.rbac import CONTROLLERS, NAMESPACE, NODE, rbac_objects
from components.component import Component
from components.machine import Machine
from components.step import Fetch, File, Step, StepArgs
from config import yaml_text
from config.calico import CalicoSettings
from config.machine_paths import KUBECTL

# Not in /etc/kubernetes/manifests: where kubeadm made the cluster, the kubelet takes all that lies there for pods.
_CRDS = "/etc/calico/crds.yaml"
_OBJECTS = "/etc/calico/objects.yaml"
_POOLS = "/etc/calico/pools.yaml"
_NODES = "/etc/calico/nodes.yaml"
# Where calicoctl looks by itself.
_CALICOCTL = "/etc/calico/calicoctl.cfg"


class Calico(Component):
    """Calico in the cluster; its pods start as workers come."""

    def __init__(self, name: str, args: CalicoArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Calico", name, opts)
        artifacts, arch, in_api = args.artifacts, args.controller.arch, args.settings.datastore == "kubernetes"
        specs = [worker.spec for worker in args.workers]
        kinds = Fetch(artifact=artifacts.artifact("calico-crds", arch=arch), destination=_CRDS)
        nodes = File(path=_NODES, content=pools.nodes(specs), mode="0600")
        Step(
            name,
            StepArgs(
                machine=args.controller,
                name="calico",
                fetches=[
                    Fetch(artifact=artifacts.artifact("calicoctl", arch=arch), destination="/usr/local/bin/calicoctl"),
                    *([kinds] if in_api else []),
                ],
                files=[
                    *datastore.identity(args.identities),
                    File(
                        path=_CALICOCTL,
                        content=datastore.calicoctl_configuration(args.settings, args.etcd_endpoints),
                        mode="0600",
                    ),
                    File(path=_POOLS, content=pools.pools(specs, args.settings), mode="0600"),
                    *([] if in_api else [nodes]),
                    File(path=_OBJECTS, content=objects(args.settings, args.etcd_endpoints), mode="0600"),
                ],
                # Not only declared: what follows runs them.
                run=pulumi.Output.all(*(worker.identity for worker in args.workers)).apply(
                    lambda known: "\n".join([f"# {' '.join(known)}", *_applied(in_api), pools.drop_others(specs)])
                ),
                undo=f"{KUBECTL} delete --ignore-not-found --wait=false -f {_OBJECTS} >/dev/null 2>&1 || true",
            ),
            self.child(),
        )
        self.register_outputs({})


def objects(settings: CalicoSettings, endpoints: Sequence[str]) -> str:
    """The objects of the API that are Calico's, YAML, in the order of their dependence."""
    known = datastore.environment(settings, endpoints)
    documents = [*rbac_objects(settings), daemon_set(settings, known), deployment(settings, known)]
    return yaml_text.dump_all(documents)


def cluster_checks(workers: Sequence[Machine]) -> list[str]:
    """The shell lines, for a controller, that wait until Calico is there for every worker."""
    nodes = " ".join(f"node/{worker.name}" for worker in workers)
    seconds = 10 * workers[0].timeout_factor
    rollout = f"{KUBECTL} -n {NAMESPACE} rollout status --timeout=$((120 * TIMEOUT_FACTOR))s"
    return [
        f"{rollout} daemonset/{NODE} >/dev/null",
        f"{rollout} deployment/{CONTROLLERS} >/dev/null",
        f"wait_for 60 'the network of all nodes' "
        f"'{KUBECTL} wait --for=condition=NetworkUnavailable=False {nodes} --timeout={seconds}s'",
    ]


def _applied(in_api: bool) -> list[str]:
    """The shell lines that apply everything; pools come before the pods that take addresses from them."""
    apply = f"{KUBECTL} apply --server-side --force-conflicts -f"
    # Repeated, since the balancer may not have seen the new API server yet.
    kinds = [
        f"wait_for 60 'applying the kinds of Calico' '{apply} {_CRDS} >/dev/null'",
        f"{KUBECTL} wait --for=condition=Established -f {_CRDS} --timeout=$((60 * TIMEOUT_FACTOR))s >/dev/null",
    ]
    return [
        *(kinds if in_api else []),
        f"wait_for 60 'applying the pools' 'calicoctl apply -f {_POOLS}'",
        # Those that Calico has are its own to change.
        *([] if in_api else [f"calicoctl create --skip-exists -f {_NODES} >/dev/null"]),
        f"wait_for 60 'applying Calico' '{apply} {_OBJECTS} >/dev/null'",
    ]
