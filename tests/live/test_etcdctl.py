"""What a slow lab asks etcdctl, asked of the real one: it ends where a deadline is both a flag and a variable."""

import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from small_lab import cluster

from components.etcd import etcd_client
from config.versions import pins
from live.probe import questions
from toolchain import paths
from toolchain.versions import architecture

_FILE = "/etc/etcd/etcdctl.env"
# What etcdctl says after it has read all its flags and variables, and before it dials.
_NEXT = "open /nowhere/client.crt: no such file or directory"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with etcdctl, of the release that the labs use."""
    product, arch = pins().products["etcd"], architecture()
    version = product.default
    directory = tmp_path_factory.mktemp("programs")
    with tarfile.open(paths.mirror() / product.path_of("etcd", version=version, arch=arch)) as release:
        program = release.extractfile(f"etcd-v{version}-linux-{arch}/etcdctl")
        assert program
        (directory / "etcdctl").write_bytes(program.read())
    (directory / "etcdctl").chmod(0o755)
    return directory


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """The file of a slow lab that etcdctl's deadlines are in."""
    files = etcd_client(
        ["https://127.0.0.1:1"], "/nowhere/ca.crt", "/nowhere/client.crt", "/nowhere/client.key", timeout_factor=10
    )
    (content,) = (file.content for file in files if file.path == _FILE)
    file = tmp_path / "etcdctl.env"
    file.write_text(str(content))
    return file


def said(script: str, programs: Path) -> str:
    environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0
    return ran.stdout + ran.stderr


def test_the_verbs_of_a_step(programs: Path, client: Path) -> None:
    verbs = paths.checkout() / "components" / "etcd.sh"
    assert _NEXT in said(f"TIMEOUT_FACTOR=10; . {verbs}; ETCD_CLIENT={client}; ctl member list", programs)


@pytest.mark.parametrize("question", ["etcd", "members"])
def test_the_questions_of_status(question: str, programs: Path, client: Path, tmp_path: Path) -> None:
    lab = cluster(tmp_path)
    asked = questions(lab, lab.etcd_members[0])[question]
    assert _NEXT in said(asked.replace(_FILE, str(client)), programs)


def test_a_person_waits_as_long_as_the_lab_allows(programs: Path, client: Path) -> None:
    """A variable would do nothing: most of etcdctl's commands have begun to count before they read it."""
    assert _NEXT in said(f". {client}; etcdctl member list", programs)
    file = client.read_text().replace("--command-timeout=50s", "--command-timeout=300ms")
    client.write_text(file.replace("https:", "http:"))
    began = time.monotonic()
    said(f". {client}; unset ETCDCTL_CACERT ETCDCTL_CERT ETCDCTL_KEY; etcdctl member list", programs)
    # Its own deadline is 5 s.
    assert time.monotonic() - began < 4
