"""Which hosts may be connected to: the public keys that `./hardway trust` pinned, in trust/<stack>.known_hosts.

The file has the format of ssh's own known_hosts(5), and is meant to be kept with the settings file: a clone with both
files connects to the same hosts, and to no others.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from config import paths

# The order in which Go's SSH client (the official plugin's) asks for a host's keys: it pins one of them, and a host
# that has several shows the first of these that it has.
_PREFERRED = ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa", "ssh-ed25519")


def file_of(stack: str) -> Path:
    """The stack's file; it need not be there."""
    return paths.checkout() / "trust" / f"{stack}.known_hosts"


def read(stack: str) -> dict[str, list[str]]:
    """Host (see `name_of`) -> its public keys (type and base64), the one that a connection pins first."""
    found: dict[str, list[str]] = {}
    file = file_of(stack)
    for line in file.read_text().splitlines() if file.exists() else ():
        words = line.split()
        if len(words) >= 3 and not line.startswith("#"):
            found.setdefault(words[0], []).append(f"{words[1]} {words[2]}")
    return {host: sorted(keys, key=_preference) for host, keys in found.items()}


def text_of(hosts: Mapping[str, Sequence[str]]) -> str:
    """The file for these hosts and keys."""
    lines = [f"{host} {key}" for host, keys in sorted(hosts.items()) for key in sorted(keys, key=_preference)]
    return "\n".join(["# Written by `./hardway trust`: the only host keys that this stack connects to.", *lines, ""])


def name_of(host: str, port: int) -> str:
    """How known_hosts calls a host."""
    return host if port == 22 else f"[{host}]:{port}"


def _preference(key: str) -> tuple[int, str]:
    kind = key.split()[0]
    return _PREFERRED.index(kind) if kind in _PREFERRED else len(_PREFERRED), key
