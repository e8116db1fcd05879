#!/usr/bin/python3
"""runc for hosts that lack a capability, which docker asks for nevertheless: it knows the kernel's, podman the host's.

usage: as runc; HARDWAY_RUNC names the real one.
"""

import json
import os
import sys
from pathlib import Path

_NAMES = {21: "CAP_SYS_ADMIN", 24: "CAP_SYS_RESOURCE", 12: "CAP_NET_ADMIN", 16: "CAP_SYS_MODULE", 25: "CAP_SYS_TIME"}


def main() -> None:
    """Take what the host lacks out of what is to be run, and run it."""
    words = sys.argv[1:]
    status = Path("/proc/self/status").read_text().splitlines()
    bounds = int(next(line.split()[1] for line in status if line.startswith("CapBnd:")), 16)
    lacking = {name for bit, name in _NAMES.items() if not bounds >> bit & 1}
    for option, file_in_it in (("--bundle", "config.json"), ("--process", "")):
        if option in words:
            given = Path(words[words.index(option) + 1])
            file = given / file_in_it if file_in_it else given
            document = json.loads(file.read_text())
            capabilities = document.get("process", document).get("capabilities") or {}
            for kind, names in capabilities.items():
                capabilities[kind] = [name for name in names if name not in lacking]
            file.write_text(json.dumps(document))
    os.execv(os.environ["HARDWAY_RUNC"], ["runc", *words])


if __name__ == "__main__":
    main()
