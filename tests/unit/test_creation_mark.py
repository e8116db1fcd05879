"""The mark of a first `up` that saves the state once: whose lab it has created, before it creates anything."""

import re
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components.substrates.containers import owner, substrate
from components.substrates.containers.operations import ContainerOperations
from config import creation_mark, paths, recorded_state
from config.creation_mark import Creating
from config.errors import UserError
from unit import mocked_engine
from unit.mocked_engine import Run, run_program

IDENTITY = "SHA256:machines-ssh"
SINCE = "2026-11-30 09:00:00 UTC"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the files of the lab dev."""
    monkeypatch.setattr(paths, "state", lambda: tmp_path)
    monkeypatch.setattr(recorded_state, "login", lambda: None)
    return tmp_path / "dev"


def write(directory: Path, *, own: pytest.MonkeyPatch | None = None) -> Path:
    """Have a mark of the lab in this state; with `own` it is the one of this run."""
    state = recorded_state.in_directory(directory.parent, "dev")
    file = creation_mark.write(directory, state, "containers", SINCE)
    if own:
        own.setenv(creation_mark.VARIABLE, str(file))
    return file


def noted(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the mark of another run, with an identity."""
    with monkeypatch.context() as its_run:
        write(directory, own=its_run)
        creation_mark.note(IDENTITY)


def test_it_is_read_as_it_was_written(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert creation_mark.read(directory) is None
    file = write(directory, own=monkeypatch)
    assert file.stat().st_mode & 0o777 == 0o600
    state = str(recorded_state.in_directory(directory.parent, "dev"))
    begun = creation_mark.read(directory)
    assert begun == Creating(since=SINCE, state=state, substrate="containers", identity="")
    creation_mark.note(IDENTITY)
    begun = creation_mark.read(directory)
    assert begun == Creating(since=SINCE, state=state, substrate="containers", identity=IDENTITY)
    creation_mark.remove(directory)
    assert not directory.exists()


def test_an_identity_that_a_kill_has_cut_short_is_none(directory: Path) -> None:
    """It was to be there in full before anything was created."""
    file = write(directory)
    file.write_text(file.read_text() + IDENTITY[:-1])
    begun = creation_mark.read(directory)
    assert begun is not None and begun.identity == ""


@pytest.mark.parametrize("content", [b"", b"{\n", b"\0" * 80, b"\xff", b"[]\n", b'{"since": "now"}\n'])
def test_a_damaged_mark_proves_nothing(directory: Path, content: bytes) -> None:
    write(directory).write_bytes(content)
    assert creation_mark.read(directory) == Creating(since="unknown", state="", substrate="")
    creation_mark.check("dev")


def test_without_a_mark_of_its_run_the_program_writes_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain `pulumi up`; and a program that has outlived its run, whose mark is gone."""
    creation_mark.note(IDENTITY)
    assert not directory.exists()
    file = write(directory, own=monkeypatch)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        creation_mark.note(IDENTITY)
    assert not file.exists()


def test_the_mark_has_the_identity_before_the_engine_has_the_first_command(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a killed run leaves containers on the host that nothing proves to be its own."""
    known: dict[str, str] = {}
    register = mocked_engine._Monitor.RegisterResource

    def noting(self: Any, request: Any) -> Any:
        begun = creation_mark.read(directory)
        known[request.name] = begun.identity if begun else "no mark"
        return register(self, request)

    monkeypatch.setattr(mocked_engine._Monitor, "RegisterResource", noting)
    # What the mocked engine gives for a key has none.
    monkeypatch.setattr(substrate, "fingerprint", lambda key: key.replace("ssh-ed25519 PUBLIC-", "SHA256:"))
    write(directory, own=monkeypatch)
    program = run_program("dev", {})
    assert known["machines-ssh"] == ""
    assert known["machines-preflight"] == IDENTITY
    # Everything on the host is created after the preflight.
    on_host = [each for each in program.of_type("command:local:Command") if owner.IDENTITY in str(each.inputs)]
    assert len(on_host) > 8
    for each in on_host:
        assert each.name == "machines-preflight" or "machines-preflight" in program.before(each), each.name
        assert known[each.name] == IDENTITY


def test_a_preview_writes_no_identity(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(directory, own=monkeypatch)
    before = file.read_text()
    assert run_program("dev", {}, preview=True).resources
    assert file.read_text() == before


def test_plain_pulumi_does_not_create_the_lab_beside_what_a_killed_up_left(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted(directory, monkeypatch)
    refused = f"The first up of the lab dev, begun at {SINCE}, was killed. Nothing was changed."
    with pytest.raises(pulumi.RunError, match=re.escape(refused)) as caught:
        run_program("dev", {})
    assert "`./hardway up -s dev`" in str(caught.value) and "`./hardway destroy -s dev`" in str(caught.value)
    # It changes nothing, and shows what `up` will create.
    assert run_program("dev", {}, preview=True).resources


def test_what_has_created_nothing_and_what_another_state_has_are_no_reason(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(directory)
    creation_mark.check("dev")
    noted(directory, monkeypatch)
    with pytest.raises(UserError):
        creation_mark.check("dev")
    monkeypatch.setattr(recorded_state, "login", lambda: "file:///elsewhere")
    creation_mark.check("dev")


def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """Have this record of the lab dev on the host."""
    monkeypatch.setattr(owner, "RECORDS", str(tmp_path))
    (tmp_path / "dev").write_text(text)


def test_what_is_removed_is_what_destroy_removes(dev: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record(monkeypatch, tmp_path, f"{IDENTITY} podman /some where\n")
    removals = {
        removal.script.partition("\n")[0]: removal
        for removal in ContainerOperations().removals_of_unsaved("dev", IDENTITY)
    }
    assert list(removals)[-1] == "# removes record of hardway-dev", "what proves the rest goes last"
    commands = {
        str(each.inputs["delete"]).partition("\n")[0]: each
        for each in dev.of_type("command:local:Command")
        if owner.IDENTITY in str(each.inputs)
    }
    # Machines go with the network, whose removal takes all containers of the lab.
    others = {title for title in commands if "# removes container " in title or "all machines" in title}
    assert removals.keys() == commands.keys() - others
    for title, removal in removals.items():
        deletion = commands[title]
        assert removal.environment == {owner.IDENTITY: IDENTITY}
        if "sh -s" in removal.script:
            assert removal.stdin == deletion.inputs["stdin"]
        # Destroy also asks whether etcd goes on, and removes routes that go with their bridge.
        assert set(removal.script.splitlines()) <= set(str(deletion.inputs["delete"]).splitlines())
        assert removal.script.splitlines()[1:3] == str(deletion.inputs["delete"]).splitlines()[1:3]


@pytest.mark.parametrize("text", ["SHA256:another podman /some where\n", None])
def test_nothing_is_removed_that_is_not_provably_the_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    record(monkeypatch, tmp_path, text or "")
    if text is None:
        (tmp_path / "dev").unlink()
    assert list(ContainerOperations().removals_of_unsaved("dev", IDENTITY)) == []


def test_a_record_that_cannot_be_read_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record(monkeypatch, tmp_path, "\0" * 60)
    with pytest.raises(UserError, match="is damaged"):
        ContainerOperations().removals_of_unsaved("dev", IDENTITY)


def test_the_engine_is_that_of_the_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The settings may name another one by now."""
    record(monkeypatch, tmp_path, f"{IDENTITY} docker /some where\n")
    text = "\n".join(each.script for each in ContainerOperations().removals_of_unsaved("dev", IDENTITY))
    assert "as_root docker rm -f -v" in text and "as_root podman" not in text
