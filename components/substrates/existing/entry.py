"""The lab's way into a host and out again: its public key, sudo without a password, and a mark whose host it is.

Entered with what the user has (a key, or a password once), left with the lab's own key. Everything else that a lab does
to a host comes between the two.
"""

import re
from dataclasses import replace
from pathlib import Path
from shlex import quote

import asyncssh

from components.substrates.existing import lab_keys, reach
from components.substrates.existing.plan import Host, Login
from components.substrates.existing.reach import Credentials, HostError
from config import ssh_comment

_VERBS = [Path(__file__).parents[2] / name for name in ("step.sh", "worker.sh")]
_LIBRARY = (Path(__file__).parents[2] / "replace.sh", Path(__file__).with_name("entry.sh"))
_LOOK, _ENTER, _SETTLE, _WITHDRAW, LEAVE = (
    Path(__file__).with_name(name) for name in ("look.sh", "enter.sh", "settle.sh", "withdraw.sh", "leave.sh")
)
_MARK = re.compile(r"\S+ SHA256:[A-Za-z0-9+/]+ \S+")
# On a jumpbox the key opens a way and nothing else.
_WAY_ONLY = "restrict,port-forwarding "


def mark(stack: str, lab_key: str, machine: str) -> str:
    """What says on a host whose it is: the lab's name, its key's fingerprint, and which machine of the lab it is.

    Args:
        stack: the lab's name.
        lab_key: its private keys (see lab_keys.py).
        machine: its name in the lab.
    """
    return f"{stack} {lab_keys.read(lab_key).identity} {machine}"


def is_mark(text: str) -> bool:
    """Whether a text can be a lab's mark, as `mark` writes it; `mark_is` of entry.sh decides in the same way."""
    return _MARK.fullmatch(text) is not None


async def enter(host: Host, stack: str, credentials: Credentials) -> None:
    """Let the lab's key in; see that it opens the host by itself from now on, and sudo without a password.

    Where the lab logged in as another user before, it leaves as that one. An entry that fails is undone.

    Raises:
        HostError: with the reason.
    """
    assert credentials.lab_key is not None
    login = host.login

    def script(file: Path) -> str:
        assert credentials.lab_key is not None
        return _script(file, login, stack, credentials.lab_key, host.name)

    async with reach.connected(host, credentials) as connection:
        # Refuses a host with another mark before anything is done there.
        before = await reach.as_root(connection, login, script(_LOOK), quiet=True)
        try:
            await reach.as_root(connection, login, script(_ENTER))
            await _check(host, stack, credentials, connection)
        except HostError as reason:
            # Steps of a running lab stay, and its access stays.
            undo = LEAVE if "steps" not in before else _WITHDRAW if "entered" not in before else None
            if undo is None:
                raise
            try:
                await reach.as_root(connection, login, script(undo))
            except HostError as left:
                raise HostError(
                    f"{reason}\nWhat was done on {host.name} could not be undone: {left}\n"
                    f"`./hardway free -s {stack} {host.name}` undoes it"
                ) from None
            raise HostError(f"{reason}\nThe lab left nothing on {host.name} by this.") from None
        await reach.as_root(connection, login, script(_SETTLE))


async def _check(host: Host, stack: str, credentials: Credentials, users: asyncssh.SSHClientConnection) -> None:
    """See that each of the lab's keys alone opens the host, and that sudo asks for nothing then."""
    for key in lab_keys.read(credentials.lab_key or "").private:
        text = key.export_private_key().decode()
        await _check_key(host, stack, replace(credentials, lab_key=text, lab_key_only=True), users)


async def _check_key(host: Host, stack: str, alone: Credentials, users: asyncssh.SSHClientConnection) -> None:
    try:
        async with reach.connected(host, alone) as connection:
            await reach.as_root(connection, host.login, "true", without_password=True)
    except reach.SudoError as reason:
        raise HostError(
            f"{reason}, although /etc/sudoers.d/zzz-hardway-{stack} allows {host.login.user} all without one: a later "
            f"rule overrides it. `sudo -l -U {host.login.user}` lists the rules, of which the last one counts"
        ) from None
    except HostError as reason:
        raise HostError(
            f"the lab's key is in ~{host.login.user}/.ssh/authorized_keys, and does not help: {reason}"
            f"{await _read_elsewhere(host, users)}"
        ) from None


