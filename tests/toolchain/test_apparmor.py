"""The rule by which AppArmor lets machines use their disks."""

import io
from pathlib import Path

import pytest

from components.substrates.libvirt import preflight as libvirt_preflight
from toolchain import apparmor
from toolchain.progress import Report

POOL = Path("/srv/disks")


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "enabled").write_text("Y\n")
    (tmp_path / "apparmor.d").mkdir()
    return tmp_path / "apparmor.d" / "local" / "abstractions" / "libvirt-qemu"


def ensure(report: Report, rules: Path) -> None:
    apparmor.ensure(report, POOL, enabled=rules.parents[3] / "enabled", rules=rules)


def test_the_rule_is_what_the_preflight_looks_for(
    rules: Path, report: Report, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt_preflight, "_ABSTRACTIONS", rules)
    assert list(libvirt_preflight._apparmor(POOL / "libvirt"))
    ensure(report, rules)
    assert list(libvirt_preflight._apparmor(POOL / "libvirt")) == []
    assert rules.stat().st_mode & 0o777 == 0o644
    assert "/srv/disks" in said.getvalue()


def test_the_administrators_own_rules_stay_and_nothing_is_added_twice(rules: Path, report: Report) -> None:
    rules.parent.mkdir(parents=True)
    rules.write_text("/srv/isos/** r,")
    ensure(report, rules)
    first = rules.read_text()
    assert first.startswith("/srv/isos/** r,\n")
    ensure(report, rules)
    assert rules.read_text() == first
    assert first.count("/srv/disks/** rwk,") == 1


@pytest.mark.parametrize("enabled", ["N\n", None])
def test_a_host_without_apparmor_is_left_as_it_is(rules: Path, report: Report, enabled: str | None) -> None:
    file = rules.parents[3] / "enabled"
    file.unlink()
    if enabled:
        file.write_text(enabled)
    ensure(report, rules)
    assert not rules.parent.exists()
