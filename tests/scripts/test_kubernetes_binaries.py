"""What is rendered, held against the very programs that will read it: those of the artifact mirror."""

import datetime
import platform
import re
import socket
import subprocess
import tarfile
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from config.lab import parse
from config.versions import pins
from toolchain import paths
from unit.conftest import HARD_WAY, program
from unit.mocked_engine import Run

CONTROLLER, WORKER = "control-plane-controller-0", "worker-0-node"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def artifact(product: str, name: str) -> Path:
    """A file of the mirror, in the version that a lab gets by default."""
    of = pins().products[product]
    path = paths.mirror() / of.path_of(name, version=of.default, arch=ARCHITECTURE)
    assert path.exists(), f"{path} is not there: run `./hardway setup`, which fills the mirror"
    return path


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """etcd and containerd, out of their archives."""
    directory = tmp_path_factory.mktemp("programs")
    for product in ("etcd", "containerd"):
        with tarfile.open(artifact(product, product)) as archive:
            (member,) = (each for each in archive if re.fullmatch(rf"(.*/)?{product}", each.name) and each.isfile())
            # By hand: Debian 12's Python has no filter for extraction yet.
            content = archive.extractfile(member)
            assert content is not None
            (directory / product).write_bytes(content.read())
            (directory / product).chmod(0o755)
    return directory


# 1.4.1 looks for this flag on the scheduler's command line alone.
_READ_BY_THE_CIS_BENCHMARK = {"kube-scheduler": {"profiling"}}


@cache
def help_of(program: Path) -> dict[str, str]:
    """Flag -> what a program says about it."""
    said = subprocess.run([str(program), "--help"], capture_output=True, text=True, check=False, timeout=30)
    flags: dict[str, str] = {}
    name = ""
    for line in (said.stdout + said.stderr).splitlines():
        if found := re.match(r"\s+(?:-\w, )?--([\w-]+)(.*)", line):
            name = found[1]
            flags[name] = found[2]
        elif name:
            flags[name] += f" {line.strip()}" if line.startswith(" ") else ""
    assert len(flags) > 20, f"{program} --help says nothing that can be understood"
    return flags


def check_flags(given: dict[str, str], program: Path) -> None:
    known = help_of(program)
    unknown = sorted(set(given) - set(known))
    assert not unknown, f"{program.name} has no such flags: {unknown}"
    allowed = _READ_BY_THE_CIS_BENCHMARK.get(program.name, set())
    deprecated = sorted(name for name in set(given) - allowed if "DEPRECATED" in known[name])
    assert not deprecated, f"{program.name} is about to lose: {deprecated}"


def test_programs_know_all_of_their_flags(hard_way: Run, unpacked: Path) -> None:
    for step, programs in (
        (CONTROLLER, ("kube-apiserver", "kube-controller-manager", "kube-scheduler")),
        (WORKER, ("kubelet", "kube-proxy")),
    ):
        for each in programs:
            check_flags(hard_way.flags(step, each), artifact("kubernetes", each))
    check_flags(hard_way.flags(hard_way.etcd_step, "etcd"), unpacked / "etcd")


def test_unknown_and_deprecated_flags_are_found() -> None:
    server = artifact("kubernetes", "kube-apiserver")
    with pytest.raises(AssertionError, match=r"has no such flags: .'insecure-port'"):
        check_flags({"insecure-port": "0"}, server)
    with pytest.raises(AssertionError, match=r"about to lose: .'admission-control'"):
        check_flags({"admission-control": "x"}, server)


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """One that leads nowhere: the programs want to read one before they write their configuration out."""
    file = tmp_path / "kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return file


