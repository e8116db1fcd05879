"""Images are pulled from a real registry server by skopeo; no container engine is asked."""

import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import registry_server
from registry_server import Registry

from config.versions import Image, pins
from toolchain import images, paths, system
from toolchain.errors import ToolchainError
from toolchain.ledger import Ledger
from toolchain.progress import Part, Report
from toolchain.releases import registry


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    # What set-up installs on a user's machine; here it is for the tests to need it.
    with Report() as report:
        system.ensure(report, system.IMAGE_PULLS)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "skopeo").symlink_to(shutil.which("skopeo") or "")
    with registry_server.serving(tmp_path) as (server, certificate):
        monkeypatch.setenv("PATH", str(programs))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield server


def image(server: Registry, digest: str | None = None) -> Image:
    return Image(
        registry=server.name,
        repository="some/image",
        tag="1.0",
        archive="{repository}-{tag}-{arch}.tar",
        digest=digest,
    )


@pytest.fixture
def part(report: Report) -> Iterator[Part]:
    with report.part("image") as part:
        yield part


def inside(archive: Path) -> tuple[list[str], str]:
    """The names that an archive has for its image, and its architecture."""
    with tarfile.open(archive) as tar:

        def read(name: str) -> Any:
            stream = tar.extractfile(name)
            assert stream
            return json.loads(stream.read())

        (described,) = read("manifest.json")
        return described["RepoTags"], read(described["Config"])["architecture"]


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_the_platform_is_the_one_asked_for_and_the_name_the_reference(
    server: Registry, part: Part, tmp_path: Path, arch: str
) -> None:
    digest, wanted = server.publish("1.0"), image(server)
    archive = tmp_path / "archive.tar"
    assert registry.pull(part, wanted, archive, arch, digest=digest) == digest
    assert inside(archive) == ([wanted.reference], arch)


def test_without_a_pin_the_tags_digest_is_looked_up(server: Registry, part: Part, tmp_path: Path) -> None:
    digest = server.publish("1.0")
    assert registry.pull(part, image(server), tmp_path / "archive.tar", "amd64", digest=None) == digest


def test_content_of_another_digest_is_refused(server: Registry, part: Part, tmp_path: Path) -> None:
    digest = server.publish("1.0", text="pinned")
    server.manifests[digest] = server.manifests[server.publish("1.0", text="another")]
    with pytest.raises(ToolchainError, match="cannot be pulled") as refused:
        registry.pull(part, image(server), tmp_path / "archive.tar", "amd64", digest=digest)
    assert digest in str(refused.value)
    assert not (tmp_path / "archive.tar").exists()


@pytest.mark.parametrize("status", [403, 404])
def test_a_registry_that_refuses_is_named_with_what_to_do(
    server: Registry, part: Part, tmp_path: Path, status: int
) -> None:
    digest = server.publish("1.0")
    server.refusal = status
    with pytest.raises(ToolchainError) as refused:
        registry.pull(part, image(server), tmp_path / "archive.tar", "amd64", digest=digest)
    said = str(refused.value)
    assert server.name in said
    assert "some/image:1.0" in said
    assert "TOOLCHAIN=source" in said


def test_a_platform_that_is_missing_is_an_error(server: Registry, part: Part, tmp_path: Path) -> None:
    digest = server.publish("1.0", ("amd64",))
    with pytest.raises(ToolchainError, match="for arm64 cannot be pulled"):
        registry.pull(part, image(server), tmp_path / "archive.tar", "arm64", digest=digest)


def test_an_image_of_another_architecture_is_an_error(server: Registry, part: Part, tmp_path: Path) -> None:
    digest = server.publish_single("1.0", "amd64")
    with pytest.raises(ToolchainError, match="for amd64 only; this lab needs it for arm64"):
        registry.pull(part, image(server), tmp_path / "archive.tar", "arm64", digest=digest)


class TestInTheMirror:
    """What set-up does with the images of a lab that has one."""

    @pytest.fixture(autouse=True)
    def upstream(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOOLCHAIN", "upstream")

    @staticmethod
    def lab_of(chosen: Image, monkeypatch: pytest.MonkeyPatch) -> str:
        having = replace(pins(), images={"one": chosen})
        monkeypatch.setattr(images, "pins", lambda: having)
        return chosen.archive_path("amd64")

    def test_the_first_digest_is_locked(
        self, server: Registry, report: Report, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, path = server.publish("1.0", text="first"), self.lab_of(image(server), monkeypatch)
        images.ensure(report, (), arch="amd64")
        server.publish("1.0", text="second")
        (paths.mirror() / path).unlink()
        images.ensure(report, (), arch="amd64")
        assert Ledger(paths.mirror()).source(path) == f"{image(server).reference}@{first}"

    def test_what_was_pulled_without_the_pin_is_pulled_again(
        self, server: Registry, report: Report, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pinned = server.publish("1.0", text="pinned")
        server.publish("1.0", text="unpinned")
        path = self.lab_of(image(server), monkeypatch)
        images.ensure(report, (), arch="amd64")
        self.lab_of(image(server, pinned), monkeypatch)
        assert images.are_pulled((), "amd64")
        images.ensure(report, (), arch="amd64")
        assert Ledger(paths.mirror()).source(path) == f"{image(server).reference}@{pinned}"
        assert not images.are_pulled((), "amd64")

    def test_what_is_there_is_not_asked_for_again(
        self, server: Registry, report: Report, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.lab_of(image(server, server.publish("1.0")), monkeypatch)
        images.ensure(report, (), arch="amd64")
        server.asked.clear()
        images.ensure(report, (), arch="amd64")
        assert not server.asked
