"""What operations on a running lab ask of containers and their host."""

from collections.abc import Sequence
from pathlib import Path

from components.substrates.containers.substrate import boot_unit
from components.substrates.operations import Operations


class ContainerOperations(Operations):
    """The Pulumi host's firewall and boot."""

    def pulumi_host_firewall(self, lab: str, engine: str, ranges: Sequence[str]) -> list[str]:
        """A program of its own: it is the preflight's, which runs by the host's Python."""
        program = str(Path(__file__).with_name("firewall_check.py"))
        return ["-B", program, "--engine", engine, "--network", f"hardway-{lab}", "--ranges", *ranges]

    def boot_unit(self, lab: str, engine: str, machines: Sequence[str], routes: Sequence[tuple[str, str]]) -> str:
        """What the host does at boot: start every machine, set the routes to the pods."""
        return boot_unit(engine, f"hardway-{lab}", machines, routes)
