"""The time of a first `make up`: a fresh copy of the project, nothing downloaded, releases and wheels within reach.

The lab is the one of Pulumi.dev.yaml. The wheels come from where pip on this host takes them, past pip's own cache; all
else comes from the imitation. Only the host's own packages (podman, skopeo) are installed already.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lab.commands import CHECKOUT
from toolchain import paths, system
from toolchain.progress import Report
from toolchain.versions import tools
from upstream import debian
from upstream.releases import Releases
from upstream.upstream_host import STACK, UpstreamHost

pytestmark = pytest.mark.long

# On two processors that do nothing else.
LIMIT_SECONDS = 240
_LAB = CHECKOUT / "Pulumi.dev.yaml"


@pytest.fixture
def host() -> Iterator[UpstreamHost]:
    """A host that has neither a virtual environment, nor a cache, nor an image."""
    with Report() as report:
        system.ensure(report, (*system.PODMAN, *system.NODE_IMAGE, *system.IMAGE_PULLS))
    directory = Path(tempfile.mkdtemp(prefix="hardway-first-run-", dir="/var/tmp"))
    made = UpstreamHost(directory, bare=True)
    try:
        settings = yaml.safe_load(_LAB.read_text())
        settings["config"]["hardway:lab"]["containers"] = {"engine": "podman"}
        (made.checkout / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump(settings))
        pulumi = paths.cache() / "pulumi" / tools().pulumi / "bin" / "pulumi"
        python = str(made.checkout / ".venv" / "bin" / "python")
        releases = Releases(paths.mirror(), pulumi, made.checkout, python, directory / "releases")
        base = debian.add_base_image(releases.content, directory / "releases" / "blobs")
        releases.versions["tools"]["node_image_base"] = base
        releases.write_versions()
        made.start(releases.content, names=[debian.NAME])
        packages = debian.Packages(made.enter())
        try:
            yield made
        finally:
            packages.stop()
    finally:
        try:
            made.stop()
        finally:
            shutil.rmtree(directory)


def test_a_first_run_takes_less_than_four_minutes(host: UpstreamHost) -> None:
    begin = time.monotonic()
    make_environment(host)
    environment = time.monotonic() - begin
    output = host.run("make", "up", f"STACK={STACK}")
    total = time.monotonic() - begin
    parts = "\n".join(line for line in output.splitlines() if re.search(r": done in|^Duration:", line.strip()))
    print(
        f"\n{parts}\n.venv {environment:.0f} s, make up {total - environment:.0f} s, together {total:.0f} s", flush=True
    )
    nodes = json.loads(host.toolchain("kubectl", "get nodes -o json"))["items"]
    conditions = [condition for node in nodes for condition in node["status"]["conditions"]]
    assert [one["status"] for one in conditions if one["type"] == "Ready"] == ["True", "True"]
    assert ": already there" not in output.partition("Updating (")[0], "something was there already"
    host.toolchain("destroy")
    assert total < LIMIT_SECONDS


def make_environment(host: UpstreamHost) -> None:
    """`make .venv` in this host's own network."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", ".venv"],
        cwd=host.checkout,
        env=own | {"PATH": host.environment["PATH"], "PIP_NO_CACHE_DIR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
