import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from upstream_server import Upstream

from toolchain import pulumi_cli
from toolchain.errors import ToolchainError
from toolchain.from_source import gomodule
from toolchain.from_source.gomodule import Programs
from toolchain.progress import Part, Report
from toolchain.versions import tools

VERSION = tools().pulumi
ARCHIVE = f"pulumi-v{VERSION}-linux-x64.tar.gz"


def release(programs: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in programs.items():
            entry = tarfile.TarInfo(f"pulumi/{name}")
            entry.size, entry.mode = len(text), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def says(version: str) -> str:
    return f"#!/bin/sh\necho {version}\n"


@pytest.fixture(autouse=True)
def _no_pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.delenv("TOOLCHAIN", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'own'}:/usr/bin:/bin")
    monkeypatch.setattr(pulumi_cli, "architecture", lambda: "amd64")


@pytest.fixture
def released(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    archive = release({"pulumi": says(f"v{VERSION}"), "pulumi-language-python": "", "pulumi-watch": ""})
    sha256 = upstream.publish(f"v{VERSION}/{ARCHIVE}", archive)
    pinned = replace(tools(), pulumi_archive={"amd64": sha256, "arm64": "0" * 64})
    monkeypatch.setattr(pulumi_cli, "tools", lambda: pinned)
    return upstream


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A directory in front of PATH."""
    directory = tmp_path / "own"
    directory.mkdir()
    return directory


def put(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(text)
    (directory / name).chmod(0o755)


def test_the_release_is_unpacked_and_runs(released: Upstream, report: Report, cache: Path) -> None:
    command = pulumi_cli.ensure(report, releases=released.base_url)
    assert command == cache / "pulumi" / VERSION / "bin" / "pulumi"
    assert subprocess.run([command], capture_output=True, text=True, check=True).stdout == f"v{VERSION}\n"
    assert sorted(file.name for file in command.parent.iterdir()) == [
        *("pulumi", "pulumi-language-python", "pulumi-watch")
    ]
    assert [file.name for file in command.parent.parent.iterdir()] == ["bin"]


def test_it_is_downloaded_once(released: Upstream, report: Report) -> None:
    pulumi_cli.ensure(report, releases=released.base_url)
    released.asked.clear()
    pulumi_cli.ensure(report, releases=released.base_url)
    assert released.asked == []


def test_an_archive_that_is_not_the_pinned_one_is_refused(released: Upstream, report: Report, cache: Path) -> None:
    # With the checksum beside it that fits.
    actual = released.publish(f"v{VERSION}/{ARCHIVE}", release({"pulumi": "evil", "pulumi-language-python": ""}))
    with pytest.raises(ToolchainError, match=actual):
        pulumi_cli.ensure(report, releases=released.base_url)
    assert not (cache / "pulumi" / VERSION / "bin").exists()


@pytest.mark.parametrize("version", [f"v{VERSION}", "v3.9999.0", "v4.0.0"])
def test_one_on_path_serves_if_it_is_new_enough(own: Path, report: Report, upstream: Upstream, version: str) -> None:
    put(own, "pulumi", says(version))
    put(own, "pulumi-language-python", "")
    assert pulumi_cli.ensure(report, releases=upstream.base_url) == own / "pulumi"
    assert upstream.asked == []


@pytest.mark.parametrize(
    ("version", "language_host"), [("v3.9.0", True), ("v2.9999.0", True), (f"v{VERSION}", False), ("gibberish", True)]
)
def test_one_on_path_that_is_old_or_lame_does_not(
    own: Path, report: Report, released: Upstream, cache: Path, version: str, language_host: bool
) -> None:
    put(own, "pulumi", says(version))
    if language_host:
        put(own, "pulumi-language-python", "")
    assert cache in pulumi_cli.ensure(report, releases=released.base_url).parents


def test_it_is_built_where_no_release_can_be_reached(
    report: Report, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(part: Part, programs: Programs, destination: Path, *, arch: str) -> None:
        (destination / "pulumi").write_text(" ".join(programs.linked))

    monkeypatch.setattr(gomodule, "build", build)
    command = pulumi_cli.ensure(report, releases="http://127.0.0.1:1")
    assert f"version.Version=v{VERSION}" in command.read_text()


def test_upstream_is_demanded_in_place_of_a_built_one(
    released: Upstream, report: Report, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = cache / "pulumi" / VERSION / "bin"
    built.mkdir(parents=True)
    put(built, "pulumi", "built here")
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    command = pulumi_cli.ensure(report, releases=released.base_url)
    assert command.read_text() == says(f"v{VERSION}")
