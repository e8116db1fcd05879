"""What the tool chain asks of hosts that exist already: `./hardway trust` and `./hardway free`."""

import asyncio

from components.substrates.existing import free as host_free
from components.substrates.existing import trust as host_keys
from components.substrates.existing.reach import Credentials, HostError
from components.substrates.existing.substrate import hosts_of
from components.substrates.existing.trust import Shown
from components.substrates.operations import Operations
from config import trust
from config.errors import UserError
from config.lab import Lab
from config.whole_file import write_whole


class HostOperations(Operations):
    """The host keys, and what a lab whose state is lost has left."""

    def trust(self, lab: Lab) -> list[str]:
        """Ask every host for its keys, print their fingerprints, and pin those that are new."""
        hosts = hosts_of(lab)
        shown = asyncio.run(host_keys.ask(hosts, _credentials(lab)))
        names = {host.login: host.name for host in hosts}
        for each in shown:
            _print(names.get(each.login, "jumpbox"), each)
        file = trust.file_of(lab.name)
        pinned = {**lab.trusted}
        for each in shown:
            if each.keys and not each.changed:
                pinned[_place(each)] = _all_of(each)
        here = {_place(each) for each in shown}
        file.parent.mkdir(exist_ok=True)
        write_whole(file, trust.text_of({host: keys for host, keys in pinned.items() if host in here}), mode=0o644)
        if any(each.new and each.keys for each in shown):
            print(
                f"\nPinned in {file}. Compare the fingerprints with what each host shows on its console:\n"
                "  for key in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $key; done"
            )
        return [each.problem for each in shown if each.problem] + [
            f"{each.login} shows another key than the pinned one; that stays pinned. If you reinstalled the host:\n"
            f"    ssh-keygen -R '{_place(each)}' -f {file} && ./hardway trust -s {lab.name}"
            for each in shown
            if each.changed
        ]

    def free(self, lab: Lab, machine: str, fingerprint: str | None) -> None:
        """By the user's own key or password."""
        hosts = {host.name: host for host in hosts_of(lab)}
        if machine not in hosts:
            raise UserError(f"The stack {lab.name} has no machine {machine!r} to free: it has {', '.join(hosts)}.")
        try:
            asyncio.run(host_free.free(hosts[machine], lab.name, _credentials(lab), fingerprint))
        except HostError as reason:
            raise UserError(str(reason)) from None
        print(f"{machine} ({hosts[machine].login}) is free: nothing of the lab {lab.name} is on it.")


def _credentials(lab: Lab) -> Credentials:
    return Credentials(key=lab.settings.machines.key, timeout_factor=lab.settings.timeout_factor)


def _place(shown: Shown) -> str:
    return trust.name_of(shown.login.host, shown.login.port)


def _all_of(shown: Shown) -> list[str]:
    """The pinned keys, and those of further kinds that the host shows."""
    kinds = {key.split()[0] for key in shown.login.host_keys}
    return [*shown.login.host_keys, *(key for key in shown.keys if key.split()[0] not in kinds)]


def _print(name: str, shown: Shown) -> None:
    if not shown.keys:
        return
    state = "CHANGED" if shown.changed else "new" if shown.new else "as pinned"
    print(f"{name} ({shown.login}): {state}")
    for line in host_keys.fingerprints(shown.keys):
        print(f"  {line}")
