"""The home of the Pulumi CLI in the runs of `./hardway`, which has no log of the engine."""

import shutil
from pathlib import Path

import pytest

from toolchain import pulumi_home
from toolchain.state import State


@pytest.fixture(autouse=True)
def users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "users-home"
    monkeypatch.setenv("PULUMI_HOME", str(home))
    return home


def own(directory: Path) -> State:
    return State(environment={"PULUMI_BACKEND_URL": directory.as_uri()}, directory=directory, own_passphrase=True)


def test_the_users_plugins_are_found_there(tmp_path: Path, users_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = users_home / "plugins" / "resource-tls-v5.6.2"
    plugin.mkdir(parents=True)
    for _ in range(2):
        home = Path(pulumi_home.without_log(own(tmp_path))["PULUMI_HOME"])
        assert (home / "plugins" / plugin.name).is_dir()

    # The user's home is another one now, and has no plugins yet.
    shutil.rmtree(users_home)
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "another"))
    assert Path(pulumi_home.without_log(own(tmp_path))["PULUMI_HOME"]) == home
    assert (home / "plugins").resolve() == tmp_path / "another" / "plugins"
    assert list((home / "plugins").iterdir()) == []


@pytest.mark.parametrize("directory", [None, Path("/somewhere")])
def test_another_backend_keeps_the_users_home(directory: Path | None) -> None:
    """The user's account is there."""
    assert pulumi_home.without_log(State(environment={}, directory=directory, own_passphrase=False)) == {}
