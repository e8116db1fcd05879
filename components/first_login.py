"""The first login at a machine that has just been made: it waits until sshd has the pinned key and lets us in.

The provider that runs the steps dials ten times in a row and gives up; a machine that boots takes longer.
"""

from shlex import quote

import pulumi
from pulumi_command import local, remote

_SECONDS = 300


def first_login(
    name: str,
    *,
    machine: str,
    identity: pulumi.Input[str],
    connection: remote.ConnectionArgs,
    hint: str,
    timeout_factor: int,
    opts: pulumi.ResourceOptions,
) -> local.Command:
    """The command on the Pulumi host that ends when a machine lets root in; it prints the identity.

    Args:
        name: of the resource.
        machine: its name, for the report.
        identity: changes when the machine is recreated: it is waited for again.
        connection: how to reach it.
        hint: what to look at where the machine does not let us in.
        timeout_factor: of the lab.
        opts: of the resource.

    Raises, at `up`: what ssh said last, after five minutes, times the factor.
    """
    return local.Command(
        name,
        create=pulumi.Output.all(connection.host, connection.host_key, identity).apply(
            lambda known: wait_for_login(
                machine,
                host=known[0],
                host_key=known[1],
                identity=known[2],
                hint=hint,
                seconds=_SECONDS * timeout_factor,
            )
        ),
        # The key comes on standard input: no command line and no log shows it.
        stdin=connection.private_key,
        interpreter=["/bin/bash", "-c"],
        logging=local.Logging.NONE,
        opts=opts,
    )


def wait_for_login(machine: str, *, host: str, host_key: str, identity: str, hint: str, seconds: int = _SECONDS) -> str:
    """The shell lines that wait for a machine and print its identity; the private key comes on standard input."""
    ssh = f'ssh {ssh_options(host, host_key)} -i "$key" root@{host}'
    return "\n".join(
        [
            f"# first login at {machine} ({identity})",
            "set -eu",
            "umask 077",
            "key=$(mktemp)",
            "trap 'rm -f \"$key\"' EXIT",
            '{ cat && echo; } >"$key"',
            f"deadline=$((SECONDS + {seconds}))",
            f"until said=$({ssh} true </dev/null 2>&1); do",
            "  if [ $SECONDS -ge $deadline ]; then",
            f'    printf "%s\\n" "{machine} ({host}) does not let us in after {seconds} s; ssh said last:" "$said" '
            f"{quote(hint)} >&2",
            "    exit 1",
            "  fi",
            "  sleep 0.5",
            "done",
            f"echo {identity}",
        ]
    )


def ssh_options(host: str, host_key: str) -> str:
    """The options of an ssh that asks nothing, and connects only to a host with the pinned key."""
    options = (
        "BatchMode=yes",
        "ConnectTimeout=5",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        "UserKnownHostsFile=/dev/null",
        f"KnownHostsCommand=/bin/echo {host} {host_key}",
    )
    return " ".join(["-F none", *(f"-o {quote(option)}" for option in options)])
