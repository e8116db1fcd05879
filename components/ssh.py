"""How a person reaches the machines: an ssh_config that knows their keys and never trusts another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pulumi
from pulumi_command import remote

from components.machine import Machine


def ssh_config(machines: Sequence[Machine], key: Path) -> pulumi.Output[str]:
    """An ssh_config(5) with one Host for each machine; the key is given on ssh's command line (`ssh -i`).

    The host keys stand in it, too (KnownHostsCommand prints them), so that this file is all there is.

    Args:
        machines: all of the lab.
        key: where that key lies: a jumpbox is reached by an ssh of its own, which does not get that command line.
    """
    connections = {machine.name: machine.connection for machine in machines}
    return pulumi.Output.all(
        **{name: pulumi.Output.all(**_reached(connection)) for name, connection in connections.items()}
    ).apply(lambda known: _text(known, key))


def _reached(connection: remote.ConnectionArgs) -> dict[str, Any]:
    """What of a connection is no secret."""
    proxy = connection.proxy
    assert proxy is None or isinstance(proxy, remote.ProxyConnectionArgs)
    return {
        **{name: getattr(connection, name) for name in _SHOWN},
        "proxy": proxy and {name: getattr(proxy, name) for name in _SHOWN},
    }


_SHOWN = ("host", "port", "user", "host_key")


def _text(machines: Mapping[str, Mapping[str, Any]], key: Path) -> str:
    jumpboxes: dict[str, str] = {}
    parts: list[list[str]] = []
    for name, at in machines.items():
        lines = _host(name, at)
        if proxy := at["proxy"]:
            behind = repr(proxy)
            if behind not in jumpboxes:
                jumpboxes[behind] = f"jumpbox-{len(jumpboxes)}"
                parts.append([*_host(jumpboxes[behind], proxy), f'  IdentityFile "{key}"', ""])
            lines.append(f"  ProxyJump {jumpboxes[behind]}")
        parts.append([*lines, ""])
    return "\n".join("\n".join(lines) for lines in parts)


def _host(name: str, at: Mapping[str, Any]) -> list[str]:
    port = int(at["port"] or 22)
    known_as = at["host"] if port == 22 else f"[{at['host']}]:{port}"
    return [
        f"Host {name}",
        f"  HostName {at['host']}",
        *([f"  Port {port}"] if port != 22 else []),
        f"  User {at['user']}",
        "  IdentitiesOnly yes",
        "  StrictHostKeyChecking yes",
        # A host that has keys of several kinds must show the pinned one.
        f"  HostKeyAlgorithms {_algorithms(str(at['host_key']))}",
        "  UserKnownHostsFile /dev/null",
        f"  KnownHostsCommand /bin/echo {known_as} {at['host_key']}",
    ]


def _algorithms(host_key: str) -> str:
    """What a key of this kind signs with."""
    kind = host_key.split()[0]
    return "rsa-sha2-512,rsa-sha2-256" if kind == "ssh-rsa" else kind
