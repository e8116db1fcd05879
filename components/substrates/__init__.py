"""Where a lab can stand: one folder for each substrate, all of them behind `components.substrate.Substrate`.

The programs in the folders import this, some of them by the Python of a host: nothing here imports anything else.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.substrate import Substrate
    from config.lab import Lab


def create(name: str, lab: "Lab") -> "Substrate":
    """The machines that the lab's settings ask for."""
    # Imported by the lab that needs it: the SDKs of some providers take seconds to load.
    match lab.settings.substrate:
        case "containers":
            from components.substrates.containers.substrate import Containers

            return Containers(name, lab)
        case "gcp":
            from components.substrates.gcp.substrate import Gcp

            return Gcp(name, lab)
        case "libvirt":
            from components.substrates.libvirt.substrate import Libvirt

            return Libvirt(name, lab)
        case "machines":
            from components.substrates.existing.substrate import Machines

            return Machines(name, lab)
