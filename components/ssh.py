"""How a person reaches the machines: an ssh_config that knows their keys and never trusts another."""

from collections.abc import Sequence

import pulumi

from components.machine import Machine


def ssh_config(machines: Sequence[Machine]) -> pulumi.Output[str]:
    """An ssh_config(5) with one Host for each machine; the key is given on ssh's command line (`ssh -i`).

    The host keys stand in it, too (KnownHostsCommand prints them), so that this file is all there is.
    """
    reached = [pulumi.Output.all(machine.connection.host, machine.connection.host_key) for machine in machines]
    return pulumi.Output.all(*reached).apply(
        lambda known: "\n".join(
            _host(machine.name, str(host), str(host_key))
            for machine, (host, host_key) in zip(machines, known, strict=True)
        )
    )


def _host(name: str, host: str, host_key: str) -> str:
    return "\n".join(
        [
            f"Host {name}",
            f"  HostName {host}",
            "  User root",
            "  IdentitiesOnly yes",
            "  StrictHostKeyChecking yes",
            "  UserKnownHostsFile /dev/null",
            f"  KnownHostsCommand /bin/echo {host} {host_key}",
            "",
        ]
    )
