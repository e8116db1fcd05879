import io
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from upstream_server import Upstream

from config.artifacts import read_checksums
from config.versions import pins
from toolchain import artifacts, paths
from toolchain.artifacts import Wanted, plan
from toolchain.errors import ToolchainError
from toolchain.from_source import gomodule, sources
from toolchain.from_source.gomodule import Programs
from toolchain.progress import Part, Report

VERSION = pins().products["kubernetes"].default
KUBELET = f"dl.k8s.io/v{VERSION}/bin/linux/amd64/kubelet"


@pytest.fixture
def released(upstream: Upstream, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """Upstream with all files of the plan, and the pins of those that are served."""
    monkeypatch.delenv("TOOLCHAIN", raising=False)
    pinned = []
    for file in plan(VERSION, "amd64"):
        sha256 = upstream.publish(file.path, os.urandom(50_000))
        pinned.append(Wanted(**(vars(file) | {"pin": sha256 if file.pin else None})))
    monkeypatch.setattr(artifacts, "plan", lambda *_: pinned)
    return upstream


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that are built, by a compiler that is quick: a program's content is its package's path."""
    modules: list[str] = []

    def build(part: Part, programs: Programs, destination: Path, *, arch: str) -> None:
        modules.append(programs.module)
        for name, package in programs.packages.items():
            (destination / name).write_text(f"{package} for {arch}")

    monkeypatch.setattr(gomodule, "build", build)
    return modules


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
@pytest.mark.parametrize("version", list(pins().products["kubernetes"].versions))
def test_the_plan_has_every_file_where_upstream_has_it(version: str, arch: str) -> None:
    etcd, containerd, runc, cni = (
        pins().products[name].default for name in ("etcd", "containerd", "runc", "cni-plugins")
    )
    commands = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
    assert [file.path for file in plan(version, arch)] == [
        *(f"dl.k8s.io/v{version}/bin/linux/{arch}/{name}" for name in (*commands, "kubelet", "kubectl", "kubeadm")),
        f"github.com/etcd-io/etcd/releases/download/v{etcd}/etcd-v{etcd}-linux-{arch}.tar.gz",
        f"github.com/containerd/containerd/releases/download/v{containerd}/containerd-{containerd}-linux-{arch}.tar.gz",
        f"github.com/opencontainers/runc/releases/download/v{runc}/runc.{arch}",
        f"github.com/containernetworking/plugins/releases/download/v{cni}/cni-plugins-linux-{arch}-v{cni}.tgz",
    ]


def test_each_pin_is_of_its_own_file() -> None:
    versions = pins().products["kubernetes"].versions
    seen: dict[str, str] = {}
    for version in versions:
        for arch in ("amd64", "arm64"):
            for file in plan(version, arch):
                own = pins().products[file.product].versions[file.version].get(file.artifact, {}).get(arch)
                assert file.pin == own
                if file.pin:
                    assert seen.setdefault(file.pin, file.path) == file.path, "one sum for two files"
    assert {file.artifact for file in plan(VERSION, "amd64") if file.pin is None} == {
        *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
    }


def test_upstream_fills_the_mirror(
    released: Upstream, report: Report, cache: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    artifacts.ensure(report, VERSION, base_url=released.base_url)
    mirror = paths.mirror()
    wanted = sorted(file.path for file in plan(VERSION, "amd64"))
    assert {path: (mirror / path).read_bytes() for path in wanted} == {path: released.files[path] for path in wanted}
    assert sorted(read_checksums(mirror)) == wanted
    checked = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=mirror, check=False)
    assert checked.returncode == 0
    origins = json.loads((mirror / "ORIGINS.json").read_text())
    assert {entry["origin"] for entry in origins.values()} == {"upstream"}
    assert origins[KUBELET]["made_of"] == f"{released.base_url}/{KUBELET}"
    assert built == []


@pytest.fixture
def private_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def modes() -> dict[str, str]:
    """The mode of every planned file and of the directories above it, below the mirror."""
    places = {paths.mirror() / file.path for file in plan(VERSION, "amd64", ("calico",))} & set(
        paths.mirror().rglob("*")
    )
    above = {directory for place in places for directory in place.relative_to(paths.mirror()).parents}
    return {str(place.relative_to(paths.mirror())): f"{stat.S_IMODE(place.stat().st_mode):o}" for place in places} | {
        f"{directory}/": f"{stat.S_IMODE((paths.mirror() / directory).stat().st_mode):o}" for directory in above
    }


def assert_modes_are_for_machines() -> None:
    for path, mode in modes().items():
        assert mode == ("644" if path.endswith((".tar.gz", ".tgz", ".yaml")) else "755"), path


@pytest.mark.parametrize("by", ["upstream", "source"])
def test_programs_can_be_executed_and_all_can_be_read(
    released: Upstream,
    report: Report,
    built: list[str],
    private_umask: None,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    """What a server sends has no mode; without the right to be executed a unit ends with 203/EXEC."""
    monkeypatch.setenv("TOOLCHAIN", by)
    artifacts.ensure(report, VERSION, base_url=released.base_url)
    assert len(modes()) > 11
    assert_modes_are_for_machines()


def test_programs_of_a_mirror_that_was_filled_before_are_made_executable(
    released: Upstream, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    artifacts.ensure(report, VERSION, base_url=released.base_url)
    (paths.mirror() / KUBELET).chmod(0o600)
    (paths.mirror() / KUBELET).parent.chmod(0o700)
    released.asked.clear()
    artifacts.ensure(report, VERSION, base_url=released.base_url)
    assert_modes_are_for_machines()
    assert released.asked == []


def test_what_is_built_and_how_long_it_takes_is_said_before_it_begins(
    cache: Path, built: list[str], report: Report, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOOLCHAIN", raising=False)
    known: list[str] = []
    quick = gomodule.build

    def build(part: Part, programs: Programs, destination: Path, *, arch: str) -> None:
        known.append(said.getvalue())
        quick(part, programs, destination, arch=arch)

    monkeypatch.setattr(gomodule, "build", build)
    artifacts.ensure(report, VERSION, base_url="http://127.0.0.1:1")
    (line,) = [line for line in known[0].splitlines() if "building" in line]
    assert "Official releases at 127.0.0.1 cannot be reached (Connection refused)" in line
    assert "building kubernetes, etcd, containerd, runc, cni-plugins from Go modules takes about 8 minutes" in line


def test_a_full_mirror_asks_for_nothing(released: Upstream, report: Report, said: io.StringIO) -> None:
    artifacts.ensure(report, VERSION, base_url=released.base_url)
    released.asked.clear()
    artifacts.ensure(report, VERSION, base_url=released.base_url)
    assert released.asked == []
    assert said.getvalue().splitlines()[-1].endswith(f"artifacts for Kubernetes {VERSION}: already there")


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_damaged_file_is_had_again_and_no_other(
    released: Upstream, report: Report, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    artifacts.ensure(report, VERSION, base_url=released.base_url)
    kubelet = paths.mirror() / KUBELET
    if damage == "removed":
        kubelet.unlink()
    else:
        kubelet.write_bytes(b"something else")
    released.asked.clear()
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    artifacts.ensure(report, VERSION, base_url=released.base_url)
    assert [path for _, path, _ in released.asked] == [KUBELET]
    assert kubelet.read_bytes() == released.files[KUBELET]


def test_a_file_that_differs_from_its_pin_stops_all(
    released: Upstream, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    released.publish(KUBELET, b"a kubelet that nobody has pinned")
    with pytest.raises(ToolchainError, match=f"{released.base_url}/{KUBELET} has a wrong checksum"):
        artifacts.ensure(report, VERSION, base_url=released.base_url)
    assert not (paths.mirror() / KUBELET).exists()
    assert KUBELET not in read_checksums(paths.mirror())


def test_a_published_sum_is_locked_at_the_first_download(
    released: Upstream, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    artifacts.ensure(report, VERSION, base_url=released.base_url)
    unpinned = f"dl.k8s.io/v{VERSION}/bin/linux/amd64/kube-apiserver"
    (paths.mirror() / unpinned).unlink()
    released.publish(unpinned, b"another apiserver, with a sum of its own beside it")
    with pytest.raises(ToolchainError, match="wrong checksum"):
        artifacts.ensure(report, VERSION, base_url=released.base_url)


def test_a_missing_release_names_its_url(released: Upstream, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    del released.files[KUBELET]
    with pytest.raises(ToolchainError, match=f"{released.base_url}/{KUBELET} does not exist"):
        artifacts.ensure(report, VERSION, base_url=released.base_url)


def test_what_cannot_be_reached_is_built(released: Upstream, report: Report, cache: Path, built: list[str]) -> None:
    artifacts.ensure(report, VERSION, base_url="http://127.0.0.1:1")
    assert built == ["kubernetes", "etcd", "containerd", "runc", "cni-plugins"]
    origins = json.loads((paths.mirror() / "ORIGINS.json").read_text())
    assert {entry["origin"] for entry in origins.values()} == {"source"}
    assert set(read_checksums(paths.mirror())) == {file.path for file in plan(VERSION, "amd64")}


def test_archives_that_are_built_have_upstream_s_layout(
    report: Report, cache: Path, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "source")
    artifacts.ensure(report, VERSION)
    members = {}
    for file in plan(VERSION, "amd64"):
        if file.product in ("etcd", "containerd", "cni-plugins"):
            archive = paths.mirror() / file.path
            listing = subprocess.run(["tar", "-tzf", archive], capture_output=True, text=True, check=True).stdout
            members[file.product] = listing.split()
    etcd = pins().products["etcd"].default
    assert members == {
        "etcd": [f"etcd-v{etcd}-linux-amd64/{name}" for name in ("etcd", "etcdctl", "etcdutl")],
        "containerd": ["bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr"],
        "cni-plugins": [f"./{name}" for name in ("host-local", "bridge", "loopback", "bandwidth", "portmap")],
    }
    subprocess.run(["tar", "-xzf", archive, "-C", tmp_path], check=True)
    assert os.access(tmp_path / "bridge", os.X_OK)
    runc = pins().products["runc"].default
    runc_file = paths.mirror() / f"github.com/opencontainers/runc/releases/download/v{runc}/runc.amd64"
    assert runc_file.read_text() == "github.com/opencontainers/runc for amd64"


def test_the_environment_decides_who_makes_the_files(
    released: Upstream, report: Report, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "source")
    artifacts.ensure(report, VERSION, base_url=released.base_url)
    assert released.asked == [], "TOOLCHAIN=source asks nobody"
    built.clear()
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    artifacts.ensure(report, VERSION, base_url=released.base_url)
    assert built == []
    assert (paths.mirror() / KUBELET).read_bytes() == released.files[KUBELET]


def test_a_changed_recipe_builds_that_product_again(
    report: Report, cache: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "source")
    artifacts.ensure(report, VERSION)
    built.clear()
    recipe = Programs.recipe
    monkeypatch.setattr(Programs, "recipe", lambda self: "changed" if self.module == "etcd" else recipe(self))
    artifacts.ensure(report, VERSION)
    assert built == ["etcd"]


def test_every_version_can_be_built() -> None:
    for version in pins().products["kubernetes"].versions:
        for file in plan(version, "amd64"):
            module = sources.programs(file.product, file.version).module
            required = (paths.modules() / module / "go.mod").read_text()
            name = {"kubernetes": "k8s.io/kubernetes", "cni-plugins": "containernetworking/plugins"}
            number = f"v{file.version}"
            assert any(
                line.endswith(number) and name.get(file.product, file.product) in line
                for line in required.replace("require ", "").splitlines()
            ), f"{module} builds another version than {number}"


CALICO = ("calicoctl", "calico-crds")
CRDS = f"github.com/projectcalico/calico/raw/v{pins().products['calico-crds'].default}/manifests/crds.yaml"


def test_what_only_some_labs_need_is_had_for_these() -> None:
    for features in ((), ("routes",)):
        assert not {file.product for file in plan(VERSION, "amd64", features)} & set(CALICO)
    assert {file.product for file in plan(VERSION, "amd64", ("calico",))} >= set(CALICO)


def test_upstream_has_calicos_files_where_they_are_asked_for(
    upstream: Upstream, report: Report, cache: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    version = pins().products["calicoctl"].default
    calicoctl = f"github.com/projectcalico/calico/releases/download/v{version}/calicoctl-linux-amd64"
    sums = {path: upstream.publish(path, os.urandom(50_000)) for path in (calicoctl, CRDS)}
    pinned = [Wanted(**(vars(file) | {"pin": sums.get(file.path)})) for file in plan(VERSION, "amd64", ("calico",))]
    monkeypatch.setattr(artifacts, "plan", lambda *_: pinned)
    artifacts.ensure(report, VERSION, ("calico",), only=CALICO, base_url=upstream.base_url)
    assert read_checksums(paths.mirror()) == sums and built == []


def test_a_file_that_is_no_program_is_taken_out_of_the_sources(
    report: Report, cache: Path, built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLCHAIN", "source")
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "crds.yaml").write_text("kind: CustomResourceDefinition\n")
    monkeypatch.setattr(gomodule, "sources", lambda part, module, *, of: tmp_path)
    artifacts.ensure(report, VERSION, ("calico",), only=CALICO)
    assert (paths.mirror() / CRDS).read_text() == "kind: CustomResourceDefinition\n"
    assert built == ["calico"]
    artifacts.ensure(report, VERSION, ("calico",), only=CALICO)
    assert built == ["calico"], "made again"


def test_all_of_calico_is_of_one_version() -> None:
    tags = {image.tag for name, image in pins().images.items() if name.startswith("calico")}
    assert tags == {f"v{pins().products[name].default}" for name in CALICO}
    assert len(tags) == 1
