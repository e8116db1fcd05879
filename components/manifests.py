"""What stands in the API because the lab put it there: manifests from data, applied server-side on a controller.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from components.machine import Machine
from components.step import File, Step, StepArgs
from config import yaml_text
from config.machine_paths import AWAIT_API, KUBECTL


def apply_manifests(
    name: str,
    controller: Machine,
    documents: Sequence[Mapping[str, Any]],
    opts: pulumi.ResourceOptions,
    *,
    then: str = "",
) -> Step:
    """Apply documents to the API; with the step they are deleted from it.

    Args:
        name: of the step, and of its file in /etc/kubernetes/manifests.
        controller: whose kubectl does it, so that it works wherever the machines can be reached.
        documents: the objects, in an order that works.
        opts: of the step.
        then: shell lines that wait for what was applied.
    """
    path = f"/etc/kubernetes/manifests/{name}.yaml"
    # Repeated, since the balancer may not have seen the new API server yet.
    apply = f"wait_for 60 'applying {name}' '{KUBECTL} apply --server-side --force-conflicts -f {path} >/dev/null'"
    return Step(
        name,
        StepArgs(
            machine=controller,
            name=name,
            files=[File(path=path, content=yaml_text.dump_all(documents), mode="0600")],
            run="\n".join(filter(None, [AWAIT_API, apply, then])),
            undo=f"{KUBECTL} delete --ignore-not-found --wait=false -f {path} >/dev/null 2>&1 || true",
        ),
        opts,
    )
