import json
import sys
from pathlib import Path
from typing import Any

import pytest

from toolchain import lab_key, libvirt_strays
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

URN = "urn:pulumi:dev::hardway::hardway:index:Libvirt$x::"
PREFLIGHT = {"type": "command:local:Command", "urn": f"{URN}machines-preflight"}
FAKE = """#!{python}
import json, pathlib, sys
directory = pathlib.Path(__file__).parent
with (directory / "asked").open("a") as asked:
    asked.write(" ".join(sys.argv[4:]) + "\\n")
answers = json.loads((directory / "answers.json").read_text())
sys.stdout.write(answers.get(" ".join(sys.argv[4:]), ""))
"""
LISTINGS = ("list", "desc", "pool-list", "vol-list", "net-list", "domuuid", "net-uuid", "pool-uuid")


def resource(kind: str, name: str) -> dict[str, Any]:
    type_ = next(token for token in libvirt_strays._TYPES if token.endswith(f":{kind}"))
    return {"type": type_, "urn": f"{URN}{name}", "inputs": {"name": name}}


@pytest.fixture
def libvirt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virsh that knows of a whole lab and of others' machines, and notes what it is asked."""
    answers = {
        "list --all --name": "hardway-dev-worker-0\nhardway-dev-two-worker-0\nhardway-dev-mine\nelse\n",
        "desc hardway-dev-worker-0": "hardway-dev\n",
        "desc hardway-dev-two-worker-0": "hardway-dev-two\n",
        "desc hardway-dev-mine": "No description for domain: hardway-dev-mine\n",
        "pool-list --all --name": "default\nhardway-dev\n",
        "vol-list --pool hardway-dev": " hardway-dev-image  /a/b\n hardway-dev-worker-0.qcow2  /a/c\n",
        "net-list --all --name": "default\nhardway-dev\n",
        "domuuid hardway-dev-worker-0": "the-machine\n\n",
        "net-uuid hardway-dev": "the-network\n",
    }
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    (tmp_path / "virsh").write_text(FAKE.format(python=sys.executable))
    (tmp_path / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "asked"


@pytest.fixture
def stack() -> Stack:
    return Stack(
        name="dev",
        project="hardway",
        settings_file=Path("Pulumi.dev.yaml"),
        substrate="libvirt",
        engine="podman",
        kubernetes="1.36.4",
    )


def done(asked: Path) -> list[str]:
    lines = asked.read_text().splitlines() if asked.exists() else []
    return [line for line in lines if not line.startswith(LISTINGS)]


def state(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"deployment": {"resources": list(resources)}}


WHOLE = (
    PREFLIGHT,
    resource("Network", "hardway-dev"),
    resource("Pool", "hardway-dev"),
    resource("Volume", "hardway-dev-image"),
    resource("Volume", "hardway-dev-worker-0.qcow2"),
    resource("Domain", "hardway-dev-worker-0"),
)


def test_what_the_state_knows_stays(libvirt: Path, stack: Stack) -> None:
    assert libvirt_strays.remove(state(*WHOLE), stack) == []
    assert done(libvirt) == []


def test_a_machine_that_was_being_made_goes_with_its_disk(libvirt: Path, stack: Stack) -> None:
    assert libvirt_strays.remove(state(*WHOLE[:-2]), stack) == [
        "domain hardway-dev-worker-0",
        "volume hardway-dev-worker-0.qcow2",
    ]
    assert done(libvirt) == [
        "destroy hardway-dev-worker-0",
        "undefine hardway-dev-worker-0",
        "vol-delete hardway-dev-worker-0.qcow2 --pool hardway-dev",
    ]


def test_a_lab_that_has_only_begun_goes_as_a_whole(libvirt: Path, stack: Stack) -> None:
    gone = libvirt_strays.remove(state(PREFLIGHT), stack)
    assert [each.split()[0] for each in gone] == ["domain", "volume", "volume", "pool", "network"]
    assert not [line for line in done(libvirt) if "two" in line or "mine" in line or "else" in line]


def test_another_checkouts_lab_of_the_same_name_stays(libvirt: Path, stack: Stack) -> None:
    """This state's machine is gone, and another checkout has made one of its name; the rest would be strays."""
    network = {**resource("Network", "hardway-dev"), "id": "the-network"}
    machine = {**resource("Domain", "hardway-dev-worker-0"), "id": "gone"}
    with pytest.raises(ToolchainError, match="domain hardway-dev-worker-0 has the UUID the-machine, not gone"):
        libvirt_strays.remove(state(PREFLIGHT, network, machine), stack)
    assert done(libvirt) == []
    libvirt_strays.remove(state(PREFLIGHT, network, {**machine, "id": "the-machine"}), stack)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program has its records, in place of the host's."""
    program = lab_key.owner_program("libvirt")
    (tmp_path / "owner.py").write_text(
        f"import runpy, sys\nsys.argv += ['--records', {str(tmp_path / 'records')!r}]\n"
        f"runpy.run_path({str(program)!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(lab_key, "owner_program", lambda _: tmp_path / "owner.py")
    return tmp_path / "records"


KEY = {"type": "tls:x", "urn": f"{URN}machines-ssh", "outputs": {"publicKeyFingerprintSha256": "SHA256:mine"}}


def test_a_lab_that_has_only_begun_is_not_what_another_has_made_since(
    libvirt: Path, stack: Stack, records: Path
) -> None:
    """The state knows no UUIDs yet: all of the other's lab would be strays."""
    records.mkdir()
    (records / "dev").write_text("SHA256:anothers /a/b\n")
    with pytest.raises(
        ToolchainError, match=r"(?s)another lab on the Pulumi host.*made from /a/b;.*Nothing was changed\."
    ):
        libvirt_strays.remove(state(PREFLIGHT, KEY), stack)
    assert done(libvirt) == []
    (records / "dev").write_text("SHA256:mine /c/d\n")
    assert len(libvirt_strays.remove(state(PREFLIGHT, KEY), stack)) == 5


def test_a_lab_of_an_earlier_version_is_marked_where_libvirt_has_what_the_state_made(
    libvirt: Path, stack: Stack, records: Path
) -> None:
    libvirt_strays.remove(state(*WHOLE, KEY), stack)
    assert not records.exists(), "this state has no UUIDs"
    network = {**resource("Network", "hardway-dev"), "id": "another"}
    with pytest.raises(ToolchainError):
        libvirt_strays.remove(state(PREFLIGHT, network, KEY), stack)
    assert not records.exists()
    libvirt_strays.remove(state(*WHOLE, {**network, "id": "the-network"}, KEY), stack)
    assert (records / "dev").read_text().startswith("SHA256:mine /")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the provider was killed three times, making disks of this lab, of another, and with nothing written yet."""
    directory = tmp_path / "temporary"
    for name, key in (("cloudinit1", "MINE"), ("cloudinit2", "ANOTHERS"), ("cloudinit3", None), ("other1", "MINE")):
        (directory / name).mkdir(parents=True)
        if key:
            (directory / name / "user-data").write_text(f"#cloud-config\nssh_authorized_keys:\n- ssh-ed25519 {key}\n")
    (directory / "cloudinit4").write_text("ssh-ed25519 MINE")
    (directory / "cloudinit5").symlink_to(directory / "other1")
    monkeypatch.setenv("TMPDIR", str(directory))
    return directory


def test_host_keys_that_the_provider_was_writing_go(libvirt: Path, stack: Stack, temporary: Path) -> None:
    key = {"type": "tls:x", "urn": f"{URN}machines-ssh", "outputs": {"publicKeyOpenssh": "ssh-ed25519 MINE\n"}}
    before = {each.name for each in temporary.iterdir()}
    for unknown in ({"outputs": {"publicKeyOpenssh": ""}}, {"outputs": None}):
        assert libvirt_strays.remove(state(*WHOLE, key | unknown), stack) == []
    assert libvirt_strays.remove(state(*WHOLE, key), stack) == [f"directory {temporary / 'cloudinit1'}"]
    assert {each.name for each in temporary.iterdir()} == before - {"cloudinit1"}
    assert done(libvirt) == []


def test_before_the_preflight_has_passed_nothing_is_the_labs(libvirt: Path, stack: Stack) -> None:
    for deployment in ({}, {"deployment": None}, state()):
        assert libvirt_strays.remove(deployment, stack) == []
    assert not libvirt.exists()
