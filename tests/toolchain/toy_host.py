"""The operations of a toy lab whose first `up` saves the state once. What it has on the host are files of its own."""

from collections.abc import Sequence

from components.substrates.operations import Operations, Removal
from toolchain import paths


class ToyHost(Operations):
    """A record with the lab's identity, and things. A file `removing` is run by the removal of the things."""

    def removals_of_unsaved(self, lab: str, identity: str) -> Sequence[Removal]:
        """As those of containers: only by the record, which goes last."""
        host = paths.checkout() / "host"
        record = host / "record"
        if not record.exists() or record.read_text().strip() != identity:
            return ()
        scripts = (
            f"# removes things of {lab}\nset -eu\nrm -rf {host}/things/first\n"
            f"[ ! -e {host}/removing ] || . {host}/removing\nrm -rf {host}/things",
            f"# removes record of {lab}\nrm {record}",
        )
        return [Removal(script=script, stdin="", environment={}) for script in scripts]
