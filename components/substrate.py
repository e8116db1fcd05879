"""What a lab stands on, as the rest of the program sees it: what every substrate gives, and all that it gives."""

from collections.abc import Sequence
from typing import Protocol

import pulumi

from components.machine import Machine
from config.lab import Lab


class Substrate(Protocol):
    """All machines of a lab, reachable, and the way to its API.

    Attributes:
        machines: one for each of the lab's `machines`, in that order.
        ssh_private_key: the key (OpenSSH, secret) that opens all of them.
        checks: resources that can refuse an `up`; everything that an `up` changes depends on them.
        api_address: where workers and people reach the API: a load balancer's, or the one that two of them share.
        entrance: what of the substrate itself makes the API answer there; nothing, where machines do.
    """

    machines: Sequence[Machine]
    ssh_private_key: pulumi.Output[str]
    checks: Sequence[pulumi.Resource]
    api_address: pulumi.Input[str]
    entrance: Sequence[pulumi.Resource]


def create_substrate(name: str, lab: Lab) -> Substrate:
    """The machines that the lab's settings ask for, by the class in the row of their substrate."""
    made: Substrate = lab.settings.traits.load()(name, lab)
    return made
