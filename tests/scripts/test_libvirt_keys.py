"""Who can read the disks with SSH host keys: run as the substrate does, with a virsh of the test's own."""

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from components.substrates.libvirt.substrate import close_to_others
from config.libvirt import LibvirtSettings
from toolchain import paths

QEMU = 64055
CAPABILITIES = """<capabilities><host>
<secmodel><model>apparmor</model><doi>0</doi></secmodel>
<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>{user}</baselabel></secmodel>
</host></capabilities>"""


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """As libvirt makes it, with a disk in it as the provider makes it."""
    made = tmp_path / "pool"
    made.mkdir()
    made.chmod(0o711)
    (made / "a-cloud-init.iso").write_text("a key")
    (made / "a-cloud-init.iso").chmod(0o644)
    return made


def run(path: Path, tmp_path: Path, *, said: str = CAPABILITIES.format(user=f"+{QEMU}:+994"), status: int = 0) -> str:
    """Run the substrate's lines; return what they complain of."""
    (tmp_path / "said").write_text(said)
    virsh = tmp_path / "bin" / "virsh"
    virsh.parent.mkdir(exist_ok=True)
    virsh.write_text(
        f'#!/bin/sh\n[ "$*" = "-q -c qemu:///system capabilities" ] || exit 9\ncat {tmp_path}/said\nexit {status}\n'
    )
    virsh.chmod(0o755)
    lines = close_to_others("hardway-dev", LibvirtSettings(), str(path))
    assert f"libvirt/keys.py --uri 'qemu:///system' {shlex.quote(str(path))}" in lines
    done = subprocess.run(
        ["bash", "-c", lines],
        cwd=paths.checkout(),
        env=os.environ | {"PATH": f"{virsh.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "" and (done.returncode == 0) == (not done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


def owner_and_mode(path: Path) -> tuple[int, str]:
    found = path.stat()
    return found.st_uid, stat.filemode(found.st_mode)


def test_the_pool_and_a_disk_are_for_qemu_and_root_alone(pool: Path, tmp_path: Path) -> None:
    disk = pool / "a-cloud-init.iso"
    for _ in range(2):
        assert run(pool, tmp_path) == "" and run(disk, tmp_path) == ""
        assert owner_and_mode(pool) == (QEMU, "drwx------")
        assert owner_and_mode(disk) == (QEMU, "-rw-------")
    # An ordinary user, who knows the disk's name.
    tried = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "cat", disk], capture_output=True, check=False
    )
    assert tried.returncode != 0 and tried.stdout == b""


@pytest.mark.parametrize(
    ("said", "user"),
    [(CAPABILITIES.format(user="+0:+0"), 0), ("<capabilities><host/></capabilities>", 0)],
    ids=["qemu is root", "libvirt changes no owners"],
)
def test_where_qemu_is_root_they_are_roots(pool: Path, tmp_path: Path, said: str, user: int) -> None:
    assert run(pool, tmp_path, said=said) == ""
    assert owner_and_mode(pool) == (user, "drwx------")


@pytest.mark.parametrize(
    ("said", "status", "complaint"),
    [
        ("", 1, "does not report its capabilities"),
        ("<capabil", 0, "stays readable for others"),
        (CAPABILITIES.format(user="qemu"), 0, "has qemu run as 'qemu', which is no user's number"),
    ],
)
def test_an_unknown_user_is_an_error_and_nothing_is_changed(
    pool: Path, tmp_path: Path, said: str, status: int, complaint: str
) -> None:
    complained = run(pool, tmp_path, said=said, status=status)
    assert complaint in complained and len(complained.splitlines()) == 1
    assert owner_and_mode(pool) == (os.getuid(), "drwx--x--x")


def test_what_is_not_there_or_a_link_is_an_error(pool: Path, tmp_path: Path) -> None:
    assert "No such file" in run(pool / "none.iso", tmp_path)
    (pool / "link.iso").symlink_to(pool / "a-cloud-init.iso")
    assert "symbolic links" in run(pool / "link.iso", tmp_path)
    assert owner_and_mode(pool / "a-cloud-init.iso") == (os.getuid(), "-rw-r--r--")
