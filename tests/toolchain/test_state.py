import json
import os
import threading
from pathlib import Path

import pytest

from toolchain import paths, state
from toolchain.errors import ToolchainError
from toolchain.state import State

SALT = "encryptionsalt: v1:abc=:v1:def:ghi==\n"
SETTINGS = "# The lab.\nconfig:\n  toy:lab:\n\n    workers: 2   # two\n"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("PULUMI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    return tmp_path


def an_encrypted_stack(checkout: Path, name: str) -> None:
    file = checkout / ".state" / ".pulumi" / "stacks" / "toy" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    latest = {"secrets_providers": {"type": "passphrase", "state": {"salt": "v1:..."}}}
    file.write_text(json.dumps({"version": 3, "checkpoint": {"latest": latest}}))


def test_a_backend_of_files_and_its_passphrase_are_made(checkout: Path) -> None:
    made = state.ensure()
    passphrase = checkout / ".state" / "passphrase"
    assert made == State(
        environment={
            "PULUMI_BACKEND_URL": f"file://{checkout}/.state?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
        },
        directory=checkout / ".state",
        own_passphrase=True,
    )
    assert passphrase.stat().st_mode & 0o777 == 0o600
    assert len(passphrase.read_text().strip()) >= 32
    assert [path.name for path in (checkout / ".state").iterdir()] == ["passphrase"]


def test_the_passphrase_stays(checkout: Path) -> None:
    state.ensure()
    before = (checkout / ".state" / "passphrase").read_text()
    an_encrypted_stack(checkout, "dev")
    state.ensure()
    assert (checkout / ".state" / "passphrase").read_text() == before


def test_runs_at_once_agree_on_one_passphrase(checkout: Path) -> None:
    seen: list[str] = []
    start = threading.Barrier(8)

    def run() -> None:
        start.wait()
        state.ensure()
        seen.append((checkout / ".state" / "passphrase").read_text())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1


def test_a_lost_passphrase_is_reported_and_not_made_anew(checkout: Path) -> None:
    an_encrypted_stack(checkout, "dev")
    an_encrypted_stack(checkout, "ha")
    with pytest.raises(ToolchainError, match=r"(?s)passphrase is lost.*dev, ha.*put it back") as error:
        state.ensure()
    assert str(checkout / ".state" / "passphrase") in str(error.value)
    assert not (checkout / ".state" / "passphrase").exists()


def test_the_path_that_make_env_exports_is_no_choice_of_the_users(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in state.ensure().environment.items():
        monkeypatch.setenv(name, value)
    assert state.ensure().own_passphrase
    an_encrypted_stack(checkout, "dev")
    (checkout / ".state" / "passphrase").unlink()
    with pytest.raises(ToolchainError, match="passphrase is lost"):
        state.ensure()


@pytest.mark.parametrize("name", ["PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"])
def test_the_users_own_passphrase_is_used(checkout: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")
    found = state.ensure()
    assert found.environment == {"PULUMI_BACKEND_URL": f"file://{checkout}/.state?metadata=skip"}
    assert not found.own_passphrase
    assert not (checkout / ".state" / "passphrase").exists()


@pytest.mark.parametrize(("name", "value"), [("PULUMI_BACKEND_URL", "s3://bucket"), ("PULUMI_ACCESS_TOKEN", "pul-123")])
def test_the_users_own_backend_is_used(checkout: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert state.ensure() == State(environment={}, directory=None, own_passphrase=False)
    assert not (checkout / ".state").exists()


@pytest.mark.parametrize(
    ("current", "directory"),
    [("https://api.pulumi.com", None), ("file:///srv/labs?no_tmp_dir=true", Path("/srv/labs"))],
)
def test_a_login_is_used(checkout: Path, current: str, directory: Path | None) -> None:
    (checkout / "home").mkdir()
    (checkout / "home" / "credentials.json").write_text(json.dumps({"current": current}))
    assert state.ensure() == State(environment={}, directory=directory, own_passphrase=False)


@pytest.mark.parametrize("content", ["", "{}", '{"current": ""}'])
def test_a_logged_out_user_has_no_login(checkout: Path, content: str) -> None:
    (checkout / "home").mkdir()
    (checkout / "home" / "credentials.json").write_text(content)
    assert state.ensure().own_passphrase


class TestSettingsFileKept:
    @pytest.fixture
    def file(self, checkout: Path) -> Path:
        file = checkout / "Pulumi.dev.yaml"
        file.write_text(SETTINGS)
        return file

    def test_the_salt_and_the_formatting_of_the_cli_are_undone(self, file: Path) -> None:
        with state.settings_file_kept(file, state.ensure()):
            file.write_text("# The lab.\nconfig:\n  toy:lab:\n    workers: 2 # two\n" + SALT)
        assert file.read_text() == SETTINGS

    def test_also_after_a_failure(self, file: Path) -> None:
        with pytest.raises(ToolchainError), state.settings_file_kept(file, state.ensure()):
            file.write_text(SETTINGS + SALT)
            raise ToolchainError("failed")
        assert file.read_text() == SETTINGS

    def test_what_the_user_changes_meanwhile_stays(self, file: Path) -> None:
        changed = SETTINGS.replace("2", "3") + SALT
        with state.settings_file_kept(file, state.ensure()):
            file.write_text(changed)
        assert file.read_text() == changed

    def test_a_salt_that_was_there_stays(self, file: Path) -> None:
        file.write_text(SETTINGS + SALT)
        with state.settings_file_kept(file, state.ensure()):
            pass
        assert file.read_text() == SETTINGS + SALT

    def test_the_salt_of_the_users_own_passphrase_stays(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "own")
        with state.settings_file_kept(file, state.ensure()):
            file.write_text(SETTINGS + SALT)
        assert file.read_text() == SETTINGS + SALT
