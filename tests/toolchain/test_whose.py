"""What is asked before Pulumi is run: whose lab has the name of a stack."""

import dataclasses
import json
import os
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from toolchain import lab_key, paths, whose
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

STACK = Stack(
    name="dev",
    project="hardway",
    settings_file=Path("Pulumi.dev.yaml"),
    substrate="containers",
    engine="podman",
    kubernetes="1.36.4",
)
KEY = f"ssh-ed25519 {b64encode(b'a key').decode()}"
IDENTITY = "SHA256:" + b64encode(sha256(b"a key").digest()).decode().rstrip("=")
URN = "urn:pulumi:dev::hardway::x::"
NEW, OLD = "# removes network hardway-dev\n...", "# network hardway-dev, removed\n..."


def state(delete: str | None) -> dict[str, Any]:
    """A state with a key and, where it has a deletion, a network."""
    key = {"urn": f"{URN}machines-ssh", "outputs": {"publicKeyOpenssh": f"{KEY}\n"}}
    key["outputs"]["publicKeyFingerprintSha256"] = IDENTITY  # type: ignore[index]
    network = {"urn": f"{URN}machines-network", "inputs": {"delete": delete}}
    return {"deployment": {"resources": [key, *([network] if delete else [])]}}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose podman has a lab `dev` that nobody knows; without a record."""
    monkeypatch.setattr(whose, "_RECORDS", tmp_path / "records")
    owner = tmp_path / "owner.py"
    program = paths.checkout() / "components" / "substrates" / "containers" / "owner.py"
    # The records of a test, not those of the host.
    owner.write_text(
        f"import sys, runpy\nsys.argv[1:1] = ['--records', {str(tmp_path / 'records')!r}]\n"
        f"runpy.run_path({str(program)!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(lab_key, "owner_program", lambda _: owner)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "podman").write_text(
        "#!/bin/sh\ncase $1 in ps) echo hardway-dev-worker-0 ;; network) echo podman ;; "
        "inspect) echo running ;; *) exit 1 ;; esac\n"
    )
    (tools / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return tmp_path


def test_up_refuses_what_is_another_labs(host: Path) -> None:
    with pytest.raises(
        ToolchainError, match=r"(?s)hardway-dev is another lab on the Pulumi host\..*Nothing was changed"
    ):
        whose.check_before_up(state(NEW), STACK)
    # The first `up`: the preflight has it in its report of failed preconditions.
    whose.check_before_up(state(None), STACK)
    assert not (host / "records").exists()


def test_the_record_is_enough(host: Path) -> None:
    (host / "records").mkdir()
    (host / "records" / "dev").write_text(f"{IDENTITY} podman /here\n")
    for check in (whose.check_before_up, whose.check_before_destroy):
        check(state(NEW), STACK)
        check(state(OLD), STACK)


@pytest.mark.parametrize("backend", ["files", "another", "of another lab"])
def test_a_lab_whose_key_was_rotated_is_its_own(host: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """`stop`, `start`, `save` and `rewind` that refuse a lab as another's, because its record has its first key."""
    later = f"ssh-ed25519 {b64encode(b'a later key').decode()}"
    (host / "records").mkdir()
    (host / "records" / "dev").write_text(f"{IDENTITY} podman /here\n")
    monkeypatch.setattr(lab_key, "of_files", lambda _: later)
    known = state(NEW) if backend == "files" else {"deployment": {}}
    monkeypatch.setattr(whose, "recorded", lambda *_: known["deployment"])
    opens = "ssh-ed25519 QUJD" if backend == "of another lab" else later
    keys = host / "authorized_keys"
    keys.write_text(f"{opens} hardway-dev:{IDENTITY}\n")
    podman = host / "bin" / "podman"
    podman.write_text(podman.read_text().replace("inspect)", f"cp) tar -c -C {host} authorized_keys ;; inspect)"))
    if backend == "of another lab":
        with pytest.raises(ToolchainError, match=r"(?s)hardway-dev is another lab.*Nothing was changed"):
            whose.check_own(STACK)
    else:
        whose.check_own(STACK)


def test_a_record_that_was_lost_is_written_again(host: Path) -> None:
    (host / "bin" / "podman").write_text("#!/bin/sh\n[ $1 = network ] && echo hardway-dev || true\n")
    whose.check_before_up(state(NEW), STACK)
    assert (host / "records" / "dev").read_text().split()[0] == IDENTITY
    (host / "records" / "dev").unlink()
    # The scripts of an earlier version would leave it behind.
    whose.check_before_destroy(state(OLD), STACK)
    assert not (host / "records" / "dev").exists()


def test_destroy_with_an_empty_state_does_not_say_that_the_lab_is_gone(host: Path) -> None:
    """A state that was moved away."""
    with pytest.raises(
        ToolchainError, match=r"(?s)The state has no lab dev, but the Pulumi host has one\..*this state is not there"
    ):
        whose.check_before_destroy({"deployment": {}}, STACK)
    (host / "bin" / "podman").write_text("#!/bin/sh\n")
    whose.check_before_destroy({"deployment": {}}, STACK)


def test_destroy_with_an_empty_state_does_not_say_that_virtual_machines_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, program = tmp_path / "records", lab_key.owner_program("libvirt")
    (tmp_path / "owner.py").write_text(
        f"import sys, runpy\nsys.argv += ['--records', {str(records)!r}]\n"
        f"runpy.run_path({str(program)!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(lab_key, "owner_program", lambda _: tmp_path / "owner.py")
    (tmp_path / "virsh").write_text('#!/bin/sh\ncase "$4" in net-list) echo hardway-dev ;; esac\n')
    (tmp_path / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    stack = dataclasses.replace(STACK, substrate="libvirt")
    whose.check_before_destroy({}, stack)
    records.mkdir()
    (records / "dev").write_text("SHA256:anothers /a/b\n")
    with pytest.raises(ToolchainError, match=r"(?s)has no lab dev, but the Pulumi host has one\..*was made from /a/b"):
        whose.check_before_destroy({}, stack)
    whose.check_before_destroy(state(None), stack)


def test_destroy_never_runs_scripts_that_would_remove_another_lab(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ToolchainError, match=r"(?s)remove by name.*pulumi stack rm --force dev"):
        whose.check_before_destroy(state(OLD), STACK)
    whose.check_before_destroy(state(NEW), STACK)
    assert "Only what this state has made is removed. hardway-dev is another lab" in capsys.readouterr().out
    # A second checkout that was refused.
    whose.check_before_destroy(state(None), STACK)


def test_a_query_that_fails_is_no_answer(host: Path) -> None:
    (host / "bin" / "podman").write_text("#!/bin/sh\necho broken >&2\nexit 125\n")
    with pytest.raises(ToolchainError, match="podman does not work or is not permitted: broken"):
        whose.check_before_destroy(state(OLD), STACK)
    (host / "owner.py").write_text("import sys\nsys.exit('no such program')\n")
    with pytest.raises(ToolchainError, match="The owner of the lab dev is not known: no such program"):
        whose.check_before_destroy(state(OLD), STACK)


def test_files_of_a_lab_that_is_up_and_a_state_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another `pulumi login`."""
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    whose.check_backend(STACK)
    STACK.directory.mkdir(parents=True)
    (STACK.directory / "lab.json").write_text(json.dumps({}))
    with pytest.raises(
        ToolchainError, match=r"(?s)The lab dev is up, as .*no such stack. Nothing was changed.*pulumi logout"
    ):
        whose.check_backend(STACK)
