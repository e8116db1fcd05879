"""First contact: which keys hosts show, compared with those that are pinned already."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import asyncssh

from components.substrates.existing import reach
from components.substrates.existing.plan import Host, Login
from components.substrates.existing.reach import Credentials, HostError

_KINDS = ("ecdsa-sha2-nistp256", "ssh-ed25519", "rsa-sha2-256")
_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What came of asking one host.

    Args:
        login: where.
        keys: its public keys, as it showed them.
        problem: why it showed none.
    """

    login: Login
    keys: tuple[str, ...] = ()
    problem: str = ""

    @property
    def changed(self) -> bool:
        """Whether a key is another than the pinned one of its kind, or none is a pinned one."""
        pinned = dict(key.split()[:2] for key in self.login.host_keys)
        shown = dict(key.split()[:2] for key in self.keys)
        common = pinned.keys() & shown.keys()
        return bool(pinned) and (not common or any(pinned[kind] != shown[kind] for kind in common))

    @property
    def new(self) -> bool:
        """Whether nothing is pinned yet."""
        return not self.login.host_keys


async def ask(hosts: Sequence[Host], credentials: Credentials) -> list[Shown]:
    """The keys of all hosts and of their jumpboxes, each asked once, the jumpboxes first.

    A jumpbox is logged in to only with the key that it showed, and only if that is no other than the pinned one.
    """
    seconds = credentials.allowed(_SECONDS)
    jumpboxes = list(dict.fromkeys(host.jumpbox for host in hosts if host.jumpbox))
    seen = dict(
        zip(jumpboxes, await asyncio.gather(*(_shown(jumpbox, None, seconds) for jumpbox in jumpboxes)), strict=True)
    )
    behind = await asyncio.gather(*(_host(host, seen, credentials) for host in hosts if host.login not in seen))
    return [*seen.values(), *behind]


async def _host(host: Host, jumpboxes: Mapping[Login, Shown], credentials: Credentials) -> Shown:
    seconds = credentials.allowed(_SECONDS)
    if host.jumpbox is None:
        return await _shown(host.login, None, seconds)
    jumpbox = jumpboxes[host.jumpbox]
    if jumpbox.problem or jumpbox.changed:
        return Shown(login=host.login, problem=f"{host.login} cannot be asked: see its jumpbox {host.jumpbox}")
    try:
        async with _through(jumpbox, credentials) as tunnel:
            return await _shown(host.login, tunnel, seconds)
    except HostError as reason:
        return Shown(login=host.login, problem=str(reason))


@asynccontextmanager
async def _through(jumpbox: Shown, credentials: Credentials) -> AsyncIterator[asyncssh.SSHClientConnection]:
    async with await reach.dial(replace(jumpbox.login, host_keys=jumpbox.keys), credentials) as tunnel:
        yield tunnel


async def _shown(login: Login, tunnel: asyncssh.SSHClientConnection | None, seconds: int) -> Shown:
    answers = await asyncio.gather(*(_key(login, kind, tunnel, seconds) for kind in _KINDS))
    keys = tuple(answer for answer in answers if answer.partition(" ")[2])
    if keys:
        return Shown(login=login, keys=keys)
    return Shown(login=login, problem=f"{login} shows no host key: {answers[0].strip()}")


async def _key(login: Login, kind: str, tunnel: asyncssh.SSHClientConnection | None, seconds: int) -> str:
    """A public key; or, as one word, why there is none."""
    try:
        key = await asyncio.wait_for(
            asyncssh.get_server_host_key(
                login.host, login.port, tunnel=tunnel or (), config=None, server_host_key_algs=[kind]
            ),
            seconds,
        )
    except (OSError, asyncssh.Error, TimeoutError) as error:
        return (str(error) or f"no answer within {seconds} s").replace(" ", "\N{NO-BREAK SPACE}")
    return "" if key is None else " ".join(key.export_public_key().decode().split()[:2])


def fingerprints(keys: Sequence[str]) -> list[str]:
    """Kind and fingerprint of public keys, as `ssh-keygen -l` shows them."""
    return [f"{key.split()[0]} {asyncssh.import_public_key(key).get_fingerprint()}" for key in keys]