def understood(program: str, configuration: str, kubeconfig: Path, *flags: str) -> dict[str, object]:
    """A configuration as its program understood it."""
    document = yaml.safe_load(configuration)
    document["clientConnection"]["kubeconfig"] = str(kubeconfig)
    given, written = kubeconfig.with_name("given.yaml"), kubeconfig.with_name("written.yaml")
    given.write_text(yaml.safe_dump(document))
    result = subprocess.run(
        [str(artifact("kubernetes", program)), f"--config={given}", f"--write-config-to={written}", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    # An unknown key is only a warning to kube-proxy.
    assert written.exists() and "strict decoding" not in result.stderr, result.stderr
    answer = yaml.safe_load(written.read_text())
    assert isinstance(answer, dict)
    return answer


def distinct(rendered: Callable[[Run], str]) -> list[str]:
    """What is rendered for the shapes of labs, each text once: a program reads equal files equally."""
    return sorted({rendered(program(stack)) for stack in HARD_WAY})


def configuration(step: str, program_: str) -> Callable[[Run], str]:
    """A configuration file of a program."""
    return lambda run: run.file(step, f"/etc/kubernetes/config/{program_}.yaml")


def test_scheduler_reads_its_configuration_as_meant(kubeconfig: Path) -> None:
    for text in distinct(configuration(CONTROLLER, "kube-scheduler")):
        answer = understood("kube-scheduler", text, kubeconfig)
        assert answer["enableProfiling"] is False
        assert answer["leaderElection"]["leaderElect"] is True  # type: ignore[index]


def test_kube_proxy_reads_its_configuration_as_meant(kubeconfig: Path) -> None:
    for text in distinct(configuration(WORKER, "kube-proxy")):
        answer = understood("kube-proxy", text, kubeconfig)
        for key, value in yaml.safe_load(text).items():
            if key in ("conntrack", "iptables", "nftables"):
                # Only some of their keys are given; kube-proxy adds its defaults.
                assert value.items() <= answer[key].items(), key  # type: ignore[attr-defined]
            elif key != "clientConnection":
                assert answer[key] == value, key


@pytest.mark.parametrize(("name", "step"), [("kube-scheduler", CONTROLLER), ("kube-proxy", WORKER)])
def test_unknown_key_in_a_configuration_is_found(dev: Run, kubeconfig: Path, name: str, step: str) -> None:
    text = configuration(step, name)(dev) + "\nnoSuchKey: 1\n"
    with pytest.raises(AssertionError, match="noSuchKey"):
        understood(name, text, kubeconfig)


def complaints_of_the_kubelet(configuration: str, directory: Path) -> list[str]:
    """What the kubelet says of a configuration before it finds no kubeconfig and ends, with nothing done."""
    file = directory / "kubelet.yaml"
    file.write_text(configuration)
    result = subprocess.run(
        [str(artifact("kubernetes", "kubelet")), f"--config={file}", "--kubeconfig=/nonexistent/kubeconfig"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    said = [line for line in result.stderr.splitlines() if re.match("[EW]", line) or "strict decoding" in line]
    assert said, result.stderr
    return said


def test_kubelet_accepts_its_configuration(tmp_path: Path) -> None:
    for text in distinct(configuration(WORKER, "kubelet")):
        # The host may still have cgroup v1, with which a kubelet does not start on a kernel of its own.
        allowed = "" if "failCgroupV1" in text else "failCgroupV1: false\n"
        (last,) = complaints_of_the_kubelet(text + allowed, tmp_path)
        assert "invalid kubeconfig: stat /nonexistent/kubeconfig" in last


def test_unknown_key_and_invalid_value_for_the_kubelet_are_found(dev: Run, tmp_path: Path) -> None:
    text = dev.file(WORKER, "/etc/kubernetes/config/kubelet.yaml")
    assert "noSuchKey" in complaints_of_the_kubelet(text + "noSuchKey: 1\n", tmp_path)[0]
    assert "maxPods" in complaints_of_the_kubelet(text.replace("maxPods: ", "maxPods: -"), tmp_path)[-1]


API_FILES = ("authentication", "admission", "audit-policy", "encryption")


def complaints_of_the_api_server(flags: dict[str, str], files: dict[str, str], directory: Path) -> list[str]:
    """What the API server says of its flags and files before it waits for its etcd, which does not exist."""
    key, certificate = ec.generate_private_key(ec.SECP256R1()), directory / "any.crt"
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.datetime.now(datetime.UTC)
    signed = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1)).sign(
        key, SHA256()
    )
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    (directory / "any.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "any.pub").write_bytes(public)
    for file, text in files.items():
        (directory / f"{file}.yaml").write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = {
        "bind-address": "127.0.0.1",
        "secure-port": str(port),
        "etcd-servers": "https://127.0.0.1:1",
        "v": "2",
        "audit-log-path": str(directory / "audit.log"),
    }
    for flag, value in flags.items():
        path = Path(value)
        if value.startswith("/etc/kubernetes/pki/"):
            here[flag] = str(directory / f"any{path.suffix}")
        elif value.startswith("/etc/kubernetes/"):
            here[flag] = str(directory / path.name)
    command = [
        str(artifact("kubernetes", "kube-apiserver")),
        *(f"--{flag}={value}" for flag, value in {**flags, **here}.items()),
    ]
    said = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        for line in server.stderr:
            # The last of what it reads; then it waits for etcd (and reads the admission configuration after it).
            if "Using audit backend" in line:
                server.kill()
                break
            if re.search("command failed|decoding|audit policy|unknown field", line):
                said.append(line)
    return said


def api_server_files(run: Run) -> dict[str, str]:
    return {
        name: run.secret_file(CONTROLLER, path) if name == "encryption" else run.file(CONTROLLER, path)
        for name, path in ((name, f"/etc/kubernetes/config/{name}.yaml") for name in API_FILES)
    }


def test_api_server_accepts_its_flags_and_files(tmp_path: Path) -> None:
    """Once for each distinct set: other addresses of the same kind are not read in another way."""
    cases: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    for stack in HARD_WAY:
        flags, files = program(stack).flags(CONTROLLER, "kube-apiserver"), api_server_files(program(stack))
        # One URL of etcd, or several.
        several = len(flags["etcd-servers"].split(",")) > 1
        kind = re.sub(r"\d+\.\d+\.\d+\.\d+", "ADDRESS", repr((flags | {"etcd-servers": several}, files)))
        cases.setdefault(kind, (flags, files))
    for flags, files in cases.values():
        assert complaints_of_the_api_server(flags, files, tmp_path) == []


@pytest.mark.parametrize("name", ["authentication", "audit-policy", "encryption"])
def test_unknown_key_in_a_file_of_the_api_server_is_found(dev: Run, tmp_path: Path, name: str) -> None:
    files = api_server_files(dev)
    files[name] += "noSuchKey: 1\n"
    said = complaints_of_the_api_server(dev.flags(CONTROLLER, "kube-apiserver"), files, tmp_path)
    assert "noSuchKey" in "".join(said)


def test_containerd_reads_its_configuration_as_meant(unpacked: Path, tmp_path: Path) -> None:
    for text in distinct(lambda run: run.file("container-runtime-worker-0", "/etc/containerd/config.toml")):
        check_containerd(text, unpacked, tmp_path / "config.toml")


def check_containerd(text: str, unpacked: Path, file: Path) -> None:
    file.write_text(text)
    result = subprocess.run(
        [str(unpacked / "containerd"), "--config", str(file), "config", "dump"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    given, dumped = tomllib.loads(file.read_text()), tomllib.loads(result.stdout)

    def compare(want: object, have: object, at: str) -> None:
        if isinstance(want, dict):
            assert isinstance(have, dict), at
            for key, value in want.items():
                assert key in have, f"containerd does not know {at}.{key}"
                compare(value, have[key], f"{at}.{key}")
        else:
            assert have == want, at

    compare(given["plugins"], dumped["plugins"], "plugins")


def test_every_pinned_version_makes_a_lab() -> None:
    for name, product in pins().products.items():
        for version in product.versions:
            network = {"pod_network": next(iter(product.features), "routes")}
            lab = parse("dev", {"versions": {name: version}, "network": network})
            assert lab.artifacts.versions[name] == version
