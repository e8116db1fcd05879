"""Removals of etcd's containers ask the members first: run by a real bash, with an engine of files."""

import os
import subprocess
from pathlib import Path

import pytest

from components.substrates.containers.owner import IDENTITY, REMOVES, owners_interpreter
from components.substrates.containers.quorum import check_removal, give_up_quorum, keep_quorum
from components.substrates.containers.substrate import delete_container
from components.substrates.pulumi_host import AS_ROOT, script
from config.fingerprint import fingerprint
from config.machine_paths import LIBRARY
from lab.shipped import lab_of
from unit.mocked_engine import Run, run_program

KEY = "ssh-ed25519 QUFB"
MEMBERS = ["c-0", "c-1", "c-2"]
# A directory has a file for each container: what `exec` prints there. Absent: no such container.
ENGINE = r"""#!/bin/bash
all=$*
case $all in
  "ps "*"name=^hardway-dev-"*)
    name=${all##*hardway-dev-} name=${name%\$}
    [ ! -e "$CONTAINERS/$name" ] || echo "id-$name" ;;
  "ps "*"id=id-"*) name=${all##*id=id-}; [ ! -e "$CONTAINERS/$name" ] || echo "id-$name" ;;
  "exec "*) state=$(cat "$CONTAINERS/${2#hardway-dev-}"); [ "$state" != frozen ] || exit 255; echo "$state" ;;
  "rm "*) name=${all##* } name=${name#hardway-dev-}; rm -f "$CONTAINERS/${name#id-}" ;;
esac
"""


class Host:
    """A host with containers."""

    def __init__(self, directory: Path) -> None:
        self.containers, self.records, tools = (directory / name for name in ("containers", "records", "bin"))
        for each in (self.containers, self.records, tools):
            each.mkdir()
        (tools / "podman").write_text(ENGINE)
        (tools / "podman").chmod(0o755)
        self.environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "CONTAINERS": str(self.containers),
            IDENTITY: fingerprint(KEY),
        }

    def has(self, *states: str) -> None:
        """Have members in these states."""
        for name, state in zip(MEMBERS, states, strict=True):
            (self.containers / name).write_text(state)

    def bash(self, text: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", text], env=self.environment | more, capture_output=True, text=True, check=False, timeout=60
        )

    def checked(self, *removed: str) -> list[str]:
        return check_removal("dev", "podman", 1, members=MEMBERS, removed=removed, records=str(self.records))

    def guards(self) -> None:
        assert self.bash(keep_quorum("dev", str(self.records))).returncode == 0

    def deletes(self, name: str, **more: str) -> subprocess.CompletedProcess[str]:
        """The deletion of a member's machine."""
        removal = delete_container("podman", f"hardway-dev-{name}", self.checked(name))
        return self.bash(removal, PULUMI_COMMAND_STDOUT=f"id-{name}", **more)

    def left(self) -> list[str]:
        return sorted(each.name for each in self.containers.iterdir())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.guards()
    return made


@pytest.mark.parametrize("state", ["healthy", "", "frozen"])
def test_a_member_is_removed_where_the_others_are_healthy(host: Host, state: str) -> None:
    host.has(state, "healthy", "healthy")
    done = host.deletes("c-0")
    assert done.returncode == 0, done.stderr
    assert host.left() == ["c-1", "c-2"]


@pytest.mark.parametrize("state", ["", "frozen", "none"])
def test_a_member_stays_where_the_others_are_no_majority(host: Host, state: str) -> None:
    """By their definitions two of three stay."""
    host.has("healthy", "healthy", state)
    done = host.deletes("c-1")
    assert done.returncode == 1
    assert "Refused: this would remove c-1. etcd has 3 members, needs 2, and 1 would be healthy. Not healthy: c-2." in (
        done.stderr
    )
    assert "See: ./hardway status -s dev. To insist" in done.stderr
    assert host.left() == MEMBERS
    assert host.deletes("c-1", INSIST="yes").returncode == 0
    assert host.left() == ["c-0", "c-2"]


def test_the_second_removal_of_a_run_sees_what_the_first_has_left(host: Host) -> None:
    """`pulumi up --replace` of the network removes all machines, side by side."""
    host.has("healthy", "healthy", "healthy")
    removals = [
        subprocess.Popen(
            ["bash", "-c", delete_container("podman", f"hardway-dev-{name}", host.checked(name))],
            env=host.environment | {"PULUMI_COMMAND_STDOUT": f"id-{name}"},
            stderr=subprocess.DEVNULL,
        )
        for name in MEMBERS
    ]
    assert sorted(each.wait(60) for each in removals) == [0, 1, 1]
    assert len(host.left()) == 2


def test_machines_without_data_are_removed(host: Host) -> None:
    """The first `up` has failed before etcd was there: another definition of its machines loses nothing."""
    host.has("none", "none", "none")
    assert host.deletes("c-0").returncode == 0


def test_destroy_removes_all(host: Host) -> None:
    host.has("healthy", "healthy", "healthy")
    assert host.bash(script("x", give_up_quorum("dev", str(host.records)))).returncode == 0
    assert [host.deletes(name).returncode for name in MEMBERS] == [0, 0, 0]
    assert host.left() == []


