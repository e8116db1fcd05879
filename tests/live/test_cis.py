"""`./hardway cis`: what goes to the machines, what is run there, and what is made of kube-bench's report."""

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from small_lab import cluster

from cli import main as commands
from live import cis
from live.cis import BENCHMARK
from live.cluster import Cluster, LiveMachine
from toolchain import paths
from toolchain.errors import ToolchainError

FILES = ("config.yaml", *(f"{BENCHMARK}/{name}.yaml" for name in ("master", "controlplane", "etcd", "node", "config")))
# Writes down how it was called; the report is beside it.
KUBE_BENCH = """#!/bin/bash
echo "$*" >"$CALLED"
ls cfg/*/ >>"$CALLED"
cat "$REPORT"
exit "${STATUS:-0}"
"""


def report(**states: str) -> str:
    """What `kube-bench --json` prints."""
    results = [
        {
            "test_number": number.strip("c").replace("_", "."),
            "test_desc": f"check {number}",
            "status": state,
            "reason": "",
        }
        for number, state in states.items()
    ]
    return json.dumps({"Controls": [{"id": "1", "tests": [{"section": "1.1", "results": results}]}], "Totals": {}})


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Of kube-bench, as far as it is read."""
    for name in FILES:
        file = tmp_path / "checkout" / "cfg" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"theirs: {name}\n")
    return tmp_path / "checkout"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "kube-bench"
    file.write_text(KUBE_BENCH)
    file.chmod(0o755)
    return file


def run(script: str, packed: bytes, tmp_path: Path, **more: str) -> subprocess.CompletedProcess[bytes]:
    """What a machine does, with a directory of the test's in place of /usr/local/lib."""
    (tmp_path / "lib").mkdir(exist_ok=True)
    environment = {
        "PATH": "/usr/bin:/bin",
        "CALLED": str(tmp_path / "called"),
        "REPORT": str(tmp_path / "report"),
        **more,
    }
    command = ["bash", "-c", script.replace("/usr/local/lib", str(tmp_path / "lib"))]
    return subprocess.run(command, input=packed, env=environment, capture_output=True, timeout=30, check=False)


def test_a_machine_runs_the_parts_that_concern_it_and_keeps_nothing(
    tmp_path: Path, checkout: Path, program: Path
) -> None:
    (tmp_path / "report").write_text(report(c1_1_1="PASS"))
    packed = cis.archive(program, checkout / "cfg", by_kubeadm=False)
    for status in ("0", "1"):
        done = run(cis.script(["master", "etcd"]), packed, tmp_path, STATUS=status)
        assert str(done.returncode) == status, done.stderr
        assert list((tmp_path / "lib").iterdir()) == []
    assert cis.parse(done.stdout.decode())[0].number == "1.1.1"
    called, *listed = (tmp_path / "called").read_text().splitlines()
    assert called == (
        f"--config-dir cfg --config cfg/config.yaml --benchmark {BENCHMARK} run --targets master,etcd --json"
    )
    assert listed == sorted(name.rpartition("/")[2] for name in FILES if "/" in name)


