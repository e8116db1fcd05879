"""The host that reaches the imitation only, with a lab of its own."""

from collections.abc import Iterator

import pytest

from labs.upstream.releases import Releases
from labs.upstream.upstream_host import UpstreamHost, upstream_host
from toolchain import paths, system
from toolchain.progress import Report
from toolchain.versions import tools


@pytest.fixture(scope="session")
def host() -> Iterator[UpstreamHost]:
    """The host, with nothing set up; its lab, if the tests have left one, ends with it."""
    # There is no apt on that host.
    with Report() as report:
        system.ensure(report, system.IMAGE_PULLS)
    with upstream_host("upstream") as made:
        pulumi = paths.cache() / "pulumi" / tools().pulumi / "bin" / "pulumi"
        python = str(made.checkout / ".venv" / "bin" / "python")
        releases = Releases(paths.mirror(), pulumi, made.checkout, python, made.directory / "releases")
        releases.write_versions()
        content = releases.content
        # What upstream does at times: set-up must get over each.
        content.limited += [name for name in content.files if "/runc." in name]
        content.cut += [name for name in content.files if "/etcd-v" in name]
        made.start(content)
        yield made