def test_what_the_state_has_lost_is_not_removed_by_its_creation(host: Host) -> None:
    """`pulumi state delete`, then `up`: the creation of a machine, or of the network, removes what has its name."""
    (host.records / "dev").write_text(f"{fingerprint(KEY)} podman /here\n")
    remove = [
        *host.checked("c-0"),
        "as_root podman rm hardway-dev-c-0 7<&- || true",
    ]
    interpreter = owners_interpreter(
        "dev", str(host.records), title="container hardway-dev-c-0", first=["set -eu", AS_ROOT, *remove]
    )

    def runs(command: str) -> int:
        return subprocess.run([*interpreter, command], env=host.environment, check=False, timeout=60).returncode

    host.has("healthy", "", "healthy")
    assert runs("# container hardway-dev-c-0\ntrue") == 1
    assert host.left() == MEMBERS
    # An update, and a deletion that looks by itself.
    assert runs("# container hardway-dev-c-0 stays\ntrue") == 0
    assert runs(f"{REMOVES}container hardway-dev-c-0\ntrue") == 0
    host.has("healthy", "healthy", "healthy")
    assert runs("# container hardway-dev-c-0\ntrue") == 0


def test_removals_are_checked_until_the_lab_is_destroyed(ha: Run) -> None:
    mark = ha.named("machines-removals-checked", "command:local:Command")
    before = ha.before(mark)
    # What a run that is killed in between leaves in its state.
    assert mark.inputs["delete"] == ha.named("machines-removals", "command:local:Command").inputs["delete"]
    for name in (
        "machines-removals",
        "machines-network-kept",
        "machines-network",
        "machines-controller-0",
        "machines-controller-2",
        "machines-worker-0",
    ):
        assert name in before
    for name in ("machines-controller-1", "machines-network"):
        inputs = ha.named(name, "command:local:Command").inputs
        assert "keeps-quorum" in inputs["delete"], name
        title = str(inputs["create"]).split("\n")[0]
        assert f"= '{title}' ]" in inputs["interpreter"][-1] and "keeps-quorum" in inputs["interpreter"][-1], name
    assert "keeps-quorum" not in ha.named("machines-worker-0", "command:local:Command").inputs["delete"]


def test_a_network_or_key_that_is_replaced_asks_for_all_machines_before_one_is_removed(ha: Run) -> None:
    """The engine deletes the machines before the network: what comes after all machines is deleted first."""
    kept = ha.named("machines-network-kept", "command:local:Command")
    machines = {f"machines-{name}" for name in ("controller-0", "controller-1", "controller-2", "worker-0")}
    assert machines < ha.before(kept)
    assert "create" in kept.request.replaceOnChanges and kept.request.deleteBeforeReplace
    # By this the engine deletes it with network and key; what another one has is not known before that is there.
    for name, type_ in (
        ("machines-network", "command:local:Command"),
        ("machines-ssh", "tls:index/privateKey:PrivateKey"),
    ):
        replaced = ha.named(name, type_)
        assert replaced.urn in kept.request.propertyDependencies["create"].urns
        assert replaced.request.deleteBeforeReplace
    removed = next(line for line in str(kept.inputs["stdin"]).split("\n") if line.startswith("Refused"))
    assert "controller-0, controller-1, controller-2" in removed and "worker" not in removed
    assert str(kept.inputs["delete"]).endswith("\nexec bash -s")
    # `pulumi destroy` turns the check off before.
    assert "machines-network-kept" in ha.before(ha.named("machines-removals", "command:local:Command"))


@pytest.mark.parametrize("data", [True, False])
def test_a_step_is_not_deleted_under_data_of_etcd_whose_machine_stays(ha: Run, tmp_path: Path, data: bool) -> None:
    """`pulumi destroy --target` of one container, with all that depends on it: the data of all three members went."""
    (tmp_path / "step.sh").write_text(
        'last_owner() { :; }\nundo() { echo "undone $1"; }\ndie() { echo "$*"; exit 1; }\n'
    )
    (tmp_path / "etcd" / "member").mkdir(parents=True) if data else None
    deletion = str(ha.named("etcd-controller-1").inputs["delete"])
    moved = deletion.replace(LIBRARY, str(tmp_path / "step.sh")).replace("/var/lib/etcd/", f"{tmp_path}/etcd/")
    done = subprocess.run(["bash", "-c", moved], capture_output=True, text=True, check=False, timeout=60)
    if data:
        assert done.returncode == 1
        assert done.stdout.startswith("Refused: this would remove the data of etcd from controller-1, which stays. To ")
    else:
        assert (done.returncode, done.stdout) == (0, "undone etcd\n")


def test_an_existing_host_that_leaves_gives_up_its_data(no_output_in_a_string: None) -> None:
    """Its steps are deleted one by one; it stays."""
    steps = run_program("own-test", lab_of("own-test")).resources
    deletions = [str(step.inputs["delete"]) for step in steps if "undo etcd" in str(step.inputs.get("delete"))]
    assert deletions and not any("Refused" in deletion for deletion in deletions)
