"""Pins are written from what upstream publishes, and nothing else of the file changes."""

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import registry_server
import yaml
from registry_server import Registry
from upstream_server import Upstream

from cli.main import main
from config.versions import pins as pinned
from toolchain import node_image, system
from toolchain.errors import ToolchainError
from toolchain.progress import Report
from toolchain.releases import pins
from toolchain.versions import tools

_ARCHITECTURES = ("amd64", "arm64")
_NEW = "1.36.99"
_PULUMI = "github.com/pulumi/pulumi/releases/download/v3.999.0"
_TLS = "github.com/pulumi/pulumi-tls/releases/download/v5.9.9"


@pytest.fixture
def file(tmp_path: Path, cache: Path) -> Path:
    """A copy of versions.yaml."""
    copy = tmp_path / "versions.yaml"
    copy.write_text((Path(pins.__file__).parents[2] / "config" / "versions.yaml").read_text())
    return copy


def publish(upstream: Upstream, version: str, text: str = "") -> dict[str, dict[str, str]]:
    """Have all binaries of a version of Kubernetes; give their sums."""
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


def publish_list(
    upstream: Upstream, path: str, names: dict[str, str], algorithm: Callable[[bytes], Any] = hashlib.sha256
) -> dict[str, str]:
    """Have a list of checksums: architecture -> name of the file; give their sums."""
    sums = {arch: algorithm(f"{path} {arch}".encode()).hexdigest() for arch in names}
    others = f"{'0' * 64}  a-file-for-windows.zip\n{'1' * 64}  a-file-for-windows.zip.asc\n"
    listed = "".join(f"{sums[arch]}  {name}\n" for arch, name in names.items())
    upstream.files[path] = f"{others}{listed}".encode()
    return sums


def write(report: Report, upstream: Upstream, file: Path, version: str, *names: str) -> None:
    assert pins.write(report, names, version, releases=f"{upstream.base_url}/", file=file) == file


def lines_changed(before: str, after: str) -> list[str]:
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]


class TestKubernetes:
    """A version is added to those that a lab may ask for."""

    def test_a_new_versions_pins_are_added_and_no_line_goes(
        self, report: Report, upstream: Upstream, file: Path
    ) -> None:
        sums, before = publish(upstream, _NEW), file.read_text()
        write(report, upstream, file, _NEW, "kubernetes")
        after = file.read_text()
        document = yaml.safe_load(after)
        assert document["kubernetes"]["versions"][_NEW] == sums
        changes = lines_changed(before, after)
        assert {line[0] for line in changes} == {"+"}
        assert len(changes) == 1 + 7 * 3
        del document["kubernetes"]["versions"][_NEW]
        assert document == yaml.safe_load(before)

    def test_a_version_that_is_there_gets_what_it_lacks(self, report: Report, upstream: Upstream, file: Path) -> None:
        sums = publish(upstream, _NEW)
        write(report, upstream, file, _NEW, "kubernetes")
        complete = file.read_text()
        kubelet = sums["kubelet"]
        missing = f"      kubelet:\n        amd64: {kubelet['amd64']}\n        arm64: {kubelet['arm64']}\n"
        file.write_text(complete.replace(missing, ""))
        assert file.read_text() != complete
        write(report, upstream, file, _NEW, "kubernetes")
        assert file.read_text() == complete

    def test_a_version_in_the_middle_stays_in_its_place(self, report: Report, upstream: Upstream, file: Path) -> None:
        publish(upstream, _NEW)
        publish(upstream, "1.36.100")
        write(report, upstream, file, _NEW, "kubernetes")
        write(report, upstream, file, "1.36.100", "kubernetes")
        before = file.read_text()
        write(report, upstream, file, _NEW, "kubernetes")
        assert file.read_text() == before

    def test_a_published_sum_that_is_not_the_pinned_one_is_refused(
        self, report: Report, upstream: Upstream, file: Path
    ) -> None:
        version = pinned().products["kubernetes"].default
        sums, before = publish(upstream, version), file.read_text()
        with pytest.raises(ToolchainError, match=r"differs from config/versions\.yaml") as refused:
            write(report, upstream, file, version, "kubernetes")
        assert sums["kubelet"]["arm64"] in str(refused.value)
        assert file.read_text() == before

    def test_a_sum_that_is_missing_leaves_the_file_as_it_is(
        self, report: Report, upstream: Upstream, file: Path
    ) -> None:
        publish(upstream, _NEW)
        path = pinned().products["kubernetes"].path_of("kube-proxy", version=_NEW, arch="arm64")
        del upstream.files[f"{path}.sha256"]
        before = file.read_text()
        with pytest.raises(ToolchainError, match=r"kube-proxy\.sha256 does not exist \(404\)\.$"):
            write(report, upstream, file, _NEW, "kubernetes")
        assert file.read_text() == before


