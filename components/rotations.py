"""What a rotation of keys needs beside new files: steps that are there while a stage needs them (rotations.sh).

Made: for the encryption key, all Secrets written again; for the key of service accounts, new tokens; for a CA, pods
that trust it, and an API that no longer hands out the old one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pulumi

from components.component import Component, turn_before
from components.container_runtime import WORKER_VERBS
from components.encryption import key_in_use
from components.kubeadm import USE_KUBEADM
from components.machine import Machine
from components.step import Step, StepArgs
from config.machine_paths import KUBECTL, USE_ETCD
from config.rotations import USED, Rotations

_PKI = "/etc/kubernetes/pki"
_END = "END-OF-KEY"
_API = f'api() {{ {KUBECTL} "$@"; }}'


@dataclass(frozen=True, kw_only=True)
class RotationArgs:
    """Args:
    rotations: how far they are.
    controller: whose kubectl asks the API.
    nodes: whose pods have tokens; each with what its kubelet runs after.
    service_accounts: the public keys of tokens, PEM; the one that signs first.
    provider: the encryption of Secrets; empty where they are not encrypted.
    max_unavailable: how many kubelets may restart at the same time, where kubeadm made the cluster; else None.
    """

    rotations: Rotations
    controller: Machine
    nodes: Sequence[tuple[Machine, pulumi.Resource]]
    service_accounts: pulumi.Output[str]
    provider: str = ""
    max_unavailable: int | None = None


class RotationSteps(Component):
    """The steps of the stages that are under way, after the control plane has its new files.

    On the hard way workers restart at the same time: only new tokens in pods wait for the kubelet that requests them.
    With kubeadm these kubelets take turns: while one is not Ready, its pods may be taken for not ready.

    Attributes:
        steps: what the lab's readiness comes after.
    """

    def __init__(self, name: str, args: RotationArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Rotations", name, opts)
        rotations = args.rotations
        self._args = args
        self.steps: list[pulumi.Resource] = []
        encryption, ca = rotations["encryption-key"], rotations["ca"]
        if encryption.stage == USED:
            prefix = f"k8s:enc:{args.provider}:v1:{key_in_use(encryption)}:"
            self._step(f"{name}-secrets", args.controller, f"{USE_ETCD}\nrewrite_secrets '{prefix}'")
        if rotations["service-accounts"].stage == USED:
            key = args.service_accounts.apply(lambda known: f" <<'{_END}'\n{known.rstrip()}\n{_END}")
            renewal = pulumi.Output.concat("renew_token_secrets", key)
            self._step(f"{name}-token-secrets", args.controller, renewal)
            self._renew_tokens(name, pulumi.Output.concat("renew_tokens", key))
        if ca.count and ca.stage != USED:
            # When the new CA comes, and when the old one goes.
            publishing = f"{USE_KUBEADM}\npublish_ca {_PKI}/ca.crt\n" if args.max_unavailable else ""
            restart = f"# CA {ca}\n{publishing}restart_cluster_pods {_PKI}/ca.crt"
            self._step(f"{name}-pods", args.controller, restart)
        clients = {subject: rotations[subject] for subject in ("ca", "front-proxy-ca") if rotations[subject].count}
        if clients and not any(each.stage for each in clients.values()):
            said = ", ".join(f"{subject} {each}" for subject, each in clients.items())
            files = f"{_PKI}/ca.crt {_PKI}/front-proxy-ca.crt"
            self._step(f"{name}-client-cas", args.controller, f"# {said}\nforget_client_cas {files}")
        self.register_outputs({})

    def _renew_tokens(self, name: str, renewal: pulumi.Output[str]) -> None:
        turns = list[pulumi.Resource]()
        for machine, kubelet in self._args.nodes:
            run, after = renewal, [kubelet]
            if self._args.max_unavailable:
                ready = f"await_node {machine.name} 'with new tokens in its pods'"
                run = pulumi.Output.concat(f". {WORKER_VERBS}\n{USE_KUBEADM}\n", renewal, f"\n{ready}")
                after += turn_before(turns, self._args.max_unavailable)
            turns.append(self._step(f"{name}-tokens-{machine.name}", machine, run, *after))

    def _step(self, name: str, machine: Machine, run: pulumi.Input[str], *after: pulumi.Resource) -> Step:
        functions = Path(__file__).with_name("rotations.sh").read_text()
        script = pulumi.Output.concat(f"{functions}{_API}\n", run)
        made = Step(name, StepArgs(machine=machine, name=name, run=script), self.child(*after))
        self.steps.append(made)
        return made
