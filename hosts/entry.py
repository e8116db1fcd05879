"""The lab's way into a host and out again: its public key, sudo without a password, and a mark whose host it is.

Entered with what the user has (a key, or a password once), left with the lab's own key. Everything else that a lab does
to a host comes between the two.
"""

from pathlib import Path
from shlex import quote

import asyncssh

from hosts import reach
from hosts.plan import Host, Login
from hosts.reach import Credentials, HostError

_VERBS = [Path(__file__).parents[1] / "components" / name for name in ("step.sh", "worker.sh")]
_ENTER, _LEAVE = (Path(__file__).with_name(name) for name in ("enter.sh", "leave.sh"))
# On a jumpbox the key opens a way and nothing else.
_WAY_ONLY = "restrict,port-forwarding "


def mark(stack: str, lab_key: str, machine: str) -> str:
    """What says on a host whose it is: the lab's name, its key's fingerprint, and which machine of the lab it is.

    Args:
        stack: the lab's name.
        lab_key: its private key.
        machine: its name in the lab.
    """
    return f"{stack} {asyncssh.import_private_key(lab_key).get_fingerprint()} {machine}"


async def enter(host: Host, stack: str, credentials: Credentials) -> None:
    """Let the lab's key in; see that it opens the host by itself from now on.

    Raises:
        HostError: with the reason.
    """
    assert credentials.lab_key is not None
    async with reach.connected(host, credentials) as connection:
        await reach.as_root(connection, host.login, _script(_ENTER, host.login, stack, credentials.lab_key, host.name))
    alone = Credentials(lab_key=credentials.lab_key, lab_key_only=True)
    try:
        async with reach.connected(host, alone) as connection:
            await reach.as_root(connection, host.login, "true")
    except HostError as reason:
        raise HostError(
            f"the lab's key is in {host.login.user}'s authorized_keys and does not help: {reason}"
        ) from None


async def leave(host: Host, stack: str, credentials: Credentials) -> None:
    """Take everything back that `enter` did; bears that it is done already.

    Raises:
        HostError: with the reason.
    """
    assert credentials.lab_key is not None
    async with reach.connected(host, credentials) as connection:
        await reach.as_root(connection, host.login, _script(_LEAVE, host.login, stack, credentials.lab_key, host.name))


async def open_way(jumpbox: Login, stack: str, credentials: Credentials) -> None:
    """Let the lab's key pass through a jumpbox."""
    await _on_jumpbox(_ENTER, jumpbox, stack, credentials)


async def close_way(jumpbox: Login, stack: str, credentials: Credentials) -> None:
    """The reverse of `open_way`; the key alone cannot run anything there, so the user's own way in serves."""
    await _on_jumpbox(_LEAVE, jumpbox, stack, credentials)


async def _on_jumpbox(script: Path, jumpbox: Login, stack: str, credentials: Credentials) -> None:
    assert credentials.lab_key is not None
    users = Credentials(key=credentials.key)
    async with await reach.dial(jumpbox, users) as connection:
        text = _script(script, jumpbox, stack, credentials.lab_key, None)
        done = await connection.run(f"bash -c {quote(text)}", check=False)
    if done.returncode != 0:
        raise HostError(f"{jumpbox}: {str(done.stderr).strip()}")


def _script(file: Path, login: Login, stack: str, lab_key: str, machine: str | None) -> str:
    """The script with the words that it wants; without a machine's name only a way is opened, or closed."""
    way_only = machine is None
    key = asyncssh.import_private_key(lab_key).export_public_key().decode().split()
    words = {
        "user": login.user,
        "stack": stack,
        "mark": "" if machine is None else mark(stack, lab_key, machine),
        # What the steps are written in: on the machine it may be gone already.
        "verbs": "" if way_only or file is _ENTER else "\n".join(verbs.read_text() for verbs in _VERBS),
        "line": f"{_WAY_ONLY if way_only else ''}{key[0]} {key[1]} hardway-{stack}",
    }
    return "\n".join([*(f"{name}={quote(value)}" for name, value in words.items()), file.read_text()])
