"""The node image, built by podman from a registry and a Debian repository: its base by digest, its packages by apt.

The recipe is cut to one package and one command: the whole one takes most of a minute (see test_first_run.py).
"""

from collections.abc import Iterator

import pytest
import yaml

from lab.commands import CHECKOUT
from labs.upstream import debian
from labs.upstream.imitation import TOKENS, Content
from labs.upstream.upstream_host import UpstreamHost, upstream_host
from toolchain import system
from toolchain.progress import Report

_BUILD = """
from toolchain import node_image
from toolchain.progress import Report
with Report() as report:
    node_image.ensure(report, "podman")
print(node_image.reference())
"""
_PACKAGE = "conntrack"
# The limits are those of the lab's machines: not every host can raise its own to podman's.
_FLAGS = ("--runtime=runc", "--network=none", "--ulimit=nofile=20000:20000", "--ulimit=nproc=4096:4096")


class Built:
    """An image, and what was asked for while it was built."""

    def __init__(self, host: UpstreamHost, packages: debian.Packages, base: str) -> None:
        self.host, self.packages, self.base = host, packages, base
        self.image = host.run(f"{CHECKOUT}/.venv/bin/python", "-c", _BUILD).splitlines()[-1]

    def run(self, *command: str) -> str:
        """What a command prints in a container of the image."""
        return self.host.run("podman", "run", "--rm", *_FLAGS, self.image, *command)


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    """The image, on a host that has none."""
    with Report() as report:
        system.ensure(report, (*system.PODMAN, *system.NODE_IMAGE))
    with upstream_host("node-image", bare=True) as host:
        content, blobs = Content(), host.directory / "blobs"
        blobs.mkdir()
        base = debian.add_base_image(content, blobs)
        versions = host.checkout / "config" / "versions.yaml"
        pinned = yaml.safe_load(versions.read_text())
        pinned["tools"]["node_image_base"] = base
        versions.write_text(yaml.safe_dump(pinned))
        recipe = host.checkout / "toolchain" / "node-image"
        (recipe / "packages").write_text(f"{_PACKAGE} # no more\n")
        (recipe / "customise.sh").write_text("echo customised > /etc/customised\n")
        host.start(content, names=[debian.NAME])
        packages = debian.Packages(host.enter())
        try:
            yield Built(host, packages, base)
        finally:
            packages.stop()


def test_the_base_is_pulled_by_its_digest_with_a_token(built: Built) -> None:
    asked = [one for one in built.host.requests() if "/library/debian/" in one["path"]]
    assert {one["path"].rpartition("/")[2] for one in asked if "/manifests/" in one["path"]} >= {built.base}
    assert [one for one in asked if "/manifests/bookworm-slim" in one["path"]] == []
    assert [one for one in asked if "/blobs/" in one["path"] and one["status"] == 200]
    assert [one for one in built.host.requests() if one["host"] == TOKENS]


def test_packages_come_from_debian_and_the_script_has_run(built: Built) -> None:
    assert [path for path in built.packages.requests if f"/{_PACKAGE}_" in path]
    assert built.run("sh", "-c", f"dpkg-query -W -f '${{Status}}' {_PACKAGE}; cat /etc/customised") == (
        "install ok installedcustomised\n"
    )


def test_nothing_of_the_recipe_stays_in_the_image(built: Built) -> None:
    assert built.run("ls", "/tmp") == ""


def test_no_other_host_was_asked_for(built: Built) -> None:
    assert built.host.names() == []


def test_another_base_than_the_pinned_one_is_refused(built: Built) -> None:
    """Where the registry has no such digest; it has the tag."""
    versions = built.host.checkout / "config" / "versions.yaml"
    versions.write_text(versions.read_text().replace(built.base, f"sha256:{'ab' * 32}"))
    recipe = built.host.checkout / "toolchain" / "node-image" / "customise.sh"
    recipe.write_text(f"# another image\n{recipe.read_text()}")
    with pytest.raises(AssertionError, match="ababab"):
        built.host.run(f"{CHECKOUT}/.venv/bin/python", "-c", _BUILD)
