import hashlib
import io
import os
import pwd
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from upstream_server import Upstream

from toolchain import paths, plugins
from toolchain.errors import ToolchainError
from toolchain.origin import Release
from toolchain.progress import Report
from toolchain.releases.download import ChecksumError
from toolchain.versions import Plugin, architecture

PROVIDERS = {"command": Plugin(version="1.2.1", archive={}), "tls": Plugin(version="5.6.2", archive={})}
ALL = {"pulumi-language-python", "pulumi-resource-command", "pulumi-resource-tls"}


class Cli:
    """A `pulumi` that installs a plugin from an archive, or cannot, and notes how it was asked."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.calls = directory / "calls"
        self.calls.touch()
        self.path = directory / "bin" / "pulumi"
        self.path.parent.mkdir()
        self.does('mkdir -p "{home}/plugins/$3-$4-v$5" && cp "$8" "{home}/plugins/$3-$4-v$5/unpacked"')

    def does(self, act: str) -> None:
        self.path.write_text(f'#!/bin/sh\necho "$*" >> {self.calls}\n{act.format(home=self.home)}\n')
        self.path.chmod(0o755)

    def has_language_host(self) -> None:
        (self.path.parent / "pulumi-language-python").touch()

    def was_asked(self) -> int:
        return len(self.calls.read_text().splitlines())

    def installed(self, name: str) -> bytes:
        """The content of the archive that a provider was installed from."""
        return (self.home / "plugins" / f"resource-{name}-v{PROVIDERS[name].version}" / "unpacked").read_bytes()


@pytest.fixture
def cli(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.delenv("TOOLCHAIN", raising=False)
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    monkeypatch.setattr(Release, "why_not", lambda release: None)
    made = Cli(tmp_path)
    monkeypatch.setenv("PULUMI_HOME", str(made.home))
    return made


def path_of(name: str) -> str:
    """Where upstream has a provider's archive."""
    version = PROVIDERS[name].version
    file = f"pulumi-resource-{name}-v{version}-linux-{architecture()}.tar.gz"
    return f"pulumi-{name}/releases/download/v{version}/{file}"


def publish(upstream: Upstream, name: str, content: bytes = b"released") -> str:
    """Have a provider's archive, without a checksum beside it; give its sum."""
    upstream.files[path_of(name)] = content
    return hashlib.sha256(content).hexdigest()


def pinned(sha256: str) -> dict[str, Plugin]:
    """The provider tls, its archive pinned."""
    return {"tls": Plugin(version="5.6.2", archive={architecture(): sha256})}


def ensure(cli: Cli, upstream: Upstream, providers: dict[str, Plugin] = PROVIDERS, *, retry: bool = False) -> str:
    stream = io.StringIO()
    with Report(stream) as report:
        plugins.ensure(report, cli.path, providers, retry=retry, releases=upstream.base_url)
    return stream.getvalue()


def in_use() -> set[str]:
    links = list(plugins.on_path().iterdir())
    assert all(link.readlink().name == link.name and link.exists() for link in links)
    return {link.name for link in links}


def test_official_plugins_are_installed_once(cli: Cli, upstream: Upstream) -> None:
    cli.has_language_host()
    for name in PROVIDERS:
        publish(upstream, name)
    assert "Stand-ins" not in ensure(cli, upstream)
    assert in_use() == set()
    assert [line.rpartition("/")[0] for line in cli.calls.read_text().splitlines()] == [
        f"plugin install resource command 1.2.1 --exact --file {plugins.archives()}",
        f"plugin install resource tls 5.6.2 --exact --file {plugins.archives()}",
    ]
    ensure(cli, upstream)
    assert cli.was_asked() == 2


def test_what_is_installed_is_the_archive_that_came(cli: Cli, upstream: Upstream) -> None:
    publish(upstream, "tls", b"the official one")
    ensure(cli, upstream)
    assert cli.installed("tls") == b"the official one"


def test_an_archive_must_have_the_pinned_sum(cli: Cli, upstream: Upstream) -> None:
    publish(upstream, "tls", b"another")
    with pytest.raises(ChecksumError, match="has a wrong checksum"):
        ensure(cli, upstream, pinned("0" * 64))
    assert cli.was_asked() == 0
    assert not paths.state().exists(), "a stand-in serves instead"
    cli.has_language_host()
    ensure(cli, upstream, pinned(publish(upstream, "tls", b"pinned")))
    assert cli.installed("tls") == b"pinned"