class TestOtherProducts:
    """A version becomes the one that labs get."""

    @pytest.mark.parametrize(
        ("product", "lists", "names"),
        [
            (
                "etcd",
                ["github.com/etcd-io/etcd/releases/download/v9.8.7/SHA256SUMS"] * 2,
                ["etcd-v9.8.7-linux-amd64.tar.gz", "etcd-v9.8.7-linux-arm64.tar.gz"],
            ),
            (
                "containerd",
                [
                    "github.com/containerd/containerd/releases/download/v9.8.7/containerd-9.8.7-linux-amd64.tar.gz.sha256sum",
                    "github.com/containerd/containerd/releases/download/v9.8.7/containerd-9.8.7-linux-arm64.tar.gz.sha256sum",
                ],
                ["containerd-9.8.7-linux-amd64.tar.gz", "containerd-9.8.7-linux-arm64.tar.gz"],
            ),
            (
                "runc",
                ["github.com/opencontainers/runc/releases/download/v9.8.7/runc.sha256sum"] * 2,
                ["runc.amd64", "runc.arm64"],
            ),
            (
                "cni-plugins",
                [
                    "github.com/containernetworking/plugins/releases/download/v9.8.7/cni-plugins-linux-amd64-v9.8.7.tgz.sha256",
                    "github.com/containernetworking/plugins/releases/download/v9.8.7/cni-plugins-linux-arm64-v9.8.7.tgz.sha256",
                ],
                ["cni-plugins-linux-amd64-v9.8.7.tgz", "cni-plugins-linux-arm64-v9.8.7.tgz"],
            ),
            (
                "calicoctl",
                ["github.com/projectcalico/calico/releases/download/v9.8.7/SHA256SUMS"] * 2,
                ["calicoctl-linux-amd64", "calicoctl-linux-arm64"],
            ),
        ],
    )
    def test_the_sums_are_read_where_upstream_publishes_them(
        self, report: Report, upstream: Upstream, file: Path, product: str, lists: list[str], names: list[str]
    ) -> None:
        by_arch = dict(zip(_ARCHITECTURES, names, strict=True))
        if len(set(lists)) == 1:
            sums = publish_list(upstream, lists[0], by_arch)
        else:
            sums = {}
            for arch, path in zip(_ARCHITECTURES, lists, strict=True):
                sums |= publish_list(upstream, path, {arch: by_arch[arch]})
        before = file.read_text()
        write(report, upstream, file, "9.8.7", product)
        document = yaml.safe_load(file.read_text())
        assert document[product]["default"] == "9.8.7"
        assert document[product]["versions"] == {"9.8.7": {product: sums}}
        changes = lines_changed(before, file.read_text())
        assert sorted(line[0] for line in changes if line[0] in "+-") == ["+"] * 4 + ["-"] * 4

    def test_a_file_without_a_published_sum_is_downloaded(self, report: Report, upstream: Upstream, file: Path) -> None:
        path = "github.com/projectcalico/calico/raw/v9.8.7/manifests/crds.yaml"
        upstream.files[path] = b"kind: CustomResourceDefinition"
        write(report, upstream, file, "9.8.7", "calico-crds")
        sha256 = hashlib.sha256(upstream.files[path]).hexdigest()
        written = yaml.safe_load(file.read_text())["calico-crds"]["versions"]
        assert written == {"9.8.7": {"calico-crds": {"amd64": sha256, "arm64": sha256}}}

    def test_more_than_one_may_be_pinned_at_once(self, report: Report, upstream: Upstream, file: Path) -> None:
        upstream.files["github.com/projectcalico/calico/raw/v9.8.7/manifests/crds.yaml"] = b"kinds"
        names = {arch: f"calicoctl-linux-{arch}" for arch in _ARCHITECTURES}
        publish_list(upstream, "github.com/projectcalico/calico/releases/download/v9.8.7/SHA256SUMS", names)
        write(report, upstream, file, "9.8.7", "calicoctl", "calico-crds")
        document = yaml.safe_load(file.read_text())
        assert [document[name]["default"] for name in ("calicoctl", "calico-crds")] == ["9.8.7", "9.8.7"]

    def test_one_that_fails_leaves_the_others_out(self, report: Report, upstream: Upstream, file: Path) -> None:
        upstream.files["github.com/projectcalico/calico/raw/v9.8.7/manifests/crds.yaml"] = b"kinds"
        before = file.read_text()
        with pytest.raises(ToolchainError, match=r"calicoctl 9\.8\.7 are not available\. Nothing was written"):
            write(report, upstream, file, "9.8.7", "calico-crds", "calicoctl")
        assert file.read_text() == before

    @pytest.mark.parametrize("text", ["", f"{'a' * 64}  another-file\n", f"{'a' * 40}  runc.amd64\n", "<html></html>"])
    def test_a_list_without_a_sha256_of_the_file_is_an_error(
        self, report: Report, upstream: Upstream, file: Path, text: str
    ) -> None:
        upstream.files["github.com/opencontainers/runc/releases/download/v9.8.7/runc.sha256sum"] = text.encode()
        before = file.read_text()
        with pytest.raises(ToolchainError, match=r"(?s)Nothing was written.*runc\.amd64"):
            write(report, upstream, file, "9.8.7", "runc")
        assert file.read_text() == before


