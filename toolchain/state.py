"""Where Pulumi keeps its state: the backend that the user is logged in to, else a directory in this checkout.

In the second case the secrets in the state are encrypted with a passphrase that is made here once. It is the
key to every lab of the checkout: it is never created again over a state that an earlier one has encrypted.
"""

import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from config import recorded_state
from config.whole_file import write_whole
from toolchain import paths
from toolchain.errors import ToolchainError

_OWN_PASSPHRASE = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")
# No checksum in a second file beside each file of the state: written 300 times in one `up`, it costs more than
# writing the state does, and one that a kill cuts short makes the state unreadable.
_WITHOUT_ATTRIBUTES = "?metadata=skip"


@dataclass(frozen=True, kw_only=True)
class State:
    """The state as the Pulumi CLI is told of it.

    Args:
        environment: the variables that lead the CLI to it; empty for a backend that it knows by itself.
        directory: where a backend of files has them; None for any other.
        own_passphrase: whether the passphrase is the one made here.
    """

    environment: dict[str, str]
    directory: Path | None
    own_passphrase: bool


def ensure() -> State:
    """Find the state or make it, with its passphrase.

    Raises:
        ToolchainError: there are encrypted stacks, and their passphrase is gone.
    """
    directory, passphrase = paths.state(), paths.state() / "passphrase"
    url = directory.as_uri() + _WITHOUT_ATTRIBUTES
    login = recorded_state.login()
    if login is not None and recorded_state.directory_of(login) != directory:
        return State(environment={}, directory=recorded_state.directory_of(login), own_passphrase=False)
    directory.mkdir(mode=0o700, exist_ok=True)
    if _has_passphrase_of_the_users(passphrase):
        return State(environment={"PULUMI_BACKEND_URL": url}, directory=directory, own_passphrase=False)
    if not passphrase.exists():
        if locked := _encrypted_stacks(directory):
            raise ToolchainError(_lost(passphrase, locked))
        _write_passphrase(passphrase)
    return State(
        environment={"PULUMI_BACKEND_URL": url, "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase)},
        directory=directory,
        own_passphrase=True,
    )


def directory() -> Path | None:
    """The directory of the backend of files that is in use; None for another backend. Makes nothing."""
    login = recorded_state.login()
    return paths.state() if login is None else recorded_state.directory_of(login)


def _has_passphrase_of_the_users(generated: Path) -> bool:
    # `./hardway env` exports the generated file's path: that is not a choice of the user's.
    return any(os.environ.get(name, str(generated)) != str(generated) for name in _OWN_PASSPHRASE)


def _encrypted_stacks(directory: Path) -> list[str]:
    stacks = []
    for file in sorted((directory / ".pulumi" / "stacks").glob("*/*.json")):
        try:
            # After a power failure it may end with NUL bytes.
            latest = json.loads(file.read_text().rstrip("\0")).get("checkpoint", {}).get("latest") or {}
        except ValueError:
            # What it says is lost: it may be encrypted.
            stacks.append(file.stem)
            continue
        if (latest.get("secrets_providers") or {}).get("type") == "passphrase":
            stacks.append(file.stem)
    return stacks


def _lost(passphrase: Path, stacks: list[str]) -> str:
    return (
        f"The passphrase is lost: {passphrase} is gone, and with it was encrypted the state of\n"
        f"{', '.join(stacks)}. Without it the keys of those labs cannot be read: Pulumi can neither change\n"
        "nor destroy them, and a new passphrase would not open them. Nothing was changed.\n"
        f"  - If there is a copy: put it back as {passphrase}, or name it in PULUMI_CONFIG_PASSPHRASE_FILE.\n"
        "  - If there is none, give those labs up: remove their machines by hand (for containers:\n"
        "    `podman ps --all`, `podman volume ls` and `podman network ls` show them), then remove\n"
        f"    {passphrase.parent / '.pulumi'}, and `./hardway up` starts from nothing."
    )


def _write_passphrase(passphrase: Path) -> None:
    """Write it whole or not at all, and leave it alone if another run was faster."""
    descriptor, draft = tempfile.mkstemp(dir=passphrase.parent)  # mode 600
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, passphrase)
    except FileExistsError:
        pass
    finally:
        Path(draft).unlink()


@contextmanager
def settings_file_kept(file: Path, state: State) -> Iterator[None]:
    """Undo what the CLI does to a stack's settings file, which is under version control, while it works.

    The CLI writes an `encryptionsalt` into it, and its own formatting. The state has that salt too, and with
    the generated passphrase it serves nothing else: the file gets its old text back. Any other change stays.

    Args:
        file: Pulumi.<stack>.yaml.
        state: leave the file alone where the passphrase is the user's.
    """
    before = file.read_bytes()
    try:
        yield
    finally:
        if state.own_passphrase and file.read_bytes() != before and _says_the_same(before, file.read_bytes()):
            write_whole(file, before, mode=file.stat().st_mode & 0o777)


def _says_the_same(before: bytes, after: bytes) -> bool:
    old: dict[str, Any] = yaml.safe_load(before) or {}
    new: dict[str, Any] = yaml.safe_load(after) or {}
    return old == {key: value for key, value in new.items() if key != "encryptionsalt" or key in old}
