import io
import json
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.artifacts import read_checksums
from config.settings import LabSettings
from config.settings import features as features_of
from config.versions import Image, pins
from toolchain import images, paths
from toolchain.from_source import debian, gomodule
from toolchain.from_source.gomodule import Programs
from toolchain.from_source.image_recipes import RECIPES, e2e_busybox
from toolchain.progress import Part, Report
from toolchain.releases import registry

_SOURCES = {
    "build/pause/linux/pause.c": "int main(void) { return 0; }",
    "node/filesystem/etc/calico/felix.cfg": "[global]",
    "node/filesystem/etc/rc.local": "rc.local",
    "node/filesystem/etc/service/available/felix/run": "exec calico-node -felix",
    "node/filesystem/sbin/start_runit": "start_runit",
    "test/images/agnhost/porter/localhost.crt": "certificate of localhost",
    "test/images/agnhost/porter/localhost.key": "key of localhost",
    **{
        f"test/images/{pet}/html/{file}": f"{file} of {pet}"
        for pet in ("kitten", "nautilus")
        for file in ("data.json", f"{pet}.jpg")
    },
}
"""Files of Kubernetes' and Calico's modules that go into images as they are."""
_FEATURES = frozenset[str]().union(*(image.features for image in pins().images.values()))


@pytest.fixture
def built(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is made, by tools that are quick: programs are their names, Debian has a file of each kind."""
    made: list[str] = []
    sources = tmp_path / "sources"
    for path, text in _SOURCES.items():
        (sources / path).parent.mkdir(parents=True, exist_ok=True)
        (sources / path).write_text(text)

    def build(part: Part, programs: Programs, destination: Path, *, arch: str) -> None:
        made.extend(programs.packages)
        for name in programs.packages:
            (destination / name).write_text(name)

    def files(part: Part, archive: Path, *, packages: tuple[str, ...]) -> None:
        with tarfile.open(archive, "w") as tar:
            for name, text in {
                "./bin/busybox": "#!/bin/sh\nprintf 'sh\\nwget\\nnslookup\\n'\n",
                "./bin/bash-static": "bash",
                "./bin/nc.openbsd": "nc",
                "./usr/share/ca-certificates/mozilla/A.crt": "authority A\n",
                "./usr/share/ca-certificates/mozilla/B.crt": "authority B\n",
                "./usr/bin/perl": "ballast",
            }.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(text), 0o755
                tar.addfile(entry, io.BytesIO(text.encode()))

    fill_mirror()
    monkeypatch.setenv("TOOLCHAIN", "source")
    monkeypatch.setattr(gomodule, "build", build)
    monkeypatch.setattr(gomodule, "sources", lambda *_, **__: sources)
    monkeypatch.setattr(debian, "files", files)
    return made


def fill_mirror() -> None:
    """The programs of Kubernetes and etcd, which images are made of; each is its name."""
    kubernetes, etcd = pins().products["kubernetes"], pins().products["etcd"]
    for name in kubernetes.artifacts:
        for version in kubernetes.versions:
            program = paths.mirror() / kubernetes.path_of(name, version=version, arch="amd64")
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(name)
    release = paths.mirror() / etcd.path_of("etcd", version=etcd.default, arch="amd64")
    release.parent.mkdir(parents=True)
    with tarfile.open(release, "w:gz") as tar:
        for name in ("etcd", "etcdctl", "etcdutl"):
            entry = tarfile.TarInfo(f"etcd-linux-amd64/{name}")
            entry.size = len(name)
            tar.addfile(entry, io.BytesIO(name.encode()))


class Made:
    """An image archive, opened."""

    def __init__(self, name: str) -> None:
        self.archive = paths.mirror() / pins().images[name].archive_path("amd64")
        with tarfile.open(self.archive) as tar:
            (named,) = self._json(tar, "index.json")["manifests"]
            self.reference = named["annotations"]["io.containerd.image.name"]
            manifest = self._json(tar, self._blob(named))
            self.config = self._json(tar, self._blob(manifest["config"]))["config"]
            self.files: dict[str, str] = {}
            self.modes: dict[str, int] = {}
            for layer in manifest["layers"]:
                stream = tar.extractfile(self._blob(layer))
                assert stream
                with tarfile.open(fileobj=stream) as files:
                    for entry in files:
                        content = files.extractfile(entry) if entry.isreg() else None
                        text = content.read().decode(errors="replace") if content else entry.linkname
                        self.files[entry.name.removeprefix("./")] = text
                        self.modes[entry.name.removeprefix("./")] = entry.mode

    @staticmethod
    def _blob(descriptor: dict[str, Any]) -> str:
        return f"blobs/{descriptor['digest'].replace(':', '/')}"

    @staticmethod
    def _json(tar: tarfile.TarFile, name: str) -> Any:
        stream = tar.extractfile(name)
        assert stream
        return json.loads(stream.read())


@pytest.fixture
def all_made(built: list[str], report: Report, monkeypatch: pytest.MonkeyPatch) -> dict[str, Made]:
    monkeypatch.setattr(images, "architecture", lambda: "amd64")
    images.ensure(report, _FEATURES)
    return {name: Made(name) for name in pins().images}


def test_each_is_named_as_pods_ask_for_it(all_made: dict[str, Made]) -> None:
    assert {name: made.reference for name, made in all_made.items()} == {
        name: image.reference for name, image in pins().images.items()
    }
    assert sorted(read_checksums(paths.mirror())) == sorted(
        image.archive_path("amd64") for image in pins().images.values()
    )


def test_pause_is_one_program_and_not_root(all_made: dict[str, Made]) -> None:
    made = all_made["pause"]
    assert list(made.files) == ["pause"]
    assert (made.config["Entrypoint"], made.config["User"]) == (["/pause"], "65535:65535")


def test_images_of_the_conformance_tests_have_what_the_tests_ask_for(all_made: dict[str, Made]) -> None:
    for pet in ("kitten", "nautilus"):
        made = all_made[pet]
        assert made.files["data.json"] == f"data.json of {pet}" and f"{pet}.jpg" in made.files
        assert (made.config["Entrypoint"], made.config["Cmd"]) == (["/agnhost"], ["test-webserver"])
    for name in ("nginx", "nginx-new"):
        assert "Welcome to nginx!" in all_made[name].files["usr/share/nginx/html/index.html"]
        assert "listen 80;" in all_made[name].files["etc/nginx/nginx.conf"]
    assert "bin/perl" not in " ".join(all_made["glibc-dns-testing"].files)
    # Without setuid there is no privilege that is not to be escalated.
    assert all_made["nonewprivs"].modes["usr/local/bin/nnp"] == 0o6755


def test_coredns_knows_authorities_and_is_not_root(all_made: dict[str, Made]) -> None:
    made = all_made["coredns"]
    assert made.files["coredns"] == "coredns"
    assert made.files["etc/ssl/certs/ca-certificates.crt"] == "authority A\nauthority B\n"
    assert (made.config["Entrypoint"], made.config["User"]) == (["/coredns"], "65532:65532")


def test_agnhost_has_its_tools_beside_it_and_no_ballast(all_made: dict[str, Made]) -> None:
    made = all_made["agnhost"]
    assert (made.config["Entrypoint"], made.config["Cmd"]) == (["/agnhost"], ["pause"])
    assert made.files["agnhost"] == made.files["agnhost-2"] == "agnhost"
    assert made.files["localhost.crt"] == "certificate of localhost"
    assert made.files["localhost.key"] == "key of localhost"
    assert made.files["bin/nc"] == "nc.openbsd"
    assert made.files["bin/nc.openbsd"] == "nc"
    assert not [name for name in made.files if "perl" in name or name.startswith("usr/share")]


def test_busybox_has_a_link_for_each_applet(all_made: dict[str, Made]) -> None:
    made = all_made["busybox"]
    assert {name: made.files[f"bin/{name}"] for name in ("sh", "wget", "nslookup")} == {
        "sh": "busybox",
        "wget": "busybox",
        "nslookup": "busybox",
    }
    assert made.config["Cmd"] == ["sh"]


def test_the_shell_of_conformance_tests_keeps_every_variable(all_made: dict[str, Made]) -> None:
    made = all_made["e2e-busybox"]
    assert (made.files["bin/sh"], made.modes["bin/sh"]) == (e2e_busybox.SHELL, 0o755)
    assert (made.files["bin/bash-static"], made.modes["bin/bash-static"]) == ("bash", 0o755)
    assert made.files["bin/wget"] == "busybox"
    assert made.modes["tmp"] == 0o1777
    assert made.config["Cmd"] == ["sh"]


@pytest.mark.parametrize(
    ("variable", "is_bash"), [("data=1", False), ("DATA_1=a-b=c", False), ("data-1=1", True), ("1_data=1", True)]
)
def test_the_shell_of_conformance_tests_is_bash_only_for_names_that_no_variable_has(
    tmp_path: Path, variable: str, is_bash: bool
) -> None:
    # A busybox that prints its arguments; upstream's tests compare messages of its shell.
    for name, program in (("busybox", "/bin/echo"), ("bash-static", "/bin/bash")):
        (tmp_path / name).symlink_to(program)
    shell = tmp_path / "sh"
    shell.write_text(e2e_busybox.SHELL.replace("/bin/", f"{tmp_path}/"))
    shell.chmod(0o755)
    name, _, value = variable.partition("=")
    done = subprocess.run(
        [shell, "-c", "env"], env={name: value, "PATH": "/bin"}, capture_output=True, text=True, check=True
    )
    assert (variable in done.stdout.splitlines()) is is_bash
    assert (done.stdout == "-c env\n") is not is_bash


def test_the_extension_api_has_its_server_and_its_store(all_made: dict[str, Made]) -> None:
    assert all_made["sample-apiserver"].config["Entrypoint"] == ["/sample-apiserver"]
    assert all_made["sample-apiserver"].files["sample-apiserver"] == "sample-apiserver"
    assert {f"usr/local/bin/{name}" for name in ("etcd", "etcdctl")} <= all_made["etcd"].files.keys()


@pytest.mark.parametrize("name", ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "etcd"])
def test_kubeadms_images_hold_the_mirrors_programs(all_made: dict[str, Made], name: str) -> None:
    made = all_made[name]
    assert made.files[f"usr/local/bin/{name}"] == name
    assert made.reference == pins().images[name].reference
    # By whom a manifest asks for it by its bare name.
    assert "/usr/local/bin" in str(made.config["Env"])


def test_kube_proxy_has_what_it_writes_rules_with(all_made: dict[str, Made]) -> None:
    assert all_made["kube-proxy"].files["usr/sbin/ip6tables-restore"] == "xtables-nft-multi"


def test_kubeadms_images_are_of_the_versions_that_labs_have() -> None:
    kubernetes, etcd = pins().products["kubernetes"].default, pins().products["etcd"].default
    for version in pins().products["kubernetes"].versions:
        features = features_of(
            LabSettings.model_validate({"bootstrap": "kubeadm", "versions": {"kubernetes": version}})
        )
        needed = {each.repository: each.tag for each in map(pins().images.get, pins().images_for(features)) if each}
        pods = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
        assert {name: needed[name] for name in (*pods, "etcd")} == dict.fromkeys(pods, f"v{version}") | {
            "etcd": f"{etcd}-0"
        }
    assert pins().images["kube-apiserver"].tag == f"v{kubernetes}"


def test_felix_is_started_by_upstreams_scripts_and_finds_its_tools(all_made: dict[str, Made]) -> None:
    made = all_made["calico-node"]
    assert made.config["Cmd"] == ["start_runit"]
    assert made.files["bin/calico-node"] == "calico-node"
    assert made.files["etc/service/available/felix/run"] == "exec calico-node -felix"
    assert made.files["usr/sbin/iptables"] == "xtables-nft-multi"
    assert not [name for name in made.files if "perl" in name]


@pytest.mark.parametrize("name", ["kube-apiserver", "kube-controller-manager", "kube-scheduler"])
def test_static_pods_run_the_mirrors_own_programs(all_made: dict[str, Made], name: str) -> None:
    assert name in all_made[name].files.values()


def test_what_is_there_is_not_made_again(all_made: dict[str, Made], built: list[str], report: Report) -> None:
    built.clear()
    images.ensure(report, _FEATURES)
    assert built == []
    all_made["coredns"].archive.unlink()
    images.ensure(report, _FEATURES)
    assert built == ["coredns"]


@pytest.mark.parametrize(
    ("before", "after", "made"),
    [('"""The image', '"""An image', []), ("= 1 << 10", "= 1 << 11", ["coredns"])],
    ids=["a docstring", "a statement"],
)
def test_an_image_is_made_again_when_a_statement_of_its_recipe_changes_alone(
    all_made: dict[str, Made],
    built: list[str],
    report: Report,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    after: str,
    made: list[str],
) -> None:
    recipe = RECIPES["coredns"]
    code = recipe.code.read_text()
    changed = tmp_path / recipe.code.name
    changed.write_text(code.replace(before, after))
    assert changed.read_text() != code
    monkeypatch.setitem(RECIPES, "coredns", replace(recipe, code=changed))
    built.clear()

    images.ensure(report, _FEATURES)

    assert built == made


def test_a_registry_that_answers_means_a_pull(cache: Path, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    pulled: list[tuple[str, str, str | None]] = []

    def pull(part: Part, image: Image, archive: Path, arch: str, *, digest: str | None) -> str:
        pulled.append((image.reference, arch, digest))
        archive.write_text(f"image {image.reference}")
        return digest or f"sha256:{'0' * 64}"

    monkeypatch.setattr(registry, "pull", pull)
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    monkeypatch.setattr(images, "architecture", lambda: "arm64")
    images.ensure(report, _FEATURES)
    assert pulled == [(image.reference, "arm64", image.digest) for image in pins().images.values()]
    for image in pins().images.values():
        assert (paths.mirror() / image.archive_path("arm64")).read_text() == f"image {image.reference}"
    pulled.clear()
    images.ensure(report, _FEATURES)
    assert not pulled


def test_an_image_for_a_feature_is_not_made_for_labs_without_it(
    built: list[str], report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = replace(pins().images["coredns"], features=frozenset({"rare", "other"}))
    chosen = replace(pins(), images={"pause": pins().images["pause"], "coredns": rare})
    monkeypatch.setattr(images, "pins", lambda: chosen)
    images.ensure(report, {"common"})
    assert built == []
    images.ensure(report, {"common", "rare"})
    assert built == ["coredns"]
