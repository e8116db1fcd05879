"""Connections to hosts by SSH: pinned host keys, the lab's key or the user's, a password where there is no other way.

Passwords come from the environment and go nowhere else: HARDWAY_SSH_PASSWORD logs in, HARDWAY_SUDO_PASSWORD (else the
same) is what sudo asks for.
"""

import asyncio
import base64
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from components.substrates.existing import lab_keys
from components.substrates.existing.plan import Host, Login

SSH_PASSWORD, SUDO_PASSWORD = "HARDWAY_SSH_PASSWORD", "HARDWAY_SUDO_PASSWORD"
# A host that looks up its callers' names, or punishes a wrong password with a pause, takes some seconds.
_CONNECT_SECONDS = 15
# A host that answers nothing in between is given up, also in the middle of a script.
_KEEPALIVE_SECONDS, _KEEPALIVES = 5, 6
# OpenSSH's hardware-accelerated cipher first: artifacts are hundreds of megabytes.
_CIPHERS = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr"]


class HostError(Exception):
    """Why a host cannot be used, in one sentence."""


class SudoError(HostError):
    """The user may log in, and may not become root."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What opens the hosts.

    Args:
        lab_key: the lab's own private keys (see lab_keys.py), which hosts accept from the first `up` on.
        key: the file of the user's key.
        lab_key_only: whether nothing of the user's is tried.
        timeout_factor: what the deadlines of connections are multiplied by.
    """

    lab_key: str | None = field(default=None, repr=False)
    key: str | None = None
    lab_key_only: bool = False
    timeout_factor: int = 1

    def allowed(self, seconds: int) -> int:
        """A deadline of this lab: the seconds of a lab whose hosts are fast, times its `timeout_factor`."""
        return seconds * self.timeout_factor

    def options(self) -> dict[str, Any]:
        """For asyncssh. A key that is named is the only one of the user's that is tried: sshd ends a connection after
        six keys that it does not know, and an agent may have more."""
        keys: list[Any] = list(lab_keys.read(self.lab_key).private) if self.lab_key else []
        if self.lab_key_only:
            return {"client_keys": keys, "agent_path": None, "password": None}
        agent = os.environ.get("SSH_AUTH_SOCK")
        options: dict[str, Any] = {"client_keys": keys, "agent_path": agent}
        if self.key:
            if (named := _named_key(self.key, agent)) is None:
                options["agent_identities"] = [_public_half(self.key)]
            else:
                keys.append(named)
                options["agent_path"] = None
        else:
            for file in _own_keys():
                try:
                    keys.append(asyncssh.read_private_key(file))
                except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
                    # Not asked for by name: an agent may have it.
                    continue
        return {**options, "password": os.environ.get(SSH_PASSWORD) or None}


def _named_key(name: str, agent: str | None) -> asyncssh.SSHKey | None:
    """The key of lab.machines.key; None where it has a passphrase, and an agent may have it."""
    try:
        return asyncssh.read_private_key(Path(name).expanduser())
    except OSError as error:
        raise HostError(f"the key {name} (lab.machines.key) cannot be read: {error.strerror}") from None
    except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError) as error:
        encrypted = isinstance(error, asyncssh.KeyEncryptionError) or "passphrase" in str(error).lower()
        if not encrypted:
            raise HostError(f"{name} (lab.machines.key) is no private key: {error}") from None
        if agent is None:
            raise HostError(f"the key {name} has a passphrase: add it to an agent (ssh-add)") from None
        return None


def _public_half(name: str) -> asyncssh.SSHKey:
    file = Path(f"{name}.pub").expanduser()
    try:
        return asyncssh.read_public_key(file)
    except (OSError, asyncssh.KeyImportError):
        raise HostError(
            f"the key {name} has a passphrase, and {file} is not there, which says which of an agent's keys is meant: "
            f"`ssh-keygen -y -f {name} > {file}`"
        ) from None


def _own_keys() -> list[Path]:
    return [Path.home() / ".ssh" / f"id_{kind}" for kind in ("ed25519", "ecdsa", "rsa")]