class TestPulumi:
    """The command, and its providers."""

    def test_the_command(self, report: Report, upstream: Upstream, file: Path) -> None:
        names = {"amd64": "pulumi-v3.999.0-linux-x64.tar.gz", "arm64": "pulumi-v3.999.0-linux-arm64.tar.gz"}
        sums = publish_list(upstream, f"{_PULUMI}/pulumi-3.999.0-checksums.txt", names)
        write(report, upstream, file, "3.999.0", "pulumi")
        assert yaml.safe_load(file.read_text())["tools"]["pulumi"] == {"version": "3.999.0", "archive": sums}

    def test_a_provider_whose_release_lists_sha256(self, report: Report, upstream: Upstream, file: Path) -> None:
        release = "github.com/pulumi/pulumi-command/releases/download/v1.9.9"
        names = {arch: f"pulumi-resource-command-v1.9.9-linux-{arch}.tar.gz" for arch in _ARCHITECTURES}
        sums = publish_list(upstream, f"{release}/pulumi-command_1.9.9_checksums.txt", names)
        write(report, upstream, file, "1.9.9", "plugin/command")
        document = yaml.safe_load(file.read_text())
        assert document["tools"]["plugins"]["command"] == {"version": "1.9.9", "archive": sums}

    @staticmethod
    def publish_tls(upstream: Upstream, algorithm: Callable[[bytes], Any]) -> dict[str, str]:
        """Have the provider tls as its project publishes it, with other content; give the sha256 of its archives."""
        listed, sums = "", {}
        for arch in _ARCHITECTURES:
            name, content = f"pulumi-resource-tls-v5.9.9-linux-{arch}.tar.gz", f"archive for {arch}".encode()
            upstream.files[f"{_TLS}/{name}"] = content
            listed += f"{algorithm(content).hexdigest()}  ./{name}\n"
            sums[arch] = hashlib.sha256(content).hexdigest()
        upstream.files[f"{_TLS}/pulumi-tls_5.9.9_checksums.txt"] = listed.encode()
        return sums

    def test_a_provider_whose_release_lists_sha1_is_downloaded(
        self, report: Report, upstream: Upstream, file: Path
    ) -> None:
        sums, before = self.publish_tls(upstream, hashlib.sha1), file.read_text()
        write(report, upstream, file, "5.9.9", "plugin/tls")
        assert yaml.safe_load(file.read_text())["tools"]["plugins"]["tls"] == {"version": "5.9.9", "archive": sums}
        changes = lines_changed(before, file.read_text())
        assert [line[0] for line in changes] == ["-", "+", "+", "+", "+"]

    def test_an_archive_that_is_not_the_listed_one_is_refused(
        self, report: Report, upstream: Upstream, file: Path
    ) -> None:
        self.publish_tls(upstream, hashlib.sha1)
        upstream.files[f"{_TLS}/pulumi-resource-tls-v5.9.9-linux-arm64.tar.gz"] = b"another"
        before = file.read_text()
        with pytest.raises(ToolchainError, match=r"arm64\.tar\.gz has the SHA-1"):
            write(report, upstream, file, "5.9.9", "plugin/tls")
        assert file.read_text() == before

    def test_a_pinned_archive_must_stay_the_same(self, report: Report, upstream: Upstream, file: Path) -> None:
        self.publish_tls(upstream, hashlib.sha256)
        write(report, upstream, file, "5.9.9", "plugin/tls")
        before = file.read_text()
        write(report, upstream, file, "5.9.9", "plugin/tls")
        assert file.read_text() == before
        self.publish_tls(upstream, hashlib.sha3_256)
        with pytest.raises(ToolchainError, match=r"plugin/tls 5\.9\.9 differs from config/versions\.yaml"):
            write(report, upstream, file, "5.9.9", "plugin/tls")
        assert file.read_text() == before


