import hashlib
import os
from pathlib import Path

import pytest

from config.artifacts import read_checksums
from config.whole_file import write_whole
from toolchain import ledger
from toolchain.ledger import Ledger
from toolchain.origin import Origin


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    for name in ("b/two", "a/one"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    return tmp_path


def sum_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_sums_are_sorted_and_others_can_read_them(mirror: Path) -> None:
    record = Ledger(mirror)
    record.record("b/two", origin=Origin.SOURCE, made_of="a module")
    record.record("a/one", origin=Origin.UPSTREAM, made_of="https://a/one")
    assert (mirror / "SHA256SUMS").read_text() == f"{sum_of('a/one')}  a/one\n{sum_of('b/two')}  b/two\n"
    assert read_checksums(mirror) == {"a/one": sum_of("a/one"), "b/two": sum_of("b/two")}


def test_an_entry_says_who_made_the_file(mirror: Path) -> None:
    Ledger(mirror).record("b/two", origin=Origin.SOURCE, made_of="a module")
    entry = Ledger(mirror).entry("b/two")
    assert entry is not None
    assert (entry.origin, entry.made_of, entry.sha256) == (Origin.SOURCE, "a module", sum_of("b/two"))


def test_what_was_never_recorded_does_not_count(mirror: Path) -> None:
    assert Ledger(mirror).entry("a/one") is None


@pytest.mark.parametrize("change", ["longer", "same size", "gone"])
def test_a_changed_file_does_not_count(mirror: Path, change: str) -> None:
    record, file = Ledger(mirror), mirror / "a/one"
    record.record("a/one", origin=Origin.UPSTREAM, made_of="https://a/one")
    before = file.stat().st_mtime_ns
    match change:
        case "longer":
            file.write_text("a/one and more")
        case "same size":
            file.write_text("A/ONE")
            os.utime(file, ns=(before + 1, before + 1))
        case "gone":
            file.unlink()
    assert record.entry("a/one") is None
    assert record.locked("a/one") == sum_of("a/one"), "what upstream released stays known"


def test_a_copy_with_another_time_counts_and_is_recorded(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tar, disk images and backups make it: they keep whole seconds, or nothing."""
    record, file = Ledger(mirror), mirror / "a/one"
    record.record("a/one", origin=Origin.SOURCE, made_of="a module")
    os.utime(file, ns=(0, 1_000_000_000))
    entry = record.entry("a/one")
    assert entry is not None and entry.modified == 1_000_000_000
    monkeypatch.setattr(ledger, "sha256_of", lambda _: pytest.fail("the checksum was computed again"))
    assert Ledger(mirror).entry("a/one") == entry


def test_a_mirror_that_cannot_be_written_gives_the_same_answer(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, file = Ledger(mirror), mirror / "a/one"
    record.record("a/one", origin=Origin.SOURCE, made_of="a module")
    os.utime(file, ns=(0, 1_000_000_000))

    def refuse(_file: Path, _text: str, *, mode: int) -> None:
        raise PermissionError

    monkeypatch.setattr(ledger, "write_whole", refuse)
    assert record.entry("a/one") is not None


def test_a_built_sum_is_never_locked(mirror: Path) -> None:
    record = Ledger(mirror)
    record.record("a/one", origin=Origin.SOURCE, made_of="a module")
    assert record.locked("a/one") is None


def test_killed_between_the_two_files_the_entry_does_not_count(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Ledger(mirror)
    record.record("a/one", origin=Origin.SOURCE, made_of="a module")
    record.record("b/two", origin=Origin.SOURCE, made_of="a module")
    (mirror / "a/one").write_text("built again")

    def killed(file: Path, text: str, *, mode: int) -> None:
        if file.name == "SHA256SUMS":
            raise KeyboardInterrupt
        write_whole(file, text, mode=mode)

    monkeypatch.setattr(ledger, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        record.record("a/one", origin=Origin.SOURCE, made_of="a module")
    assert Ledger(mirror).entry("a/one") is None
    assert Ledger(mirror).entry("b/two") is not None
