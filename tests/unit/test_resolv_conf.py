"""Which name servers of a machine reach its pods: the kubelet's line, run by a shell on files of the test."""

import re
import subprocess
from pathlib import Path

import pytest

from components.kubelet import HOST_RESOLV_CONF, HOST_RESOLVED, RESOLV_CONF, resolv_conf_command

OWN, ENGINES = "/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"
NOBODY = "nameserver 192.0.2.53\n"


def pods_get(directory: Path, files: dict[str, str]) -> tuple[str, str]:
    """The file that pods inherit, and what was said."""
    # What systemd does with the line.
    line = resolv_conf_command().replace("$$", "$").replace("%%", "%")
    for number, path in enumerate((OWN, HOST_RESOLV_CONF, HOST_RESOLVED, RESOLV_CONF, ENGINES)):
        line = re.sub(rf"(?<![\w/]){re.escape(path)}", str(directory / str(number)), line)
        if path in files:
            (directory / str(number)).write_text(files[path])
    match = re.fullmatch(r"/bin/sh -c '(.*)'", line, re.S)
    assert match
    done = subprocess.run(["/bin/sh", "-c", match[1]], capture_output=True, text=True, check=True)
    return (directory / "3").read_text(), done.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("nameserver 192.168.127.1\n", "nameserver 192.168.127.1\n"),
        ("nameserver 10.127.0.2\n", "nameserver 10.127.0.2\n"),
        ("nameserver\t10.0.0.2\n", "nameserver 10.0.0.2\n"),
        (" nameserver 10.0.0.2\n", "nameserver 10.0.0.2\n"),
        ("nameserver 10.0.0.2", "nameserver 10.0.0.2\n"),
        ("nameserver 10.0.0.2 # 127.0.0.1 was here\n", "nameserver 10.0.0.2\n"),
        ("nameserver 2001:db8::53\n", "nameserver 2001:db8::53\n"),
        # A cloud's.
        ("nameserver 169.254.169.254\n", "nameserver 169.254.169.254\n"),
        ("search lab.example\nnameserver 127.0.0.1\nnameserver 10.0.0.2\n", "nameserver 10.0.0.2\n"),
        ("nameserver ::1\n", NOBODY),
        ("nameserver ::ffff:127.0.0.1\n", NOBODY),
        ("nameserver fe80::1%eth0\n", NOBODY),
        ("nameserver FE80::1\n", NOBODY),
        ("nameserver 127.0.0.53\noptions edns0\n", NOBODY),
        ("# nameserver 10.0.0.2\n", NOBODY),
        ("nameserver\n", NOBODY),
        ("", NOBODY),
    ],
)
def test_a_line(tmp_path: Path, given: str, expected: str) -> None:
    found, said = pods_get(tmp_path, {ENGINES: given})
    assert found == expected
    assert ("No name server that pods can reach" in said) is (expected == NOBODY)


def test_no_file_at_all(tmp_path: Path) -> None:
    assert pods_get(tmp_path, {})[0] == NOBODY


def test_a_file_counts_only_where_it_leaves_one(tmp_path: Path) -> None:
    """Docker's own in the machine, and systemd-resolved's on the host."""
    files = {ENGINES: "nameserver 127.0.0.11\n", HOST_RESOLV_CONF: "nameserver 127.0.0.53\n"}
    assert pods_get(tmp_path, files)[0] == NOBODY
    assert pods_get(tmp_path, {**files, HOST_RESOLVED: "nameserver 10.0.0.2\n"})[0] == "nameserver 10.0.0.2\n"


def test_the_machines_own_resolver_goes_first(tmp_path: Path) -> None:
    files = {OWN: "nameserver 10.0.0.1\n", ENGINES: "nameserver 10.0.0.2\n"}
    assert pods_get(tmp_path, files)[0] == "nameserver 10.0.0.1\n"