async def _read_elsewhere(host: Host, connection: asyncssh.SSHClientConnection) -> str:
    """What sshd says where it reads keys from, if not from there."""
    asked = f"user={host.login.user},host=localhost,addr=127.0.0.1"
    try:
        said = await reach.as_root(
            connection,
            host.login,
            f"PATH=$PATH:/usr/sbin:/sbin; sshd -T -C {quote(asked)} | grep -i ^authorizedkeysfile",
        )
    except HostError:
        return ""
    files = said.split()[1:]
    if any(file in (".ssh/authorized_keys", "%h/.ssh/authorized_keys") for file in files):
        return ""
    return (
        f"\nIts sshd reads keys from {' '.join(files) or 'nowhere'} (AuthorizedKeysFile in its configuration): add "
        ".ssh/authorized_keys to that line, and restart sshd"
    )


async def leave(host: Host, stack: str, credentials: Credentials) -> None:
    """Take everything back that `enter` did; it may be gone already.

    Raises:
        HostError: with the reason.
    """
    assert credentials.lab_key is not None
    async with reach.connected(host, credentials) as connection:
        await reach.as_root(connection, host.login, _script(LEAVE, host.login, stack, credentials.lab_key, host.name))


async def open_way(jumpbox: Login, stack: str, credentials: Credentials) -> None:
    """Let the lab's key pass through a jumpbox."""
    await _on_jumpbox(_ENTER, jumpbox, stack, credentials)


async def close_way(jumpbox: Login, stack: str, credentials: Credentials) -> None:
    """The reverse of `open_way`; the key alone cannot run anything there, so the user's own way in serves."""
    await _on_jumpbox(LEAVE, jumpbox, stack, credentials)


async def _on_jumpbox(script: Path, jumpbox: Login, stack: str, credentials: Credentials) -> None:
    assert credentials.lab_key is not None
    users = replace(credentials, lab_key=None)
    async with await reach.dial(jumpbox, users) as connection:
        text = _script(script, jumpbox, stack, credentials.lab_key, None)
        await reach.as_user(connection, jumpbox, text)


def _script(file: Path, login: Login, stack: str, lab_key: str, machine: str | None) -> str:
    """The script of a lab whose keys are known; without a machine's name only a way is opened, or closed."""
    keys = lab_keys.read(lab_key)
    options = _WAY_ONLY if machine is None else ""
    comment = f"hardway-{stack}" if keys.first is None else ssh_comment.comment(stack, keys.identity)
    return rendered(
        file,
        user=login.user,
        stack=stack,
        mark="" if machine is None else mark(stack, lab_key, machine),
        line="\n".join(f"{options}{lab_keys.public(key)} {comment}" for key in keys.private),
        former="" if keys.first is None else f"{options}{keys.first} hardway-{stack}",
        comment="" if keys.first is None else comment,
    )


def rendered(
    file: Path,
    *,
    user: str,
    stack: str,
    mark: str,
    line: str,
    freed: bool = False,
    former: str = "",
    comment: str = "",
) -> str:
    """One of the scripts beside this file, with the words that it wants; `freed`: the user has confirmed the mark."""
    words = {
        "user": user,
        "stack": stack,
        "mark": mark,
        "line": line,
        "former": former,
        "comment": comment,
        "freed": "yes" if freed else "",
        # What the steps are written in: on the machine it may be gone already.
        "verbs": "\n".join(verbs.read_text() for verbs in _VERBS) if file is LEAVE and mark else "",
    }
    return "\n".join(
        [
            *(f"{name}={quote(value)}" for name, value in words.items()),
            *(part.read_text() for part in (*_LIBRARY, file)),
        ]
    )
