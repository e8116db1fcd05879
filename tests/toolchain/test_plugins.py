import io
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolchain import origin, paths, plugins
from toolchain.errors import ToolchainError
from toolchain.origin import Origin
from toolchain.progress import Report

PROVIDERS = {"command": "1.2.1", "tls": "5.6.2"}
ALL = {"pulumi-language-python", "pulumi-resource-command", "pulumi-resource-tls"}


class Cli:
    """A `pulumi` that installs a plugin, or cannot, and notes that it was asked."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.calls = directory / "calls"
        self.calls.touch()
        self.path = directory / "bin" / "pulumi"
        self.path.parent.mkdir()
        self.reaches_releases(False)

    def reaches_releases(self, reaches: bool) -> None:
        act = f'mkdir -p "{self.home}/plugins/$3-$4-v$5"' if reaches else "echo '403 Forbidden' >&2; exit 1"
        self.path.write_text(f'#!/bin/sh\necho "$*" >> {self.calls}\n{act}\n')
        self.path.chmod(0o755)

    def has_language_host(self) -> None:
        (self.path.parent / "pulumi-language-python").touch()

    def was_asked(self) -> int:
        return len(self.calls.read_text().splitlines())


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.delenv("TOOLCHAIN", raising=False)
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    monkeypatch.setattr(origin, "of_release", lambda url: Origin.UPSTREAM)
    made = Cli(tmp_path)
    monkeypatch.setenv("PULUMI_HOME", str(made.home))
    return made


def ensure(cli: Cli, providers: dict[str, str] = PROVIDERS, *, retry: bool = False) -> str:
    stream = io.StringIO()
    with Report(stream) as report:
        plugins.ensure(report, cli.path, providers, retry=retry)
    return stream.getvalue()


def in_use() -> set[str]:
    links = list(plugins.on_path().iterdir())
    assert all(link.readlink().name == link.name and link.exists() for link in links)
    return {link.name for link in links}


def test_official_plugins_are_installed_once(cli: Cli) -> None:
    cli.has_language_host()
    cli.reaches_releases(True)
    assert "Stand-ins" not in ensure(cli)
    assert in_use() == set()
    assert cli.calls.read_text().splitlines() == [
        "plugin install resource command 1.2.1",
        "plugin install resource tls 5.6.2",
    ]
    ensure(cli)
    assert cli.was_asked() == 2


def test_stand_ins_serve_where_there_are_no_official_ones_and_it_is_said_once(cli: Cli) -> None:
    said = ensure(cli)
    assert "Stand-ins from toolchain/standins serve for pulumi-language-python" in said
    assert "cannot be had from here" in said
    assert in_use() == ALL
    assert "Stand-ins" not in ensure(cli)
    assert cli.was_asked() == 2
    assert in_use() == ALL


def test_only_what_is_missing_is_stood_in_for(cli: Cli) -> None:
    cli.has_language_host()
    (cli.home / "plugins" / "resource-tls-v5.6.2").mkdir(parents=True)
    ensure(cli)
    assert in_use() == {"pulumi-resource-command"}


def test_plugins_are_looked_for_where_the_cli_puts_them(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks the list of users; HOME may be another user's, by sudo."""
    monkeypatch.delenv("PULUMI_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "of another user"))
    home = tmp_path / "home of the user"
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir=str(home)))
    for name, version in PROVIDERS.items():
        (home / ".pulumi" / "plugins" / f"resource-{name}-v{version}").mkdir(parents=True)
    cli.has_language_host()
    ensure(cli)
    assert cli.was_asked() == 0


def test_a_plugin_that_is_half_unpacked_is_not_there(cli: Cli) -> None:
    cli.has_language_host()
    plugin = cli.home / "plugins" / "resource-tls-v5.6.2"
    plugin.mkdir(parents=True)
    plugin.with_name("resource-tls-v5.6.2.partial").touch()
    ensure(cli)
    assert in_use() == {"pulumi-resource-command", "pulumi-resource-tls"}


def test_setup_asks_again_and_puts_the_stand_ins_away(cli: Cli) -> None:
    ensure(cli)
    cli.reaches_releases(True)
    cli.has_language_host()
    ensure(cli, retry=True)
    assert in_use() == set()


def test_a_host_that_cannot_be_reached_is_not_waited_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "of_release", lambda url: Origin.SOURCE)
    monkeypatch.setattr(origin, "why_release_is_built", lambda url: "Official releases at get.pulumi.com are away")
    assert "cannot be had from here (Official releases at get.pulumi.com are away)." in ensure(cli)
    assert cli.was_asked() == 0
    assert in_use() == ALL


def test_source_takes_stand_ins_in_any_case(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.has_language_host()
    cli.reaches_releases(True)
    ensure(cli)
    monkeypatch.setenv("TOOLCHAIN", "source")
    assert "TOOLCHAIN=source demands it" in ensure(cli)
    assert in_use() == ALL


def test_upstream_forbids_stand_ins(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(cli)
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    with pytest.raises(ToolchainError, match=r"(?s)command 1.2.1 cannot be installed.*403 Forbidden.*forbids"):
        ensure(cli)
    cli.reaches_releases(True)
    with pytest.raises(ToolchainError, match=r"pulumi-language-python.*forbids"):
        ensure(cli)


def test_a_provider_without_a_stand_in_is_an_error(cli: Cli) -> None:
    with pytest.raises(ToolchainError, match=r"pulumi-resource-gcp.*no stand-in"):
        ensure(cli, {"gcp": "10.2.0"})


def test_a_cli_that_hangs_is_given_up(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.path.write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr(plugins, "_INSTALL_SECONDS", 0.2)
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    with pytest.raises(ToolchainError, match="no answer within"):
        ensure(cli)
