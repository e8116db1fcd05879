"""The time of a first `make up`: a fresh copy of the project, nothing downloaded, releases and wheels within reach.

The lab is the one of Pulumi.dev.yaml. Wheels come from where pip on the host takes them, without pip's cache. This
host has had the system packages before: they are installed once more, in a bare Debian root, and that time is added.
All else comes from the imitation, over loopback: the sum has no time of a slow line.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from lab.commands import CHECKOUT
from labs.upstream import debian
from labs.upstream.releases import Releases
from labs.upstream.upstream_host import STACK, UpstreamHost, upstream_host
from toolchain import paths, system
from toolchain.progress import Report
from toolchain.versions import tools

pytestmark = pytest.mark.long

# On two processors that do nothing else.
LIMIT_SECONDS = 240
_LAB = CHECKOUT / "Pulumi.dev.yaml"
_PACKAGES = (*system.PODMAN, *system.NODE_IMAGE, *system.ACCESS, *system.IMAGE_PULLS)
# In a mount namespace of its own.
_INSTALL = """set -eu
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
cp /etc/resolv.conf "$1/etc/resolv.conf"
export DEBIAN_FRONTEND=noninteractive
chroot "$1" apt-get -qq update
root=$1
shift
chroot "$root" apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "$@"
"""


@pytest.fixture
def host() -> Iterator[UpstreamHost]:
    """A host that has neither a virtual environment, nor a cache, nor an image."""
    with Report() as report:
        system.ensure(report, _PACKAGES)
    with upstream_host("first-run", bare=True) as made:
        settings = yaml.safe_load(_LAB.read_text())
        settings["config"]["hardway:lab"]["containers"] = {"engine": "podman"}
        (made.checkout / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump(settings))
        pulumi = paths.cache() / "pulumi" / tools().pulumi / "bin" / "pulumi"
        python = str(made.checkout / ".venv" / "bin" / "python")
        releases = Releases(paths.mirror(), pulumi, made.checkout, python, made.directory / "releases")
        base = debian.add_base_image(releases.content, made.directory / "releases" / "blobs")
        releases.versions["tools"]["node_image_base"] = base
        releases.write_versions()
        made.start(releases.content, names=[debian.NAME])
        packages = debian.Packages(made.enter())
        try:
            yield made
        finally:
            packages.stop()


def test_a_first_run_takes_less_than_four_minutes(host: UpstreamHost) -> None:
    root = host.directory / "root"
    root.mkdir()
    subprocess.run(["tar", "--extract", "--file", debian.base_layer(), "--directory", root], check=True)
    times = [time.monotonic()]
    install_packages(root)
    times.append(time.monotonic())
    make_environment(host)
    times.append(time.monotonic())
    output = host.run("make", "up", f"STACK={STACK}")
    times.append(time.monotonic())
    packages, environment, up = (end - begin for begin, end in pairwise(times))
    total = times[-1] - times[0]
    print(*(line for line in output.splitlines() if re.search(r": done in|^time taken", line)), sep="\n")
    print(f"system packages {packages:.0f} s, .venv {environment:.0f} s, make up {up:.0f} s, together {total:.0f} s")
    nodes = json.loads(host.toolchain("kubectl", "get", "nodes", "-o", "json"))["items"]
    conditions = [condition for node in nodes for condition in node["status"]["conditions"]]
    assert [one["status"] for one in conditions if one["type"] == "Ready"] == ["True", "True"]
    assert ": already there" not in output.partition("Updating (")[0], "something was there already"
    host.toolchain("destroy")
    assert total < LIMIT_SECONDS


def install_packages(root: Path) -> None:
    """What apt installs before and in a first run, in a root directory that has none of it."""
    names = [package.name for package in _PACKAGES if package.since_debian is None]
    needed = ("make", "git", "python3", "python3-venv")
    run("unshare", "--mount", "sh", "-c", _INSTALL, "sh", str(root), *names, *needed)


def make_environment(host: UpstreamHost) -> None:
    """`make .venv` in the host's own network."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment = own | {"PATH": host.environment["PATH"], "PIP_NO_CACHE_DIR": "1"}
    run("make", "--directory", str(host.checkout), ".venv", environment=environment)


def run(*command: str, environment: Mapping[str, str] | None = None) -> None:
    """Run a command on the host.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
