"""What operations on a running lab ask of containers and their host."""

from collections.abc import Sequence
from pathlib import Path

from components.substrates.containers import owner
from components.substrates.containers.substrate import (
    boot_unit,
    close_firewall,
    delete_boot,
    delete_network,
    firewall_script,
    forget,
    stop_checks,
)
from components.substrates.operations import Operations, Removal
from config.errors import UserError


class ContainerOperations(Operations):
    """The Pulumi host's firewall and boot."""

    def pulumi_host_firewall(self, lab: str, engine: str, ranges: Sequence[str]) -> list[str]:
        """A program of its own: it is the preflight's, which runs by the host's Python."""
        program = str(Path(__file__).with_name("firewall_check.py"))
        return ["-B", program, "--engine", engine, "--network", f"hardway-{lab}", "--ranges", *ranges]

    def boot_unit(self, lab: str, engine: str, machines: Sequence[str], routes: Sequence[tuple[str, str]]) -> str:
        """What the host does at boot: start every machine, set the routes to the pods."""
        return boot_unit(engine, f"hardway-{lab}", machines, routes)

    def removals_of_unsaved(self, lab: str, identity: str) -> Sequence[Removal]:
        """By the texts with which `destroy` removes it. The record names the engine: settings may have changed."""
        try:
            record = owner.read(Path(owner.RECORDS) / lab)
        except owner.UnknownError as error:
            raise UserError(f"Whose the lab {lab} on the Pulumi host is cannot be read: {error}.") from error
        if record is None or record.identity != identity:
            return ()
        engine, prefix = record.engine, f"hardway-{lab}"
        # The routes go with the network's bridge.
        texts = (
            (stop_checks(lab), ""),
            (delete_boot(prefix, ()), ""),
            (close_firewall(prefix), firewall_script(engine, prefix)),
            (delete_network(engine, prefix, lab), ""),
            (forget(lab), ""),
        )
        environment = {owner.IDENTITY: identity}
        return [
            Removal(script=owner.of_owner(text, lab), stdin=stdin, environment=environment) for text, stdin in texts
        ]