def test_without_a_pin_the_first_sum_is_locked(cli: Cli, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(upstream, "tls", b"first")
    ensure(cli, upstream)
    (plugins.archives() / Path(path_of("tls")).name).unlink()
    monkeypatch.setenv("PULUMI_HOME", str(cli.home.with_name("another home")))
    publish(upstream, "tls", b"second")
    with pytest.raises(ChecksumError, match="locked by an earlier download"):
        ensure(cli, upstream, retry=True)


def test_an_archive_that_was_locked_must_have_the_pin_that_comes_later(
    cli: Cli, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(upstream, "tls", b"locked")
    cli.has_language_host()
    ensure(cli, upstream)
    monkeypatch.setenv("PULUMI_HOME", str(cli.home.with_name("another home")))
    with pytest.raises(ChecksumError):
        ensure(cli, upstream, pinned(hashlib.sha256(b"pinned").hexdigest()), retry=True)


def test_another_user_installs_from_the_same_archive(
    cli: Cli, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.has_language_host()
    before = os.umask(0o077)
    try:
        for name in PROVIDERS:
            publish(upstream, name)
        ensure(cli, upstream)
    finally:
        os.umask(before)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (plugins.archives(), *plugins.archives().iterdir())
    }
    files = ("ORIGINS.json", "SHA256SUMS", *(Path(path_of(name)).name for name in PROVIDERS))
    assert modes == {"plugins": 0o755, **dict.fromkeys(files, 0o644)}
    monkeypatch.setenv("PULUMI_HOME", str(cli.home.with_name("another home")))
    monkeypatch.setattr(Release, "why_not", lambda release: "it is away")
    upstream.asked.clear()
    ensure(cli, upstream)
    assert (cli.was_asked(), upstream.asked, in_use()) == (4, [], set())


def test_a_transfer_that_breaks_off_goes_on(cli: Cli, upstream: Upstream) -> None:
    content = bytes(1 << 18)
    publish(upstream, "tls", content)
    upstream.cuts[path_of("tls")] = [1 << 16]
    ensure(cli, upstream)
    assert cli.installed("tls") == content
    assert upstream.ranges(path_of("tls")) == [None, f"bytes={1 << 16}-"]


def test_without_a_pin_what_a_killed_run_has_left_is_not_used(cli: Cli, upstream: Upstream) -> None:
    publish(upstream, "tls", b"all of the archive")
    name = Path(path_of("tls")).name
    plugins.archives().mkdir(parents=True)
    (plugins.archives() / f"{name}.partial").write_bytes(b"spoiled")
    tag = hashlib.sha256(b"all of the archive").hexdigest()[:16]
    (plugins.archives() / f"{name}.validator").write_text(f'"{tag}"')
    ensure(cli, upstream)
    assert cli.installed("tls") == b"all of the archive"


def test_stand_ins_serve_where_there_are_no_official_ones_and_it_is_said_once(cli: Cli, upstream: Upstream) -> None:
    said = ensure(cli, upstream)
    assert "Stand-ins from toolchain/from_source/standins serve for pulumi-language-python" in said
    assert "cannot be had from here" in said
    assert in_use() == ALL
    asked = len(upstream.asked)
    assert "Stand-ins" not in ensure(cli, upstream)
    assert len(upstream.asked) == asked
    assert in_use() == ALL


def test_only_what_is_missing_is_stood_in_for(cli: Cli, upstream: Upstream) -> None:
    cli.has_language_host()
    (cli.home / "plugins" / "resource-tls-v5.6.2").mkdir(parents=True)
    ensure(cli, upstream)
    assert in_use() == {"pulumi-resource-command"}


def test_plugins_are_looked_for_where_the_cli_puts_them(
    cli: Cli, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks the list of users; HOME may be another user's, by sudo."""
    monkeypatch.delenv("PULUMI_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "of another user"))
    home = tmp_path / "home of the user"
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir=str(home)))
    for name, plugin in PROVIDERS.items():
        (home / ".pulumi" / "plugins" / f"resource-{name}-v{plugin.version}").mkdir(parents=True)
    cli.has_language_host()
    ensure(cli, upstream)
    assert cli.was_asked() == 0


def test_a_plugin_that_is_half_unpacked_is_not_there(cli: Cli, upstream: Upstream) -> None:
    cli.has_language_host()
    plugin = cli.home / "plugins" / "resource-tls-v5.6.2"
    plugin.mkdir(parents=True)
    plugin.with_name("resource-tls-v5.6.2.partial").touch()
    ensure(cli, upstream)
    assert in_use() == {"pulumi-resource-command", "pulumi-resource-tls"}


def test_setup_asks_again_and_puts_the_stand_ins_away(cli: Cli, upstream: Upstream) -> None:
    ensure(cli, upstream)
    for name in PROVIDERS:
        publish(upstream, name)
    cli.has_language_host()
    ensure(cli, upstream, retry=True)
    assert in_use() == set()


def test_a_host_that_cannot_be_reached_is_not_waited_for(
    cli: Cli, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Release, "why_not", lambda release: "Official releases at github.com are away")
    assert "cannot be had from here (Official releases at github.com are away)." in ensure(cli, upstream)
    assert (cli.was_asked(), upstream.asked) == (0, [])
    assert in_use() == ALL


def test_source_takes_stand_ins_in_any_case(cli: Cli, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.has_language_host()
    for name in PROVIDERS:
        publish(upstream, name)
    ensure(cli, upstream)
    monkeypatch.setenv("TOOLCHAIN", "source")
    assert "TOOLCHAIN=source demands it" in ensure(cli, upstream)
    assert in_use() == ALL


def test_upstream_forbids_stand_ins(cli: Cli, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(cli, upstream)
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    with pytest.raises(ToolchainError, match=r"(?s)command 1.2.1 cannot be installed.*\(404\).*forbids"):
        ensure(cli, upstream)
    for name in PROVIDERS:
        publish(upstream, name)
    with pytest.raises(ToolchainError, match=r"pulumi-language-python.*forbids"):
        ensure(cli, upstream)


def test_a_provider_without_a_stand_in_is_an_error_with_the_reason(cli: Cli, upstream: Upstream) -> None:
    with pytest.raises(ToolchainError, match=r"(?s)pulumi-resource-gcp.*no stand-in.*v10\.2\.0.*\(404\)"):
        ensure(cli, upstream, {"gcp": Plugin(version="10.2.0", archive={})})


@pytest.mark.parametrize(
    ("act", "seconds", "why"),
    [("exec sleep 600", 0.2, "has not ended within"), ("echo 'no space left' >&2; exit 1", 60.0, "no space left")],
)
def test_a_cli_that_hangs_or_fails_is_an_error(
    cli: Cli, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, act: str, seconds: float, why: str
) -> None:
    publish(upstream, "command")
    cli.does(act)
    monkeypatch.setattr(plugins, "_INSTALL_SECONDS", seconds)
    monkeypatch.setenv("TOOLCHAIN", "upstream")
    with pytest.raises(ToolchainError, match=why):
        ensure(cli, upstream)
