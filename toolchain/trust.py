"""`./hardway trust`: the host keys of a stack's machines, shown and pinned; from then on no others are connected to."""

import asyncio
from collections.abc import Sequence

from components.substrates.existing.plan import Host
from components.substrates.existing.reach import Credentials
from components.substrates.existing.trust import Shown, ask, fingerprints
from config import lab, trust
from config.problems import ConfigError
from config.whole_file import write_whole
from toolchain.errors import ToolchainError
from toolchain.stack import Stack, lab_of


def pin(stack: Stack) -> None:
    """Ask every host of a stack for its keys, print their fingerprints, and pin those that are new.

    Raises:
        ToolchainError: the stack has no hosts of its own, a host shows none, or another key than the pinned one.
    """
    described_lab = described(stack)
    if not described_lab.own_machines:
        raise ToolchainError(
            f"The machines of the stack {stack.name} are made with their host keys: there is nothing to trust."
        )
    asked = hosts(described_lab)
    shown = asyncio.run(
        ask(
            asked,
            Credentials(key=described_lab.settings.machines.key, timeout_factor=described_lab.settings.timeout_factor),
        )
    )
    names = {host.login: host.name for host in asked}
    for each in shown:
        _print(names.get(each.login, "jumpbox"), each)
    refused = [each for each in shown if each.changed]
    file = trust.file_of(stack.name)
    pinned = {**described_lab.trusted}
    for each in shown:
        if each.keys and not each.changed:
            pinned[trust.name_of(each.login.host, each.login.port)] = _all_of(each)
    here = {trust.name_of(each.login.host, each.login.port) for each in shown}
    file.parent.mkdir(exist_ok=True)
    write_whole(file, trust.text_of({host: keys for host, keys in pinned.items() if host in here}), mode=0o644)
    if any(each.new and each.keys for each in shown):
        print(
            f"\nPinned in {file}. Compare the fingerprints with what each host shows on its console:\n"
            "  for key in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $key; done"
        )
    _check(stack, shown, refused)


def _check(stack: Stack, shown: Sequence[Shown], refused: Sequence[Shown]) -> None:
    problems = [each.problem for each in shown if each.problem]
    for each in refused:
        name = trust.name_of(each.login.host, each.login.port)
        problems.append(
            f"{each.login} shows another key than the pinned one; that stays pinned. If you reinstalled the host:\n"
            f"    ssh-keygen -R '{name}' -f {trust.file_of(stack.name)} && ./hardway trust -s {stack.name}"
        )
    if problems:
        raise ToolchainError("\n".join(["Not all hosts can be trusted:", *(f"  {problem}" for problem in problems)]))


def _all_of(shown: Shown) -> list[str]:
    """The pinned keys, and those of further kinds that the host shows."""
    kinds = {key.split()[0] for key in shown.login.host_keys}
    return [*shown.login.host_keys, *(key for key in shown.keys if key.split()[0] not in kinds)]


def _print(name: str, shown: Shown) -> None:
    if not shown.keys:
        return
    state = "CHANGED" if shown.changed else "new" if shown.new else "as pinned"
    print(f"{name} ({shown.login}): {state}")
    for line in fingerprints(shown.keys):
        print(f"  {line}")


def hosts(described_lab: lab.Lab) -> Sequence[Host]:
    """The machines of a lab that exist already; none where it makes them."""
    if not described_lab.own_machines:
        return []
    # Imported here: the substrate needs Pulumi, which takes its time to load.
    from components.substrates.existing.substrate import hosts_of

    return hosts_of(described_lab)


def described(stack: Stack) -> lab.Lab:
    """The lab that a stack's settings file describes.

    Raises:
        ToolchainError: with all that is wrong in it.
    """
    document = lab_of(stack.settings_file, stack.project)
    try:
        return lab.parse(stack.name, {} if document is None else document)
    except ConfigError as error:
        raise ToolchainError(str(error)) from error