class TestImages:
    """Tags, with the digest of the index of all platforms."""

    @pytest.fixture
    def server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path) -> Any:
        with Report() as report:
            system.ensure(report, system.IMAGE_PULLS)
        with registry_server.serving(tmp_path) as (server, certificate):
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.delenv(name, raising=False)
            # The image calico-node has no pin, coredns has one.
            text = file.read_text()
            for image, repository in (("docker.io", "calico/node"), ("registry.k8s.io", "coredns/coredns")):
                was = f"    registry: {image}\n    repository: {repository}\n"
                assert text.count(was) == 1
                text = text.replace(was, f"    registry: {server.name}\n    repository: some/image\n")
            file.write_text(text)
            yield server

    @pytest.mark.parametrize("name", ["coredns", "calico-node"])
    def test_a_tag_and_its_digest(
        self, report: Report, upstream: Upstream, file: Path, server: Registry, name: str
    ) -> None:
        digest, before = server.publish("v9.8.7"), yaml.safe_load(file.read_text())
        write(report, upstream, file, "v9.8.7", f"image/{name}")
        document = yaml.safe_load(file.read_text())
        assert document["images"].pop(name) == before["images"].pop(name) | {"tag": "v9.8.7", "digest": digest}
        assert document == before

    def test_the_digest_of_a_tag_that_is_there(
        self, report: Report, upstream: Upstream, file: Path, server: Registry
    ) -> None:
        tag = pinned().images["calico-node"].tag
        digest, before = server.publish(tag), file.read_text()
        write(report, upstream, file, tag, "image/calico-node")
        assert lines_changed(before, file.read_text()) == [f"+     digest: {digest}"]

    def test_a_tag_that_was_moved_is_refused(
        self, report: Report, upstream: Upstream, file: Path, server: Registry
    ) -> None:
        tag, before = pinned().images["coredns"].tag, file.read_text()
        digest = server.publish(tag)
        with pytest.raises(ToolchainError, match=rf"(?s)differs from config/versions\.yaml.*published {digest}"):
            write(report, upstream, file, tag, "image/coredns")
        assert file.read_text() == before

    @pytest.mark.parametrize("kind", ["for one only", "without an index"])
    def test_an_image_that_is_not_for_both_architectures_is_refused(
        self, report: Report, upstream: Upstream, file: Path, server: Registry, kind: str
    ) -> None:
        if kind == "for one only":
            server.publish("v9.8.7", ("amd64",))
        else:
            server.publish_single("v9.8.7", "amd64")
        before = file.read_text()
        with pytest.raises(ToolchainError, match=r"some/image:v9\.8\.7 is no image for .*arm64"):
            write(report, upstream, file, "v9.8.7", "image/coredns")
        assert file.read_text() == before

    def test_the_node_images_base_has_a_tag_that_moves(
        self, report: Report, upstream: Upstream, file: Path, server: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tag = node_image.base().tag
        base = replace(node_image.base(), registry=server.name, repository="some/image")
        monkeypatch.setattr(node_image, "base", lambda: base)
        digest, before = server.publish(tag), file.read_text()
        write(report, upstream, file, tag, "node-image-base")
        assert file.read_text() == before.replace(tools().node_image_base, digest)
        with pytest.raises(ToolchainError, match=f"is no version of node-image-base: it must be like {tag}"):
            write(report, upstream, file, "trixie-slim", "node-image-base")

    def test_a_tag_that_is_not_there_is_an_error(
        self, report: Report, upstream: Upstream, file: Path, server: Registry
    ) -> None:
        before = file.read_text()
        with pytest.raises(ToolchainError, match=r"image/coredns v9\.8\.7 are not available\. Nothing was written"):
            write(report, upstream, file, "v9.8.7", "image/coredns")
        assert file.read_text() == before


@pytest.mark.parametrize("version", ["1.36", "v1.36.5", "1.36.5/../x", "", "1.36.5\n"])
@pytest.mark.parametrize("name", ["kubernetes", "etcd", "pulumi", "plugin/tls"])
def test_what_is_no_version_is_refused_before_upstream_is_asked(
    report: Report, upstream: Upstream, file: Path, name: str, version: str
) -> None:
    with pytest.raises(ToolchainError, match=f"is no version of {name}: it must be like [0-9.]+"):
        write(report, upstream, file, version, name)
    assert not upstream.asked


@pytest.mark.parametrize("version", ["", "-x", "a/b", "x@sha256:0", "v1 2"])
def test_what_is_no_tag_is_refused(report: Report, upstream: Upstream, file: Path, version: str) -> None:
    with pytest.raises(ToolchainError, match=r"is no version of image/pause: it must be like 3\.10\.2"):
        write(report, upstream, file, version, "image/pause")


def test_all_names_that_are_unknown_are_said_with_those_that_are_known(
    report: Report, upstream: Upstream, file: Path
) -> None:
    with pytest.raises(ToolchainError, match=r"has no tls, docker\. What can be pinned: kubernetes, etcd, ") as refused:
        write(report, upstream, file, "v1.2.3", "tls", "etcd", "docker")
    assert "'v1.2.3' is no version of etcd" in str(refused.value)
    assert {"pulumi,", "plugin/tls,", "image/coredns,", "image/etcd,"} <= set(str(refused.value).split())
    assert not upstream.asked


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["1.36.99"], (["kubernetes"], "1.36.99")),
        (["etcd", "3.6.99"], (["etcd"], "3.6.99")),
        (["image/calico-node", "image/calico-cni", "v3.99.0"], (["image/calico-node", "image/calico-cni"], "v3.99.0")),
    ],
)
def test_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], asked: tuple[list[str], str]
) -> None:
    calls: list[tuple[list[str], str]] = []

    def written(report: Report, names: list[str], version: str) -> Path:
        calls.append((names, version))
        return Path("a-file")

    monkeypatch.setattr(pins, "write", written)
    assert main(["pins", *words]) == 0
    assert calls == [asked]
    assert f"a-file has the checksums of {', '.join(asked[0])} {asked[1]}" in capsys.readouterr().out


def test_everything_that_is_pinned_can_be_named(report: Report, upstream: Upstream, file: Path) -> None:
    """Each at a version that nobody has: the error names where its sums would be."""
    for name in (*pinned().products, "pulumi", *(f"plugin/{name}" for name in tools().plugins)):
        with pytest.raises(ToolchainError, match=r"(?s)are not available.*http://127.*9\.9\.9.*\(404\)"):
            write(report, upstream, file, "9.9.9", name)
