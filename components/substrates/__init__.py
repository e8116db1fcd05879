"""Where a lab can stand: one file for each substrate, all of them behind `components.substrate.Substrate`."""

from components.substrate import Substrate
from config.lab import Lab


def create(name: str, lab: Lab) -> Substrate:
    """The machines that the lab's settings ask for."""
    # Imported by the lab that needs it: the SDKs of some providers take seconds to load.
    match lab.settings.substrate:
        case "containers":
            from components.substrates.containers import Containers

            return Containers(name, lab)
        case "gcp":
            from components.substrates.gcp import Gcp

            return Gcp(name, lab)
        case "libvirt":
            from components.substrates.libvirt import Libvirt

            return Libvirt(name, lab)
        case "machines":
            from components.substrates.machines import Machines

            return Machines(name, lab)
