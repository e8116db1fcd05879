"""The pins of a version are written from what upstream publishes, and nothing else of the file changes."""

import difflib
from pathlib import Path

import pytest
import yaml
from upstream_server import Upstream

from config.versions import pins as pinned
from toolchain import pins
from toolchain.errors import ToolchainError
from toolchain.progress import Report

_ARCHITECTURES = ("amd64", "arm64")
_NEW = "1.36.99"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A copy of versions.yaml."""
    copy = tmp_path / "versions.yaml"
    copy.write_text((Path(pins.__file__).parents[1] / "config" / "versions.yaml").read_text())
    return copy


def publish(upstream: Upstream, version: str, text: str = "") -> dict[str, dict[str, str]]:
    """Have all binaries of a version; give their sums."""
    product = pinned().products["kubernetes"]
    return {
        artifact: {
            arch: upstream.publish(
                product.path_of(artifact, version=version, arch=arch), f"{artifact} {arch} {text}".encode()
            )
            for arch in _ARCHITECTURES
        }
        for artifact in product.artifacts
    }


def write(report: Report, upstream: Upstream, file: Path, version: str) -> None:
    assert pins.write(report, version, releases=f"{upstream.base_url}/", file=file) == file


def test_a_new_versions_pins_are_added_and_no_line_goes(report: Report, upstream: Upstream, file: Path) -> None:
    sums, before = publish(upstream, _NEW), file.read_text()
    write(report, upstream, file, _NEW)
    after = file.read_text()
    document = yaml.safe_load(after)
    assert document["kubernetes"]["versions"][_NEW] == sums
    changes = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    assert {line[0] for line in changes} == {"+"}
    assert len(changes) == 1 + 7 * 3
    del document["kubernetes"]["versions"][_NEW]
    assert document == yaml.safe_load(before)


def test_a_version_that_is_there_gets_what_it_lacks(report: Report, upstream: Upstream, file: Path) -> None:
    sums = publish(upstream, _NEW)
    write(report, upstream, file, _NEW)
    complete = file.read_text()
    kubelet = sums["kubelet"]
    missing = f"      kubelet:\n        amd64: {kubelet['amd64']}\n        arm64: {kubelet['arm64']}\n"
    file.write_text(complete.replace(missing, ""))
    assert file.read_text() != complete
    write(report, upstream, file, _NEW)
    assert file.read_text() == complete


def test_a_version_in_the_middle_stays_in_its_place(report: Report, upstream: Upstream, file: Path) -> None:
    publish(upstream, _NEW)
    publish(upstream, "1.36.100")
    write(report, upstream, file, _NEW)
    write(report, upstream, file, "1.36.100")
    before = file.read_text()
    write(report, upstream, file, _NEW)
    assert file.read_text() == before


def test_a_published_sum_that_is_not_the_pinned_one_is_refused(report: Report, upstream: Upstream, file: Path) -> None:
    version = pinned().products["kubernetes"].default
    sums, before = publish(upstream, version), file.read_text()
    with pytest.raises(ToolchainError, match=r"differs from config/versions\.yaml") as refused:
        write(report, upstream, file, version)
    assert sums["kubelet"]["arm64"] in str(refused.value)
    assert file.read_text() == before


def test_a_sum_that_is_missing_leaves_the_file_as_it_is(report: Report, upstream: Upstream, file: Path) -> None:
    publish(upstream, _NEW)
    path = pinned().products["kubernetes"].path_of("kube-proxy", version=_NEW, arch="arm64")
    del upstream.files[f"{path}.sha256"]
    before = file.read_text()
    with pytest.raises(ToolchainError, match="kube-proxy"):
        write(report, upstream, file, _NEW)
    assert file.read_text() == before


@pytest.mark.parametrize("version", ["1.36", "v1.36.5", "1.36.5/../x", ""])
def test_what_is_no_version_is_refused_before_upstream_is_asked(
    report: Report, upstream: Upstream, file: Path, version: str
) -> None:
    with pytest.raises(ToolchainError, match="is no version of Kubernetes"):
        write(report, upstream, file, version)
    assert not upstream.asked
