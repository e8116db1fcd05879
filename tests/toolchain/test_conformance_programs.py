"""Kubernetes' conformance tests as programs: out of upstream's archive, or built from their module."""

import io
import tarfile
from pathlib import Path

import pytest
from upstream_server import Upstream

from toolchain import conformance, paths
from toolchain.errors import ToolchainError
from toolchain.from_source import gomodule
from toolchain.from_source.gomodule import Suites
from toolchain.origin import Release
from toolchain.progress import Part, Report
from toolchain.releases.download import ChecksumError
from toolchain.versions import architecture

VERSION = "1.36.4"
ARCHIVE = f"v{VERSION}/kubernetes-test-linux-{architecture()}.tar.gz"


def archive(**programs: bytes) -> bytes:
    """As upstream packs it: the programs among others, and a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        directory = tarfile.TarInfo("kubernetes/test/bin")
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        for name, content in programs.items():
            entry = tarfile.TarInfo(f"kubernetes/test/bin/{name.replace('_', '.')}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A host that is reached."""
    monkeypatch.delenv("TOOLCHAIN", raising=False)
    monkeypatch.setattr(Release, "why_not", lambda release: None)
    return cache


def test_programs_come_out_of_the_released_archive_once(released: Path, upstream: Upstream, report: Report) -> None:
    upstream.publish(ARCHIVE, archive(e2e_test=b"tests", ginkgo=b"runner", kubectl=b"x"))
    home = conformance.ensure(report, VERSION, releases=upstream.base_url)
    assert {each.name: each.read_bytes() for each in home.iterdir()} == {"e2e.test": b"tests", "ginkgo": b"runner"}
    assert all(each.stat().st_mode & 0o111 == 0o111 for each in home.iterdir())
    assert conformance.ensure(report, VERSION, releases=upstream.base_url) == home
    assert len(upstream.ranges(ARCHIVE)) == 1
    assert not list(released.rglob("*.tar.gz"))


def test_an_archive_that_is_another_one_than_at_the_first_download_is_refused(
    released: Path, upstream: Upstream, report: Report
) -> None:
    upstream.publish(ARCHIVE, archive(e2e_test=b"tests", ginkgo=b"runner"))
    home = conformance.ensure(report, VERSION, releases=upstream.base_url)
    for each in home.iterdir():
        each.unlink()
    home.rmdir()
    upstream.publish(ARCHIVE, archive(e2e_test=b"other", ginkgo=b"runner"))
    with pytest.raises(ChecksumError):
        conformance.ensure(report, VERSION, releases=upstream.base_url)
    assert not home.exists()


def test_an_archive_without_a_program_is_reported(released: Path, upstream: Upstream, report: Report) -> None:
    upstream.publish(ARCHIVE, archive(e2e_test=b"tests"))
    with pytest.raises(ToolchainError, match=r"tar\.gz has no ginkgo\."):
        conformance.ensure(report, VERSION, releases=upstream.base_url)


def test_where_the_release_cannot_be_reached_programs_are_built_once(
    monkeypatch: pytest.MonkeyPatch, cache: Path, report: Report, said: io.StringIO
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "source")
    built: list[Suites] = []

    def build(part: Part, programs: Suites, destination: Path, *, arch: str) -> None:
        built.append(programs)
        for name in (*programs.packages, *programs.tests):
            (destination / name).write_text(name)

    monkeypatch.setattr(gomodule, "build", build)
    home = conformance.ensure(report, VERSION)
    assert sorted(each.name for each in home.iterdir()) == ["e2e.test", "ginkgo"]
    assert conformance.ensure(report, VERSION) == home
    assert [each.module for each in built] == ["conformance"]
    assert "TOOLCHAIN=source is set: building conformance tests from Go modules takes about" in said.getvalue()


def test_a_version_without_a_module_cannot_be_built(
    monkeypatch: pytest.MonkeyPatch, cache: Path, report: Report
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "source")
    with pytest.raises(ToolchainError, match=r"conformance-1\.35\.8"):
        conformance.ensure(report, "1.35.8")


def test_the_module_has_the_default_version() -> None:
    text = (paths.modules() / "conformance" / "go.mod").read_text()
    assert f"require k8s.io/kubernetes v{VERSION}\n" in text
