"""The program that tests of steps run: a Host and what comes after it, on one machine that exists already."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

import pulumi
from pulumi_command import remote

from components.host import Host, HostArgs
from components.kubeadm import KubeadmNode, KubeadmNodeArgs
from components.machine import Machine
from components.step import Fetch, File, Step, StepArgs, Unit
from components.unfinished_updates import UnfinishedUpdates
from config.artifacts import UPSTREAM, ArtifactSource
from config.machines import MachineSpec, Role
from config.versions import AptRepository, pins
from engine.container_host import Connection

LONG_AGO = "2020-01-01T00:00:00Z"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a step is to do: its `StepArgs`, but for the machine."""

    name: str
    prepare: str = ""
    fetches: Sequence[Fetch] = ()
    files: Sequence[File] = ()
    units: Sequence[Unit] = ()
    run: str = ""
    undo: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the program builds.

    Args:
        machine: the machine's name.
        connection: how to reach it.
        works: the steps, each after the Host.
        not_before: when the lab's CAs begin to be valid (RFC 3339).
    """

    machine: str
    connection: Connection
    works: Sequence[Work]
    not_before: str = LONG_AGO
    packages: AptRepository | None = None


def write(plan: Plan, directory: Path) -> None:
    """Make a project's program one that builds the plan."""
    checkout = Path(__file__).parents[2]
    (directory / "plan").write_bytes(pickle.dumps(plan))
    (directory / "__main__.py").write_text(
        f"import sys\nsys.path[:0] = {[str(checkout), str(checkout / 'tests')]}\n"
        "from engine.step_program import build\nbuild('plan')\n"
    )


def build(plan_file: str) -> None:
    """Register the resources of a plan."""
    plan: Plan = pickle.loads(Path(plan_file).read_bytes())
    UnfinishedUpdates(Path("unfinished.json")).run_again()
    spec = MachineSpec(
        name=plan.machine,
        fqdn=f"{plan.machine}.test.example",
        roles=frozenset({Role.WORKER} if plan.packages else ()),
        address=IPv4Address(plan.connection.host),
        pod_cidr=None,
        key="lab.machines",
    )
    machine = Machine(
        spec=spec,
        connection=remote.ConnectionArgs(
            host=plan.connection.host,
            user="root",
            private_key=pulumi.Output.secret(plan.connection.private_key),
            host_key=plan.connection.host_key,
            dial_error_limit=1,
        ),
        identity=plan.machine,
        # It was there before and stays: its steps must be undone.
        resource=None,
        arch="amd64",
        interface="eth0",
        shares_kernel=True,
    )
    host = Host("host", HostArgs(machine=machine, lab=[spec], not_before=plan.not_before))
    for work in plan.works:
        files = [
            replace(file, content=pulumi.Output.secret(file.content)) if file.secret else file for file in work.files
        ]
        Step(
            work.name,
            StepArgs(
                machine=machine,
                name=work.name,
                prepare=work.prepare,
                fetches=work.fetches,
                files=files,
                units=work.units,
                run=work.run,
                undo=work.undo,
            ),
            pulumi.ResourceOptions(depends_on=[host]),
        )
    if plan.packages:
        versions = {name: product.default for name, product in pins().products.items()}
        artifacts = ArtifactSource(base_url=UPSTREAM, versions=versions, checksums={})
        node = KubeadmNodeArgs(machine=machine, artifacts=artifacts, repository=plan.packages, controllers=[])
        KubeadmNode("kubeadm-node", node, pulumi.ResourceOptions(depends_on=[host]))
