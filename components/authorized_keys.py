"""Which SSH keys open a machine that the lab made, once a rotation has changed them (authorized_keys.sh).

Made: a command on the Pulumi host, for each machine. It logs in by any key of the lab that the machine accepts, so that
it also opens a machine that was made from an image or a definition with the first key. It sees that each accepted key
opens the machine, and only then removes the others.
"""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import pulumi
from pulumi_command import local, remote

from components.first_login import ssh_options
from components.ssh_keys import SshKeys

_SCRIPT = Path(__file__).with_suffix(".sh")
_SECONDS = 60
ROOTS_KEYS = "/root/.ssh/authorized_keys"


def authorize_keys(
    name: str,
    keys: SshKeys,
    *,
    machine: str,
    identity: pulumi.Output[str],
    connection: remote.ConnectionArgs,
    timeout_factor: int,
    opts: pulumi.ResourceOptions,
    files: Sequence[str] = (ROOTS_KEYS,),
) -> pulumi.Output[str]:
    """Have a machine accept the keys, and no others of the lab; nothing is made in a lab that never rotated its key.

    Args:
        name: of the resource.
        keys: of the lab.
        machine: its name, for the report.
        identity: changes when the machine is recreated.
        connection: how root logs in there.
        timeout_factor: of the lab.
        opts: of the resource.
        files: where the machine's sshd reads the keys of root; of several, those before the last one are optional.

    Returns:
        The identity of the machine, once it accepts the key that its steps use.

    Raises, at `up`: the machine accepts no key of the lab, or not the new one: with what ssh said.
    """
    if not keys.has_rotated:
        return identity
    first = keys.first.public_key_openssh
    script = pulumi.Output.all(connection.host, connection.host_key, identity, keys.lines, keys.comment, first).apply(
        lambda known: script_of(
            machine,
            host=known[0],
            host_key=known[1],
            identity=known[2],
            lines=known[3],
            comment=known[4],
            first=known[5],
            files=files,
            seconds=_SECONDS * timeout_factor,
        )
    )
    command = local.Command(
        name,
        create=script,
        # The keys come on standard input: no command line and no log shows them.
        stdin=pulumi.Output.all(*keys.private, keys.first.private_key_openssh).apply("\n".join),
        interpreter=["/bin/bash", "-c"],
        logging=local.Logging.NONE,
        add_previous_output_in_env=False,
        opts=opts,
    )
    if keys.rotation.active == 0:
        # The machine accepts the key in use already. A dependency would show all steps as changed in the preview of
        # the first stage.
        return identity
    return pulumi.Output.all(identity, command.id).apply(lambda known: str(known[0]))


def script_of(
    machine: str,
    *,
    host: str,
    host_key: str,
    identity: str,
    lines: str,
    comment: str,
    first: str,
    files: Sequence[str],
    seconds: int,
) -> str:
    """The script; the private keys come on standard input: those of `lines`, in their order, then the first key.

    Args:
        machine: its name.
        host: its address.
        host_key: its pinned host key.
        identity: of the machine.
        lines: what the files are to have, the key in use first.
        comment: the last word of the lab's lines.
        first: the lab's first public key.
        files: where sshd reads them.
        seconds: the deadline of the first login.
    """
    words = {
        "machine": machine,
        "host": host,
        "seconds": str(seconds),
        "files": " ".join(files),
        "wanted": lines,
        "first": " ".join(first.split()[:2]),
        "comment": comment,
    }
    return "\n".join(
        [
            f"# SSH keys of {machine} ({identity[:12]})",
            *(f"{word}={quote(value)}" for word, value in words.items()),
            # A machine that stops answering in the middle is given up.
            f"login() {{ ssh {ssh_options(host, host_key)} -o ServerAliveInterval=5 -o ServerAliveCountMax=6"
            f' -i "$keys/$1" root@{host} "$2"; }}',
            _SCRIPT.read_text(),
        ]
    )
