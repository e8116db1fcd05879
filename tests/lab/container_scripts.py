"""The scripts by which the substrate `containers` works on its host."""

from components.substrates.containers.substrate import (
    boot_unit,
    close_firewall,
    create_container,
    create_network,
    delete_container,
    delete_network,
    firewall_script,
    open_firewall,
)
from config.lab import Lab

PREFIX = "hardway-dev"


def made(lab: Lab) -> list[str]:
    """The scripts whose text is part of what a network or a machine is."""
    return [
        create_network(lab.engine, PREFIX, lab),
        *(create_container(lab, PREFIX, spec) for spec in lab.machines),
    ]


def scripts(lab: Lab) -> str:
    """All that an engine is asked to do."""
    names = [spec.name for spec in lab.machines]
    return "\n".join(
        [
            *made(lab),
            delete_network(lab.engine, PREFIX, lab.name),
            delete_container(lab.engine, f"{PREFIX}-{names[0]}"),
            open_firewall(PREFIX),
            close_firewall(PREFIX),
            firewall_script(lab.engine, PREFIX),
            boot_unit(lab.engine, PREFIX, names, [("10.200.0.0/24", "10.240.0.20")]),
        ]
    )
