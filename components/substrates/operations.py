"""What the tool chain and operations on a running lab ask of a substrate: found by the trait `operations`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from components.substrates import machine_firewall
from config.errors import UserError
from config.lab import Lab


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A script for the Pulumi host that removes something of a lab, if the lab is still that of its environment.

    Args:
        script: for bash.
        stdin: what it reads.
        environment: more variables.
    """

    script: str
    stdin: str
    environment: Mapping[str, str]


class Operations:
    """What every substrate answers; one that has more to say extends it."""

    FIREWALL_SCRIPT = machine_firewall.SCRIPT
    """The shell lines that print a machine's own firewall rules."""

    def firewall_problems(
        self,
        found: Mapping[str, Sequence[str]],
        pods: IPv4Network,
        machines: Sequence[IPv4Network],
        interfaces: Sequence[str],
    ) -> list[str]:
        """What a machine's own firewall drops of the packets of pods, see `machine_firewall.problems`."""
        return list(machine_firewall.problems(found, pods, machines, interfaces=interfaces, is_closed=False))

    def pulumi_host_firewall(self, lab: str, engine: str, ranges: Sequence[str]) -> list[str]:
        """The arguments of Python that print what the Pulumi host's firewall drops; none where no packet passes it."""
        return []

    def boot_unit(self, lab: str, engine: str, machines: Sequence[str], routes: Sequence[tuple[str, str]]) -> str:
        """The systemd unit that starts the lab when the Pulumi host boots; empty where there is none."""
        return ""

    def removals_of_unsaved(self, lab: str, identity: str) -> Sequence[Removal]:
        """What removes from the Pulumi host, in this order, all of a lab that is in no state.

        The last one removes what says that the lab has this identity: until then all of them can be repeated.

        Args:
            lab: its name.
            identity: the fingerprint of its key.

        Returns:
            Nothing where the host has no lab of this name with exactly this identity.

        Raises:
            UserError: that cannot be read.
        """
        return ()

    def trust(self, lab: Lab) -> list[str]:
        """Show and pin the host keys of machines that exist already; return what is wrong.

        Raises:
            UserError: the machines are made with their keys.
        """
        raise UserError(
            f"The machines of the stack {lab.name} are made with their host keys: there is nothing to trust."
        )

    def free(self, lab: Lab, machine: str, fingerprint: str | None) -> None:
        """Take back what the lab did to a machine that exists already.

        Args:
            lab: the lab.
            machine: its name in the lab.
            fingerprint: of the lab's key; without it the host is only examined.

        Raises:
            UserError: there is no such machine, it is another lab's, or it cannot be freed.
        """
        raise UserError(f"The stack {lab.name} has no machine {machine!r} to free: it has none that exists already.")