def test_an_archive_that_breaks_off_is_no_run(tmp_path: Path, checkout: Path, program: Path) -> None:
    packed = cis.archive(program, checkout / "cfg", by_kubeadm=False)
    done = run(cis.script(["node"]), packed[: len(packed) // 2], tmp_path)
    assert done.returncode != 0 and not (tmp_path / "called").exists()
    assert list((tmp_path / "lib").iterdir()) == []


@pytest.mark.parametrize("by_kubeadm", [False, True])
def test_the_lab_s_paths_take_the_place_of_kubeadm_s(checkout: Path, program: Path, by_kubeadm: bool) -> None:
    packed = cis.archive(program, checkout / "cfg", by_kubeadm=by_kubeadm)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        said = {name: file.read().decode() for name in tar.getnames() if (file := tar.extractfile(name))}
    ours = (paths.checkout() / cis.PATHS).read_text()
    assert said[f"cfg/{BENCHMARK}/config.yaml"] == (f"theirs: {BENCHMARK}/config.yaml\n" if by_kubeadm else ours)
    assert said["cfg/config.yaml"] == "theirs: config.yaml\n"
    assert len([line for line in ours.splitlines() if not line.startswith("#")]) == 8 and yaml.safe_load(ours)


@pytest.mark.parametrize(
    ("features", "wanted"),
    [
        ((), {"controller-0": "master controlplane etcd", "worker-0": "node", "load-balancer-0": ""}),
        (("kubeadm",), {"controller-0": "master controlplane etcd node", "worker-0": "node", "load-balancer-0": ""}),
    ],
)
def test_each_role_has_its_parts(tmp_path: Path, features: tuple[str, ...], wanted: dict[str, str]) -> None:
    lab = cluster(tmp_path, controllers=1, features=features)
    assert {machine.name: " ".join(cis.targets(lab, machine)) for machine in lab.machines} == wanted


@pytest.mark.parametrize("state", ["PASS", "WARN", "FAIL"])
def test_a_check_that_fails_on_one_machine_is_named_and_is_the_result(
    tmp_path: Path,
    checkout: Path,
    program: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: str,
) -> None:
    asked: list[str] = []

    def ran(_: Cluster, machine: LiveMachine, __: bytes) -> list[cis.Check]:
        asked.append(machine.name)
        return cis.parse(report(c1_1_13=state if machine.name == "worker-0" else "PASS", c1_1_14="PASS"))

    monkeypatch.setattr(cis, "_run", ran)
    monkeypatch.setattr(cis, "_architecture", lambda *_: "amd64")
    monkeypatch.setattr(cis, "_program", lambda _: program)
    lab = cluster(tmp_path, controllers=1)
    monkeypatch.setattr("toolchain.stack.read", lambda _: lab.stack)
    monkeypatch.setattr("live.cluster.find", lambda _: lab)
    assert commands.main(["cis", str(checkout)]) == (state == "FAIL")
    assert sorted(asked) == ["controller-0", "worker-0"]
    shown = capsys.readouterr().out
    assert ("FAIL worker-0 1.1.13 check c1_1_13" in shown) is (state == "FAIL")
    assert "FAIL controller-0" not in shown
    assert commands.main(["cis", "--json", str(checkout)]) == (state == "FAIL")
    document = json.loads(capsys.readouterr().out)
    assert {each["number"]: each["state"] for each in document["worker-0"]} == {"1.1.13": state, "1.1.14": "PASS"}


@pytest.mark.parametrize("printed", ["", "panic: x", "{}", '{"Controls": []}', '{"Controls": null}'])
def test_a_run_without_checks_is_an_error(printed: str) -> None:
    with pytest.raises(ToolchainError, match="kube-bench"):
        cis.parse(printed)


def test_a_checkout_without_the_data_is_refused_before_any_machine_is_asked(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a machine was asked")

    monkeypatch.setattr(cis, "_architecture", asked)
    lab = cluster(tmp_path)
    with pytest.raises(ToolchainError, match="No checkout was given: give a checkout of kube-bench"):
        cis.check(lab, "")
    (checkout / "cfg" / BENCHMARK / "node.yaml").unlink()
    with pytest.raises(ToolchainError, match=rf"lacks {BENCHMARK}/node\.yaml\. Name a checkout"):
        cis.check(lab, str(checkout))


def test_a_kube_bench_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = cluster(tmp_path)
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/bash\ncat >/dev/null\necho 'unable to detect running programs' >&2\nexit 1\n")
    ssh.chmod(0o755)
    monkeypatch.setattr("toolchain.access.ssh_command", lambda _: [str(ssh)])
    with pytest.raises(ToolchainError, match="kube-bench on worker-0 ended with status 1: unable to detect"):
        cis._run(lab, lab.machine("worker-0"), b"")
