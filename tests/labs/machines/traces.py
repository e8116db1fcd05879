"""What a lab has left on a host that stays, or has taken from it."""

import re
from collections.abc import Iterator

# What may differ, each with who does that.
_PASSING = {
    r"file: /var/log/": "logs",
    r"file: /run/": "what is gone with the next boot: systemd's, sudo's and daemons' own notes",
    r"file: /var/cache/(apt|debconf|ldconfig)": "apt's and dpkg's caches",
    r"file: /var/lib/apt/(lists|extended_states)": "apt's lists of what there is",
    r"file: /var/lib/dpkg/(status-old|available|triggers|lock)": "dpkg's last backup, and its locks",
    r"file: /var/lib/systemd/(deb-systemd-helper|catalog|random-seed|timers)": "systemd's notes",
    r"file: /etc/(passwd|group|shadow|gshadow|subuid|subgid)- ": "the last backup, made by useradd and userdel",
    r"file: /etc/ld\.so\.cache ": "ldconfig's cache",
    r"file: /var/www": "the page that Debian's nginx leaves when it is purged",
    r"file: /var/lib/haproxy": "the place for its log, which Debian's haproxy leaves when it is purged",
    r"file: /home/admin/\.sudo_as_admin_successful ": "sudo's note that its user has read the lecture",
    r"unit: (network-online\.target|session|user@|user-|run-|systemd-(tmpfiles|hostnamed)|apt|dpkg)": "by itself",
    r"process: ": "sshd and systemd, which come and go",
    r"sysctl: net/netfilter/nf_conntrack_(count|max|buckets)": "a counter; the host's own setting",
}
_PROGRAMS = re.compile("process: .*(kube|calico|etcd|containerd|haproxy|nginx)")


def traces(before: set[str], after: set[str]) -> Iterator[str]:
    """The lines of two listings that differ and are not known to."""
    passing = re.compile("|".join(_PASSING))
    changed = [*(f"- {line}" for line in before - after), *(f"+ {line}" for line in after - before)]
    yield from sorted(line for line in changed if not passing.match(line[2:]))
    yield from sorted(line for line in after - before if _PROGRAMS.match(line))