@asynccontextmanager
async def connected(host: Host, credentials: Credentials) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A connection to a host, through its jumpbox where it has one.

    Raises:
        HostError: with the reason.
    """
    async with AsyncExitStack() as stack:
        tunnel = None
        if host.jumpbox is not None:
            tunnel = await stack.enter_async_context(await dial(host.jumpbox, credentials))
        yield await stack.enter_async_context(await dial(host.login, credentials, tunnel))


async def dial(
    login: Login, credentials: Credentials, tunnel: asyncssh.SSHClientConnection | None = None
) -> asyncssh.SSHClientConnection:
    """Log in.

    Raises:
        HostError: with the reason.
    """
    if not login.host_keys:
        raise HostError(f"{login}: its host key is not pinned yet: `./hardway trust` shows and pins it")
    seconds = credentials.allowed(_CONNECT_SECONDS)
    try:
        return await asyncio.wait_for(
            asyncssh.connect(
                login.host,
                login.port,
                username=login.user,
                known_hosts=([asyncssh.import_public_key(key) for key in login.host_keys], [], []),
                tunnel=tunnel or (),
                config=None,
                encryption_algs=_CIPHERS,
                # asyncssh's own deadline is of two minutes; the one below is enough.
                login_timeout=0,
                keepalive_interval=credentials.allowed(_KEEPALIVE_SECONDS),
                keepalive_count_max=_KEEPALIVES,
                **credentials.options(),
            ),
            seconds,
        )
    except asyncssh.HostKeyNotVerifiable:
        raise HostError(
            f"{login} has another host key than the pinned one: it may be another machine. If the machine was "
            "recreated, `./hardway trust` says how to pin the new one"
        ) from None
    except asyncssh.PermissionDenied:
        refused = "the keys" if credentials.options()["password"] is None else "the keys and the password"
        raise HostError(
            f"{login} refuses {refused}: name a key in lab.machines.key, or set {SSH_PASSWORD} for the first `up`"
        ) from None
    except TimeoutError:
        raise HostError(f"{login} does not answer within {seconds} s") from None
    except asyncssh.DisconnectError as error:
        if "Too many authentication failures" in str(error):
            raise HostError(
                f"{login} ends the connection after too many unknown keys (from the agent's, and those in "
                "~/.ssh): name the right one in lab.machines.key"
            ) from None
        raise HostError(f"{login} cannot be reached{' from its jumpbox' if tunnel else ''}: {error}") from None
    except (OSError, asyncssh.Error) as error:
        through = " from its jumpbox" if tunnel else ""
        raise HostError(f"{login} cannot be reached{through}: {error}") from None


# bash under sshd reads ~/.bashrc even for one command, but for --norc.
# Read by bash, whatever the login shell is: what a script prints stands behind a line that no login script prints.
_RUN = """\
script=$(base64 -d <<<"$1") token=$2
started() { printf '%s\\n' "$token"; printf '%s\\n' "$token" >&2; }
"""
_AS_USER = f"""{_RUN}
started
exec bash --norc -c "$script"
"""
# As root at once, or by a sudo that asks for nothing, or by one that reads the password from standard input.
_AS_ROOT = f"""{_RUN}
started
if [ "$(id -u)" = 0 ]; then exec bash --norc -c "$script"
elif ! command -v sudo >/dev/null; then echo "there is no sudo" >&2; exit 97
elif sudo -n true 2>/dev/null; then exec sudo -n bash --norc -c "$script"
else exec sudo -S -p '' bash --norc -c "$script"
fi
"""
_MOST_QUOTED = 200


async def as_root(
    connection: asyncssh.SSHClientConnection,
    login: Login,
    script: str,
    *,
    quiet: bool = False,
    without_password: bool = False,
) -> str:
    """What a bash script prints that root runs.

    Args:
        connection: to the host.
        login: who is logged in there.
        script: for bash.
        quiet: whether a login shell that prints by itself is an error.
        without_password: whether sudo must not ask for one.

    Raises:
        SudoError: the user may not become root.
        HostError: the script failed.
    """
    password = None
    if login.user != "root" and not without_password:
        password = os.environ.get(SUDO_PASSWORD) or os.environ.get(SSH_PASSWORD)
    return await _run(connection, login, (_AS_ROOT, script), password=password, quiet=quiet)


async def as_user(connection: asyncssh.SSHClientConnection, login: Login, script: str) -> str:
    """What a bash script prints that the login user runs.

    Raises:
        HostError: the script failed.
    """
    return await _run(connection, login, (_AS_USER, script), password=None, quiet=False)


async def _run(
    connection: asyncssh.SSHClientConnection,
    login: Login,
    scripts: tuple[str, str],
    *,
    password: str | None,
    quiet: bool,
) -> str:
    # In base64, and one line: sh, zsh and fish quote in different ways.
    token = secrets.token_hex(8)
    outer, inner = (base64.b64encode(text.encode()).decode() for text in scripts)
    process = await connection.create_process(f"bash --norc -c 'eval \"$(base64 -d <<<$0)\"' {outer} {inner} {token}")
    # A script that has ended by now needs no password any more.
    with suppress(OSError):
        if password:
            process.stdin.write(f"{password}\n")
        process.stdin.write_eof()
    done = await process.wait()
    if done.returncode is None:
        raise HostError(
            f"{login}: the connection broke, or the host does not answer: run the same command again when it answers"
        )
    before, started, printed = str(done.stdout or "").partition(f"{token}\n")
    errors = str(done.stderr or "")
    said = (errors.partition(f"{token}\n")[2] if started else errors).strip()
    if not started:
        raise HostError(_no_command(login, f"{before.strip()} {said}".strip(), done.returncode))
    if quiet and before.strip():
        raise HostError(
            f"{login}: the login shell prints {_shortened(before)!r} before a command runs, and the lab reads what "
            "commands print: let ~/.bashrc, or the shell's own file, print in interactive shells only"
        )
    if done.returncode == 0:
        return printed
    if "incorrect password attempt" in said or "Sorry, try again" in said:
        raise SudoError(f"{login}: sudo refuses the password in {SUDO_PASSWORD}")
    if "a password is required" in said or "no password was provided" in said:
        raise SudoError(f"{login}: sudo wants a password: set {SUDO_PASSWORD} for the first `up`")
    if "not in the sudoers file" in said or "may not run sudo" in said or "is not allowed to" in said:
        raise SudoError(f"{login}: may not use sudo")
    raise HostError(f"{login}: {said or f'a script ended with status {done.returncode}'}")


def _no_command(login: Login, said: str, status: int | None) -> str:
    """What is said where the host lets the user in, and runs something else than what it was told."""
    fix = "set user= to a user who may" if login.user == "root" else "give it a shell that does, or set another user="
    words = f"the host said: {_shortened(said)!r}" if said else f"the host said nothing, status {status}"
    return f"{login}: {login.user} may not log in here to run commands; {fix} (machine database). {words}"


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}..."
