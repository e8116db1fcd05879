"""Readiness: what the lab has proved about itself before `up` says that it is done.

Checked from a controller: /readyz of every API server and through the balancer, the health of all etcd members, every
node Ready, both replicas of DNS available, Calico on every worker where it is the pod network. Checked from a worker,
through the service network: DNS answers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components import calico
from components.component import Component
from components.dns import wait_until_available
from components.machine import Machine
from components.step import Step, StepArgs
from config import health
from config.machine_paths import KUBECTL
from config.ports import API_PORT
from config.settings import Network

_CURL = "curl -sf --cacert /etc/kubernetes/pki/ca.crt"


@dataclass(frozen=True, kw_only=True)
class ReadinessArgs:
    """Args:
    controllers: asked, and the first of them asks.
    workers: one of them asks the DNS.
    etcd_members: how many there are.
    endpoint: https://address:6443 of the load balancer.
    network: the DNS address and the cluster's domain.
    """

    controllers: Sequence[Machine]
    workers: Sequence[Machine]
    etcd_members: int
    endpoint: pulumi.Input[str]
    network: Network


class Readiness(Component):
    """The checks that a lab passes before it is called ready.

    Attributes:
        facts: what was seen, as a mapping: check -> what it said.
    """

    def __init__(self, name: str, args: ReadinessArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Readiness", name, opts)
        child = self.child()
        cluster = Step(
            f"{name}-cluster",
            StepArgs(
                machine=args.controllers[0],
                name="readiness-cluster",
                run=pulumi.Output.from_input(args.endpoint).apply(lambda known: cluster_checks(args, known)),
            ),
            child,
        )
        dns = Step(
            f"{name}-dns",
            StepArgs(
                machine=args.workers[0],
                name="readiness-dns",
                run=dns_check(args.network, args.workers[0].timeout_factor),
            ),
            child,
        )
        self.facts = pulumi.Output.all(cluster.stdout, dns.stdout).apply(
            lambda printed: {key: value for text in printed for key, value in json.loads(text or "{}").items()}
        )
        self.register_outputs({})


def cluster_checks(args: ReadinessArgs, endpoint: str) -> str:
    """The shell lines that check the cluster from a controller and print what they saw, as JSON."""
    # By name: a worker that this `up` is about to remove is still a node.
    nodes = " ".join(f"node/{worker.name}" for worker in args.workers)
    each_wait = 10 * args.controllers[0].timeout_factor
    api_servers = [f"https://{controller.address}:{API_PORT}" for controller in args.controllers]
    checks = [
        f"wait_for 60 '{health.API_READY} of {url}' '{_CURL} {url}{health.API_READY}'"
        for url in (*api_servers, endpoint)
    ]
    checks += [
        ". /etc/etcd/etcdctl.env",
        f"wait_for 60 'every etcd member healthy' '{health.ETCD_MEMBERS}'",
        f"wait_for 60 'all nodes Ready' '{KUBECTL} wait --for=condition={health.NODE_READY} {nodes} "
        f"--timeout={each_wait}s'",
        *(calico.cluster_checks(args.workers) if args.network.pod_network == "calico" else []),
        wait_until_available(),
    ]
    facts = {
        "api_servers_ready": len(api_servers),
        "balancer_ready": endpoint,
        "etcd_members_healthy": args.etcd_members,
        "nodes_ready": len(args.workers),
        **({"calico_nodes_ready": len(args.workers)} if args.network.pod_network == "calico" else {}),
    }
    return "\n".join([*checks, f"echo '{json.dumps(facts)}'"])


def dns_check(network: Network, timeout_factor: int) -> str:
    """The shell lines that ask the cluster's DNS from a worker and print the answer, as JSON."""
    name = f"kubernetes.default.svc.{network.cluster_domain}"
    ask = f"dig +short +time={timeout_factor} +tries=1 @{network.dns_service} {name}"
    return "\n".join(
        [
            f"wait_for 120 'DNS answer for {name}' '[ \"$({ask})\" = {network.api_service} ]'",
            f"echo '{json.dumps({'dns_answer': f'{name} -> {network.api_service}'})}'",
        ]
    )
