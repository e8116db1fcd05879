"""Free a host of a lab that cannot take itself back: its state is lost, or an entry was killed. `./hardway free`.

Whose a host is stands on the host: the lab's name, its key's fingerprint, the machine's name. Only what belongs to that
key is removed, and only once the user has given the fingerprint.
"""

from dataclasses import dataclass
from shlex import quote

import asyncssh

from components.substrates.existing import entry, reach
from components.substrates.existing.plan import Host
from components.substrates.existing.reach import Credentials, HostError
from config.ssh_comment import identity_of

_LOOK = """\
[ ! -s /var/lib/hardway/lab ] || echo "mark $(paste -sd ' ' </var/lib/hardway/lab | tr -c '[:print:]\\n' '?')"
[ ! -d /var/lib/hardway ] || echo "is /var/lib/hardway"
for file in /etc/sudoers.d/hardway-$stack /etc/sudoers.d/zzz-hardway-$stack; do
  [ ! -e "$file" ] || echo "is $file"
done
getent passwd | cut -d : -f 6 | sort -u | while read -r home; do
  [ ! -e "$home/.ssh/authorized_keys" ] ||
    sed -n "s|^.* hardway-$stack\\(:SHA256:[A-Za-z0-9+/]*\\)\\{0,1\\}\\$|line &|p" "$home/.ssh/authorized_keys"
done
"""


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What of a lab is on a host.

    Args:
        mark: whose it is; empty where that is not there.
        lines: the lab's keys in files authorized_keys.
        files: what else there is.
    """

    mark: str
    lines: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def fingerprints(self) -> dict[str, str]:
        """The identity of a lab -> the lines of its keys; empty where only the mark has it."""
        found: dict[str, list[str]] = {self.mark.split()[1]: []} if self.mark else {}
        for line in self.lines:
            # Options may stand before a key. Once it was rotated, the fingerprint of the first one is behind it.
            key = " ".join(line.split()[-3:])
            identity = identity_of(line) or asyncssh.import_public_key(key).get_fingerprint()
            found.setdefault(identity, []).append(line)
        return {identity: "\n".join(lines) for identity, lines in found.items()}


async def free(host: Host, stack: str, credentials: Credentials, fingerprint: str | None) -> None:
    """Take back all that a lab did to a host.

    Args:
        host: where.
        stack: the lab's name.
        credentials: the user's own.
        fingerprint: of the lab's key, as the user gives it.

    Raises:
        HostError: it is another lab's, there is nothing, or the fingerprint is missing or another: what is there.
    """
    look = f"stack={quote(stack)}\n{_LOOK}"
    async with reach.connected(host, credentials) as connection:
        traces = _read(await reach.as_root(connection, host.login, look))
        key = _chosen(host, stack, traces, fingerprint)
        script = entry.rendered(
            entry.LEAVE,
            user=host.login.user,
            stack=stack,
            mark=f"{stack} {key} {host.name}",
            line=traces.fingerprints[key],
            freed=True,
        )
        await reach.as_root(connection, host.login, script)
        left = _read(await reach.as_root(connection, host.login, look))
    if left.mark or left.files or key in left.fingerprints:
        raise HostError(f"{host.login} still has {', '.join(left.files) or 'the key of the lab'}: look at it there")


def _read(said: str) -> Traces:
    found: dict[str, list[str]] = {"mark": [], "is": [], "line": []}
    for text in said.splitlines():
        word, _, value = text.partition(" ")
        found[word].append(value)
    # A damaged one names no lab.
    mark = next(filter(entry.is_mark, found["mark"]), "")
    return Traces(mark=mark, lines=tuple(dict.fromkeys(found["line"])), files=tuple(found["is"]))


def _chosen(host: Host, stack: str, traces: Traces, given: str | None) -> str:
    """The fingerprint of the lab that is to go.

    Raises:
        HostError: that is not this lab, or the user has not given the fingerprint.
    """
    if traces.mark and (traces.mark.split()[0], traces.mark.split()[-1]) != (stack, host.name):
        name, *_, machine = traces.mark.split()
        raise HostError(
            f"{host.login} is the machine {machine} of the lab {name}, not {host.name} of {stack}; nothing was changed"
        )
    if not traces.fingerprints and not traces.files:
        raise HostError(f"{host.login} has nothing of the lab {stack}")
    if not traces.fingerprints:
        raise HostError(
            f"{host.login} has {', '.join(traces.files)}, and neither a mark nor a key that says whose that is; "
            "nothing was changed: remove it by hand"
        )
    theirs = [traces.mark.split()[1]] if traces.mark else sorted(traces.fingerprints)
    if given in theirs:
        return given
    what = f"is {host.name} of the lab {stack}" if traces.mark else f"has keys of a lab {stack}, and no mark"
    raise HostError(
        f"{host.login} {what}; the key of that lab is {' or '.join(theirs)}{f', not {given}' if given else ''}; "
        "nothing was changed.\nIf that lab is yours and `./hardway destroy` cannot remove it (its state is lost), this "
        f"removes its steps, key, sudo rule and mark:\n  ./hardway free -s {stack} {host.name} {theirs[0]}"
    )
