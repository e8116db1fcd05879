"""Connections to hosts by SSH: pinned host keys, the lab's key or the user's, a password where there is no other way.

Passwords come from the environment and go nowhere else: HARDWAY_SSH_PASSWORD logs in, HARDWAY_SUDO_PASSWORD (else the
same) is what sudo asks for.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import asyncssh

from hosts.plan import Host, Login

SSH_PASSWORD, SUDO_PASSWORD = "HARDWAY_SSH_PASSWORD", "HARDWAY_SUDO_PASSWORD"
# A host that looks up its callers' names, or punishes a wrong password with a pause, takes some seconds.
_CONNECT_SECONDS = 15
# OpenSSH's hardware-accelerated cipher first: artifacts are hundreds of megabytes.
_CIPHERS = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr"]


class HostError(Exception):
    """Why a host cannot be used, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What opens the hosts.

    Args:
        lab_key: the lab's own private key (OpenSSH), which is on the hosts from the first `up` on.
        key: the file of the user's key.
        lab_key_only: whether nothing of the user's is tried.
    """

    lab_key: str | None = field(default=None, repr=False)
    key: str | None = None
    lab_key_only: bool = False

    def options(self) -> dict[str, Any]:
        """For asyncssh."""
        keys: list[Any] = [asyncssh.import_private_key(self.lab_key)] if self.lab_key else []
        if self.lab_key_only:
            return {"client_keys": keys, "agent_path": None, "password": None}
        if self.key:
            file = Path(self.key).expanduser()
            try:
                keys.append(asyncssh.read_private_key(file))
            except OSError as error:
                raise HostError(f"the key {self.key} (lab.machines.key) cannot be read: {error.strerror}") from None
            except asyncssh.KeyEncryptionError:
                raise HostError(f"the key {self.key} has a passphrase: hand it to an agent (ssh-add)") from None
            except asyncssh.KeyImportError as error:
                raise HostError(f"{self.key} (lab.machines.key) is no private key: {error}") from None
        else:
            for file in _own_keys():
                try:
                    keys.append(asyncssh.read_private_key(file))
                except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
                    # Not asked for by name: an agent may have it.
                    continue
        return {
            "client_keys": keys,
            "agent_path": os.environ.get("SSH_AUTH_SOCK"),
            "password": os.environ.get(SSH_PASSWORD) or None,
        }


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
        raise HostError(f"{login}: its host key is not pinned yet: `make trust` shows and pins it")
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
                **credentials.options(),
            ),
            _CONNECT_SECONDS,
        )
    except asyncssh.HostKeyNotVerifiable:
        raise HostError(
            f"{login} shows another host key than the pinned one: somebody else may be answering. If the machine was "
            "made anew, `make trust` says how to pin the new one"
        ) from None
    except asyncssh.PermissionDenied:
        refused = "the keys" if credentials.options()["password"] is None else "the keys and the password"
        raise HostError(
            f"{login} refuses {refused}: name a key in lab.machines.key, or set {SSH_PASSWORD} for the first `up`"
        ) from None
    except TimeoutError:
        raise HostError(f"{login} does not answer within {_CONNECT_SECONDS} s") from None
    except (OSError, asyncssh.Error) as error:
        through = " from its jumpbox" if tunnel else ""
        raise HostError(f"{login} cannot be reached{through}: {error}") from None


# As root at once, or by a sudo that asks for nothing, or by one that reads the password from standard input.
_BECOME_ROOT = """\
if [ "$(id -u)" = 0 ]; then exec bash -c "$0"
elif ! command -v sudo >/dev/null; then echo "there is no sudo" >&2; exit 97
elif sudo -n true 2>/dev/null; then exec sudo -n bash -c "$0"
else exec sudo -S -p '' bash -c "$0"
fi"""


async def as_root(connection: asyncssh.SSHClientConnection, login: Login, script: str) -> str:
    """What a bash script prints that root runs.

    Raises:
        HostError: the user may not become root, or the script failed.
    """
    password = os.environ.get(SUDO_PASSWORD) or os.environ.get(SSH_PASSWORD)
    process = await connection.create_process(f"bash -c {quote(_BECOME_ROOT)} {quote(script)}")
    # A script that has ended by now needs no password any more.
    with suppress(OSError):
        if password and login.user != "root":
            process.stdin.write(f"{password}\n")
        process.stdin.write_eof()
    done = await process.wait()
    said = str(done.stderr or "").strip()
    if done.returncode == 0:
        return str(done.stdout or "")
    if "incorrect password attempt" in said or "Sorry, try again" in said:
        raise HostError(f"{login}: sudo refuses the password in {SUDO_PASSWORD}")
    if "a password is required" in said or "no password was provided" in said:
        raise HostError(f"{login}: sudo wants a password: set {SUDO_PASSWORD} for the first `up`")
    if "not in the sudoers file" in said or "may not run sudo" in said or "is not allowed to" in said:
        raise HostError(f"{login}: may not use sudo")
    raise HostError(f"{login}: {said or f'a script ended with status {done.returncode}'}")
