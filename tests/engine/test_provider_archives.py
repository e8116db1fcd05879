"""The real CLI installs a provider from the archive that set-up has downloaded and checked."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from engine.artifact_server import serving
from toolchain import paths, plugins
from toolchain.progress import Report
from toolchain.versions import Plugin, architecture

_PROGRAM = b"#!/bin/sh\n"


def archive() -> bytes:
    """As upstream packs it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in (("LICENSE", b"its licence"), ("pulumi-resource-tls", _PROGRAM)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue())


@pytest.mark.parametrize("is_newer_there", [False, True], ids=["alone", "beside a newer one"])
def test_exactly_the_provider_of_the_archive_is_installed(
    pulumi: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_newer_there: bool
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("PULUMI_HOME", str(home))
    monkeypatch.setenv("HARDWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TOOLCHAIN", raising=False)
    # Whatever else the CLI asks for is refused.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    if is_newer_there:
        # With this setting of a user's the CLI takes a newer one for good enough.
        monkeypatch.setenv("PULUMI_ENABLE_LEGACY_PLUGIN_SEARCH", "true")
        newer = home / "plugins" / "resource-tls-v5.9.9" / "pulumi-resource-tls"
        newer.parent.mkdir(parents=True)
        newer.write_bytes(_PROGRAM)
        newer.chmod(0o755)
    path = f"/pulumi-tls/releases/download/v5.6.2/pulumi-resource-tls-v5.6.2-linux-{architecture()}.tar.gz"
    with serving("127.0.0.1") as upstream, Report(io.StringIO()) as report:
        upstream.files[path] = archive()
        plugins.ensure(report, Path(pulumi), {"tls": Plugin(version="5.6.2", archive={})}, releases=upstream.url)
        assert set(upstream.asked) == {path}
    installed = home / "plugins" / "resource-tls-v5.6.2"
    assert (installed / "pulumi-resource-tls").read_bytes() == _PROGRAM
    assert not installed.with_name(f"{installed.name}.partial").exists()
    assert not (plugins.on_path() / "pulumi-resource-tls").exists()
